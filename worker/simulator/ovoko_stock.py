"""A merchant's stock at the simulated Ovoko: the possible next steps, and their webhooks."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from random import Random

from pydantic import BaseModel, ConfigDict, Field

from schemas.ovoko_api import STATUSES
from worker.simulator.lifecycle import GeneratedEvent, new_id
from worker.simulator.marketplace import NotNow, NotThere
from worker.simulator.ovoko_events import event

# Changes of a part are a second apart, because Ovoko's clock has whole seconds, and of two changes in one
# second the less sellable one wins.
TICK = timedelta(seconds=1)

CURRENCY = "EUR"
IN_STOCK, RESERVED, SOLD, RETURNED, WRITTEN_OFF = "01234"

# One status has no own number.
_NUMBERS = {
    **{word: number for number, statuses in STATUSES.items() for word in statuses},
    "unknown_stock_status": IN_STOCK,
}

# The numbers of statuses in the API. Source: docs/providers.md#part-statuses.
_MAY_BECOME = {
    IN_STOCK: set(_NUMBERS),
    RESERVED: {"in_warehouse", "sold", "sold_in_ebay", "sold_in_allegro", "written_off"},
    SOLD: {"returned"},
    RETURNED: {"in_warehouse", "written_off"},
    WRITTEN_OFF: set[str](),
}

_NAMES = ("Headlight, left", "Gearbox", "Wing mirror, right", "Alternator", "Steering wheel", "Door handle")


class Part(BaseModel):
    """A row of Ovoko's list, which has the newest `updated_at` (RFC 3339) first."""

    model_config = ConfigDict(extra="allow")

    id: int
    status: int | str
    external_id: str | None = None
    updated_at: str = ""


class ReturnItem(BaseModel):
    part_id: int
    name: str
    return_reason: str
    price: str
    returnable_amount: str
    currency: str


class OrderReturn(BaseModel):
    """A row of the list of returns, sorted by `created_at`."""

    model_config = ConfigDict(extra="allow")

    id: int
    order_id: int
    status: str = "New"
    created_at: str = Field(default="", description="RFC 3339")


class OrderStep(StrEnum):
    """A step of an order. Each `return` adds one of its parts to the return."""

    SHIP = "ship"
    CANCEL = "cancel"
    RETURN = "return"


class ReturnStep(StrEnum):
    """A step of a return and its parts."""

    RECEIVE = "receive"
    ACCEPT = "accept"
    WRITE_OFF = "write-off"


@dataclass(slots=True)
class Order:
    """An order; `returned` is the number of its returned parts."""

    order_id: int
    part_ids: tuple[int, ...]
    status: str = "New"
    returned: tuple[int, ...] = ()
    return_id: int | None = None

    def as_json(self) -> dict[str, object]:
        return {
            "id": self.order_id,
            "status": self.status,
            "part_ids": self.part_ids,
            "return_id": self.return_id,
        }


