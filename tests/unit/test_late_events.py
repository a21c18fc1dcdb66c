"""An event of a part is decided from its neighbours, as if all events of the part had been read."""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.family import Event, Finding
from consumers.inventory import sequence
from consumers.inventory.sequence import Context, Step, sequence_findings
from consumers.inventory.status import StatusReport
from consumers.registry import FAMILIES
from tests.support.events import claimed, observed, part
from tests.support.memory_store import Store
from tests.unit.test_convergence import PART_STATUSES, RECEPTIONS, SECONDS, TOLERANCE

FAR = 10**9

payloads = st.one_of(
    st.builds(part, st.sampled_from(PART_STATUSES), SECONDS, external_id=st.sampled_from([None, "a", "b"])),
    st.builds(observed, st.sampled_from([*PART_STATUSES, "not_listed"]), SECONDS),
)


def after(batches: Iterable[Sequence[Event[Any]]], *, reads_everything: bool = False) -> Store:
    async def run() -> Store:
        store = Store(FAMILIES["inventory"], reads_everything=reads_everything)
        for batch in batches:
            await store.apply(batch)
        return store

    return asyncio.run(run())


def findings_of_everything(store: Store) -> set[Finding]:
    """What the findings about sequences are, out of all logged events."""
    reports = [StatusReport.of(event) for event in store.log.values()]
    written_off = [report.change.occurred_at for report in reports if report.change.status == "written_off"]
    steps = sorted(Step.of(report) for report in reports if report.is_plausible)
    context = Context("13", min(written_off, default=None))
    findings = sorted(sequence_findings(context, steps), key=lambda finding: finding.message)
    # Of two findings under an id that was used twice, the greater message stands.
    return set({(finding.kind, finding.event_id): finding for finding in findings}.values())


def of_sequences(store: Store) -> set[Finding]:
    kinds = (sequence.AFTER_WRITTEN_OFF, sequence.UNDOCUMENTED_TRANSITION)
    return {finding for finding in store.findings if finding.kind in kinds}


@pytest.mark.parametrize("most_at_once", [2, 50])
@pytest.mark.parametrize("reuses_ids", [False, True])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_neighbours_lead_to_the_same_as_all_events(
    monkeypatch: pytest.MonkeyPatch, most_at_once: int, reuses_ids: bool, data: st.DataObject
) -> None:
    monkeypatch.setattr(sequence, "MOST_AT_ONCE", most_at_once)
    drawn = data.draw(st.lists(payloads, min_size=1, max_size=14))
    names = st.integers(0, 8) if reuses_ids else st.just(0)
    events = [
        claimed(payload, (number, data.draw(names))[reuses_ids], data.draw(RECEPTIONS), TOLERANCE)
        for number, payload in enumerate(drawn)
    ]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=10)))
    batches = [events[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(events)], strict=True)]

    by_neighbours = after(batches)
    by_everything = after(batches, reads_everything=True)
    at_once = after([events])

    assert by_neighbours.rows == by_everything.rows == at_once.rows
    assert by_neighbours.findings == by_everything.findings == at_once.findings
    assert of_sequences(by_neighbours) == findings_of_everything(by_neighbours)


@pytest.mark.parametrize("sold_at", [5, 7])
def test_written_off_with_an_implausible_timestamp_withdraws_the_finding_of_the_change_after_it(
    sold_at: int,
) -> None:
    """The finding compared that change with one before written_off."""
    store = after(
        [
            [claimed(part("sold", sold_at), "sold", 7)],
            [claimed(part("reserved", FAR), "far", 7)],
            [claimed(part("in_warehouse", 9), "in_warehouse", 9)],
            [claimed(part("written_off", FAR), "written_off", 7)],
        ]
    )

    assert [finding.message for finding in of_sequences(store)] == ["in_warehouse after written_off"]


def late(status: str, second: float) -> Event[Any]:
    return claimed(part(status, second), f"{status} {second}", 1000)


HISTORIES = {
    "plausible events": [late("sold", 900)],
    "one implausible timestamp": [late("sold", 900), claimed(part("reserved", FAR), "far", 950)],
    "only implausible timestamps before": [claimed(part("reserved", FAR), "far", 950)],
    "written off": [late("written_off", 900)],
    "written off with an implausible timestamp": [claimed(part("written_off", FAR), "far", 950)],
    "written off twice": [late("written_off", 900), late("written_off", 800)],
}


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("step", [-1, 0], ids=["in reverse", "with the same timestamp"])
@pytest.mark.parametrize("kind", ["part", "implausible"])
def test_the_cost_of_an_event_does_not_grow_with_the_events_before_it(
    history: str, step: int, kind: str
) -> None:
    """A late event reads its neighbours, and of those at the same instant a limited number."""
    reads: list[int] = []

    async def run() -> None:
        store = Store(FAMILIES["inventory"])
        await store.apply(HISTORIES[history])
        for number in range(2 * sequence.MOST_AT_ONCE):
            await store.apply([_numbered(kind, number, step)])
            reads.append(store.read)

    asyncio.run(run())
    costs = [after - before for before, after in zip([0, *reads], reads, strict=False)]

    assert max(costs) <= sequence.MOST_AT_ONCE + 4
    assert step == 0 or max(costs) <= 4


def _numbered(kind: str, number: int, step: int) -> Event[Any]:
    status = ("in_warehouse", "reserved", "sold")[number % 3]
    if kind == "implausible":
        return claimed(part(status, FAR + number * step), f"late {number}", 2000 + number)
    return claimed(part(status, 500 + number * step), f"late {number}", 2000)


def test_writing_a_part_off_earlier_and_earlier_reads_each_event_once() -> None:
    numbers = count()
    store = after([[late("sold", 100 + number)] for number in range(60)])
    before = store.read

    async def run() -> None:
        for second in range(160, 90, -1):
            await store.apply([claimed(part("written_off", second), next(numbers), 1000)])

    asyncio.run(run())

    assert len(store.findings) == 60
    # Each of 60 events once for its finding, and the neighbours of 70 events.
    assert store.read - before <= 60 + 4 * 70
