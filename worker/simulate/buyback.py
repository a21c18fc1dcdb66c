"""The trade-in platform, simulated: its token endpoint, and the five endpoints for sellers (seeds/002)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from email.parser import BytesParser
from secrets import token_urlsafe
from typing import TypeVar

from pydantic import ValidationError

from schemas import examples
from schemas.events import Provider, read_json
from worker.seller.requests import DropoffRequest, PaymentDetails, PickupRequest, Sent, Slot
from worker.simulate.marketplace import Request, Response, as_json

S = TypeVar("S", bound=Sent)

CLIENT_ID = "simulated-client"
CLIENT_SECRET = "simulated-client-secret"
SELLER_ID = "simulated-seller"
SCOPES = {"buyback", "buyback.partner"}

TOKEN_LIFETIME = timedelta(hours=1)
DAYS_OFFERED = 5
# Hours of UTC.
WINDOWS = ((9, 12), (12, 15))

# An order of such an id is always known, so that it can ask for its fault.
FAULTY = "fault-"


@dataclass(slots=True)
class Order:
    """What was asked for so far. Of payment details nothing is kept but that they came."""

    delivery: str | None = None
    slots: tuple[Slot, ...] = ()
    pickups_requested: int = 0
    has_payment_details: bool = False


class _NotSo(Exception):
    """How a request is refused."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class TradeIn:
    """Knows these orders, and those of the documents; it begins anew with every start."""

    order_ids: Iterable[str] = ()
    token_lifetime: timedelta = TOKEN_LIFETIME
    clock: Callable[[], datetime] = _now
    orders: dict[str, Order] = field(init=False)
    tokens: dict[str, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.orders = {order_id: Order() for order_id in (*documented_order_ids(), *self.order_ids)}

    async def handle(self, request: Request) -> Response:
        try:
            if request.path == "/connect/token":
                return self._token(request)
            return self._seller(request)
        except _NotSo as refusal:
            return refusal.response

    def _token(self, request: Request) -> Response:
        """RFC 6749, 4.4, but for the form, which is multipart."""
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
                return self._endpoint(request, self._order(seller_id, order_id), endpoint)
            case _:
                raise _problem(404, "no such endpoint")

    def _authorize(self, request: Request) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or self.tokens.get(token, self.clock()) <= self.clock():
            raise _NotSo(Response(401, b"", {"www-authenticate": 'Bearer error="invalid_token"'}))
        if not request.headers.get("x-real-ip"):
            raise _problem(400, "the header x-real-ip is missing")

    def _order(self, seller_id: str, order_id: str) -> Order:
        if order_id.startswith(FAULTY):
            self.orders.setdefault(order_id, Order())
        order = self.orders.get(order_id)
        if seller_id != SELLER_ID or order is None:
            raise _problem(404, "no such order")
        return order

    def _endpoint(self, request: Request, order: Order, endpoint: str) -> Response:
        match request.method, endpoint:
            case "GET", "shipment-capabilities":
                return as_json(
                    200, {"pickUpAllowed": True, "dropOffAllowed": True, "selected": order.delivery}
                )
            case "GET", "pickup-capabilities":
                offered = [slot.model_dump(mode="json", by_alias=True) for slot in self.offered()]
                return as_json(200, {"slots": offered, "timezone": "UTC"})
            case "POST", "pickup-request":
                return self._pickup(order, _parsed(PickupRequest, request))
            case "POST", "dropoff-request":
                return self._dropoff(order, _parsed(DropoffRequest, request))
            case "POST", "payment-details":
                _parsed(PaymentDetails, request)
                order.has_payment_details = True
                return Response(204)
            case _:
                raise _problem(404, "no such endpoint")

    def offered(self) -> list[Slot]:
        """From tomorrow on."""
        today = datetime.combine(self.clock().date(), time(), UTC)
        return [
            Slot(initial_slot=day + timedelta(hours=begin), final_slot=day + timedelta(hours=end))
            for day in (today + timedelta(days=number) for number in range(1, DAYS_OFFERED + 1))
            for begin, end in WINDOWS
        ]

    def _pickup(self, order: Order, asked: PickupRequest) -> Response:
        """Another one reschedules, as after a missed pickup."""
        if order.delivery == "dropoff":
            raise _problem(409, "the order is dropped off")
        if not set(asked.slots) <= set(self.offered()):
            raise _invalid({"slots": ["One of them is not offered."]})
        order.delivery, order.slots = "pickup", asked.slots
        order.pickups_requested += 1
        return as_json(201, {"isReschedule": order.pickups_requested > 1})

    def _dropoff(self, order: Order, _asked: DropoffRequest) -> Response:
        if order.delivery == "pickup":
            raise _problem(409, "the order is picked up")
        order.delivery = "dropoff"
        return as_json(201, {})


def documented_order_ids() -> set[str]:
    """Of the orders that the documents' events are about."""
    results = [
        read_json(example.body)["result"]
        for example in examples.documented()
        if example.provider is Provider.BUYBACK
    ]
    return {result["order"]["id"] if "order" in result else result["collectionId"] for result in results}


def _form(request: Request) -> dict[str, str]:
    """The fields of a multipart form; of anything else none."""
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
            # The value too, as frameworks do: a client is to keep it to itself.
            words = f"The value '{fault['input']}' is not valid: {fault['msg']}"
            errors.setdefault(".".join(map(str, fault["loc"])), []).append(words)
        raise _invalid(errors) from None


def _problem(status: int, title: str) -> _NotSo:
    return _NotSo(as_json(status, {"title": title, "status": status}))


def _invalid(errors: dict[str, list[str]]) -> _NotSo:
    title = "One or more validation errors occurred."
    return _NotSo(as_json(400, {"title": title, "status": 400, "errors": errors}))
