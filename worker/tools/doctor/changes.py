"""Checks of the change feed: who is told over HTTP, where that leads, and what waits."""

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
from worker.dead_letters.store import waiting_by_origin
from worker.postgres.errors import PostgresError
from worker.postgres.pool import Database, DatabaseUnavailable, SessionsNotKept

# Far more than publishing takes, unless consumers are behind.
LONGEST_WAIT_SECONDS = 60.0

# A slower lookup delays every delivery.
LOOKUP_SECONDS = 5


async def check_changes(settings: Settings) -> AsyncIterator[CheckResult]:
    """What cannot be reached is left to the checks of broker and database."""
    if settings.subscribers and not settings.changes:
        yield warning(
            "changes",
            "STOCKHOOK_CHANGES_WEBHOOKS names subscribers, and nobody is told: STOCKHOOK_CHANGES is false",
            "set STOCKHOOK_CHANGES=true, or name none",
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
        async with broker.connection() as link, database.connection() as connection:
            kept = await waiting_by_origin(connection)
            found = await feed(link, connection, settings.webhook_names, kept, settings.delays)
    except (BrokerUnavailable, DatabaseUnavailable, SessionsNotKept, PostgresError):
        return
    finally:
        await database.close()
    for finding in check_feed(found, publishes=settings.changes):
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
    """Nothing is sent there: an endpoint takes what it gets for a change."""
    parts = urlsplit(subscriber.url)
    assert parts.hostname is not None, "the settings ask for one"
    name = f"{subscriber.name} ({parts.hostname})"
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            addresses = await resolve(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    except TimeoutError:
        return error(
            "changes",
            f"the lookup of {name} took longer than {LOOKUP_SECONDS} s: no name server answers",
            "check this machine's /etc/resolv.conf",
        )
    except OSError:
        return error("changes", f"{name} leads nowhere", "see its url in STOCKHOOK_CHANGES_WEBHOOKS")
    private = [address for address in addresses if not is_public(address)]
    if private and not allow_private:
        return error(
            "changes",
            f"{name} leads to {private[0]}, which is not public: nothing is posted there",
            "see its url, or set STOCKHOOK_CHANGES_PRIVATE_TARGETS=true if it is meant",
        )
    if parts.scheme == "http" and not private:
        return warning("changes", f"{name} is public, and told in clear", "use https://")
    return ok("changes", f"{name} leads to {addresses[0]}")


def check_secrets(subscribers: Sequence[Subscriber]) -> Iterator[CheckResult]:
    for subscriber in subscribers:
        if len(subscriber.keys) > 1:
            versions = ", ".join(key.version for key in subscriber.keys)
            yield ok(
                "changes",
                f"{subscriber.name}: each change has several signatures ({versions}); "
                f"`stockhook changes rotate {subscriber.name}` says how to end the rotation",
            )
    for one, other in combinations(subscribers, 2):
        if set(one.keys) & set(other.keys):
            yield warning(
                "changes",
                f"{one.name} and {other.name} have a secret in common: a change for one passes at the other",
                f"`stockhook changes rotate {other.name}` says how to replace it",
            )


def check_feed(found: Feed, *, publishes: bool) -> Iterator[CheckResult]:
    yield from _check_counts(found.families, publishes=publishes)
    for webhook in found.webhooks:
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
    words = f"{waiting:,} wait to be published, the oldest for {oldest:.0f} s"
    if oldest <= LONGEST_WAIT_SECONDS:
        yield ok("changes", words)
    elif publishes:
        yield warning("changes", words, "see deploy/runbooks/StockhookChangesWaiting.md")
    else:
        yield warning("changes", words, "STOCKHOOK_CHANGES is false here: does another process publish?")


def _check_webhook(webhook: Webhook) -> Iterator[CheckResult]:
    if webhook.is_left_behind:
        yield warning("changes", f"{webhook.queue:,} wait for {webhook.name}", left_behind(webhook.name))
        return
    dead = (webhook.dead or 0) + webhook.dead_kept
    if dead:
        yield warning(
            "changes",
            f"{dead:,} that {webhook.name} never took are dead",
            f"see `stockhook dead list --origin {origin_of(webhook.name)}`",
        )
    if webhook.queue and not webhook.consumers:
        yield warning(
            "changes",
            f"{webhook.queue:,} wait for {webhook.name}, and nobody delivers",
            "start a consumer with the same STOCKHOOK_CHANGES_WEBHOOKS",
        )
