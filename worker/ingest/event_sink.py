"""Stores accepted events: at the broker, or in the spool while the broker is unavailable."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Protocol

import structlog

from schemas.trace_context import read_context
from worker.amqp.channel import Message
from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.amqp.message_spans import sent
from worker.ingest.spool.spool import (
    Spool,
    SpoolBroken,
    Spooled,
    SpoolFull,
)
from worker.observability import metrics, tracing
from worker.observability.backoff import ShutdownRequested, retry_until_available
from worker.observability.failpoints import failpoint
from worker.observability.tracing import Kind, Tracer
from worker.postgres.ledger import EventSequence

log = structlog.get_logger(__name__)

# The number of spooled events that are published at a time: few enough to leave room for live ones.
DRAIN_TOGETHER = 32


class Publishes(Protocol):
    """The methods of a publisher that are used here."""

    @property
    def is_ready(self) -> bool: ...

    async def publish(self, message: Message) -> None: ...

    async def wait_ready(self) -> None: ...


class NotStored(Exception):
    """Neither broker nor spool accepted the event. The text says why."""


@dataclass(slots=True)
class Storage:
    """Keeps what was accepted: once `store` returns, the event is confirmed or on disk.

    Each event has a sequence number (worker/postgres/ledger.py): one of this process when it is published at
    once, one of the spool when it is spooled. `spool` is None where it could not be opened.
    """

    publisher: Publishes
    spool: Spool | None
    _sequence: EventSequence = field(default_factory=EventSequence)

    async def store(self, message: Message, family: str | None) -> None:
        """Raises: NotStored."""
        failpoint("accepted")
        voids: frozenset[str] = frozenset()
        if self.publisher.is_ready:
            # No other step may come between numbering the message and handing it to the publisher.
            numbered, number, voids = self._number(message, family)
            began = monotonic()
            try:
                await self.publisher.publish(numbered)
            except (BrokerUnavailable, Unroutable) as error:
                log.warning("publish.failed", failure=type(error).__name__, reason=str(error))
                if family is not None:
                    self._sequence.void(family, number)
            except BaseException:
                if family is not None:
                    self._sequence.void(family, number)
                raise
            else:
                if family is not None:
                    self._sequence.acknowledge_voids(family, voids)
                metrics.PUBLISH_SECONDS.observe(monotonic() - began)
                failpoint("published")
                return
        await self._spool(message, family)

    def _number(self, message: Message, family: str | None) -> tuple[Message, int, frozenset[str]]:
        if family is None:
            return message, 0, frozenset()
        number = self._sequence.next(family)
        voids = self._sequence.voids(family)
        headers = {**message.headers, "x-stream": self._sequence.source, "x-place": number}
        return replace(message, headers=_with_voids(headers, voids)), number, voids

    async def _spool(self, message: Message, family: str | None) -> None:
        """The spooled copy names the voided numbers, its own earlier one among them."""
        if self.spool is None:
            raise NotStored("the broker is unavailable, and there is no spool")
        voids = self._sequence.voids(family) if family is not None else frozenset()
        try:
            await self.spool.put(replace(message, headers=_with_voids(message.headers, voids)), family)
        except (SpoolFull, SpoolBroken) as error:
            raise NotStored(f"the broker is unavailable, and the spool: {error}") from error
        if family is not None:
            self._sequence.acknowledge_voids(family, voids)
        metrics.SPOOLED.inc()
        tracing.note("stockhook.spooled", True)
        failpoint("spooled")

    async def drain(self, stopping: asyncio.Event) -> None:
        """Publish spooled events, the oldest first, while the broker is available."""
        spool = self.spool
        if spool is None:
            await stopping.wait()
            return
        with suppress(ShutdownRequested):
            while not stopping.is_set():
                await spool.wait_not_empty()
                await self.publisher.wait_ready()
                # The drainer continues after any error: spooled events must be published.
                await retry_until_available(
                    lambda: self._drain_some(spool), Exception, stopping, longest_pause=2, say=_say
                )

    async def _drain_some(self, spool: Spool) -> None:
        """An entry is deleted only after its confirm; dying in between, it is published once more."""
        entries = await spool.oldest(DRAIN_TOGETHER)
        publish = self._publish if (tracer := tracing.active()) is None else partial(self._trace, tracer)
        outcomes = await asyncio.gather(*map(publish, entries), return_exceptions=True)
        confirmed = [
            entry.number for entry, outcome in zip(entries, outcomes, strict=True) if outcome is None
        ]
        if confirmed:
            failpoint("drained")
            await spool.remove(confirmed)
            metrics.DRAINED.inc(len(confirmed))
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        if not spool.depth:
            log.info("spool.drained")

    async def _publish(self, entry: Spooled) -> None:
        await self.publisher.publish(entry.message)

    async def _trace(self, tracer: Tracer, entry: Spooled) -> None:
        """Publish with a span of its own; the message keeps the context in which it was spooled."""
        context = read_context(entry.message.headers)
        if context is None:
            await self._publish(entry)
            return
        event_id = str(entry.message.headers.get("x-event-id", ""))
        name, attributes = sent(entry.message, event_id)
        attributes["stockhook.spooled"] = True
        with tracer.span(name, Kind.PRODUCER, attributes, links=[context]):
            await self._publish(entry)

    async def check(self) -> str | None:
        """Why events cannot be stored; None if they can."""
        if self.publisher.is_ready or self.spool is not None:
            return None
        return "not connected to the broker, and without a spool"

    def details(self) -> Mapping[str, object]:
        """For `/readyz`: whether events go to the broker or to the spool, and what is in that."""
        spool = self.spool
        return {
            "publishing": self.publisher.is_ready,
            "spool": None
            if spool is None
            else {"events": spool.depth, "bytes": spool.size, "oldest_seconds": _age(spool.oldest_at)},
        }

    def measure(self) -> None:
        """Register the gauges of the spool."""
        spool = self.spool
        metrics.SPOOL_OPEN.set(spool is not None)
        if spool is not None:
            metrics.SPOOL_LIMIT_BYTES.set(spool.max_bytes)
            metrics.SPOOL_DISK_FREE_BYTES.set_function(lambda: spool.disk_free)
            metrics.SPOOL_EVENTS.set_function(lambda: spool.depth)
            metrics.SPOOL_BYTES.set_function(lambda: spool.size)
            metrics.SPOOL_AGE_SECONDS.set_function(lambda: _age(spool.oldest_at) or 0.0)


def _say(reason: str) -> None:
    log.warning("drain.failed", reason=reason)


def _with_voids(headers: Mapping[str, str | int], voids: frozenset[str]) -> dict[str, str | int]:
    return {**headers, "x-unused": ",".join(sorted(voids))} if voids else dict(headers)


def _age(instant: datetime | None) -> float | None:
    return None if instant is None else (datetime.now(UTC) - instant).total_seconds()
