"""Generated marketplaces are reproducible, valid, varied, and as irregular as real ones."""

import os
import subprocess
import sys
from collections import Counter
from datetime import datetime
from hashlib import sha256
from itertools import islice, pairwise

import orjson
import pytest
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.local.services import CHECKOUT
from schemas.events import parse, webhook_models
from schemas.ovoko import PartStatusChanged
from schemas.registry import Provider
from worker.intake.intake import body_to_store
from worker.simulator.generator import WINDOW, events, scrambled
from worker.simulator.lifecycle import GeneratedEvent

ENCRYPTOR = MultiFernet([Fernet(Fernet.generate_key())])
PLAYED = list(islice(events(7), 10_000))


def _results(event_type: str) -> list[dict[str, object]]:
    bodies = [event.body for event in PLAYED if event.event_type == event_type]
    return [orjson.loads(body)["result"] for body in bodies]


def test_the_same_seed_plays_the_same_bytes_in_another_process() -> None:
    """The order of sets, which differs between processes, has no influence."""
    script = (
        "from hashlib import sha256; from itertools import islice; "
        "from worker.simulator.generator import events; "
        "print(sha256(b'\\n'.join(event.body for event in islice(events(7), 1000))).hexdigest())"
    )
    expected = sha256(b"\n".join(event.body for event in PLAYED[:1000])).hexdigest()

    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"}
        command = (sys.executable, "-c", script)
        assert subprocess.check_output(command, cwd=CHECKOUT, env=environment, text=True).strip() == expected


def test_another_seed_plays_another_marketplace() -> None:
    seven, eight = ({event.body for event in islice(events(seed), 500)} for seed in (7, 8))

    assert not seven & eight


@settings(max_examples=20, deadline=None)
@given(st.integers(min_value=0, max_value=2**63))
def test_every_event_fits_its_schema_and_happens_when_it_says(seed: int) -> None:
    for event in islice(events(seed), 100):
        parsed = parse(event.provider, body_to_store(event.provider, event.body, ENCRYPTOR))

        assert type(parsed) is webhook_models(event.provider)[event.event_type]
        assert parsed.occurred_at == event.occurred_at


def test_each_event_type_happens() -> None:
    """A marketplace without a simulator sends none."""
    simulated = {event.provider for event in PLAYED}
    known = {(provider, name) for provider in simulated for name in webhook_models(provider)}

    assert {Provider.OVOKO, Provider.BUYBACK} <= simulated
    assert {(event.provider, event.event_type) for event in PLAYED} == known


def test_most_events_are_about_parts_then_buyback_orders_and_returns() -> None:
    counts = Counter(_theme(event) for event in PLAYED)
    shares = {theme: count / len(PLAYED) for theme, count in counts.items()}

    assert shares == {
        "parts": pytest.approx(0.70, abs=0.04),
        "orders": pytest.approx(0.10, abs=0.02),
        "returns": pytest.approx(0.05, abs=0.015),
        "trade-in": pytest.approx(0.15, abs=0.03),
    }


def _theme(event: GeneratedEvent) -> str:
    if event.provider is Provider.BUYBACK:
        return "trade-in"
    if event.event_type == "part.status.changed":
        return "parts"
    return "returns" if event.event_type.startswith("order.return.") else "orders"


def test_no_two_events_are_the_same() -> None:
    assert len({event.body for event in PLAYED}) == len(PLAYED)


def test_parts_reach_every_status_and_some_are_heard_of_after_they_were_written_off() -> None:
    lives: dict[str, list[str]] = {}
    for event in PLAYED:
        if event.event_type == "part.status.changed":
            part = parse(event.provider, event.body)
            assert isinstance(part, PartStatusChanged)
            lives.setdefault(part.entity_id, []).append(part.event_data.status)
    changes = {change for life in lives.values() for change in pairwise(life)}

    assert {status for life in lives.values() for status in life} == {
        "in_warehouse",
        "reserved",
        "sold",
        "sold_in_ebay",
        "sold_in_allegro",
        "returned",
        "written_off",
        "unknown_stock_status",
    }
    assert ("sold", "in_warehouse") in changes
    assert ("written_off", "in_warehouse") in changes


def test_a_part_is_named_by_either_of_its_two_spellings_or_not_at_all() -> None:
    spellings = set()
    for event in PLAYED:
        document = orjson.loads(event.body)
        data = document.get("event", document).get("event_data", {})
        if "part_id" in data:
            spellings.add(
                tuple((name, data.get(name) is None) for name in data if "id_" in name or "_id" in name)
            )

    assert len(spellings) == 4


