"""A seller's calls against the simulated buyback platform, over real HTTP, with its faults."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic

import httpx
import pytest
from pydantic import SecretStr

from worker.marketplaces.buyback.client import (
    AcceptedRequest,
    Account,
    BadOrderId,
    Seller,
)
from worker.marketplaces.buyback.requests import (
    BankAccount,
    BillingAddress,
    DropoffRequest,
    PaymentDetails,
    PickupRequest,
    Slot,
)
from worker.marketplaces.http import (
    CallFailed,
    CallRefused,
    CredentialsRefused,
    Unavailable,
    UnexpectedResponse,
    http_client,
)
from worker.simulator import buyback_api as buyback
from worker.simulator.buyback_api import SimulatedBuyback
from worker.simulator.faults import Fault, Kind
from worker.simulator.router import Simulation
from worker.simulator.server import serving

ORDER = "a989e247-ea7d-4ca5-823f-4a2beca861be"
CANARY = "PT50CANARY0002012312345678915"
DETAILS = PaymentDetails(
    first_name=SecretStr("Ana"),
    last_name=SecretStr("Silva"),
    bank_account=BankAccount(
        account_number=SecretStr(CANARY),
        financial_institution_identifier=SecretStr("BCOMPTPL"),
        beneficiary_name=SecretStr("Ana Silva"),
    ),
    billing_address=BillingAddress(
        first_line=SecretStr("Example Street 1"),
        zip_code=SecretStr("1000-001"),
        city=SecretStr("Lisboa"),
        country="PT",
    ),
)


@dataclass
class Clock:
    """Of the platform; moved by hand."""

    now: datetime = datetime(2026, 3, 1, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Platform:
    simulation: Simulation
    trade_in: SimulatedBuyback
    clock: Clock
    account: Account
    seller: Seller = field(init=False)

    def fault(self, kind: Kind, **which: object) -> None:
        self.simulation.faults.add(Fault.model_validate({"kind": kind, **which}))

    def asked(self, path: str) -> int:
        """How many requests for this path came."""
        return sum(path in str(answered["path"]) for answered in self.simulation.answered)


@asynccontextmanager
async def open_platform(**changes: str | SecretStr) -> AsyncIterator[Platform]:
    clock = Clock()
    trade_in = SimulatedBuyback(clock=clock)
    simulation = Simulation({"buyback": trade_in})
    async with serving(simulation) as port, http_client() as http:
        url = f"http://127.0.0.1:{port}/buyback"
        account = Account(
            api_url=url,
            sts_url=url,
            client_id=buyback.CLIENT_ID,
            client_secret=SecretStr(buyback.CLIENT_SECRET),
            seller_id=buyback.SELLER_ID,
            real_ip="203.0.113.7",
        )
        account = replace(account, **changes)  # type: ignore[arg-type]  # names and types are the account's
        platform = Platform(simulation, trade_in, clock, account)
        platform.seller = Seller(account, http, timedelta(seconds=5), pause_seconds=0.01)
        yield platform


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with open_platform() as opened:
        yield opened


async def test_an_order_may_be_picked_up_or_dropped_off(platform: Platform) -> None:
    told = await platform.seller.shipment_capabilities(ORDER)

    assert (told.read.pickup_allowed, told.read.dropoff_allowed) == (True, True)
    assert told.document == {"pickUpAllowed": True, "dropOffAllowed": True, "selected": None}


async def test_a_pickup_is_requested_for_slots_that_are_offered(platform: Platform) -> None:
    slots = (await platform.seller.pickup_capabilities(ORDER)).read.slots
    taken = await platform.seller.request_pickup(ORDER, PickupRequest(slots=slots[:2]))

    assert slots[0] == Slot(
        initial_slot=datetime(2026, 3, 2, 9, tzinfo=UTC), final_slot=datetime(2026, 3, 2, 12, tzinfo=UTC)
    )
    assert taken == AcceptedRequest(201)
    order = platform.trade_in.orders[ORDER]
    assert (order.delivery, order.slots, order.pickups_requested) == ("pickup", slots[:2], 1)


async def test_a_slot_that_is_not_offered_is_refused(platform: Platform) -> None:
    slot = Slot(
        initial_slot=datetime(2026, 3, 2, 3, tzinfo=UTC), final_slot=datetime(2026, 3, 2, 4, tzinfo=UTC)
    )
    with pytest.raises(CallRefused) as raised:
        await platform.seller.request_pickup(ORDER, PickupRequest(slots=(slot,)))

    assert str(raised.value) == (
        "refused with status 400 Bad Request (One or more validation errors occurred); see slots"
    )
    assert platform.trade_in.orders[ORDER].pickups_requested == 0


async def test_a_dropoff_is_requested(platform: Platform) -> None:
    assert await platform.seller.request_dropoff(ORDER, DropoffRequest()) == AcceptedRequest(201)
    assert platform.trade_in.orders[ORDER].delivery == "dropoff"


async def test_payment_details_arrive_and_show_nowhere(platform: Platform) -> None:
    assert await platform.seller.send_payment_details(ORDER, DETAILS) == AcceptedRequest(204)
    assert platform.trade_in.orders[ORDER].has_payment_details
    assert CANARY.encode() in DETAILS.as_body()
    assert CANARY not in f"{DETAILS!r} {DETAILS} {DETAILS.model_dump()}"


async def test_an_unknown_order_is_refused_and_not_asked_for_again(platform: Platform) -> None:
    with pytest.raises(CallRefused) as raised:
        await platform.seller.shipment_capabilities("nobodys")

    assert raised.value.status == 404
    assert platform.asked("nobodys") == 1


@pytest.mark.parametrize("order_id", ["", ".", "..", "a/b", "a?b", "ä", "x" * 201])
async def test_an_id_that_leads_elsewhere_is_not_sent(platform: Platform, order_id: str) -> None:
    with pytest.raises(BadOrderId):
        await platform.seller.shipment_capabilities(order_id)

    assert platform.simulation.answered == []


async def test_one_token_serves_many_calls(platform: Platform) -> None:
    await asyncio.gather(*(platform.seller.shipment_capabilities(ORDER) for _ in range(20)))

    assert platform.asked("/connect/token") == 1
    assert platform.asked("shipment-capabilities") == 20


async def test_a_token_that_ended_at_the_platform_is_fetched_once_again(platform: Platform) -> None:
    await platform.seller.shipment_capabilities(ORDER)
    platform.clock.now += timedelta(hours=2)
    await asyncio.gather(*(platform.seller.shipment_capabilities(ORDER) for _ in range(20)))

    assert platform.asked("/connect/token") == 2


async def test_a_token_is_renewed_before_it_ends() -> None:
    async with open_platform() as platform:
        platform.trade_in.token_lifetime = timedelta(seconds=1)
        await platform.seller.shipment_capabilities(ORDER)
        await asyncio.sleep(0.95)
        # The platform's clock stands still, so it still takes the old one.
        await platform.seller.shipment_capabilities(ORDER)

    assert platform.asked("/connect/token") == 2
    assert [answered["status"] for answered in platform.simulation.answered] == [200] * 4


async def test_a_401_that_stays_is_refused_after_one_more_token(platform: Platform) -> None:
    platform.fault(Kind.UNAUTHORIZED, path="/orders/")
    with pytest.raises(CredentialsRefused) as raised:
        await platform.seller.request_dropoff(ORDER, DropoffRequest())

    assert str(raised.value) == (
        "refused with status 401 Unauthorized; see STOCKHOOK_BUYBACK_CLIENT_ID and its secret"
    )
    assert platform.asked("/connect/token") == 2
    assert platform.asked("dropoff-request") == 2


async def test_wrong_credentials_are_a_sentence_without_them() -> None:
    async with open_platform(client_secret=SecretStr("canary-secret")) as platform:
        with pytest.raises(CredentialsRefused) as raised:
            await platform.seller.shipment_capabilities(ORDER)

    assert str(raised.value) == (
        "no access token: refused with status 400 (invalid_client); "
        "see STOCKHOOK_BUYBACK_CLIENT_ID and its secret"
    )


async def test_a_token_endpoint_that_is_not_there_is_looked_for_in_its_own_setting() -> None:
    async with open_platform() as platform:
        account = replace(
            platform.account, sts_url=platform.account.sts_url.replace("/buyback", "/elsewhere")
        )
        lost = Seller(account, platform.seller.http)
        with pytest.raises(
            CredentialsRefused, match="refused with status 404; see STOCKHOOK_BUYBACK_STS_URL"
        ):
            await lost.shipment_capabilities(ORDER)


async def test_our_address_goes_with_each_call() -> None:
    async with open_platform(real_ip="") as platform:
        with pytest.raises(CallRefused) as raised:
            await platform.seller.shipment_capabilities(ORDER)

    assert raised.value.status == 400


@pytest.mark.parametrize("kind", [Kind.RATE_LIMITED, Kind.ERROR, Kind.UNAVAILABLE, Kind.CUT, Kind.HANG_UP])
async def test_a_question_is_asked_again(platform: Platform, kind: Kind) -> None:
    platform.fault(kind, path="capabilities", times=2, seconds=0)
    told = await platform.seller.shipment_capabilities(ORDER)

    assert told.read.pickup_allowed
    assert platform.asked("capabilities") == 3


@pytest.mark.parametrize("kind", [Kind.RATE_LIMITED, Kind.ERROR, Kind.UNAVAILABLE, Kind.CUT, Kind.HANG_UP])
async def test_a_request_is_never_sent_again(platform: Platform, kind: Kind) -> None:
    platform.fault(kind, path="dropoff-request", times=1, seconds=0)
    with pytest.raises(Unavailable) as raised:
        await platform.seller.request_dropoff(ORDER, DropoffRequest())

    assert platform.asked("dropoff-request") == 1
    assert raised.value.outcome_unknown is (kind not in (Kind.RATE_LIMITED, Kind.UNAVAILABLE))


async def test_a_question_is_given_up_after_four_times(platform: Platform) -> None:
    platform.fault(Kind.ERROR, path="capabilities")
    with pytest.raises(Unavailable, match="answered 500 Internal Server Error"):
        await platform.seller.shipment_capabilities(ORDER)

    assert platform.asked("capabilities") == 4


async def test_retry_after_is_waited_for(platform: Platform) -> None:
    platform.fault(Kind.RATE_LIMITED, path="capabilities", times=1, seconds=1)
    began = monotonic()
    await platform.seller.shipment_capabilities(ORDER)

    assert monotonic() - began >= 1


async def test_an_hour_is_not_waited_for(platform: Platform) -> None:
    platform.fault(Kind.RATE_LIMITED, path="capabilities", seconds=3600)
    with pytest.raises(Unavailable) as raised:
        await platform.seller.shipment_capabilities(ORDER)

    assert raised.value.retry_after == timedelta(hours=1)
    assert platform.asked("capabilities") == 1


async def test_a_token_endpoint_that_is_away_for_a_moment_is_asked_again(platform: Platform) -> None:
    platform.fault(Kind.ERROR, path="/connect/token", times=1)

    assert (await platform.seller.shipment_capabilities(ORDER)).read.pickup_allowed


async def test_a_request_without_a_token_was_surely_not_sent(platform: Platform) -> None:
    platform.fault(Kind.ERROR, path="/connect/token")
    with pytest.raises(Unavailable, match="no access token: answered 500") as raised:
        await platform.seller.request_dropoff(ORDER, DropoffRequest())

    assert not raised.value.outcome_unknown
    assert platform.asked("dropoff-request") == 0


@pytest.mark.parametrize("kind", [Kind.SLOW, Kind.TRICKLE])
async def test_a_late_answer_is_not_waited_for(platform: Platform, kind: Kind) -> None:
    slots = (await platform.seller.pickup_capabilities(ORDER)).read.slots
    platform.fault(kind, path="pickup-request", seconds=0.1 if kind is Kind.TRICKLE else 30)
    platform.seller.within = timedelta(seconds=0.5)
    with pytest.raises(Unavailable, match=r"no whole answer within 0\.5 s") as raised:
        await platform.seller.request_pickup(ORDER, PickupRequest(slots=slots))

    assert raised.value.outcome_unknown


async def test_nobody_there_is_said_after_four_times() -> None:
    async with serving(Simulation({})) as port:
        pass
    async with http_client() as http:
        url = f"http://127.0.0.1:{port}"
        account = Account(url, url, "client", SecretStr("secret"), "seller", "203.0.113.7")
        seller = Seller(account, http, timedelta(seconds=5), pause_seconds=0.01)
        with pytest.raises(Unavailable, match="no access token: cannot connect") as raised:
            await seller.shipment_capabilities(ORDER)

    assert not raised.value.outcome_unknown


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Kind.OVERSIZED, "the answer is larger than 1,048,576 bytes"),
        (Kind.DECLARED, "the answer is larger than 1,048,576 bytes"),
        (Kind.COMPRESSED, "the answer is compressed, which was not requested"),
        (Kind.REDIRECT, r"answered with a redirect \(302\), which is not followed"),
        (Kind.NOT_JSON, "the answer is no JSON"),
        (Kind.WRONG_TYPES, "pickUpAllowed: Input should be a valid boolean"),
    ],
)
async def test_an_odd_answer_to_a_question_is_said_to_be_one(
    platform: Platform, kind: Kind, words: str
) -> None:
    platform.fault(kind, path="capabilities")
    with pytest.raises(UnexpectedResponse, match=words):
        await platform.seller.shipment_capabilities(ORDER)

    assert platform.asked("capabilities") == 1


@pytest.mark.parametrize("kind", [Kind.OVERSIZED, Kind.COMPRESSED, Kind.REDIRECT])
async def test_an_odd_answer_to_a_request_leaves_it_open(platform: Platform, kind: Kind) -> None:
    platform.fault(kind, path="dropoff-request")
    with pytest.raises(UnexpectedResponse) as raised:
        await platform.seller.request_dropoff(ORDER, DropoffRequest())

    assert raised.value.outcome_unknown
    assert platform.asked("dropoff-request") == 1


async def test_a_request_that_cannot_be_beside_another_is_refused(platform: Platform) -> None:
    await platform.seller.request_dropoff(ORDER, DropoffRequest())
    slots = (await platform.seller.pickup_capabilities(ORDER)).read.slots
    with pytest.raises(CallRefused) as raised:
        await platform.seller.request_pickup(ORDER, PickupRequest(slots=slots))

    assert str(raised.value) == "refused with status 409 Conflict (the order is dropped off)"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Kind.OVERSIZED, "no access token: the answer is larger than 1,048,576 bytes"),
        (Kind.REDIRECT, r"no access token: answered with a redirect \(302\)"),
        (Kind.NOT_JSON, "no access token: the answer is not as expected: it is no JSON"),
        (Kind.WRONG_TYPES, "no access token: the answer is not as expected: access_token: "),
    ],
)
async def test_an_odd_token_is_said_to_be_one(platform: Platform, kind: Kind, words: str) -> None:
    platform.fault(kind, path="/connect/token")
    with pytest.raises(UnexpectedResponse, match=words) as raised:
        await platform.seller.shipment_capabilities(ORDER)

    assert platform.asked("/orders/") == 0
    assert "eyJ" not in str(raised.value)


async def test_what_is_cut_off_leaves_the_seller_usable(platform: Platform) -> None:
    platform.fault(Kind.OVERSIZED, path="shipment-capabilities", times=1)
    with pytest.raises(CallFailed):
        await platform.seller.shipment_capabilities(ORDER)

    assert (await platform.seller.shipment_capabilities(ORDER)).read.pickup_allowed


async def test_a_refused_account_number_is_in_no_text(platform: Platform) -> None:
    broken = DETAILS.model_copy(update={"first_name": SecretStr("")})
    with pytest.raises(CallRefused) as raised:
        await platform.seller.send_payment_details(ORDER, broken)

    assert raised.value.status == 400
    assert "The value" in raised.value.body.decode()
    assert str(raised.value) == "refused with status 400 Bad Request; see firstName"


async def test_a_token_is_in_no_text(platform: Platform) -> None:
    await platform.seller.shipment_capabilities(ORDER)
    (token,) = platform.trade_in.tokens

    assert token not in repr(platform.seller)
    assert buyback.CLIENT_SECRET not in repr(platform.seller)


async def test_the_platform_takes_its_own_form_and_tokens_alone(platform: Platform) -> None:
    async with httpx.AsyncClient() as client:
        urlencoded = await client.post(
            f"{platform.account.sts_url}/connect/token", data={"grant_type": "client_credentials"}
        )
        forged = await client.get(
            f"{platform.account.api_url}/v2/sellers/x/orders/y/z", headers={"authorization": "Bearer forged"}
        )

    assert (urlencoded.status_code, forged.status_code) == (400, 401)
