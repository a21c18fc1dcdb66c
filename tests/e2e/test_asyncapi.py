"""Every message that Stockhook publishes, on the broker and over HTTP, matches the AsyncAPI documents."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from consumers.registry import FAMILY_OF
from schemas.changes import PREFIX
from schemas.examples import documented
from tests.e2e.test_actions import ORDER, PICKUPS, Platform
from tests.e2e.test_reconcile import SOLD, Marketplace, part
from tests.support.asyncapi import Contract, event_schemas
from tests.support.endpoint import Endpoint, endpoint
from tests.support.events import body, ovoko, part_changed
from tests.support.fault_sql import REMOVE_FAULT, fail_rows
from tests.support.stack import Stack, until
from worker.amqp.subscription import BROKER_HEADERS
from worker.amqp.tap import Delivery
from worker.amqp.topology import CHANGES, EVENTS, QUARANTINE, RETURN
from worker.cli.simulate import client_settings
from worker.simulator.buyback_api import SimulatedBuyback
from worker.simulator.faults import Kind
from worker.simulator.router import Simulation
from worker.simulator.server import serving
from worker.tools.asyncapi.changes import EXAMPLE_SECRET, changes_document
from worker.tools.asyncapi.topology import topology_document

NAME = "asyncapi"
SUBSCRIBER = f"stockhook.webhook.{NAME}"

# Authentic, so that it is published; only the consumer reads its fields.
BROKEN = body(ovoko("order.created", order_id={}))


@dataclass
class Tap:
    """What the exchanges receive. `seen` are the messages of the documents that something matched."""

    feed: Contract
    broker: Contract
    seen: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def on_exchange(self, channel: str) -> Callable[[Delivery], None]:
        return lambda delivery: self._check(channel, delivery)

    def _check(self, channel: str, delivery: Delivery) -> None:
        headers = {
            name: value for name, value in delivery.headers.items() if not name.startswith(BROKER_HEADERS)
        }
        names = self.broker.in_channel(channel)
        name = _name_of(delivery, names)
        if delivery.body == BROKEN and name in FAMILY_OF:
            assert self.broker.problems(name, headers, _payload(BROKEN)), "it breaks the schema"
            return
        self._note(self.broker, name, headers, _payload(delivery.body), f"{channel}: ")
        if channel == f"exchange.{CHANGES}":
            self._note(self.feed, delivery.type.removeprefix(PREFIX), headers, _payload(delivery.body))

    def _note(
        self, contract: Contract, name: str, headers: dict[str, Any], payload: Any, where: str = ""
    ) -> None:
        self.seen.add(name)
        broken = contract.problems(name, headers, payload)
        self.problems += [f"{where}{name}: {problem}" for problem in broken]

    def check_posted(self, shop: Endpoint) -> None:
        for request in shop.requests:
            headers = {name: value for name, value in request.headers.items() if name.startswith("webhook-")}
            event = json.loads(request.body)
            self._note(self.feed, f"{event['type'].removeprefix(PREFIX)}.webhook", headers, event)


def _name_of(delivery: Delivery, names: list[str]) -> str:
    """The message of the channel that this one must match."""
    if "x-reason" not in delivery.headers and delivery.type in names:
        return delivery.type
    is_copy = "x-reason" in delivery.headers
    others = [name for name in names if name not in FAMILY_OF]
    (name,) = others if len(others) == 1 else [one for one in others if one.endswith(".retry") == is_copy]
    return name


def _payload(sent: bytes) -> Any:
    try:
        return json.loads(sent)
    except ValueError:
        return None


@asynccontextmanager
async def tapped(stack: Stack) -> AsyncIterator[Tap]:
    document = topology_document(stack.settings)
    tap = Tap(Contract.of(changes_document(stack.settings)), Contract.of(document, event_schemas(document)))
    queues = [name.removeprefix("queue.") for name in document["channels"] if name.startswith("queue.")]
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        # With `#` nothing would go on to the quarantine.
        taps = [(EVENTS, list(FAMILY_OF)), (QUARANTINE, [""]), (CHANGES, ["#"])]
        for exchange, keys in taps:
            await channel.subscribe_exclusive(
                exchange, keys, "tap", tap.on_exchange(f"exchange.{exchange}"), 10_000
            )
        for queue in queues:
            if queue != QUARANTINE:
                await channel.subscribe_exclusive(
                    RETURN, [queue], "tap", tap.on_exchange(f"queue.{queue}"), 10_000
                )
        yield tap


@asynccontextmanager
async def _platform(stack: Stack) -> AsyncIterator[Platform]:
    buyback = SimulatedBuyback([ORDER])
    simulation = Simulation({"buyback": buyback})
    async with serving(simulation) as port:
        ours = client_settings(f"http://127.0.0.1:{port}")
        stack.environment |= {f"STOCKHOOK_{name}": value for name, value in ours.items()}
        stack.environment["STOCKHOOK_REREQUEST_PICKUP"] = "first_slot"
        yield Platform(stack, simulation, buyback)
        stack.close()


async def _has_seen(tap: Tap, *names: str) -> None:
    async def all_seen() -> bool:
        return set(names) <= tap.seen

    try:
        await until(all_seen, "these messages are published", 30)
    except AssertionError as error:
        raise AssertionError(f"not published: {sorted(set(names) - tap.seen)}; {tap.problems}") from error


async def test_each_published_message_matches_its_document(stack: Stack) -> None:
    numbers = count()
    refusals = {0: 500, 1: 410}
    async with endpoint(lambda _: refusals.get(next(numbers), 204)) as shop, _platform(stack) as platform:
        subscriber = {"name": NAME, "url": shop.url, "types": ["#"], "secret": EXAMPLE_SECRET}
        stack.environment["STOCKHOOK_CHANGES_WEBHOOKS"] = json.dumps([subscriber])
        stack.environment["STOCKHOOK_CHANGES_PRIVATE_TARGETS"] = "true"
        try:
            assert stack.run("topology").returncode == 0
            async with tapped(stack) as tap:
                await _run(stack, platform, tap)
                await _until_quiet(stack, shop, tap)
                tap.check_posted(shop)
        finally:
            stack.close()
            for step in ("", ".retry.1s", ".retry.2s", ".retry.3s", ".dead"):
                await stack.delete_queue(f"{SUBSCRIBER}{step}")

    assert tap.problems == []
    published = {name.removesuffix(".webhook") for name in tap.seen if name.endswith(".webhook")}
    assert len(published) > 15
    assert published <= tap.seen, "what is posted was published"
    # The probe reaches no queue.
    assert set(tap.broker.messages) - tap.seen == {"probe", "ovoko.stockhook.observed.return"}


async def _run(stack: Stack, platform: Platform, tap: Tap) -> None:
    await stack.started_apart()
    for example in documented():
        answer = await stack.post(example.provider, example.body)
        assert answer.status_code == 200
    for sent in (
        BROKEN,
        body(ovoko("part.moved", part_id="5")),
        b"not JSON",
    ):
        assert (await stack.post_ovoko(sent)).status_code == 200
    await _has_seen(tap, *(f"{example.provider}.{example.event_type}" for example in documented()))
    await _has_seen(tap, "event.dead", "quarantined", "change", "change.retry", "change.dead")

    await stack.execute(fail_rows({"parts": "NEW.part_id = 'slow'"}))
    await stack.post_ovoko(body(part_changed("slow")))
    await _has_seen(tap, "event.retry")
    await stack.execute(REMOVE_FAULT)

    platform.fail(Kind.RATE_LIMITED, PICKUPS, times=1, seconds=1)
    await platform.miss()
    # The simulation has no API of Ovoko's: requests for details fail for good.
    await _has_seen(tap, "action", "action.retry", "action.dead")

    marketplace = Marketplace(stack)
    await marketplace.start()
    await marketplace.lists("parts", part(77, SOLD))
    assert marketplace.reconcile("parts", "--apply", "--yes", "--json").returncode in (0, 1)
    await _has_seen(tap, "ovoko.stockhook.observed.part")


async def _until_quiet(stack: Stack, shop: Endpoint, tap: Tap) -> None:
    async def is_quiet() -> bool:
        rows = await stack.fetch("SELECT count(*) AS rows FROM parts WHERE part_id IN ('slow', '77')")
        return rows[0]["rows"] == 2 and await stack.count("changes") == 0 and len(shop.taken) > 15

    await until(is_quiet, "the events are applied, and their changes are posted", 30)