def test_ovokos_events_come_flat_and_wrapped_with_whole_seconds_and_an_offset() -> None:
    documents = [orjson.loads(event.body) for event in PLAYED if event.provider is Provider.OVOKO]
    wrapped = [document["event"] for document in documents if "event" in document]
    flat = [document for document in documents if "event" not in document]
    stamps = [datetime.fromisoformat(document["timestamp"]) for document in flat + wrapped]

    assert len(flat) > len(wrapped) > 0
    assert {stamp.microsecond for stamp in stamps} == {0}
    assert {str(stamp.utcoffset()) for stamp in stamps} == {"2:00:00", "3:00:00"}


def test_the_buyback_platforms_deviations_are_simulated() -> None:
    reminders = _results("OrderPickupReminderEvent")
    moves = _results("CollectionItemInTransitEvent") + _results("CollectionItemReceivedEvent")
    scheduled = _results("CollectionItemPickUpScheduledEvent")
    finalized = _results("CollectionItemFinalizedEvent")
    stamps = [str(result["timestamp"]) for result in moves]

    assert {"activeShipmentPickup" in result for result in reminders} == {True, False}
    assert {"collectionId" in result for result in reminders} == {True, False}
    assert any(b'"status":"None"' in event.body for event in PLAYED)
    assert any(b"00000000-0000-0000-0000-000000000000" in event.body for event in PLAYED)
    assert any(len(stamp) == len("2025-01-13T04:46:01.8944431Z") for stamp in stamps)
    assert any(count > 1 for count in Counter(stamps).values())
    assert {result["isReschedule"] for result in scheduled} == {True, False}
    assert any(
        result["itemId"] not in [item["id"] for item in result["order"]["items"]]  # type: ignore[index]  # JSON
        for result in moves
    )
    assert any(
        result["itemId"] != result["items"][0]["id"]  # type: ignore[index]  # JSON
        for result in finalized
    )
    assert {type(result["items"][0]["totalValue"]["amount"]) for result in finalized} == {  # type: ignore[index]  # JSON
        int,
        float,
    }


def test_an_order_can_be_created_after_its_later_events() -> None:
    created = {
        str(result["id"]): datetime.fromisoformat(str(result["timestamp"])[:19])
        for result in _results("OrderCreatedEvent")
    }
    received = _results("CollectionItemReceivedEvent")

    assert any(
        datetime.fromisoformat(str(result["timestamp"])[:19]) < created[str(result["collectionId"])]
        for result in received
    )


def test_bank_details_come_only_with_the_event_meant_for_them() -> None:
    telling = {event.event_type for event in PLAYED if b"bankAccount" in event.body}

    assert telling == {"OrderCustomerPaymentDetailsCreatedEvent"}


def test_scrambling_nothing_changes_nothing() -> None:
    assert list(scrambled(PLAYED[:500], duplicates=0, shuffle=False, seed=7)) == PLAYED[:500]


@given(
    duplicates=st.floats(min_value=0, max_value=1),
    shuffle=st.booleans(),
    seed=st.integers(min_value=0, max_value=2**32),
    count=st.integers(min_value=0, max_value=300),
)
def test_scrambling_loses_nothing_and_repeats_nothing_twice(
    duplicates: float, shuffle: bool, seed: int, count: int
) -> None:
    original = PLAYED[:count]

    sent = list(scrambled(original, duplicates=duplicates, shuffle=shuffle, seed=seed))

    times = Counter(event.body for event in sent)
    assert times.keys() == {event.body for event in original}
    assert set(times.values()) <= {1, 2}
    assert sent == list(scrambled(original, duplicates=duplicates, shuffle=shuffle, seed=seed))


def test_duplicates_are_sent_in_the_requested_share() -> None:
    sent = list(scrambled(PLAYED, duplicates=0.1, shuffle=False, seed=7))

    assert len(sent) / len(PLAYED) == pytest.approx(1.1, abs=0.01)


def test_shuffling_moves_events_but_not_far() -> None:
    sent = list(scrambled(PLAYED, duplicates=0, shuffle=True, seed=7))
    place = {event.body: index for index, event in enumerate(PLAYED)}
    moves = [index - place[event.body] for index, event in enumerate(sent)]

    assert max(abs(move) for move in moves) <= WINDOW
    assert sum(move != 0 for move in moves) > len(PLAYED) * 0.9
