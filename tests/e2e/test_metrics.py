"""The exported metrics match the sent events."""

import asyncio
import json

from deploy.local.services import Services
from tests.e2e.test_retry_schedule import poisoned  # noqa: F401  # a fixture
from tests.support.events import sold
from tests.support.samples import Samples, scrape, value
from tests.support.stack import Stack, until
from worker.amqp.topology import topology


def depths(samples: Samples) -> dict[str, int]:
    """The gauges of depths, by queue."""
    return {
        dict(labels)["queue"]: int(number)
        for (name, labels), number in samples.items()
        if name == "stockhook_queue_messages"
    }


async def test_the_counters_match_the_sent_events(poisoned: Stack) -> None:  # noqa: F811
    run = await poisoned.started("run")
    for number in range(20):
        await poisoned.post_ovoko(sold(f"part-{number}", number))
    for number in range(5):
        await poisoned.post_ovoko(sold(f"part-{number}", number))
    await poisoned.post_ovoko(sold("poison", 100))
    await poisoned.post_ovoko(b"no JSON")
    await poisoned.post_ovoko(b'{"event_type": "unheard.of"}')
    await poisoned.post_ovoko(sold("part-0", 0), secret="wrong")
    broken = json.loads(sold("part-1", 200))
    broken["event_data"] = {}
    await poisoned.post_ovoko(json.dumps(broken).encode())

    async def gauges_agree() -> Samples | None:
        consumers = await scrape(poisoned, run.ops_port)
        gauges = depths(consumers)
        is_dead = value(consumers, "stockhook_dead_total", family="inventory") == 2
        return consumers if is_dead and gauges.get("stockhook.inventory.dead") == 2 else None

    consumers = await until(gauges_agree, "two are dead, and the gauges say so", 60)
    ingest = await scrape(poisoned, run.ops_port + 1)

    def of_inventory(name: str, **labels: str) -> float | None:
        return value(consumers, name, family="inventory", **labels)

    assert of_inventory("stockhook_applied_total") == 20
    assert of_inventory("stockhook_duplicates_total") == 5
    assert [of_inventory("stockhook_retried_total", step=step) for step in ("1s", "2s", "3s")] == [1, 1, 1]
    assert of_inventory("stockhook_in_flight") == 0
    assert of_inventory("stockhook_waiting_for_database") == of_inventory("stockhook_circuit_open") == 0
    assert of_inventory("stockhook_paused_by_user") == 0
    # The age of an unreadable message is unknown.
    assert of_inventory("stockhook_event_age_seconds_count") == (
        (of_inventory("stockhook_batch_events_count") or 0) - 1
    )
    assert of_inventory("stockhook_batch_events_sum") == 20 + 5 + 4 + 1
    assert value(consumers, "stockhook_applied_total", family="orders") == 0
    results = {
        result: value(ingest, "stockhook_received_total", provider="ovoko", result=result)
        for result in ("accepted", "quarantined", "unhandled", "401", "503")
    }
    assert results == {"accepted": 27, "quarantined": 1, "unhandled": 1, "401": 1, "503": 0}
    assert value(ingest, "stockhook_publish_seconds_count") == 29
    assert value(ingest, "stockhook_spool_open") == value(ingest, "stockhook_publisher_ready") == 1


async def test_the_queue_gauges_are_the_brokers_own_numbers(stack: Stack) -> None:
    ingest = await stack.started("ingest")
    for number in range(3):
        await stack.post_ovoko(sold(f"part-{number}", number))
    await stack.post_ovoko(b"no JSON")
    ingest.stop()
    consumer = await stack.started("consume", "orders")
    names = [queue.name for queue in topology(stack.settings.delays).queues]

    def consumers(samples: Samples, family: str) -> float | None:
        labels = {"queue": f"stockhook.{family}", "family": family, "role": "work", "step": ""}
        return value(samples, "stockhook_queue_consumers", **labels)

    async def measured() -> Samples | None:
        # The first measurement may precede the subscription.
        samples = await scrape(stack, consumer.ops_port)
        return samples if consumers(samples, "orders") == 1 else None

    samples = await until(measured, "every queue is measured")

    assert depths(samples) == {**dict.fromkeys(names, 0), **await stack.depths()}
    assert {name: count for name, count in depths(samples).items() if count} == {
        "stockhook.inventory": 3,
        "stockhook.quarantine": 1,
    }
    assert consumers(samples, "inventory") == 0


async def test_while_the_broker_is_away_no_outdated_numbers_are_exported(
    stack: Stack, services: Services
) -> None:
    node = services.rabbitmq
    assert node is not None
    consumer = await stack.started("consume", "orders")

    async def are_exported() -> bool:
        return bool(depths(await scrape(stack, consumer.ops_port)))

    async def are_gone() -> bool:
        samples = await scrape(stack, consumer.ops_port)
        is_away = value(samples, "stockhook_publisher_ready") == 0
        return is_away and not depths(samples)

    await until(are_exported, "the queues are measured")
    node.kill()
    try:
        await until(are_gone, "the gauges are gone")
    finally:
        await asyncio.to_thread(node.start)
    await until(are_exported, "the queues are measured again", 60)


async def test_the_gauge_of_dead_letters_counts_those_that_wait_in_the_table(stack: Stack) -> None:
    ingest = await stack.started("ingest")
    await stack.post_ovoko(b"no JSON")
    ingest.stop()
    consumer = await stack.started("consume", "orders", STOCKHOOK_KEEP_DEAD_LETTERS="true")

    async def is_archived() -> bool:
        return await stack.count("dead_letters") == 1

    await until(is_archived, "it is in the table")
    consumer.stop()
    again = await stack.started("consume", "orders", STOCKHOOK_KEEP_DEAD_LETTERS="true")

    async def counted() -> Samples | None:
        samples = await scrape(stack, again.ops_port)
        is_there = value(samples, "stockhook_dead_letters", origin="quarantine") is not None
        return samples if is_there else None

    samples = await until(counted, "dead letters are counted")

    assert value(samples, "stockhook_dead_letters", origin="quarantine") == 1
    assert value(samples, "stockhook_dead_letters", origin="orders") == 0


async def test_each_process_exports_only_its_own_metrics(stack: Stack) -> None:
    run = await stack.started("run")
    consumers = {name for name, _ in await scrape(stack, run.ops_port)}
    ingest = {name for name, _ in await scrape(stack, run.ops_port + 1)}

    shared = {name for name in consumers & ingest if name.startswith("stockhook_")}
    assert shared == {
        "stockhook_build_info",
        "stockhook_log_lines_dropped_total",
        "stockhook_publisher_ready",
        "stockhook_spans_exported_total",
    }
    assert not {name for name in consumers | ingest if name.endswith("_created")}
