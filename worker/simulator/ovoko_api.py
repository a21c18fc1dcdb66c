"""The simulated API of Ovoko: parts and returns in memory, which control endpoints change."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.validation import broken_rules
from worker.simulator.lifecycle import GeneratedEvent
from worker.simulator.marketplace import (
    NotNow,
    NotThere,
    Request,
    Response,
    SendEvents,
    as_json,
    discard_events,
    now,
)
from worker.simulator.ovoko_stock import (
    OrderReturn,
    OrderStep,
    Part,
    ReturnStep,
    Stock,
)

__all__ = ["PASSWORD", "USERNAME", "USER_TOKEN", "OrderReturn", "Ovoko", "Part"]

USERNAME = "simulated"
PASSWORD = "simulated-password"
USER_TOKEN = "simulated-user-token"

RETURNS_ON_A_PAGE = 20


class NewOrder(BaseModel):
    """The body of POST `/control/orders`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part_ids: tuple[int, ...]


@dataclass(slots=True)
class Ovoko:
    """Always answers with HTTP 200, as Ovoko does: `status_code` has the result.

    `/control/parts` and `/control/returns` add or replace rows (POST with a JSON list), or remove all
    (DELETE). DELETE `/control/parts/13` removes one. No webhook reports these. These steps send webhooks:
    POST `/control/parts/13/sold`, `/control/orders`, `/control/orders/ID/ship`,
    `/control/returns/ID/receive`.
    """

    parts: dict[int, Part] = field(default_factory=dict)
    returns: dict[int, OrderReturn] = field(default_factory=dict)
    clock: Callable[[], datetime] = now
    send_events: SendEvents = discard_events
    stock: Stock = field(init=False)

    def __post_init__(self) -> None:
        self.stock = Stock(parts=self.parts, returns=self.returns)

    async def handle(self, request: Request) -> Response:
        match request.path.strip("/").split("/"):
            case ["control", "orders"] | ["control", _, _, _]:
                return self._happen(request)
            case ["control", "parts", *ids]:
                return _set(request, self.parts, Part, ids)
            case ["control", "returns", *ids]:
                return _set(request, self.returns, OrderReturn, ids)
            case _ if request.method != "POST":
                return _failed("R405", "POST only")
            case _ if not _is_authentic(request.body):
                return _failed("R401", "Wrong username, password or user token")
            case ["get", "part", part_id]:
                return _one(self.parts, part_id)
            case ["get", "order_return", return_id]:
                return _one(self.returns, return_id)
            case ["v2", "get", "parts"]:
                return self._parts(request.query)
            case ["get", "order_returns"]:
                return self._returns(request.query)
            case _:
                return _failed("R404", "No such endpoint")

    def _happen(self, request: Request) -> Response:
        try:
            document, events = self._step(request)
        except NotThere as error:
            return as_json(404, {"title": str(error)})
        except NotNow as error:
            return as_json(409, {"title": str(error)})
        except ValidationError as error:
            return as_json(
                400, {"title": "part_ids are required", "errors": [*map(str, broken_rules(error))]}
            )
        self.send_events(events)
        return as_json(200, document)

    def _step(self, request: Request) -> tuple[object, list[GeneratedEvent]]:
        """Raises: NotThere, NotNow, ValidationError."""
        at = self.clock()
        match request.method, request.path.strip("/").split("/")[1:]:
            case "GET", ["orders"]:
                return [order.as_json() for order in self.stock.orders.values()], []
            case "POST", ["orders"]:
                wanted = NewOrder.model_validate_json(request.body)
                order, events = self.stock.order(wanted.part_ids, at)
                return order.as_json(), events
            case "POST", ["parts", number, status] if number.isdecimal():
                events = self.stock.change(int(number), status, at)
                return self.parts[int(number)].model_dump(), events
            case "POST", ["orders", number, step] if number.isdecimal() and step in list(OrderStep):
                events = self.stock.step_order(int(number), OrderStep(step), at)
                return self.stock.orders[int(number)].as_json(), events
            case "POST", ["returns", number, step] if number.isdecimal() and step in list(ReturnStep):
                events = self.stock.step_return(int(number), ReturnStep(step), at)
                return self.returns[int(number)].model_dump(), events
            case _:
                raise NotThere(
                    f"try POST /control/parts/ID/STATUS, /control/orders, /control/orders/ID/… "
                    f"{', '.join(OrderStep)}, /control/returns/ID/… {', '.join(ReturnStep)}"
                )

    def _parts(self, query: Mapping[str, str]) -> Response:
        page, limit = _number(query, "page", 1), _number(query, "limit", 20)
        if page < 1 or not 1 <= limit <= 100:
            return _failed("R400", "page must be 1 or more, limit 1 to 100")
        since = query.get("date_from", "")
        listed = [part for part in self.parts.values() if part.updated_at >= since]
        listed.sort(key=lambda part: (part.updated_at, part.id), reverse=True)
        return as_json(
            200,
            {
                "data": [part.model_dump() for part in listed[(page - 1) * limit : page * limit]],
                "pagination": {"page": page, "limit": limit, "total_count": len(listed)},
                "msg": "OK",
                "status_code": "R200",
            },
        )

    def _returns(self, query: Mapping[str, str]) -> Response:
        page = _number(query, "page", 1)
        since, until = query.get("date_from", ""), query.get("date_to", "9999")
        listed = [each for each in self.returns.values() if since <= each.created_at[:10] <= until]
        listed.sort(key=lambda each: (each.created_at, each.id), reverse=True)
        first = (page - 1) * RETURNS_ON_A_PAGE
        return _answer([each.model_dump() for each in listed[first : first + RETURNS_ON_A_PAGE]])


def _set(
    request: Request,
    rows: dict[int, Part] | dict[int, OrderReturn],
    model: type[Part] | type[OrderReturn],
    ids: list[str],
) -> Response:
    try:
        match request.method, ids:
            case "GET", []:
                return as_json(200, [row.model_dump() for row in rows.values()])
            case "POST", []:
                given = [model.model_validate(row) for row in orjson.loads(request.body)]
                rows.update({row.id: row for row in given})  # type: ignore[misc]  # of the rows' own model
            case "DELETE", []:
                rows.clear()
            case "DELETE", [row_id]:
                rows.pop(int(row_id), None)
            case _:
                return as_json(404, {"title": "GET, POST a list, DELETE all, or DELETE one by its id"})
    except ValidationError as error:
        return as_json(400, {"title": f"no {model.__name__}", "errors": [*map(str, broken_rules(error))]})
    except (ValueError, TypeError):
        return as_json(400, {"title": "a JSON list or an id is required"})
    return Response(204)


def _is_authentic(body: bytes) -> bool:
    form = dict(parse_qsl(body.decode("utf-8", "replace")))
    given = form.get("username"), form.get("password"), form.get("user_token")
    return given == (USERNAME, PASSWORD, USER_TOKEN)


def _one(rows: Mapping[int, Part] | Mapping[int, OrderReturn], row_id: str) -> Response:
    row = rows.get(int(row_id)) if row_id.isdecimal() else None
    return _failed("R404", "Not found") if row is None else _answer([[row.model_dump()]])


def _answer(rows: Sequence[object]) -> Response:
    return as_json(200, {"list": rows, "msg": "OK", "status_code": "R200"})


def _failed(status_code: str, message: str) -> Response:
    return as_json(200, {"msg": message, "status_code": status_code})


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    given = query.get(name, str(default))
    return int(given) if given.isdecimal() else 0
