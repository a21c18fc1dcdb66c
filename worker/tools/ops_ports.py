"""What other processes report on their ops ports: readiness, and the metrics that only they know."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, Field

from schemas.events import read_model
from worker.observability.resolver import is_address, look_up

TIMEOUT_SECONDS = 2.0

# A process answers with some tens of kilobytes; what is longer is another server.
LONGEST_BYTES = 4_000_000

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


class OpsPorts:
    """The ops ports at these URLs, each address of which is a process; `names` are the series of interest."""

    def __init__(self, urls: Sequence[str], names: Sequence[str]) -> None:
        self._urls = urls
        self._names = frozenset(names)
        # The addresses are those that settings name, and no proxy leads there.
        self._client = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False, verify=False)

    async def close(self) -> None:
        await self._client.aclose()

    async def read(self) -> list[Process | NoAnswer]:
        """Read every address at the same time."""
        listed = await asyncio.gather(*map(_addresses, self._urls))
        return await asyncio.gather(
            *(
                _read(self._client, url, address, self._names)
                for url, addresses in zip(self._urls, listed, strict=True)
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


async def _read(
    client: httpx.AsyncClient, url: str, address: str | None, names: frozenset[str]
) -> Process | NoAnswer:
    parts = urlsplit(url)
    host = parts.hostname or ""
    shown = f"{host}:{parts.port}" if address in (host, None) else f"{host} ({address}:{parts.port})"
    if address is None:
        return NoAnswer(shown, "the name cannot be resolved")
    base = f"http://{f'[{address}]' if ':' in address else address}:{parts.port}"
    try:
        readiness, metrics = await asyncio.gather(
            _get(client, f"{base}/readyz"), _get(client, f"{base}/metrics")
        )
        answer = read_model(_Readiness, readiness)
        series = dict(_series(metrics.decode(), names))
    except httpx.TimeoutException:
        return NoAnswer(shown, f"no answer within {TIMEOUT_SECONDS:g} s")
    except httpx.HTTPError:
        return NoAnswer(shown, "it cannot be connected to")
    except ValueError:
        return NoAnswer(shown, "it answers something else than a process of Stockhook")
    problems = {name: reason for name, reason in answer.checks.items() if reason != "ok"}
    return Process(shown, answer.status == "ready", problems, series)


async def _get(client: httpx.AsyncClient, url: str) -> bytes:
    """Raises: httpx.HTTPError, and ValueError for an answer that is too long."""
    body = b""
    async with client.stream("GET", url) as response:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > LONGEST_BYTES:
                raise ValueError
    return body


class _Readiness(BaseModel):
    status: str
    checks: Annotated[dict[str, str], Field(max_length=100)]


def _series(text: str, names: frozenset[str]) -> Iterator[tuple[tuple[str, Labels], float]]:
    """The series with these names. Parsing the others would take most of the time.

    Raises:
        ValueError
    """
    lines = (line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in names)
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            yield (sample.name, frozenset(sample.labels.items())), sample.value
