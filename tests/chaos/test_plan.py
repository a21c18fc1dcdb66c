"""The plan and the load follow from the seed alone, and every fault has its turn."""

from collections import Counter
from itertools import islice

import pytest

from tests.chaos.faults import MOMENTARY, NETWORKS, Fault, Kind, Target, deck, plan
from tests.chaos.load import generated


def test_the_same_seed_strikes_the_same_way() -> None:
    first, again, other = (list(islice(plan(seed, long=True, disks=True), 200)) for seed in (7, 7, 8))

    assert first == again
    assert [strike.faults for strike in first] != [strike.faults for strike in other]


@pytest.mark.parametrize("long", [True, False])
def test_every_fault_comes_before_any_comes_more_often_than_planned(long: bool) -> None:
    cards = deck(long=long, disks=True)
    planned = Counter(fault for faults in cards for fault in faults)
    dealt: Counter[Fault] = Counter()
    for strike in plan(1, long=long, disks=True):
        dealt.update(strike.faults)
        if sum(dealt.values()) >= sum(planned.values()):
            break

    assert dealt == planned
    assert {fault.kind for fault in planned} == set(Kind) - (set() if long else {Kind.HALF_OPEN})
    assert {fault.target for fault in planned} == set(Target)


def test_two_faults_at_once_strike_different_targets() -> None:
    for strike in islice(plan(3, long=True, disks=True), 500):
        targets = [fault.target for fault in strike.faults]

        assert len(targets) == len(set(targets)) <= 2
        assert len(targets) == 1 or Kind.HALF_OPEN not in {fault.kind for fault in strike.faults}


def test_a_killed_service_is_away_for_a_while_and_a_killed_process_is_not() -> None:
    strikes = list(islice(plan(3, long=True, disks=True), 500))
    momentary = {fault for strike in strikes if strike.is_momentary for fault in strike.faults}

    assert {fault.kind for fault in momentary} == MOMENTARY
    assert not {fault.target for fault in momentary} & {Target.BROKER, Target.POSTGRES}
    assert {fault.target for fault in momentary if fault.kind is Kind.HALF_OPEN} == set(NETWORKS)


def test_without_small_disks_no_disk_is_full() -> None:
    faults = {fault.kind for faults in deck(long=True, disks=False) for fault in faults}

    assert faults == set(Kind) - {Kind.DISK_FULL}


def test_the_same_seed_sends_the_same_events_odd_ones_among_them() -> None:
    first, again, other = (
        [(event.provider, event.body) for event in islice(generated(seed), 2000)] for seed in (7, 7, 8)
    )
    types = Counter(event.event_type for event in islice(generated(7), 2000))

    assert first == again != other
    assert len(set(first)) < len(first)
    assert 5 < types["odd"] < 60
