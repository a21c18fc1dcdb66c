"""`stockhook buyback`: a seller's requests to the buyback platform, for one order."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from json import dumps
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import App, Parameter
from pydantic import ValidationError
from rich.table import Table

from schemas.actions import ActionRequest
from schemas.validation import broken_rules
from worker.actions import buyback as kinds
from worker.actions.enqueue import Enqueued, enqueue
from worker.cli.context import Json, WrongUsage, fail, open_database, print_json
from worker.cli.payment_details import read_details
from worker.cli.startup import load_context, traced
from worker.cli.terminal import say, show
from worker.config.settings import PREFIX, BadSettings, read_settings
from worker.marketplaces.buyback.account import account_of
from worker.marketplaces.buyback.client import (
    AcceptedRequest,
    ParsedAnswer,
    Seller,
    check_order_id,
    selling,
)
from worker.marketplaces.buyback.requests import (
    MOST_SLOTS,
    DropoffRequest,
    PickupCapabilities,
    PickupRequest,
    Read,
    ShipmentCapabilities,
    Slot,
)
from worker.marketplaces.http import (
    CallFailed,
    CallRefused,
    CredentialsRefused,
    Unavailable,
    UnexpectedResponse,
)
from worker.observability.exit_codes import FAILED, UNAVAILABLE
from worker.observability.resolver import run_loop

T = TypeVar("T")
M = TypeVar("M", bound=Read)
Document = Mapping[str, object] | Sequence[object]

buyback = App(
    name="buyback",
    help="Call the buyback platform as its seller: how an order is sent, and whom to pay for it.",
)

SEVERAL = Parameter(negative_iterable=(), show_default=False)

HINTS = {
    403: "this client may not do that",
    404: "is it an order of the seller that STOCKHOOK_BUYBACK_SELLER_ID names?",
}


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Later:
    """Whether the request is sent now, or by a consumer process."""

    enqueue: Annotated[bool, Parameter(negative=())] = False
    "Have a consumer process send the request, with retries: see `stockhook actions`."
    key: str | None = None
    "With --enqueue, an idempotency key: there is one action per key, however often you run the command."


NOW = Later()


@buyback.command(name="shipment-capabilities")
def shipment_capabilities(order_id: str, /, *, later: Later = NOW, json: Json = False) -> None:
    """Show whether an order can be picked up, and dropped off.

    Parameters
    ----------
    order_id
        Its id at the platform.
    """
    _run_query(
        order_id,
        kinds.SHIPMENT_CAPABILITIES,
        lambda seller: seller.shipment_capabilities(order_id),
        _show_deliveries,
        later=later,
        json=json,
    )


@buyback.command(name="pickup-capabilities")
def pickup_capabilities(order_id: str, /, *, later: Later = NOW, json: Json = False) -> None:
    """Show when an order can be picked up.

    Parameters
    ----------
    order_id
        Its id at the platform.
    """
    _run_query(
        order_id,
        kinds.PICKUP_CAPABILITIES,
        lambda seller: seller.pickup_capabilities(order_id),
        _show_slots,
        later=later,
        json=json,
    )


@buyback.command(name="pickup-request")
def pickup_request(
    order_id: str,
    /,
    *,
    slot: Annotated[tuple[str, ...], SEVERAL] = (),
    offered: Annotated[tuple[int, ...], SEVERAL] = (),
    later: Later = NOW,
    json: Json = False,
) -> None:
    """Request a pickup of an order in one of several slots, also again after a missed pickup.

    It is sent once. Without an answer, it may have been accepted.

    Parameters
    ----------
    order_id
        Its id at the platform.
    slot
        Start and end, such as 2026-03-02T09:00Z/2026-03-02T12:00Z; may be given several times.
    offered
        The number of a slot in `pickup-capabilities`, which is called first; may be given several times.
    """
    with _errors_as_sentences():
        given = tuple(map(_slot, slot))
        if not 1 <= len(slot) + len(offered) <= MOST_SLOTS:
            raise WrongUsage(
                f"give --slot, or --offered with a number of pickup-capabilities, at most {MOST_SLOTS} in all"
            )
        if later.enqueue and offered:
            raise WrongUsage("--offered calls the platform now: with --enqueue, give --slot")
        if _is_enqueued(
            later,
            kinds.PICKUP_REQUEST,
            order_id,
            lambda: kinds.PickupOfOrder(order_id=order_id, pickup=PickupRequest(slots=given)),
            json,
        ):
            return

        async def call(seller: Seller) -> tuple[AcceptedRequest, PickupRequest]:
            slots = given
            if offered:
                slots += _chosen(offered, (await seller.pickup_capabilities(order_id)).read.slots)
            request = PickupRequest(slots=slots)
            return await seller.request_pickup(order_id, request), request

        accepted, request = _call_now(call)
    if json:
        _print_accepted(order_id, "pickup-request", accepted, slots=request.model_dump(mode="json")["slots"])
        return
    say(f"a pickup of order {order_id} is requested for")
    for each in request.slots:
        say(f"  {each.initial_slot:%a %Y-%m-%d %H:%M} to {_end(each)} UTC")


@buyback.command(name="dropoff-request")
def dropoff_request(order_id: str, /, *, later: Later = NOW, json: Json = False) -> None:
    """Request the shipping documents for an order that the customer drops off at a courier's point.

    It is sent once. Without an answer, it may have been accepted.

    Parameters
    ----------
    order_id
        Its id at the platform.
    """
    with _errors_as_sentences():
        if _is_enqueued(
            later, kinds.DROPOFF_REQUEST, order_id, lambda: kinds.OfOrder(order_id=order_id), json
        ):
            return
        accepted = _call_now(lambda seller: seller.request_dropoff(order_id, DropoffRequest()))
    if json:
        _print_accepted(order_id, "dropoff-request", accepted)
    else:
        say(f"a drop-off of order {order_id} is requested")


@buyback.command(name="payment-details")
def payment_details(
    order_id: str,
    /,
    *,
    file: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    later: Later = NOW,
    json: Json = False,
) -> None:
    """Send the payment details of an order whose payment type is Cash.

    Without --file they are read from standard input, or prompted for if that is a terminal: as arguments,
    others on the machine could see them. They are neither shown nor logged.

    As JSON: firstName, lastName, bankAccount (accountNumber, financialInstitutionIdentifier,
    beneficiaryName), billingAddress (firstLine, secondLine, zipCode, city, state, country); secondLine
    and state may be left out, country is two letters.

    Parameters
    ----------
    order_id
        Its id at the platform.
    file
        A file with them as JSON; - is standard input.
    """
    with _errors_as_sentences():
        # Before the details are typed.
        check_order_id(order_id)
        settings = read_settings()
        if not later.enqueue:
            account_of(settings)
        elif settings.encryptor is None:
            raise BadSettings(
                f"{PREFIX}SEALING_KEYS is not set: payment details are encrypted while they wait"
            )
        details = read_details(file)
        if _is_enqueued(
            later,
            kinds.PAYMENT_DETAILS,
            order_id,
            lambda: kinds.PaymentOfOrder(order_id=order_id, details=details),
            json,
        ):
            return
        accepted = _call_now(lambda seller: seller.send_payment_details(order_id, details))
    if json:
        _print_accepted(order_id, "payment-details", accepted)
    else:
        say(f"the payment details of order {order_id} were sent")


def _is_enqueued(
    later: Later, kind: str, order_id: str, request: Callable[[], ActionRequest], json: bool
) -> bool:
    """Enqueue the request if --enqueue is given, and return whether it was."""
    if not later.enqueue:
        if later.key is not None:
            raise WrongUsage("--key needs --enqueue: without it, each run sends a request")
        return False
    check_order_id(order_id)
    settings = load_context("buyback")

    async def put() -> Enqueued:
        async with open_database(settings, "buyback") as database:
            return await enqueue(settings, database, kind, order_id, request(), later.key)

    enqueued = run_loop(put())
    if json:
        print_json({"order_id": order_id, "kind": kind, **asdict(enqueued)})
    elif enqueued.is_new:
        say(f"{kind} of order {order_id} is enqueued: stockhook actions show {enqueued.action_id}")
    else:
        say(f"it was enqueued before, and is {enqueued.state}: stockhook actions show {enqueued.action_id}")
    return True


def _run_query(
    order_id: str,
    kind: str,
    call: Callable[[Seller], Awaitable[ParsedAnswer[M]]],
    show: Callable[[ParsedAnswer[M]], None],
    *,
    later: Later,
    json: bool,
) -> None:
    """Print what the platform answers about an order, or enqueue the request."""
    with _errors_as_sentences():
        if _is_enqueued(later, kind, order_id, lambda: kinds.OfOrder(order_id=order_id), json):
            return
        answer = _call_now(call)
    if json:
        _print_document(order_id, answer.document)
    else:
        show(answer)


def _show_deliveries(answer: ParsedAnswer[ShipmentCapabilities]) -> None:
    table = Table("delivery", "possible")
    table.add_row("pickup", _yes_or_no(answer.read.pickup_allowed))
    table.add_row("drop-off", _yes_or_no(answer.read.dropoff_allowed))
    show(table)
    _print_rest(
        answer.document,
        printed_members=("pickUpAllowed", "pickupAllowed", "dropOffAllowed", "dropoffAllowed"),
    )


def _show_slots(answer: ParsedAnswer[PickupCapabilities]) -> None:
    table = Table("slot", "from (UTC)", "to (UTC)")
    for number, slot in enumerate(answer.read.slots, start=1):
        table.add_row(str(number), f"{slot.initial_slot:%a %Y-%m-%d %H:%M}", _end(slot))
    show(table)
    _print_rest(answer.document, printed_members=("slots",))


def _call_now(call: Callable[[Seller], Awaitable[T]]) -> T:
    settings = load_context("buyback")
    account = account_of(settings)

    async def run() -> T:
        async with selling(account, timedelta(seconds=settings.buyback_timeout)) as seller:
            return await call(seller)

    with traced(settings, "buyback"):
        return run_loop(run())


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    """Print one sentence for an expected error."""
    try:
        yield
    except CallRefused as error:
        hint = None if isinstance(error, CredentialsRefused) else HINTS.get(error.status)
        fail(FAILED, f"the buyback platform: {error}" + (f"; {hint}" if hint else ""))
    except UnexpectedResponse as error:
        fail(FAILED, f"the buyback platform: {error}{_unknown_outcome_text(error)}")
    except Unavailable as error:
        wait = error.retry_after
        delay = "" if wait is None else f"; it requests a delay of {wait.total_seconds():g} s"
        fail(UNAVAILABLE, f"the buyback platform: {error}{delay}{_unknown_outcome_text(error)}")


def _unknown_outcome_text(error: CallFailed) -> str:
    return "; the request may have been accepted" if error.outcome_unknown else ""


def _slot(text: str) -> Slot:
    """Raises: WrongUsage."""
    begin, _, end = text.partition("/")
    try:
        return Slot.model_validate({"initialSlot": begin, "finalSlot": end})
    except ValidationError as error:
        rule = broken_rules(error)[0].text
        raise WrongUsage(
            f"--slot must look like 2026-03-02T09:00Z/2026-03-02T12:00Z (given: {text!r}; {rule})"
        ) from None


def _chosen(numbers: Sequence[int], slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """Raises: WrongUsage."""
    wrong = [number for number in numbers if not 1 <= number <= len(slots)]
    if wrong:
        raise WrongUsage(f"--offered {wrong[0]}: there are {len(slots)} slots, from 1")
    return tuple(slots[number - 1] for number in numbers)


def _print_document(order_id: str, document: Document) -> None:
    print_json({"order_id": order_id, "answer": document})


def _print_accepted(order_id: str, request: str, accepted: AcceptedRequest, **more: object) -> None:
    print_json({"order_id": order_id, "request": request, "status": accepted.status, **more})


def _print_rest(document: Document, printed_members: Sequence[str]) -> None:
    """Print the other members of the answer, one per line."""
    members = document.items() if isinstance(document, Mapping) else enumerate(document, start=1)
    for name, value in members:
        if name not in printed_members:
            say(f"{name}: {value if isinstance(value, str) else dumps(value, ensure_ascii=False)}")


def _yes_or_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not stated"}[value]


def _end(slot: Slot) -> str:
    is_same_day = slot.final_slot.date() == slot.initial_slot.date()
    return f"{slot.final_slot:%H:%M}" if is_same_day else f"{slot.final_slot:%a %Y-%m-%d %H:%M}"
