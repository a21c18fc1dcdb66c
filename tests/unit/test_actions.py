"""Actions of events, and outcomes of attempts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from consumers.buybacks.actions import required_actions
from consumers.inventory.actions import required_actions as of_part
from consumers.inventory.store import INVENTORY
from consumers.returns.actions import required_actions as of_return
from schemas.actions import PartDetailsRequest, RepeatPickupRequest, ReturnDetailsRequest
from schemas.buyback import PickupMissed
from schemas.trace_context import TraceContext
from tests.support import events
from tests.support.events import flat
from worker.actions.buyback import first
from worker.actions.executor import note_attempt
from worker.actions.registry import KINDS, enabled_kinds
from worker.actions.settlement import next_attempt, settlement_of
from worker.actions.types import (
    Denied,
    Done,
    Failed,
    NotNeeded,
    Outcome,
    OutcomeUnknown,
    outcome_of,
)
from worker.amqp.queue_set import QueueSet
from worker.amqp.tap import Delivery
from worker.config.settings import BadSettings, Settings
from worker.marketplaces.buyback.requests import Slot
from worker.marketplaces.http import (
    CallRefused,
    CredentialsRefused,
    Unavailable,
    UnexpectedResponse,
)
from worker.observability.tracing import made_current
from worker.pipeline.retry_schedule import Exhausted, Retry

QUEUES = QueueSet.of("actions", [timedelta(seconds=seconds) for seconds in (7, 35, 175)])
RETRIES = QUEUES.retries
SOON = timedelta(seconds=3)


def missed(minute: int = 0, **more: object) -> PickupMissed:
    payload = flat("CollectionItemPickupMissedEvent", minute, **more)
    assert isinstance(payload, PickupMissed)
    return payload


def test_a_missed_pickup_calls_for_another_one() -> None:
    payload = missed()
    (action,) = required_actions(None, events.claimed(payload, 1))

    assert action.kind == "buyback.rerequest_pickup"
    assert action.subject == payload.entity_id
    assert action.event_id == events.claimed(payload, 1).event_id
    assert action.request == RepeatPickupRequest(order_id=payload.entity_id, missed_at=payload.occurred_at)


def test_events_of_one_missed_pickup_have_one_key() -> None:
    (one,) = required_actions(None, events.claimed(missed(itemId="i1"), 1))
    (other,) = required_actions(None, events.claimed(missed(itemId="i2"), 2))
    (later,) = required_actions(None, events.claimed(missed(1), 3))

    assert one.key == other.key != later.key


def test_other_events_call_for_nothing() -> None:
    assert (
        required_actions(None, events.claimed(flat("CollectionItemReceivedEvent", 0, itemId="i1"), 1)) == ()
    )


def test_details_of_an_unknown_part_are_requested() -> None:
    event = events.claimed(events.part("sold"), 1)
    (action,) = of_part(None, event)
    known = INVENTORY.decide(None, event).state

    assert (action.key, action.subject) == ("ovoko.part_details:13", "13")
    assert action.request == PartDetailsRequest(part_id="13")
    assert of_part(known, events.claimed(events.part("returned", 1), 2)) == ()


def test_each_event_of_a_return_requests_its_details() -> None:
    created, updated, same_id = (
        events.claimed(events.returned(f"order.return.{what}", return_id=return_id), name)
        for what, return_id, name in (("created", "77", 1), ("updated", "77", 2), ("updated", "78", 2))
    )
    requests = [of_return(None, event)[0] for event in (created, updated, same_id)]

    assert len({action.key for action in requests}) == 3
    assert [action.request for action in requests] == [
        ReturnDetailsRequest(return_id="77"),
        ReturnDetailsRequest(return_id="77"),
        ReturnDetailsRequest(return_id="78"),
    ]


def test_events_of_a_return_that_share_an_id_each_request_its_details() -> None:
    one, other = (
        replace(
            events.claimed(events.returned("order.return.updated", second), 1), content_id=UUID(int=second)
        )
        for second in (1, 2)
    )

    assert of_return(None, one)[0].key != of_return(None, other)[0].key


def test_a_return_that_is_no_longer_listed_has_no_details() -> None:
    seen, gone = (
        events.claimed(events.observed_return(is_listed=is_listed), name)
        for name, is_listed in ((1, True), (2, False))
    )

    assert len(of_return(None, seen)) == 1
    assert of_return(None, gone) == ()


def test_events_request_details_only_if_the_settings_enable_it() -> None:
    ovoko = {"ovoko_username": "u", "ovoko_password": "p"}

    assert enabled_kinds(Settings()) == frozenset()
    assert enabled_kinds(Settings(**ovoko)) == frozenset()
    assert enabled_kinds(Settings(**ovoko, ovoko_user_token="t")) == {
        "ovoko.part_details",
        "ovoko.return_details",
    }
    assert enabled_kinds(Settings(rerequest_pickup="first_slot")) == {"buyback.rerequest_pickup"}


def test_each_kind_has_the_name_of_its_marketplace() -> None:
    assert {name.split(".")[0] for name in KINDS} <= {"buyback", "ovoko"}


@pytest.mark.parametrize(
    ("error", "if_started", "if_not_started"),
    [
        (CallRefused(409), Denied, Denied),
        (CredentialsRefused(401), Failed, Failed),
        (Unavailable("429", retry_after=SOON), Failed, Failed),
        (Unavailable("no answer", outcome_unknown=True), OutcomeUnknown, Failed),
        (UnexpectedResponse("no JSON", outcome_unknown=True), OutcomeUnknown, Failed),
        (UnexpectedResponse("no access token"), Failed, Failed),
        (BadSettings("not set"), Failed, Failed),
        (ZeroDivisionError(), OutcomeUnknown, Failed),
    ],
)
def test_only_a_request_that_was_not_accepted_is_repeated(
    error: Exception, if_started: type, if_not_started: type
) -> None:
    assert type(outcome_of(error, has_started=True)) is if_started
    assert type(outcome_of(error, has_started=False)) is if_not_started


@pytest.mark.parametrize(
    ("attempt", "retry_after", "expected"),
    [
        (1, None, Retry(RETRIES[0], 2)),
        (1, SOON, Retry(RETRIES[0], 2)),
        (1, timedelta(seconds=30), Retry(RETRIES[1], 2)),
        (2, SOON, Retry(RETRIES[1], 3)),
        (3, timedelta(hours=1), Retry(RETRIES[2], 4)),
        (4, SOON, Exhausted(4)),
    ],
)
def test_a_retry_after_of_a_marketplace_is_respected(
    attempt: int, retry_after: timedelta | None, expected: Retry | Exhausted
) -> None:
    assert next_attempt(attempt, RETRIES, retry_after) == expected


def test_the_first_slot_is_the_earliest_still_to_come() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def slot(hours: int) -> Slot:
        begin = now + timedelta(hours=hours)
        return Slot(initial_slot=begin, final_slot=begin + timedelta(hours=3))

    assert first([slot(24), slot(-1), slot(2)], now) == slot(2)
    assert first([slot(-1)], now) is None


class OpenSpan:
    """A span that is not exported."""

    context = TraceContext("1" * 32, "2" * 16, True)

    def __init__(self) -> None:
        self.attributes: dict[str, str | int] = {}
        self.error_type = ""

    def set(self, name: str, value: str | int) -> None:
        self.attributes[name] = value

    def fail(self, error_type: str) -> None:
        self.error_type = error_type


@pytest.mark.parametrize(
    ("outcome", "attempt", "result", "is_error"),
    [
        (Done({}), 1, "done", False),
        (NotNeeded("picked up"), 1, "not_needed", False),
        (Denied("no"), 1, "refused", True),
        (OutcomeUnknown("no answer"), 1, "unknown", True),
        (Failed("unavailable"), 1, "retried", True),
        (Failed("unavailable"), 4, "failed", True),
    ],
)
def test_the_span_of_an_attempt_fails_unless_the_action_is_done(
    outcome: Outcome, attempt: int, result: str, is_error: bool
) -> None:
    delivery = Delivery(1, "", {"x-attempt": attempt}, b"", False)
    span = OpenSpan()
    with made_current(span):
        note_attempt("buyback.rerequest_pickup", settlement_of(QUEUES, delivery, outcome))

    assert span.attributes == {
        "stockhook.action_kind": "buyback.rerequest_pickup",
        "stockhook.result": result,
    }
    assert span.error_type == (result if is_error else "")
