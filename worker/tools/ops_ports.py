"""What other processes report on their ops ports: readiness, and the metrics that only they know."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, Field

from schemas.events import read_model
from worker.observability.resolver import is_address, look_up

TIMEOUT_SECONDS = 2.0

# A process answers with some tens of kilobytes; what is longer is another server.
LONGEST_BYTES = 4_000_000

UNRESOLVED = "the name cannot be resolved"

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No process answers at this address, or what answers is not one of ours."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class Process:
    """`problems` has the checks that fail; `series` the values of our metrics."""

    address: str
    is_ready: bool
    problems: Mapping[str, str]
    series: Mapping[tuple[str, Labels], float]

    def value(self, name: str, **labels: str) -> float | None:
        """None if the process does not export it."""
        return self.series.get((name, frozenset(labels.items())))

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of all series with these labels, and perhaps others; None if there is none."""
        given = set(labels.items())
        values = [value for (of, its), value in self.series.items() if of == name and given <= its]
        return sum(values) if values else None


async def read_processes(urls: Sequence[str], names: Sequence[str]) -> list[Process | NoAnswer]:
    """Read every address of every URL at the same time; `names` are the series of interest."""
    wanted = frozenset(names)
    listed = await asyncio.gather(*map(_addresses, urls))
    return await asyncio.gather(
        *(
            _read(url, address, wanted)
            for url, addresses in zip(urls, listed, strict=True)
            for address in addresses
        )
    )


async def _addresses(url: str) -> list[str | None]:
    """The addresses of a URL's host, each that of a process; [None] if the name cannot be resolved."""
    host = urlsplit(url).hostname or ""
    if is_address(host):
        return [host]
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            entries = await look_up(host, urlsplit(url).port)
    except (OSError, TimeoutError):
        return [None]
    addresses = sorted({str(entry[4][0]) for entry in entries})
    # This machine has two loopback addresses, and one process.
    return list(addresses[:1]) if host == "localhost" else list(addresses)


async def _read(url: str, address: str | None, names: frozenset[str]) -> Process | NoAnswer:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    shown = f"{host}:{port}" if address in (host, None) else f"{host} ({address}:{port})"
    if address is None:
        return NoAnswer(shown, UNRESOLVED)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            readiness = await _get(address, port, "/readyz")
            metrics = await _get(address, port, "/metrics")
        answer = read_model(_Readiness, readiness)
        series = dict(_series(metrics.decode(), names))
    except TimeoutError:
        return NoAnswer(shown, f"no answer within {TIMEOUT_SECONDS:g} s")
    except OSError:
        return NoAnswer(shown, "it cannot be connected to")
    except ValueError:
        return NoAnswer(shown, "it answers something else than a process of Stockhook")
    problems = {name: reason for name, reason in answer.checks.items() if reason != "ok"}
    return Process(shown, answer.status == "ready", problems, series)


async def _get(address: str, port: int, path: str) -> bytes:
    """The body of an answer. A client of HTTP would take most of the time of a snapshot.

    Raises:
        OSError
        ValueError: The answer is too long.
    """
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while part := await reader.read(65_536):
            answer += part
            if len(answer) > LONGEST_BYTES:
                raise ValueError
    finally:
        writer.close()
    return answer.partition(b"\r\n\r\n")[2]


class _Readiness(BaseModel):
    status: str
    checks: Annotated[dict[str, str], Field(max_length=100)]


def _series(text: str, names: frozenset[str]) -> Iterator[tuple[tuple[str, Labels], float]]:
    """The series with these names. Parsing the others would take most of the time.

    Raises:
        ValueError
    """
    for line in text.splitlines():
        if line.partition("{")[0].partition(" ")[0] in names:
            series, _, value = line.rpartition(" ")
            yield _named(series), float(value)


@lru_cache(maxsize=4096)
def _named(series: str) -> tuple[str, Labels]:
    """A series by its text, which is the same in each answer. Our processes add no timestamps.

    Raises:
        ValueError
    """
    if " " in series and not series.endswith("}"):
        raise ValueError(f"not a series: {series}")
    [point] = [
        point for family in text_string_to_metric_families(f"{series} 0\n") for point in family.samples
    ]
    return point.name, frozenset(point.labels.items())
