"""`stockhook changes`: the change feed, and the secrets, public keys and queues of its subscribers."""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import orjson
from cyclopts import App, Parameter
from rich.console import RenderableType

from schemas.changes import PREFIX
from worker.amqp.connection import Broker
from worker.amqp.queue_set import QueueSet
from worker.amqp.tap import Delivery
from worker.amqp.topology import CHANGES
from worker.change_feed.rotation import rotation_steps
from worker.change_feed.testing import send_test
from worker.cli.context import Flag, Json, fail, open_database, print_json
from worker.cli.startup import load_context
from worker.cli.terminal import assembled, say, show
from worker.config.settings import Settings
from worker.config.subscribers import Subscriber, origin_of
from worker.dead_letters.audit_trail import who
from worker.observability.exit_codes import FAILED
from worker.observability.inert_text import visible
from worker.observability.resolver import run_loop

changes = App(name="changes", help="The change feed: what subscribers receive when stock or orders change.")

# Characters of a value that are shown.
_LONGEST_VALUE = 60


@changes.command
def tail(
    *types: Annotated[str, Parameter(help="Such as part.sold, or 'order.*'; all by default.")],
    json: Json = False,
) -> None:
    """Show changes as they are published, until Ctrl-C. Other subscribers receive them too.

    The command declares its own queue while it runs, and needs the permission to do so.
    """
    settings = load_context("changes")
    run_loop(_tail(Broker(settings.amqp_url.get_secret_value(), "tail"), types, json))


@changes.command
def forget(name: str, /, *, yes: Flag = False, json: Json = False) -> None:
    """Delete the queues of a subscriber that was removed from STOCKHOOK_CHANGES_WEBHOOKS.

    Exits 1 if it is still in the settings, if a process delivers from its queues, or if changes wait in them.
    Dead letters in the table stay. The command needs the permission to declare.

    Parameters
    ----------
    name
        The subscriber's name in the settings.
    yes
        Delete the changes that wait.
    """
    settings = load_context("changes")
    if name in settings.webhook_names:
        fail(FAILED, f"{name} is in STOCKHOOK_CHANGES_WEBHOOKS: remove it, and restart the consumers")
    broker = Broker(settings.amqp_url.get_secret_value(), "forget")
    deleted, thrown_away = run_loop(_forget(broker, QueueSet.of(origin_of(name), settings.delays), yes))
    if json:
        print_json({"deleted": deleted, "thrown_away": thrown_away})
    else:
        say(f"deleted {len(deleted)} queues, with {thrown_away:,} changes")


@changes.command
def keys(name: str | None = None, /, *, json: Json = False) -> None:
    """Print the public ed25519 keys with which subscribers over HTTP verify changes, the newest first.

    A public key (whpk_) is not secret: publish it, or give it to the subscriber. Exits 1 if there is none.

    Parameters
    ----------
    name
        The name of a subscriber in STOCKHOOK_CHANGES_WEBHOOKS; all by default.
    """
    settings = load_context("changes")
    selected = settings.subscribers if name is None else (_subscriber(settings, name),)
    public = {
        subscriber.name: [key.public_key for key in subscriber.keys if key.public_key is not None]
        for subscriber in selected
    }
    if json:
        print_json([{"name": each, "public_keys": keys} for each, keys in public.items()])
    else:
        for each, keys in public.items():
            for key in keys:
                say(f"{each} {key}")
    if not any(public.values()):
        problem = f"{name} has no ed25519 key" if name else "no subscriber has an ed25519 key"
        fail(
            FAILED,
            f"{problem} in STOCKHOOK_CHANGES_WEBHOOKS: `stockhook changes rotate NAME --ed25519` shows how "
            "to change to one",
        )


@changes.command
def rotate(name: str, /, *, ed25519: Flag = False, json: Json = False) -> None:
    """Show the steps that replace the secret of a subscriber without a refused change.

    It reads the settings, changes nothing, and prints no secret. If a subscriber has several secrets, it
    shows how to finish the rotation. Exits 1 if the subscriber is not in the settings.

    Parameters
    ----------
    name
        The name of the subscriber in STOCKHOOK_CHANGES_WEBHOOKS.
    ed25519
        Change from a shared secret to an ed25519 key pair; the private key stays here.
    """
    subscriber = _subscriber(load_context("changes"), name)
    steps = rotation_steps(subscriber, ed25519=ed25519)
    signatures = [{"version": key.version, "public_key": key.public_key} for key in subscriber.keys]
    if json:
        print_json(
            {
                "name": name,
                "under_way": len(signatures) > 1,
                "signatures": signatures,
                "steps": [{"text": step.text, "command": step.command} for step in steps],
            }
        )
        return
    say(f"Changes for {name} are signed with, the newest first:")
    for signature in signatures:
        say(f"- {signature['version']} {signature['public_key'] or '(shared secret)'}")
    for number, step in enumerate(steps, start=1):
        say(f"{number}. {step.text}")
        if step.command is not None:
            say(f"   $ {step.command}")


