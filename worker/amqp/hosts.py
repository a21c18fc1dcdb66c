"""The hosts of a URL that names several: which of them to try first."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from time import monotonic

from worker.config.urls import hosts_and_ports, split

# For this time after a failure, a host is tried only after the others.
FAILED_SECONDS = 10.0

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671, "http": 80, "https": 443}


@dataclass(slots=True, eq=False)
class Host:
    """`name` includes the port; `url` names only this host. The counts are of this process's connections."""

    name: str
    url: str = field(repr=False)
    publishing: int = 0
    consuming: int = 0
    failed_at: float | None = None

    def note_failure(self) -> None:
        self.failed_at = monotonic()

    @contextmanager
    def in_use(self, *, publishes: bool) -> Iterator[None]:
        """Count a connection for as long as this lasts."""
        self._count(publishes, 1)
        try:
            yield
        finally:
            self._count(publishes, -1)

    def _count(self, publishes: bool, by: int) -> None:
        if publishes:
            self.publishing += by
        else:
            self.consuming += by


def hosts_of_url(url: str) -> tuple[Host, ...]:
    parts = split(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    names = dict.fromkeys(
        f"{host}:{port or DEFAULT_PORTS.get(parts.scheme, '')}" for host, port in hosts_and_ports(url)
    )
    return tuple(Host(name, parts._replace(netloc=f"{credentials}{at}{name}").geturl()) for name in names)


def shuffled(hosts: Sequence[Host], now: float, rng: Random, *, publishes: bool) -> list[Host]:
    """The order in which to try them for a connection. Equal hosts are in random order.

    | first those without or with      | publishing   | consuming    |
    | -------------------------------- | ------------ | ------------ |
    | a recent failure                 | without      | without      |
    | connections of the other purpose | fewest first | fewest first |
    | connections of the same purpose  | most first   | fewest first |

    So the publishers of a process share a host, and its consumers are spread over the others.
    """

    def rank(host: Host) -> tuple[bool, int, int]:
        failed = _failed_recently(host, now)
        if publishes:
            return failed, host.consuming, -host.publishing
        return failed, host.publishing, host.consuming

    return sorted(rng.sample(hosts, len(hosts)), key=rank)


def all_reasons(failures: Mapping[str, str]) -> str:
    """Why no host could be used: the reason of each by its name, or the reason of the only one."""
    if len(failures) == 1:
        return next(iter(failures.values()))
    named: dict[str, list[str]] = {}
    for name, reason in failures.items():
        named.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in named.items())


def _failed_recently(host: Host, now: float) -> bool:
    return host.failed_at is not None and now - host.failed_at < FAILED_SECONDS
