"""`stockhook topology`."""

import sys
from typing import Any

from worker.amqp.connection import Broker
from worker.amqp.definitions import definitions as definitions_of
from worker.amqp.desired_topology import expected_topology
from worker.amqp.management import Management, vhost_of
from worker.amqp.topology import Exchange, Queue
from worker.cli.context import Json, print_json
from worker.cli.startup import load_context
from worker.cli.terminal import say, say_json
from worker.config.settings import Settings
from worker.observability.exit_codes import FAILED
from worker.observability.resolver import run_loop


def topology(*, check: bool = False, definitions: bool = False, json: Json = False) -> None:
    """Declare exchanges, queues and bindings; safe to repeat.

    Parameters
    ----------
    check
        Declare nothing; compare the broker with the expected topology, and exit 1 if it differs.
    definitions
        Declare nothing and do not connect; print the topology as a RabbitMQ definitions file.
    """
    settings = load_context("topology")
    if definitions:
        say_json(_definitions(settings), indent=True)
        return
    if not check:
        run_loop(_declare(settings))
        if json:
            print_json({"declared": True})
        else:
            say("declared")
        return
    differences, note = run_loop(_compare(settings))
    if json:
        print_json({"differences": differences, "note": note})
    else:
        for line in differences:
            say(line)
        say(f"{len(differences)} differences" if differences else "as expected")
        if note:
            say(note, file=sys.stderr)
    sys.exit(FAILED if differences else 0)


def _definitions(settings: Settings) -> dict[str, Any]:
    return definitions_of(expected_topology(settings), vhost_of(settings.amqp_url.get_secret_value()))


async def _declare(settings: Settings) -> None:
    async with _broker(settings).connection() as connection:
        channel = await connection.channel()
        await channel.ensure_topology(expected_topology(settings))


async def _compare(settings: Settings) -> tuple[list[str], str | None]:
    expected = expected_topology(settings)
    items: list[Exchange | Queue] = [*expected.exchanges, *expected.queues]
    async with _broker(settings).connection() as connection:
        differences_by_item = [await connection.difference(item) for item in items]
    differences = [difference for difference in differences_by_item if difference is not None]
    if settings.management_url is None:
        return differences, "bindings and policies cannot be seen: set STOCKHOOK_MANAGEMENT_URL"
    management = Management(settings.management_url.get_secret_value(), settings.amqp_url.get_secret_value())
    return [*differences, *await management.differences(expected)], None


def _broker(settings: Settings) -> Broker:
    return Broker(settings.amqp_url.get_secret_value(), "command")
