"""The simulated buyback platform: its token endpoint and five endpoints for sellers (docs/providers.md)."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from email.parser import BytesParser
from random import Random
from secrets import token_urlsafe
from typing import Annotated, Literal, TypeVar
from uuid import uuid4

from pydantic import Field, ValidationError

from schemas import examples
from schemas.events import read_json
from schemas.registry import Provider
from worker.marketplaces.buyback.requests import (
    DropoffRequest,
    PaymentDetails,
    PickupRequest,
    Sent,
    Slot,
)
from worker.simulator.buyback_orders import (
    Happened,
    Order,
    Step,
    created,
    dropoff_requested,
    order_of,
    payment_details_given,
    pickup_requested,
    stepped,
)
from worker.simulator.marketplace import (
    NotNow,
    Request,
    Response,
    SendEvents,
    as_json,
    discard_events,
    now,
)
from worker.simulator.unhandled_events import submission

S = TypeVar("S", bound=Sent)

CLIENT_ID = "simulated-client"
CLIENT_SECRET = "simulated-client-secret"
SELLER_ID = "simulated-seller"
SCOPES = {"buyback", "buyback.partner"}

TOKEN_LIFETIME = timedelta(hours=1)
DAYS_OFFERED = 5
# In hours of UTC.
WINDOWS = ((9, 12), (12, 15))

PLACES = 100

# An order with such an id always exists, and triggers its fault.
FAULTY = "fault-"


class NewOrder(Sent):
    """The body of POST `/control/orders`."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")] = Field(default_factory=lambda: str(uuid4()))
    payment_type: Literal["Cash", "Credit"] | None = None