@dataclass(slots=True)
class Stock:
    """Methods that make a step raise NotThere or NotNow, and then change nothing."""

    rng: Random = field(default_factory=Random)
    parts: dict[int, Part] = field(default_factory=dict)
    returns: dict[int, OrderReturn] = field(default_factory=dict)
    orders: dict[int, Order] = field(default_factory=dict)

    def change(self, part_id: int, status: str, now: datetime) -> list[GeneratedEvent]:
        """Change the status of a part, or create the part."""
        if status not in _NUMBERS:
            raise NotThere(f"no such status: {status}; use one of {', '.join(sorted(_NUMBERS))}")
        if part_id not in self.parts:
            self.parts[part_id] = _made_up(part_id)
        else:
            self._check([part_id], status)
        return [self._become(part_id, status, now)]

    def order(self, part_ids: Iterable[int], now: datetime) -> tuple[Order, list[GeneratedEvent]]:
        """Order parts that are in stock, which reserves them."""
        wanted = tuple(dict.fromkeys(part_ids))
        if not wanted:
            raise NotNow("an order needs at least one part")
        for part_id in wanted:
            if _number(self._part(part_id)) != IN_STOCK:
                raise NotNow(f"part {part_id} is not in stock")
        order = Order(1_000 + len(self.orders), wanted)
        self.orders[order.order_id] = order
        reserved = [self._become(part_id, "reserved", now) for part_id in wanted]
        return order, [self._event_of("order.created", now, order_id=order.order_id), *reserved]

    def step_order(self, order_id: int, step: OrderStep, now: datetime) -> list[GeneratedEvent]:
        order = self.orders.get(order_id)
        if order is None:
            raise NotThere(f"no such order: {order_id}")
        match step, order.status:
            case OrderStep.SHIP, "New":
                events = self._become_all(order.part_ids, "sold", now)
                order.status = "Shipped"
            case OrderStep.CANCEL, "New":
                events = self._become_all(order.part_ids, "in_warehouse", now)
                events.insert(0, self._event_of("order.cancelled", now, order_id=order_id))
                order.status = "Cancelled"
            case OrderStep.RETURN, "Shipped":
                events = [self._returned(order, now)]
            case _:
                raise NotNow(f"{step} is not possible for an order with status {order.status}")
        return events

    def step_return(self, return_id: int, step: ReturnStep, now: datetime) -> list[GeneratedEvent]:
        order_return = self.returns.get(return_id)
        order = next((order for order in self.orders.values() if order.return_id == return_id), None)
        if order_return is None or order is None:
            raise NotThere(f"the order has no such return: {return_id}")
        match step, order_return.status:
            case ReturnStep.RECEIVE, "New":
                part_status, status = "returned", "Received"
            case ReturnStep.ACCEPT, "Received":
                part_status, status = "in_warehouse", "Accepted"
            case ReturnStep.WRITE_OFF, "Received":
                part_status, status = "written_off", "Written off"
            case _:
                raise NotNow(f"{step} is not possible for a return with status {order_return.status}")
        events = self._become_all(order.returned, part_status, now)
        order_return.status = status
        return [
            self._event_of("order.return.updated", now, return_id=return_id, order_id=order.order_id),
            *events,
        ]

    def _returned(self, order: Order, now: datetime) -> GeneratedEvent:
        """The first part opens the return, each further one updates it (docs/providers.md)."""
        left = [part_id for part_id in order.part_ids if part_id not in order.returned]
        return_id = order.return_id or 5_000 + order.order_id
        existing = self.returns.get(return_id)
        if not left or (existing is not None and existing.status != "New"):
            raise NotNow("all parts of the order are already in the return")
        order.returned, order.return_id = (*order.returned, left[0]), return_id
        items = [_item(self._part(part_id)) for part_id in order.returned]
        total = sum((Decimal(item.price) for item in items), Decimal())
        self.returns[return_id] = OrderReturn(
            id=return_id,
            order_id=order.order_id,
            created_at=_written(now) if existing is None else existing.created_at,
            **{
                "currency": CURRENCY,
                "total_returnable_amount": f"{total:.2f}",
                "order_return_items": [item.model_dump() for item in items],
            },
        )
        event_type = "order.return.created" if existing is None else "order.return.updated"
        return self._event_of(event_type, now, return_id=return_id, order_id=order.order_id)

    def _part(self, part_id: int) -> Part:
        part = self.parts.get(part_id)
        if part is None:
            raise NotThere(f"no such part: {part_id}")
        return part

    def _check(self, part_ids: Iterable[int], status: str) -> None:
        for part_id in part_ids:
            number = _number(self._part(part_id))
            if status not in _MAY_BECOME.get(number, set()):
                raise NotNow(f"part {part_id} is {_word(number)}: it cannot become {status}")

    def _become_all(self, part_ids: Iterable[int], status: str, now: datetime) -> list[GeneratedEvent]:
        wanted = tuple(part_ids)
        self._check(wanted, status)
        return [self._become(part_id, status, now) for part_id in wanted]

    def _become(self, part_id: int, status: str, now: datetime) -> GeneratedEvent:
        part = self.parts[part_id]
        at = now.replace(microsecond=0)
        if part.updated_at:
            at = max(at, datetime.fromisoformat(part.updated_at).replace(microsecond=0) + TICK)
        changes = {"status": int(_NUMBERS[status]), "updated_at": _written(at)}
        self.parts[part_id] = part.model_copy(update=changes)
        data = {
            "part_id": str(part_id),
            "status": status,
            "id_bridge": part.external_id,
            "external_id": part.external_id,
        }
        return event(new_id(self.rng), "part.status.changed", at, data)

    def _event_of(self, event_type: str, now: datetime, **ids: int) -> GeneratedEvent:
        data = {name: str(number) for name, number in ids.items()}
        return event(new_id(self.rng), event_type, now, data)


def _made_up(part_id: int) -> Part:
    """An invented value that the id determines."""
    rng = Random(part_id)
    return Part(
        id=part_id,
        status=int(IN_STOCK),
        external_id=f"SKU-{part_id:X}",
        **{
            "name": rng.choice(_NAMES),
            "price": f"{rng.randrange(15, 900)}.{rng.randrange(100):02d}",
            "currency": CURRENCY,
            "manufacturer_code": f"{rng.randrange(10**8, 10**9)}",
            "visible_code": f"{rng.randrange(10**5, 10**6)}",
            "other_code": "",
        },
    )


def _item(part: Part) -> ReturnItem:
    fields = {**_made_up(part.id).model_dump(), **part.model_dump()}
    return ReturnItem(
        part_id=part.id,
        name=fields["name"],
        return_reason="Does not fit",
        price=str(fields["price"]),
        returnable_amount=str(fields["price"]),
        currency=fields["currency"],
    )


def _number(part: Part) -> str:
    """Rows that a control request added may have text instead of a number."""
    return _NUMBERS.get(str(part.status), str(part.status))


def _word(number: str) -> str:
    return min((word for word, its in _NUMBERS.items() if its == number), default=f"of status {number}")


def _written(instant: datetime) -> str:
    return instant.astimezone(UTC).replace(microsecond=0).isoformat()
