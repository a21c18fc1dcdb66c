"""What a simulated marketplace is: it gets a request, and gives a response."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import orjson

from worker.simulator.lifecycle import GeneratedEvent

SendEvents = Callable[[Sequence[GeneratedEvent]], None]
"""Has the webhooks of what just happened sent."""


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is what follows the marketplace's name; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """`content-length` and `date` are the server's to add."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class NotNow(Exception):
    """That cannot happen as things stand. The text says why."""


class NotThere(Exception):
    """There is no such thing. The text says what."""


class SimulatedMarketplace(Protocol):
    """Keeps its state in memory; requests come one after another, on one loop."""

    async def handle(self, request: Request) -> Response: ...


def as_json(status: int, document: object) -> Response:
    return Response(status, orjson.dumps(document), {"content-type": "application/json"})


def discard_events(_: Sequence[GeneratedEvent]) -> None:
    """Sends nothing."""


def now() -> datetime:
    return datetime.now(UTC)
