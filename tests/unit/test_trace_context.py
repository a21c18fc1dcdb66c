"""The headers of traces are checked whenever they are read, and passed on unchanged."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import Envelope
from schemas.registry import Provider
from schemas.trace_context import (
    context_headers,
    origin_headers,
    passed_headers,
    read_context,
    valid_tracestate,
)
from tests.support.events import body, part_changed
from worker.actions.settlement import settlement_of
from worker.actions.types import Failed as ActionFailed
from worker.amqp.queue_set import QueueSet
from worker.amqp.tap import Delivery
from worker.change_feed.endpoint import NotDelivered
from worker.change_feed.webhook_dispatcher import copy_after_failure
from worker.dead_letters.message import read_letter
from worker.intake.intake import accept
from worker.pipeline.decode import InvalidDelivery
from worker.pipeline.disposition import disposition_of
from worker.pipeline.outcome import Failed

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
ORIGIN = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01"
STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
CONTEXT = {"traceparent": PARENT, "tracestate": STATE}
NOW = datetime(2026, 3, 1, tzinfo=UTC)
QUEUES = QueueSet.of("inventory", [timedelta(seconds=7)])


def test_a_context_has_ids_and_whether_it_is_recorded() -> None:
    context = read_context(CONTEXT)

    assert context is not None
    assert (context.trace_id, context.span_id, context.is_sampled) == (TRACE, "00f067aa0ba902b7", True)
    assert context.headers == CONTEXT


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        PARENT.upper(),
        PARENT + "-more",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT},{PARENT}",
        f" {PARENT}",
        PARENT + "\n",
        f"01-{TRACE}-00f067aa0ba902b7-01-" + "x" * 100_000,
        7,
        b"bytes",
        None,
    ],
)
def test_a_malformed_or_oversized_traceparent_counts_as_missing(traceparent: object) -> None:
    headers = {"traceparent": traceparent, "tracestate": STATE}

    assert read_context(headers) is None
    assert context_headers(headers) == {}


def test_a_later_version_is_read_and_passed_on() -> None:
    later = f"cc-{TRACE}-00f067aa0ba902b7-01-what-the-future-brings"
    context = read_context({"traceparent": later})

    assert context is not None
    assert context.trace_id == TRACE
    assert context_headers({"traceparent": later}) == {"traceparent": later}


@pytest.mark.parametrize(
    "tracestate",
    [
        "",
        " ",
        "=",
        "a",
        "A=1",
        "a=\n",
        "a=é",
        "a=1=2",
        "x=" + "1" * 511,
        ",".join(f"k{n}=1" for n in range(33)),
    ],
)
def test_a_malformed_or_oversized_tracestate_is_dropped_alone(tracestate: str) -> None:
    assert context_headers({"traceparent": PARENT, "tracestate": tracestate}) == {"traceparent": PARENT}


@given(st.one_of(st.text(max_size=600), st.from_regex(r"[a-z]+=[ -~]*(,[a-z]+=[ -~]*)*", fullmatch=True)))
def test_a_tracestate_is_passed_on_as_it_is_or_not_at_all(text: str) -> None:
    assert valid_tracestate(text) in (None, text)


def test_a_malformed_context_does_not_make_a_message_invalid() -> None:
    headers = dict(accept(Provider.OVOKO, body(part_changed("13")), NOW).message.headers)
    envelope = Envelope.from_headers(
        {**headers, "traceparent": "x" * 5000, "tracestate": 7, "x-origin-traceparent": []}
    )

    assert (envelope.traceparent, envelope.tracestate, envelope.origin_traceparent) == (None, None, None)
    assert envelope.to_headers() == Envelope.from_headers(headers).to_headers()


def test_copies_for_retry_queues_have_the_context_unchanged() -> None:
    headers = {
        **CONTEXT,
        "x-origin-traceparent": ORIGIN,
        "x-event-id": "1",
        "x-change-id": "1",
        "x-action-id": "1",
    }
    delivery = Delivery(1, "part.sold", headers, b"{}", False)
    copies = [
        disposition_of(QUEUES, InvalidDelivery(delivery, ""), Failed(ValueError()), NOW),
        settlement_of(QUEUES, delivery, ActionFailed("")).copy,
        copy_after_failure(QUEUES, delivery, NotDelivered(""), NOW),
    ]

    for copy in copies:
        assert copy is not None
        assert passed_headers(copy.headers) == {**CONTEXT, "x-origin-traceparent": ORIGIN}


def test_copies_leave_out_a_malformed_context() -> None:
    delivery = Delivery(1, "part.sold", {"traceparent": "x" * 5000, "tracestate": STATE}, b"{}", False)
    copy = disposition_of(QUEUES, InvalidDelivery(delivery, ""), Failed(ValueError()), NOW)

    assert copy is not None
    assert not {"traceparent", "tracestate"} & copy.headers.keys()


def test_further_replays_keep_the_first_origin() -> None:
    assert origin_headers(CONTEXT) == {"x-origin-traceparent": PARENT}
    assert origin_headers({**CONTEXT, "x-origin-traceparent": ORIGIN}) == {"x-origin-traceparent": ORIGIN}
    assert origin_headers({"traceparent": "?"}) == {}


def test_a_dead_letter_names_the_recorded_traces() -> None:
    message = accept(Provider.OVOKO, body(part_changed("13")), NOW).message
    traced = replace(message, headers={**message.headers, **CONTEXT, "x-origin-traceparent": ORIGIN})
    letter = read_letter("inventory", Delivery(1, traced.type, traced.headers, traced.body, False))
    unrecorded = {**message.headers, "traceparent": PARENT[:-1] + "0"}

    assert letter.evidence == f'{{"trace_id":"{TRACE}","origin_trace_id":"{"a" * 32}"}}'
    assert Envelope.from_headers(unrecorded).evidence == {}