class _Refusal(Exception):
    """The response to a refused request."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


@dataclass(slots=True)
class SimulatedBuyback:
    """Has these orders and those of the documents. Its state is lost at the end of the process.

    `/control/orders` lists all (GET) or creates one (POST, optionally with `id` and `paymentType`).
    `/control/orders/ID` shows one; POST `/control/orders/ID/miss` makes a step happen. POST
    `/control/submissions` sends events of unhandled types. A slot has room for `places` orders.
    """

    order_ids: Iterable[str] = ()
    token_lifetime: timedelta = TOKEN_LIFETIME
    clock: Callable[[], datetime] = now
    send_events: SendEvents = discard_events
    places: int = PLACES
    orders: dict[str, Order] = field(init=False)
    tokens: dict[str, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.orders = {
            order_id: order_of(order_id, self.clock())
            for order_id in (*documented_order_ids(), *self.order_ids)
        }

    async def handle(self, request: Request) -> Response:
        try:
            if request.path == "/connect/token":
                return self._token(request)
            if request.path.startswith("/control/"):
                return self._control(request)
            return self._seller(request)
        except _Refusal as refusal:
            return refusal.response
        except NotNow as refusal:
            return as_json(409, {"title": str(refusal), "status": 409})

    def _token(self, request: Request) -> Response:
        """RFC 6749, 4.4, except that the form is multipart."""
        if request.method != "POST":
            raise _problem(405, "POST")
        form = _form(request)
        if form.get("grant_type") != "client_credentials":
            return as_json(400, {"error": "unsupported_grant_type"})
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return as_json(400, {"error": "invalid_client"})
        if set(form.get("scope", "").split()) != SCOPES:
            return as_json(400, {"error": "invalid_scope"})
        token = token_urlsafe()
        self.tokens[token] = self.clock() + self.token_lifetime
        seconds = int(self.token_lifetime.total_seconds())
        return as_json(
            200,
            {
                "access_token": token,
                "expires_in": seconds,
                "token_type": "Bearer",
                "scope": " ".join(sorted(SCOPES)),
            },
        )

    def _seller(self, request: Request) -> Response:
        self._authorize(request)
        match request.path.split("/"):
            case ["", "v2", "sellers", seller_id, "orders", order_id, endpoint]:
                if seller_id != SELLER_ID:
                    raise _problem(404, "no such order")
                return self._endpoint(request, self._order(order_id), endpoint)
            case _:
                raise _problem(404, "no such endpoint")

    def _authorize(self, request: Request) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or self.tokens.get(token, self.clock()) <= self.clock():
            raise _Refusal(Response(401, b"", {"www-authenticate": 'Bearer error="invalid_token"'}))
        if not request.headers.get("x-real-ip"):
            raise _problem(400, "the header x-real-ip is missing")

    def _control(self, request: Request) -> Response:
        match request.method, request.path.removeprefix("/control/").split("/"):
            case "GET", ["orders"]:
                return as_json(200, [order.as_json() for order in self.orders.values()])
            case "POST", ["orders"]:
                return self._create(_parsed(NewOrder, request) if request.body else NewOrder())
            case "POST", ["submissions"]:
                events = submission(Random(), self.clock())
                self.send_events(events)
                return as_json(201, {"events": [event.event_type for event in events]})
            case "GET", ["orders", order_id]:
                return as_json(200, self._order(order_id).as_json())
            case "POST", ["orders", order_id, step] if step in list(Step):
                order = self._happened(stepped(self._order(order_id), Step(step), self.clock()))
                return as_json(200, order.as_json())
            case _:
                steps = ", ".join(Step)
                raise _problem(404, f"try GET or POST /control/orders, or POST /control/orders/ID/… {steps}")

    def _create(self, wanted: NewOrder) -> Response:
        if wanted.id in self.orders:
            raise _problem(409, "an order with this id exists")
        order = self._happened(created(wanted.id, self.clock(), wanted.payment_type))
        return as_json(201, order.as_json())

    def _happened(self, happened: Happened) -> Order:
        self.orders[happened.order.order_id] = happened.order
        self.send_events(happened.webhooks)
        return happened.order

    def _order(self, order_id: str) -> Order:
        if order_id.startswith(FAULTY) and order_id not in self.orders:
            self.orders[order_id] = order_of(order_id, self.clock())
        order = self.orders.get(order_id)
        if order is None:
            raise _problem(404, "no such order")
        return order

    def _endpoint(self, request: Request, order: Order, endpoint: str) -> Response:
        match request.method, endpoint:
            case "GET", "shipment-capabilities":
                possible = {
                    "pickUpAllowed": order.may_be_picked_up,
                    "dropOffAllowed": order.may_be_dropped_off,
                }
                return as_json(200, {**possible, "selected": order.delivery})
            case "GET", "pickup-capabilities":
                offered = [slot.model_dump(mode="json", by_alias=True) for slot in self.offered(order)]
                return as_json(200, {"slots": offered, "timezone": "UTC"})
            case "POST", "pickup-request":
                return self._pickup(order, _parsed(PickupRequest, request))
            case "POST", "dropoff-request":
                _parsed(DropoffRequest, request)
                self._happened(dropoff_requested(order, self.clock()))
                return as_json(201, {})
            case "POST", "payment-details":
                _parsed(PaymentDetails, request)
                self._happened(payment_details_given(order, self.clock()))
                return Response(204)
            case _:
                raise _problem(404, "no such endpoint")

    def offered(self, to: Order | None = None) -> list[Slot]:
        """Free slots from tomorrow on; the order's own booking does not count."""
        others = (order.slot for order in self.orders.values() if order is not to)
        booked = Counter(slot for slot in others if slot is not None)
        today = datetime.combine(self.clock().date(), time(), UTC)
        slots = [
            Slot(initial_slot=day + timedelta(hours=begin), final_slot=day + timedelta(hours=end))
            for day in (today + timedelta(days=number) for number in range(1, DAYS_OFFERED + 1))
            for begin, end in WINDOWS
        ]
        return [slot for slot in slots if booked[slot] < self.places]

    def _pickup(self, order: Order, request: PickupRequest) -> Response:
        """Book the first of the requested slots."""
        if not set(request.slots) <= set(self.offered(order)):
            raise _invalid({"slots": ["One of them is not offered."]})
        booked = min(request.slots, key=lambda slot: slot.initial_slot)
        after = self._happened(pickup_requested(order, request.slots, booked, self.clock()))
        return as_json(201, {"isReschedule": after.pickups_requested > 1})


def documented_order_ids() -> set[str]:
    """The ids of the orders in the documents' events."""
    results = [
        read_json(example.body)["result"]
        for example in examples.documented()
        if example.provider is Provider.BUYBACK
    ]
    return {result["order"]["id"] if "order" in result else result["collectionId"] for result in results}


def _form(request: Request) -> dict[str, str]:
    """The fields of a multipart form; none for other content types."""
    head = b"content-type: " + request.headers.get("content-type", "").encode("latin-1") + b"\r\n\r\n"
    parts = BytesParser().parsebytes(head + request.body).walk()
    form = {}
    for part in parts:
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(payload, bytes):
            form[name] = payload.decode(errors="replace")
    return form


def _parsed(model: type[S], request: Request) -> S:
    try:
        return model.model_validate_json(request.body)
    except ValidationError as error:
        errors: dict[str, list[str]] = {}
        for fault in error.errors():
            # The value is included, as frameworks do: clients must not pass it on.
            text = f"The value '{fault['input']}' is not valid: {fault['msg']}"
            errors.setdefault(".".join(map(str, fault["loc"])), []).append(text)
        raise _invalid(errors) from None


def _problem(status: int, title: str) -> _Refusal:
    return _Refusal(as_json(status, {"title": title, "status": status}))


def _invalid(errors: dict[str, list[str]]) -> _Refusal:
    title = "One or more validation errors occurred."
    return _Refusal(as_json(400, {"title": title, "status": 400, "errors": errors}))
