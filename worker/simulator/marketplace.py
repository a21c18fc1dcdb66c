"""The interface of a simulated marketplace: requests and responses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import orjson

from worker.simulator.lifecycle import GeneratedEvent

SendEvents = Callable[[Sequence[GeneratedEvent]], None]
"""Sends the webhooks of new events."""


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is the part after the marketplace's name; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """The server adds `content-length` and `date`."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class NotNow(Exception):
    """The step is not possible in the current state. The text is the reason."""


class NotThere(Exception):
    """The entity does not exist. The text names it."""


class SimulatedMarketplace(Protocol):
    """Keeps its state in memory. Requests are handled one by one, on one event loop."""

    async def handle(self, request: Request) -> Response: ...


def as_json(status: int, document: object) -> Response:
    return Response(status, orjson.dumps(document), {"content-type": "application/json"})


def discard_events(_: Sequence[GeneratedEvent]) -> None:
    """Discards the webhooks."""


def now() -> datetime:
    return datetime.now(UTC)
