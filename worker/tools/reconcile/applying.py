"""Publishes differences as observed events to the ordinary pipeline, and waits until they are logged."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import TypeVar
from uuid import UUID

from worker.amqp.connection import Broker
from worker.amqp.topology import topology
from worker.config.settings import Settings
from worker.intake.intake import Accepted, accept_observed
from worker.marketplaces.http import UnexpectedResponse
from worker.postgres.event_log import logged
from worker.postgres.pool import Database
from worker.tools.reconcile.difference import Difference
from worker.tools.reconcile.reconciliation import ConfirmedDifference, Reconciled, Report
from worker.tools.reconcile.subject import Subject

TOGETHER = 100

# How long to wait without progress. Shorter than the retry schedule.
PATIENCE_SECONDS = 20.0
LOOK_EVERY_SECONDS = 0.2

Here = TypeVar("Here")
There = TypeVar("There")


@dataclass(frozen=True, slots=True)
class AppliedObservations:
    """The result of applying. `differences` remain although their observations were applied."""

    sent: int
    applied: int
    differences: tuple[Difference, ...]

    @property
    def is_whole(self) -> bool:
        return self.applied == self.sent and not self.differences


async def apply(
    subject: Subject[Here, There],
    reconciled: Reconciled[There],
    settings: Settings,
    database: Database,
    report: Report,
    *,
    patience: float = PATIENCE_SECONDS,
) -> AppliedObservations:
    """Publish each observation, wait until they are in the log, and compare again.

    An observation that was sent before has the same event id, and is a duplicate.

    Raises:
        UnexpectedResponse: The list is empty, so all our rows would count as not listed.
        BrokerUnavailable: Some may have been sent.
        TopologyMismatch
        DatabaseUnavailable
    """
    if not reconciled.listing.entities:
        raise UnexpectedResponse("the list is empty, so nothing was applied: check the account")
    drift, now = reconciled.drift, datetime.now(UTC)
    accepted = [accept_observed(subject.marketplace, one.observation, now) for one in drift]
    await _publish(accepted, settings, report)
    events = {(one.event_id, one.content_id) for one in accepted}
    applied = await _follow(events, database, report, patience)
    return AppliedObservations(len(events), applied, tuple(await _still_different(subject, drift)))


async def _publish(accepted: Sequence[Accepted], settings: Settings, report: Report) -> None:
    broker = Broker(settings.amqp_url.get_secret_value(), "reconcile")
    async with broker.connection() as connection:
        channel = await connection.channel_with(topology(settings.delays), declares=settings.declare_topology)
        for first in range(0, len(accepted), TOGETHER):
            some = accepted[first : first + TOGETHER]
            await asyncio.gather(*(channel.publish(one.message, settings.publish_timeout) for one in some))
            report("sent", first + len(some), len(accepted))


async def _follow(
    events: Collection[tuple[UUID, UUID]], database: Database, report: Report, patience: float
) -> int:
    """The number of events in the log, once all are there or there is no more progress."""
    waiting, moved_at = set(events), monotonic()
    while True:
        async with database.connection() as connection:
            applied = await logged(connection, waiting)
        if applied:
            waiting -= applied
            moved_at = monotonic()
        report("applied", len(events) - len(waiting), len(events))
        if not waiting or monotonic() - moved_at > patience:
            return len(events) - len(waiting)
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def _still_different(
    subject: Subject[Here, There], drift: Sequence[ConfirmedDifference[There]]
) -> list[Difference]:
    ours = await subject.ours([one.difference.entity_id for one in drift])
    compared = (subject.compare(ours.get(one.difference.entity_id), one.there) for one in drift)
    return [difference for difference in compared if difference is not None]