@changes.command(name="test")
def send(name: str, /, *, reason: str | None = None, json: Json = False) -> None:
    """Send a test event to one subscriber over HTTP. Other subscribers do not receive it.

    It is signed and retried like a change. Its type is stockhook.test, and it has no sequence number.
    Exits 1 if there is no such subscriber, or if it has no queue. The answer is in the console, and in the
    metrics of the consumers.

    Parameters
    ----------
    name
        The name of the subscriber in STOCKHOOK_CHANGES_WEBHOOKS.
    reason
        Why, for the record.
    """
    settings = load_context("changes")
    broker = Broker(settings.amqp_url.get_secret_value(), "test")
    text = visible((reason or "").strip()) or None

    async def work() -> str:
        async with open_database(settings, "changes", 1) as database:
            return await send_test(broker, database, settings, name, who(), text)

    webhook_id = run_loop(work())
    if json:
        print_json({"name": name, "webhook_id": webhook_id})
    else:
        say(f"a test event is in the queue of {name}, with the webhook-id {webhook_id}")


def _subscriber(settings: Settings, name: str) -> Subscriber:
    for subscriber in settings.subscribers:
        if subscriber.name == name:
            return subscriber
    names = ", ".join(settings.webhook_names) or "no subscriber"
    fail(FAILED, f"{name} is not in STOCKHOOK_CHANGES_WEBHOOKS, which names {names}")


async def _forget(broker: Broker, queues: QueueSet, yes: bool) -> tuple[list[str], int]:
    """The deleted queues, and the number of messages in them."""
    async with broker.connection() as connection:
        depths = await connection.depths(queues.names)
        existing = {name: depth for name, depth in depths.items() if depth is not None}
        waiting = sum(depth.ready for depth in existing.values())
        if not existing:
            fail(FAILED, f"there is no queue {queues.main}")
        if any(depth.consumers for depth in existing.values()):
            fail(FAILED, "a process delivers from it: restart the consumers with the current settings")
        if waiting and not yes:
            fail(FAILED, f"{waiting:,} changes wait there: --yes deletes them")
        channel = await connection.channel()
        for name in existing:
            await channel.delete(name)
    return list(existing), waiting


async def _tail(broker: Broker, types: tuple[str, ...], as_json: bool) -> None:
    keys = [name if name.startswith(PREFIX) else PREFIX + name for name in types] or [f"{PREFIX}#"]
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    async with broker.connection() as connection:
        channel = await connection.channel()
        await channel.subscribe_exclusive(CHANGES, keys, "tail", arrived.put_nowait)
        closed = asyncio.create_task(channel.wait_closed())
        while not closed.done():
            getting = asyncio.create_task(arrived.get())
            await asyncio.wait([getting, closed], return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                break
            delivery = getting.result()
            _show(delivery.body, as_json)
            await channel.ack_up_to(delivery.tag)


def _show(body: bytes, as_json: bool) -> None:
    """Show a change. Every publisher can send anything, so messages that are not changes are skipped."""
    try:
        event = orjson.loads(body)
        line = _line(event)
    except (ValueError, TypeError, KeyError, AttributeError):
        say(
            f"stockhook: a message of {len(body):,} bytes is not a change, and was skipped",
            file=sys.stderr,
        )
        return
    if as_json:
        print_json(event)
    else:
        show(line, soft_wrap=True)


def _line(event: Mapping[str, Any]) -> RenderableType:
    data = event["data"]
    return assembled(
        (f"{event['time']}  ", "dim"),
        (f"{event['type'].removeprefix(PREFIX):<28} ", "bold"),
        (f"{event['subject']}  ", "cyan"),
        ", ".join(_differences(data["before"] or {}, data["after"])),
    )


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name, value in after.items():
        old = before.get(name)
        if value == old or isinstance(value, list):
            continue
        yield f"{name}: {_short(value)}" if old is None else f"{name}: {_short(old)} → {_short(value)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
