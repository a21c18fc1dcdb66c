"""Commands as processes: their output and exit codes."""

import json

from tests.support.events import body, order_created
from tests.support.stack import Stack, free_port

BODY = body(order_created("1"))


async def test_status_shows_where_everything_is(stack: Stack) -> None:
    ingest = await stack.started("ingest")
    await stack.post_ovoko(BODY)
    await stack.post_ovoko(b"not json")
    ingest.stop()
    result = stack.run("status", "--json")
    status = json.loads(result.stdout)
    orders = next(family for family in status["families"] if family["family"] == "orders")
    actions = next(queues for queues in status["families"] if queues["family"] == "actions")

    assert result.returncode == 0
    assert (status["broker"], status["database"], status["quarantine"]) == ("reachable", "reachable", 1)
    assert orders["queue"] == 1
    assert orders["retry"] == {"1s": 0, "2s": 0, "3s": 0}
    assert (orders["dead"], orders["consumers"]) == (0, 0)
    assert (actions["queue"], actions["retry"], actions["dead"]) == (0, orders["retry"], 0)
    assert status["rows"]["orders"] == 0


async def test_status_for_people(stack: Stack) -> None:
    result = stack.run("status", COLUMNS="120")

    assert result.returncode == 0
    for text in ("broker: reachable", "quarantine: 0", "inventory", "at most", "event_log"):
        assert text in result.stdout


async def test_status_names_unreachable_services_and_fails(stack: Stack) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    result = stack.run(
        "status",
        "--json",
        STOCKHOOK_AMQP_URL=f"amqp://stockhook:hunter2@{nowhere}/",
        STOCKHOOK_DATABASE_URL=f"postgresql://stockhook:hunter2@{nowhere}/stockhook",
    )
    status = json.loads(result.stdout)

    assert result.returncode == 1
    assert status["broker"].startswith("unreachable")
    assert status["database"].startswith("unreachable")
    assert "hunter2" not in result.stdout + result.stderr


async def test_exit_codes(stack: Stack) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    no_broker = stack.run("topology", STOCKHOOK_AMQP_URL=f"amqp://x:hunter2@{nowhere}/")
    no_database = stack.run("migrate", STOCKHOOK_DATABASE_URL=f"postgresql://x:hunter2@{nowhere}/x")
    bad_setting = stack.run("run", STOCKHOOK_INGEST_PORT="http")
    no_family = stack.run("consume", "invoices")
    no_endpoint = stack.run("ingest", STOCKHOOK_OVOKO_SECRETS="", STOCKHOOK_SEALING_KEYS="")
    no_command = stack.run("teleport")

    assert (no_broker.returncode, no_database.returncode) == (69, 69)
    assert "STOCKHOOK_AMQP_URL" in no_broker.stderr
    assert "STOCKHOOK_DATABASE_URL" in no_database.stderr
    assert bad_setting.returncode == 78
    assert bad_setting.stderr.startswith("stockhook: STOCKHOOK_INGEST_PORT: ")
    assert no_family.returncode == 2
    assert "inventory, orders, returns, buybacks, reminders" in no_family.stderr
    assert no_endpoint.returncode == 78
    assert "STOCKHOOK_SEALING_KEYS is not set" in no_endpoint.stderr
    assert no_command.returncode != 0
    for command in (no_broker, no_database, bad_setting, no_family, no_endpoint):
        assert "Traceback" not in command.stderr
        assert "hunter2" not in command.stderr


async def test_weak_secrets_are_refused_but_in_development(stack: Stack) -> None:
    refused = stack.run("ingest", STOCKHOOK_OVOKO_SECRETS="hunter2,u7Kd0-plenty-of-it,hunter3")
    await stack.started("ingest", STOCKHOOK_OVOKO_SECRETS="hunter2", STOCKHOOK_ENVIRONMENT="development")
    answer = await stack.post_ovoko(BODY, secret="hunter2")

    assert refused.returncode == 78
    assert refused.stderr.splitlines()[-1] == (
        "stockhook: STOCKHOOK_OVOKO_SECRETS: secret 1 is shorter than 12 characters; "
        "STOCKHOOK_OVOKO_SECRETS: secret 3 is shorter than 12 characters: "
        "set longer ones, or STOCKHOOK_ENVIRONMENT=development"
    )
    assert answer.status_code == 200


async def test_a_taken_ops_port_is_one_sentence(stack: Stack) -> None:
    first = await stack.started("consume", "orders")
    second = stack.run("consume", "orders", STOCKHOOK_OPS_PORT=str(first.ops_port))

    assert second.returncode == 78
    assert second.stderr.strip().splitlines()[-1].endswith("set STOCKHOOK_OPS_PORT to a free port")


async def test_every_process_answers_on_its_ops_port(stack: Stack) -> None:
    run = await stack.started("run")
    consumers = await stack.ops(run.ops_port, "/readyz")
    ingest = await stack.ops(run.ops_port + 1, "/readyz")
    metrics = await stack.ops(run.ops_port, "/metrics")

    assert set(consumers.json()["checks"]) == {
        "publisher",
        "inventory",
        "orders",
        "returns",
        "buybacks",
        "reminders",
    }
    assert ingest.json() == {
        "status": "ready",
        "checks": {"intake": "ok"},
        "publishing": True,
        "broker": "ok",
        "spool": {"events": 0, "bytes": 0, "oldest_seconds": None},
    }
    assert (await stack.ops(run.ops_port, "/livez")).json() == {"status": "alive"}
    assert (await stack.look("/livez")).json() == {"status": "alive"}
    assert "stockhook_applied_total" in metrics.text
    assert (await stack.ops(run.ops_port, "/nowhere")).status_code == 404


async def test_logs_are_json_lines(stack: Stack) -> None:
    run = await stack.started("run")
    await stack.post_ovoko(BODY)
    run.stop()
    lines = [json.loads(line) for line in run.lines().splitlines()]

    assert {"event", "level", "timestamp", "process"} <= set(lines[0])
    assert [line["applied"] for line in lines if line["event"] == "batch.settled"] == [1]
