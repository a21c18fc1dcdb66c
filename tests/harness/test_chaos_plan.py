"""The seed determines the plan and the load, and every fault occurs."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from tests.chaos.faults import (
    MOMENTARY,
    NETWORKS,
    NODES,
    PAIR,
    PARTITIONS,
    PROCESSES,
    Fault,
    Kind,
    Strike,
    Target,
    brief_cluster_deck,
    cluster_deck,
    deck,
    plan,
)
from tests.chaos.load import generated

WHOLE = {
    "long": deck(long=True, disks=True),
    "short": deck(long=False, disks=True),
    "cluster": cluster_deck(partitions=True),
}


def strikes(name: str, seed: int) -> Iterator[Strike]:
    return plan(seed, WHOLE[name], long=name != "short")


@pytest.mark.parametrize("name", WHOLE)
def test_the_same_seed_strikes_the_same_way(name: str) -> None:
    first, again, other = (list(islice(strikes(name, seed), 200)) for seed in (7, 7, 8))

    assert first == again
    assert [strike.faults for strike in first] != [strike.faults for strike in other]


@pytest.mark.parametrize("name", WHOLE)
def test_every_fault_comes_before_any_comes_more_often_than_planned(name: str) -> None:
    planned = Counter(fault for faults in WHOLE[name] for fault in faults)
    dealt: Counter[Fault] = Counter()
    for strike in strikes(name, 1):
        dealt.update(strike.faults)
        if sum(dealt.values()) >= sum(planned.values()):
            break

    assert dealt == planned


def test_there_is_a_strike_for_every_kind_of_fault_and_every_target() -> None:
    planned = {fault for cards in (WHOLE["long"], WHOLE["cluster"]) for faults in cards for fault in faults}

    assert {fault.kind for fault in planned} == set(Kind)
    assert {fault.target for fault in planned} == set(Target)
    assert Kind.HALF_OPEN not in {fault.kind for faults in WHOLE["short"] for fault in faults}


@pytest.mark.parametrize("name", WHOLE)
def test_two_faults_at_once_strike_different_targets(name: str) -> None:
    for strike in islice(strikes(name, 3), 500):
        targets = [fault.target for fault in strike.faults]
        kinds = {fault.kind for fault in strike.faults}

        assert len(targets) == len(set(targets)) <= 2
        assert len(NODES & set(targets)) <= 1
        assert len(PAIR & set(targets)) <= 1
        assert len(targets) == 1 or not kinds & {Kind.HALF_OPEN, Kind.ROLLING_RESTART}


@pytest.mark.parametrize("name", ["long", "cluster"])
def test_a_killed_service_is_away_for_a_while_and_a_killed_process_is_not(name: str) -> None:
    several = list(islice(strikes(name, 3), 500))
    momentary = {fault for strike in several if strike.is_momentary for fault in strike.faults}

    assert {fault.kind for fault in momentary} <= MOMENTARY
    assert {fault.target for fault in momentary if fault.kind is Kind.KILLED} == set(PROCESSES)
    if name == "long":
        assert {fault.target for fault in momentary if fault.kind is Kind.HALF_OPEN} == set(NETWORKS)


def test_a_cluster_must_continue_without_one_node_or_without_its_primary() -> None:
    survivable = [strike for strike in islice(strikes("cluster", 3), 500) if strike.is_survivable]
    targets = {fault.target for strike in survivable for fault in strike.faults}

    assert targets == {Target.LEADER, Target.FOLLOWER, Target.PRIMARY, *PROCESSES}
    assert not any(fault.kind is Kind.CUT_OFF for strike in survivable for fault in strike.faults)


def test_without_a_packet_filter_there_is_no_partition() -> None:
    for cards in (cluster_deck(partitions=False), brief_cluster_deck(partitions=False)):
        assert not {fault.kind for faults in cards for fault in faults} & set(PARTITIONS)


def test_without_small_disks_no_disk_is_full() -> None:
    faults = {fault.kind for faults in deck(long=True, disks=False) for fault in faults}

    assert faults == {fault.kind for faults in WHOLE["long"] for fault in faults} - {Kind.DISK_FULL}


def test_the_same_seed_sends_the_same_events_including_malformed_ones() -> None:
    first, again, other = (
        [(event.provider, event.body) for event in islice(generated(seed), 2000)] for seed in (7, 7, 8)
    )
    types = Counter(event.event_type for event in islice(generated(7), 2000))

    assert first == again != other
    assert len(set(first)) < len(first)
    assert 5 < types["malformed"] < 60


@pytest.mark.parametrize("is_long", [False, True])
def test_a_run_on_single_nodes_strikes_no_target_of_a_cluster(is_long: bool) -> None:
    targets = {fault.target for strike in deck(long=is_long, disks=True) for fault in strike}

    assert targets.isdisjoint(NODES | PAIR)
