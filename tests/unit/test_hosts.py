"""The order in which several hosts are tried."""

from collections import Counter
from random import Random

import pytest

from worker.amqp.hosts import (
    FAILED_SECONDS,
    Host,
    all_reasons,
    hosts_of_url,
    shuffled,
)

NOW = 1000.0


def cluster(*names: str) -> list[Host]:
    return [Host(name, f"amqp://{name}/") for name in names]


def names(hosts: list[Host]) -> list[str]:
    return [host.name for host in hosts]


def first_choices(hosts: list[Host], *, publishes: bool) -> set[str]:
    return {shuffled(hosts, NOW, Random(seed), publishes=publishes)[0].name for seed in range(50)}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "amqps://us:p%2Fw%40x,y@h1:5671,h2,h3:5673/v%2Fh?name=x",
            {
                "h1:5671": "amqps://us:p%2Fw%40x,y@h1:5671/v%2Fh?name=x",
                "h2:5671": "amqps://us:p%2Fw%40x,y@h2:5671/v%2Fh?name=x",
                "h3:5673": "amqps://us:p%2Fw%40x,y@h3:5673/v%2Fh?name=x",
            },
        ),
        (
            "amqp://[::1]:5672,h2,[fe80::1%25eth0]/",
            {
                "[::1]:5672": "amqp://[::1]:5672/",
                "h2:5672": "amqp://h2:5672/",
                "[fe80::1%25eth0]:5672": "amqp://[fe80::1%25eth0]:5672/",
            },
        ),
        ("amqp://h1,h1:5672,h1/", {"h1:5672": "amqp://h1:5672/"}),
        (
            "http://us:pw@h1:15672,h2:15672/rabbit",
            {
                "h1:15672": "http://us:pw@h1:15672/rabbit",
                "h2:15672": "http://us:pw@h2:15672/rabbit",
            },
        ),
        ("https://us:pw@h1", {"h1:443": "https://us:pw@h1:443"}),
    ],
)
def test_each_host_has_a_url_of_its_own_and_is_listed_once(url: str, expected: dict[str, str]) -> None:
    assert {host.name: host.url for host in hosts_of_url(url)} == expected


def test_a_host_is_shown_without_credentials() -> None:
    assert "secret" not in repr(hosts_of_url("amqp://us:secret@h1,h2/"))


def test_every_host_is_somebodys_first() -> None:
    hosts = cluster("a", "b", "c")
    first = Counter(shuffled(hosts, NOW, Random(seed), publishes=False)[0].name for seed in range(300))

    assert sorted(first) == ["a", "b", "c"]
    assert min(first.values()) > 60


def test_the_order_depends_only_on_the_random_numbers() -> None:
    hosts = cluster(*"abcdefgh")

    def order(seed: int) -> list[str]:
        return names(shuffled(hosts, NOW, Random(seed), publishes=True))

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize("publishes", [True, False])
def test_a_host_that_failed_recently_is_tried_last(publishes: bool) -> None:
    hosts = cluster("a", "b", "c")
    hosts[1].failed_at = NOW - FAILED_SECONDS / 2
    hosts[0].publishing = hosts[0].consuming = hosts[2].publishing = hosts[2].consuming = 9

    assert {shuffled(hosts, NOW, Random(seed), publishes=publishes)[2].name for seed in range(50)} == {"b"}


def test_a_host_is_tried_like_the_others_some_time_after_its_failure() -> None:
    hosts = cluster("a", "b", "c")
    hosts[0].failed_at = NOW - FAILED_SECONDS

    assert first_choices(hosts, publishes=True) == {"a", "b", "c"}


def test_when_all_hosts_failed_recently_all_are_tried() -> None:
    hosts = cluster("a", "b", "c")
    for host in hosts:
        host.failed_at = NOW

    assert first_choices(hosts, publishes=True) == {"a", "b", "c"}


def test_consumers_avoid_the_publishers_host_and_are_spread_over_the_others() -> None:
    hosts = cluster("a", "b", "c")
    hosts[0].publishing = 1
    assert first_choices(hosts, publishes=False) == {"b", "c"}

    hosts[1].consuming = 1
    assert first_choices(hosts, publishes=False) == {"c"}


def test_publishers_avoid_the_consumers_hosts_and_share_one() -> None:
    hosts = cluster("a", "b", "c")
    hosts[0].consuming = 3
    assert first_choices(hosts, publishes=True) == {"b", "c"}

    hosts[1].publishing = 1
    assert first_choices(hosts, publishes=True) == {"b"}


def test_publishers_and_consumers_share_a_host_where_no_other_is_left() -> None:
    a, b = hosts = cluster("a", "b")
    a.publishing, b.failed_at = 2, NOW

    assert first_choices(hosts, publishes=False) == {"a"}


def test_a_connection_counts_while_it_lasts() -> None:
    (host,) = cluster("a")
    with host.in_use(publishes=True), host.in_use(publishes=False), host.in_use(publishes=False):
        assert (host.publishing, host.consuming) == (1, 2)

    assert (host.publishing, host.consuming) == (0, 0)


def test_reasons_name_the_hosts_where_there_are_several() -> None:
    assert all_reasons({"a:1": "refused"}) == "refused"
    assert all_reasons({"a:1": "refused", "b:2": "no answer", "c:3": "refused"}) == (
        "a:1, c:3: refused; b:2: no answer"
    )
