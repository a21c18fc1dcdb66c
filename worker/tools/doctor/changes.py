"""Checks of the change feed: its subscribers over HTTP, their addresses, and the backlog."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import combinations
from urllib.parse import urlsplit

from worker.amqp.connection import Broker
from worker.amqp.errors import BrokerUnavailable
from worker.change_feed.backlog import (
    ChangeCounts,
    Feed,
    Webhook,
    feed,
    left_behind,
)
from worker.change_feed.endpoint import is_public, resolve
from worker.config.check import (
    CheckResult,
    error,
    ok,
    warning,
)
from worker.config.settings import Settings
from worker.config.subscribers import Subscriber, origin_of
from worker.config.urls import port_of
from worker.dead_letters.store import waiting_by_origin
from worker.postgres.errors import PostgresError
from worker.postgres.failures import DatabaseUnavailable, SessionsShared
from worker.postgres.pool import Database

# Far longer than publishing takes, unless consumers are behind.
LONGEST_WAIT_SECONDS = 60.0

# A slower lookup delays every delivery.
LOOKUP_SECONDS = 5


async def check_changes(settings: Settings) -> AsyncIterator[CheckResult]:
    """Errors of connections are left to the checks of broker and database."""
    if settings.subscribers and not settings.changes:
        yield warning(
            "changes",
            "STOCKHOOK_CHANGES_WEBHOOKS names subscribers, but STOCKHOOK_CHANGES is false",
            "set STOCKHOOK_CHANGES=true, or remove the subscribers",
        )
    for finding in check_secrets(settings.subscribers):
        yield finding
    for subscriber in settings.subscribers:
        if settings.changes_proxy is None:
            yield await check_target(subscriber, allow_private=settings.changes_private_targets)
        else:
            yield check_proxied(subscriber, settings.changes_proxy.get_secret_value())
    database = Database(settings.database_url.get_secret_value(), 1, "stockhook/doctor")
    broker = Broker(settings.amqp_url.get_secret_value(), "doctor")
    try:
        async with broker.connection() as broker_connection, database.connection() as connection:
            dead_letters = await waiting_by_origin(connection)
            state = await feed(broker_connection, connection, settings, dead_letters)
    except (BrokerUnavailable, DatabaseUnavailable, SessionsShared, PostgresError):
        return
    finally:
        await database.close()
    for finding in check_feed(state, publishes=settings.changes):
        yield finding


def check_proxied(subscriber: Subscriber, proxy: str) -> CheckResult:
    """Only the proxy can check the address, since it resolves the name."""
    target, through = (urlsplit(url).netloc.rpartition("@")[2] for url in (subscriber.url, proxy))
    return ok(
        "changes",
        f"{subscriber.name} ({target}) is reached through the proxy {through}, which must refuse private "
        "addresses itself",
    )


async def check_target(subscriber: Subscriber, *, allow_private: bool) -> CheckResult:
    """Nothing is sent: an endpoint would take it for a change."""
    parts = urlsplit(subscriber.url)
    assert parts.hostname is not None, "the settings require one"
    name = f"{subscriber.name} ({parts.hostname})"
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            addresses = await resolve(parts.hostname, port_of(subscriber.url))
    except TimeoutError:
        return error(
            "changes",
            f"the lookup of {name} took longer than {LOOKUP_SECONDS} s: no name server answers",
            "check this machine's /etc/resolv.conf",
        )
    except OSError:
        return error("changes", f"{name} cannot be resolved", "see its url in STOCKHOOK_CHANGES_WEBHOOKS")
    private = [address for address in addresses if not is_public(address)]
    if private and not allow_private:
        return error(
            "changes",
            f"{name} has the address {private[0]}, which is not public: nothing is posted there",
            "correct its url, or set STOCKHOOK_CHANGES_PRIVATE_TARGETS=true if this is intended",
        )
    if parts.scheme == "http" and not private:
        return warning("changes", f"{name} is public, and changes are sent in clear", "use https://")
    return ok("changes", f"{name} has the address {addresses[0]}")


def check_secrets(subscribers: Sequence[Subscriber]) -> Iterator[CheckResult]:
    for subscriber in subscribers:
        if len(subscriber.keys) > 1:
            versions = ", ".join(key.version for key in subscriber.keys)
            yield ok(
                "changes",
                f"{subscriber.name}: each change has several signatures ({versions}); "
                f"`stockhook changes rotate {subscriber.name}` shows how to finish the rotation",
            )
    for one, other in combinations(subscribers, 2):
        if set(one.keys) & set(other.keys):
            yield warning(
                "changes",
                f"{one.name} and {other.name} share a secret: each accepts changes for the other",
                f"`stockhook changes rotate {other.name}` shows how to replace it",
            )


def check_feed(state: Feed, *, publishes: bool) -> Iterator[CheckResult]:
    yield from _check_counts(state.families, publishes=publishes)
    for webhook in state.webhooks:
        yield from _check_webhook(webhook)


def _check_counts(families: Sequence[ChangeCounts], *, publishes: bool) -> Iterator[CheckResult]:
    for counts in families:
        if counts.missing:
            yield error(
                "changes",
                f"{counts.missing:,} of {counts.family} were committed, and are neither published "
                "nor waiting",
                "see `stockhook audit`, and deploy/runbooks/StockhookChangesMissing.md",
            )
    waiting = sum(counts.waiting for counts in families)
    oldest = max((counts.oldest_seconds or 0.0 for counts in families), default=0.0)
    waiting_text = f"{waiting:,} wait to be published, the oldest for {oldest:.0f} s"
    if oldest <= LONGEST_WAIT_SECONDS:
        yield ok("changes", waiting_text)
    elif publishes:
        yield warning("changes", waiting_text, "see deploy/runbooks/StockhookChangesWaiting.md")
    else:
        yield warning(
            "changes", waiting_text, "STOCKHOOK_CHANGES is false here: does another process publish?"
        )


def _check_webhook(webhook: Webhook) -> Iterator[CheckResult]:
    if webhook.is_left_behind:
        yield warning("changes", f"{webhook.queue:,} wait for {webhook.name}", left_behind(webhook.name))
        return
    dead = (webhook.dead or 0) + webhook.dead_kept
    if dead:
        yield warning(
            "changes",
            f"{dead:,} that {webhook.name} did not accept are dead letters",
            f"see `stockhook dead list --origin {origin_of(webhook.name)}`",
        )
    if webhook.queue and not webhook.consumers:
        yield warning(
            "changes",
            f"{webhook.queue:,} wait for {webhook.name}, and no process delivers",
            "start a consumer with the same STOCKHOOK_CHANGES_WEBHOOKS",
        )
