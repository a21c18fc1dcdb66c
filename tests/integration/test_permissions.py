"""Each user against each object: only the listed permissions succeed."""

import asyncio
import json
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from deploy.local.rabbitmq import VHOST, password_hash
from deploy.local.services import CHECKOUT, Services
from tests.support.bulk_jobs import ended, start
from tests.support.console import browser, console, sign_in, token_in
from tests.support.events import body, order_created, ovoko
from tests.support.stack import Stack, Worker, until
from tests.support.subscribers import subscribing
from worker.amqp.channel import Channel, Message
from worker.amqp.connection import Broker
from worker.amqp.definitions import definitions
from worker.amqp.errors import BrokerRefused, BrokerUnavailable, Unroutable
from worker.amqp.topology import (
    Binding,
    Exchange,
    Queue,
    topology,
)
from worker.simulator import ovoko_api
from worker.simulator.router import Simulation
from worker.simulator.server import serving
from worker.tools.permissions import (
    ROLES,
    broker_commands,
    broker_definitions,
    broker_users,
    roles_sql,
)

PASSWORD = "only-for-these-tests"


@pytest.fixture
def users(services: Services, stack: Stack, tmp_path: Path) -> Callable[[str], str]:
    """Create every user of the broker; return a function from a role to its URL."""
    if services.rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    made = broker_definitions(broker_users(), VHOST) | {
        # Other tests change policies.
        "policies": [],
        "users": [
            {"name": user.name, "password_hash": password_hash(PASSWORD), "tags": list(user.tags)}
            for user in broker_users()
        ],
    }
    file = tmp_path / "users.json"
    file.write_text(json.dumps(made))
    services.rabbitmq.ctl("import_definitions", str(file))
    # On a busy machine, RabbitMQ 4.3 accepts no connections for seconds after topic permissions were set.
    services.rabbitmq.wait_until_ready()
    return lambda role: _as(services.amqp_url, f"stockhook_{role}")


@pytest.fixture
async def roles(fresh_database: str) -> Callable[[str], str]:
    """Create every database role, and the tables as owner; return a function from a role to its URL."""
    connection = await asyncpg.connect(fresh_database)
    await connection.execute(roles_sql())
    for role in ROLES:
        await connection.execute(f"ALTER ROLE {role.name} PASSWORD '{PASSWORD}'")
    await connection.close()
    return lambda role: _as(fresh_database, f"stockhook_{role}")


def _as(url: str, user: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()


def _publish(exchange: str, routing_key: str) -> Callable[[Channel], Awaitable[object]]:
    async def publish(channel: Channel) -> None:
        try:
            await channel.publish(Message(exchange, routing_key, "matrix", {}, b""), 5)
        except Unroutable:
            return
        except BrokerUnavailable:
            # Only a refused publish closes the channel.
            assert not channel.is_open
            raise

    return publish


def _get(queue: str) -> Callable[[Channel], Awaitable[object]]:
    return lambda channel: channel.get(queue)


OPERATIONS: dict[str, Callable[[Channel], Awaitable[object]]] = {
    # An existing one, which needs the same permission and leaves nothing.
    "declare exchange": lambda channel: channel.declare_item(Exchange("stockhook.return", "direct")),
    "declare queue": lambda channel: channel.declare_item(
        Queue("stockhook.matrix", {"x-queue-type": "quorum"})
    ),
    "delete queue": lambda channel: channel.delete("stockhook.matrix"),
    "declare elsewhere": lambda channel: channel.declare_item(Exchange("other.matrix", "direct")),
    "bind queue": lambda channel: channel.declare_item(
        Binding("stockhook.return", "stockhook.orders.retry.1s", "stockhook.orders.retry.1s")
    ),
    "publish event": _publish("stockhook.events", "ovoko.order.created"),
    "publish observation": _publish("stockhook.events", "ovoko.stockhook.observed.part"),
    "publish to quarantine": _publish("stockhook.events", "quarantine.ovoko"),
    "publish unknown key": _publish("stockhook.events", "amazon.order.created"),
    "publish probe": _publish("stockhook.probe", "nowhere"),
    "publish copy": _publish("stockhook.return", "stockhook.orders.dead"),
    "publish quarantined": _publish("stockhook.quarantine", ""),
    "publish past exchanges": _publish("", "stockhook.orders"),
    "get event": _get("stockhook.orders"),
    "get retry": _get("stockhook.orders.retry.1s"),
    "get dead": _get("stockhook.orders.dead"),
    "get quarantined": _get("stockhook.quarantine"),
}
ALLOWED = {
    "monitor": {"publish quarantined"},
    "console": {"publish event", "publish to quarantine", "publish copy", "publish quarantined"},
    "ingest": {"publish event", "publish to quarantine", "publish probe"},
    "consumer": {
        "publish probe",
        "publish copy",
        "publish quarantined",
        "get event",
        "get dead",
        "get quarantined",
    },
    "operator": {
        "publish event",
        "publish observation",
        "publish to quarantine",
        "publish unknown key",
        "publish probe",
        "publish copy",
    },
    "topology": OPERATIONS.keys() - {"declare elsewhere", "publish past exchanges"},
}


@pytest.mark.parametrize("role", ALLOWED)
async def test_each_user_has_only_the_listed_permissions(users: Callable[[str], str], role: str) -> None:
    allowed: set[str] = set()
    async with Broker(users(role), "test").connection() as connection:
        for name, operation in OPERATIONS.items():
            channel = await connection.channel()
            try:
                await operation(channel)
            except BrokerUnavailable:
                continue
            allowed.add(name)

    assert allowed == ALLOWED[role]


def test_every_user_is_tried() -> None:
    assert {user.name for user in broker_users()} == {f"stockhook_{role}" for role in ALLOWED}


def test_topic_permissions_come_after_the_topology() -> None:
    """RabbitMQ 4.3 refuses them for an exchange that does not exist."""
    lines = broker_commands(broker_users(), "stockhook")
    declared = next(number for number, line in enumerate(lines) if line.startswith("# 2."))
    topics = [number for number, line in enumerate(lines) if "set_topic_permissions" in line]
    commands = [number for number, line in enumerate(lines) if line.startswith("rabbitmqctl")]

    assert topics
    assert [number for number in commands if number > declared] == topics


def test_the_definitions_have_the_exchange_of_their_topic_permissions() -> None:
    made = broker_definitions(broker_users(), "stockhook")

    assert {one["exchange"] for one in made["topic_permissions"]} == {
        one["name"] for one in made["exchanges"]
    }
    assert all(one in definitions(topology(()), "stockhook")["exchanges"] for one in made["exchanges"])


def test_the_commands_match_the_definitions(
    services: Services, users: Callable[[str], str], tmp_path: Path
) -> None:
    if services.rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    vhost = "of-commands"
    for line in broker_commands(broker_users(), vhost):
        _, *arguments = shlex.split(line, comments=True) or [""]
        if line.startswith("# 2."):
            # Its own change; RabbitMQ 4.3 needs it for the others.
            declared = tmp_path / "topology.json"
            declared.write_text(json.dumps(definitions(topology(()), vhost)))
            services.rabbitmq.ctl("import_definitions", str(declared))
        if arguments and arguments[0] in (
            "add_vhost",
            "set_permissions",
            "set_policy",
            "set_topic_permissions",
        ):
            services.rabbitmq.ctl(*arguments)
    policies = json.loads(services.rabbitmq.ctl("list_policies", "-p", vhost, "--formatter", "json"))
    permissions = json.loads(services.rabbitmq.ctl("list_permissions", "-p", vhost, "--formatter", "json"))
    topics = json.loads(services.rabbitmq.ctl("list_topic_permissions", "-p", vhost, "--formatter", "json"))
    services.rabbitmq.ctl("delete_vhost", vhost)

    (policy,) = policies
    assert (policy["name"], policy["pattern"], policy["priority"]) == ("stockhook", r"^stockhook\.", 1000)
    expected = broker_definitions(broker_users(), vhost)
    by_user = {one["user"]: one for one in permissions}
    assert by_user == {
        one["user"]: {name: one[name] for name in ("user", "configure", "write", "read")}
        for one in expected["permissions"]
    }
    assert sorted((one["user"], one["exchange"], one["write"]) for one in topics) == sorted(
        (one["user"], one["exchange"], one["write"]) for one in expected["topic_permissions"]
    )


def test_the_files_are_fresh(stack: Stack) -> None:
    """Run `make docs` if this fails."""
    written = json.loads((CHECKOUT / "deploy/rabbitmq/permissions.json").read_text())

    assert written == broker_definitions(broker_users(), "stockhook")
    assert (CHECKOUT / "deploy/postgres/roles.sql").read_text() == roles_sql()
    assert stack.run("grants", "postgres").stdout == roles_sql()
    assert json.loads(stack.run("grants", "rabbitmq", "--json").stdout) == written
    assert "rabbitmqctl delete_user guest" in stack.run("grants", "rabbitmq").stdout


TABLES = """
SELECT relname AS name, attname AS first
FROM pg_class
JOIN pg_attribute ON attrelid = pg_class.oid AND attnum = 1
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
ORDER BY relname
"""
STATEMENTS = {
    "SELECT": "SELECT FROM {table} LIMIT 0",
    "INSERT": "INSERT INTO {table} DEFAULT VALUES",
    "UPDATE": "UPDATE {table} SET {first} = DEFAULT WHERE false",
    "DELETE": "DELETE FROM {table} WHERE false",
    "TRUNCATE": "TRUNCATE {table} CASCADE",
    "ALTER": "ALTER TABLE {table} ADD COLUMN added text",
    "DROP": "DROP TABLE {table} CASCADE",
}
MONTHS = "SELECT add_event_log_months(now(), now() + interval '5 months')"


async def _may(connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> bool:
    """Whether permissions allow the statement, which may fail for other reasons."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    except asyncpg.IntegrityConstraintViolationError:
        return True
    finally:
        await transaction.rollback()
    return True


async def test_each_role_has_only_the_listed_privileges(stack: Stack, roles: Callable[[str], str]) -> None:
    migrated = stack.run("migrate", STOCKHOOK_DATABASE_URL=roles("owner"))
    owner = await asyncpg.connect(roles("owner"))
    tables = {row["name"]: row["first"] for row in await owner.fetch(TABLES)}

    assert migrated.returncode == 0, migrated.stderr
    for role in ROLES[1:]:
        # This fails for new tables until their privileges are listed.
        assert role.tables.keys() == tables.keys(), role.name
        connection = await asyncpg.connect(roles(role.name.removeprefix("stockhook_")))
        for table, first in tables.items():
            allowed = {
                privilege
                for privilege, statement in STATEMENTS.items()
                if await _may(connection, statement.format(table=table, first=first))
            }
            assert allowed == set(role.tables[table]), f"{role.name} on {table}"
        assert await _may(connection, MONTHS) is bool(role.functions), role.name
        assert not await _may(connection, "CREATE TABLE created ()")
        assert not await _may(connection, "CREATE SCHEMA created")
        await connection.close()
    for statement in STATEMENTS.values():
        assert await _may(owner, statement.format(table="parts", first="part_id"))
    await owner.close()


async def test_adding_months_ignores_objects_of_another_schema(
    stack: Stack, roles: Callable[[str], str], fresh_database: str
) -> None:
    """The function runs as the owner, so it must not call objects of the caller."""
    stack.run("migrate", STOCKHOOK_DATABASE_URL=roles("owner"))
    superuser = await asyncpg.connect(fresh_database)
    await superuser.execute(
        f"GRANT TEMP ON DATABASE {urlsplit(fresh_database).path[1:]} TO stockhook_consumer"
    )
    await superuser.close()
    connection = await asyncpg.connect(roles("consumer"))
    await connection.execute("CREATE TEMP TABLE event_log (seq bigint)")
    await connection.execute(MONTHS)
    partitions = await connection.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.event_log'::regclass"
    )
    await connection.close()

    assert partitions == 1 + 6


async def test_the_whole_runs_with_these_users(
    stack: Stack, users: Callable[[str], str], roles: Callable[[str], str]
) -> None:
    assert stack.run("topology", STOCKHOOK_AMQP_URL=users("topology")).returncode == 0
    assert stack.run("migrate", STOCKHOOK_DATABASE_URL=roles("owner")).returncode == 0
    stack.environment |= {
        "STOCKHOOK_DATABASE_URL": roles("reader"),
        "STOCKHOOK_DECLARE_TOPOLOGY": "false",
        "STOCKHOOK_KEEP_DEAD_LETTERS": "true",
    }
    consumer = await stack.started(
        "consume", STOCKHOOK_AMQP_URL=users("consumer"), STOCKHOOK_DATABASE_URL=roles("consumer")
    )
    ingest = await stack.started("ingest", STOCKHOOK_AMQP_URL=users("ingest"))
    await stack.post_ovoko(body(order_created(1)))
    await stack.post_ovoko(b"not json")
    await stack.post_ovoko(body(ovoko("order.created", order_id={})))
    await stack.post_ovoko(body(ovoko("order.painted", order_id="3")))

    async def is_settled() -> bool:
        origins = [
            row["origin"] for row in await stack.fetch("SELECT origin FROM dead_letters ORDER BY origin")
        ]
        return await stack.count("orders") == await stack.count("unhandled_events") == 1 and origins == [
            "orders",
            "quarantine",
        ]

    await until(is_settled, "one is applied, one dead, one quarantined, one unhandled")
    monitor = users("monitor")
    status = stack.run("status", "--json", STOCKHOOK_AMQP_URL=monitor)
    audit = stack.run("audit", STOCKHOOK_AMQP_URL=monitor)

    assert (status.returncode, audit.returncode) == (0, 0), status.stderr + audit.stderr
    assert json.loads(status.stdout)["rows"]["orders"] == 1
    await _look_at_the_console(stack, users("console"), roles("console"))
    operator = {"STOCKHOOK_AMQP_URL": users("operator"), "STOCKHOOK_DATABASE_URL": roles("operator")}
    await _work_on_dead_letters(stack, operator, orders=2)
    await _replay_unhandled(stack, operator, roles("owner"))
    await _apply_differences(stack, operator)
    await _pause_and_resume(stack, operator, consumer)
    for worker in (ingest, consumer):
        assert worker.stop() == 0
        assert "ACCESS_REFUSED" not in worker.lines()


async def _pause_and_resume(stack: Stack, operator: dict[str, str], consumer: Worker) -> None:
    paused = stack.run("pause", "orders", "--reason", "a test", **operator)

    async def is_obeyed() -> bool:
        checks = (await stack.ops(consumer.ops_port, "/readyz")).json()["checks"]
        return bool(checks["orders"].startswith("paused by "))

    assert paused.returncode == 0, paused.stderr
    await until(is_obeyed, "the consumer obeys")
    resumed = stack.run("resume", "orders", **operator)
    assert resumed.returncode == 0, resumed.stderr


async def _look_at_the_console(stack: Stack, broker: str, database: str) -> None:
    settings = {"STOCKHOOK_AMQP_URL": broker, "STOCKHOOK_DATABASE_URL": database}
    async with console(stack, **settings) as (url, _), browser(url) as client:
        await sign_in(client)
        overview = (await client.get("/overview.json")).json()
        orders = (await client.get("/families/orders.json")).json()
        tried = await ended(client, await start(client, "dry-run", "all=1"))
        # It fails again, and comes back.
        replayed = await ended(client, await start(client, "replay", "origin=orders"))
        refused = await ended(client, await start(client, "replay", "origin=quarantine"))
        await _replay_in_the_console(stack, client)
        report = (await client.get("/doctor.json")).json()
        unhandled = (await client.get("/refusals.json")).json()["unhandled"]
        token = token_in((await client.get("/families/orders")).text)
        for change in ("pause", "resume"):
            await client.post(
                f"/families/orders/{change}",
                data={"token": token, "reason": "a test"},
                headers={"Sec-Fetch-Site": "same-origin"},
            )
        trail = (await client.get("/audit-trail.json?who=anna")).json()["records"]
    noted = await stack.fetch("SELECT action FROM operator_audit WHERE who = 'anna' ORDER BY audit_id")

    faults = [one for one in report["findings"] if one["level"] == "error"]
    # The tests' services do not sync to disk.
    assert {one["subject"] for one in faults} <= {"durability", "ops ports"}, faults
    levels = {one["subject"]: one["level"] for one in report["findings"]}
    assert {one["what"] for one in report["findings"] if one["subject"] == "event log"} >= {
        "the next month has its partition"
    }
    assert (levels["publishing"], levels["topology"], levels["migrations"]) == ("unchecked", "ok", "ok")
    assert [one["type"] for one in unhandled] == ["order.painted"]
    assert [one["action"] for one in reversed(trail)] == [
        "job.started",
        "job.started",
        "dead_letter.replayed",
        "job.started",
        "dead_letter.revealed",
        "dead_letter.replayed",
        "family.paused",
        "family.resumed",
    ]
    assert [row["action"] for row in noted] == [*["job.started"] * 3, "family.paused", "family.resumed"]
    assert not [one for one in overview["pipeline"]["troubles"] if "cannot be read" in one]
    assert orders["family"]["losses"]["applied"] == 1
    assert len(orders["failures"]) == 1
    assert tried["tally"]["handled"] == 2
    assert (replayed["line"]["state"], replayed["tally"]["came_back"]) == ("done", 1), replayed["note"]
    assert (refused["line"]["state"], refused["tally"]["not_replayed"]) == ("done", 1), refused["note"]


async def _replay_in_the_console(stack: Stack, client: httpx.AsyncClient) -> None:
    """Reveal a letter, and replay it; it fails again, and comes back."""
    [letter] = await stack.fetch(
        "SELECT dead_letter_id FROM dead_letters WHERE origin = 'orders' AND state = 'waiting'"
    )
    path = f"/dead-letters/{letter['dead_letter_id']}"
    form = {"token": token_in((await client.get(path)).text), "back": path, "reason": "a test"}
    headers = {"Sec-Fetch-Site": "same-origin"}
    dry_run = (await client.get(f"{path}/dry-run.json")).json()
    revealed = await client.post(f"{path}/reveal", data=form, headers=headers)
    replayed = await client.post(f"{path}/replay", data=form, headers=headers)

    async def is_back() -> bool:
        return bool((await client.get(f"{path}.json")).json()["came_back_as"])

    assert dry_run["would_be"].startswith("invalid: ")
    assert (revealed.status_code, replayed.status_code) == (200, 303)
    await until(is_back, "the letter is back")


async def test_test_events_and_changed_actions_need_no_other_permission(
    stack: Stack, users: Callable[[str], str], roles: Callable[[str], str]
) -> None:
    assert stack.run("migrate", STOCKHOOK_DATABASE_URL=roles("owner")).returncode == 0
    owner = await asyncpg.connect(roles("owner"))
    await owner.execute("INSERT INTO webhooks (name) VALUES ('shop')")
    insert = "INSERT INTO actions (kind, key, subject, request, state) VALUES ('k', $1, 's', '{}', 'failed')"
    ids = [
        await owner.fetchval(f"{insert} RETURNING action_id", key) for key in ("retry", "close", "command")
    ]
    rights = {
        role: {"STOCKHOOK_AMQP_URL": users(role), "STOCKHOOK_DATABASE_URL": roles(role)}
        for role in ("console", "operator")
    }
    async with subscribing(stack) as subscribe:
        subscribe(("shop", "http://127.0.0.1:9/"))
        assert stack.run("topology", STOCKHOOK_AMQP_URL=users("topology")).returncode == 0
        async with console(stack, **rights["console"]) as (url, _), browser(url) as client:
            await sign_in(client)
            for path in ("changes/shop/test", f"actions/{ids[0]}/retry", f"actions/{ids[1]}/close"):
                token = token_in((await client.get("/actions")).text)
                await client.post(
                    f"/{path}",
                    data={"token": token, "reason": "a test", "back": "/actions"},
                    headers={"Sec-Fetch-Site": "same-origin"},
                )
        results = [
            stack.run(*command, **rights["operator"])
            for command in (("changes", "test", "shop"), ("actions", "retry", str(ids[2])))
        ]
        async with stack.broker.connection() as connection:
            depth = await connection.depth("stockhook.webhook.shop")
    states = await owner.fetch("SELECT key, state FROM actions ORDER BY key")
    recorded = await owner.fetch("SELECT action FROM operator_audit ORDER BY audit_id")
    await owner.close()

    assert [one.returncode for one in results] == [0, 0], [one.stderr for one in results]
    assert depth is not None
    assert depth.ready == 2
    assert [tuple(row) for row in states] == [("close", "done"), ("command", "due"), ("retry", "due")]
    assert [row["action"] for row in recorded] == [
        "webhook.test_sent",
        "action.retried",
        "action.closed",
        "webhook.test_sent",
        "action.retried",
    ]


async def test_the_rights_of_the_console_suffice_for_its_changes(
    stack: Stack, users: Callable[[str], str], roles: Callable[[str], str]
) -> None:
    """The commands use the same functions as its pages."""
    assert stack.run("migrate", STOCKHOOK_DATABASE_URL=roles("owner")).returncode == 0
    stack.environment |= {
        "STOCKHOOK_DATABASE_URL": roles("consumer"),
        "STOCKHOOK_KEEP_DEAD_LETTERS": "true",
    }
    consumer = await stack.started("consume")
    await stack.started("ingest")
    await stack.post_ovoko(body(ovoko("order.created", order_id={})))
    await stack.post_ovoko(b"not json")
    stack.environment |= {"STOCKHOOK_DATABASE_URL": roles("reader")}

    async def are_stored() -> bool:
        return await stack.count("dead_letters") == 2

    await until(are_stored, "one is dead, one quarantined")
    rights = {"STOCKHOOK_AMQP_URL": users("console"), "STOCKHOOK_DATABASE_URL": roles("console")}
    await _work_on_dead_letters(stack, rights, orders=1)
    await _pause_and_resume(stack, rights, consumer)


async def _work_on_dead_letters(stack: Stack, operator: dict[str, str], orders: int) -> None:
    """Run each command of `stockhook dead` that writes: an edit, a view of a body, a replay, a discard."""
    script = stack.folder / "editor"
    script.write_text("""#!/bin/sh\nsed -i 's/{}/"2"/' "$1"\n""")
    script.chmod(0o700)
    letters = json.loads(stack.run("dead", "list", "--json", **operator).stdout)
    numbers = {letter["origin"]: str(letter["dead_letter_id"]) for letter in letters}
    results = [
        stack.run("dead", *arguments, EDITOR=str(script), **operator)
        for arguments in (
            ("edit", numbers["orders"]),
            ("show", numbers["orders"], "--reveal"),
            ("replay", numbers["orders"], "--dry-run"),
            ("replay", numbers["orders"]),
            ("discard", numbers["quarantine"], "--reason", "no event"),
        )
    ]

    assert [one.returncode for one in results] == [0] * 5, [one.stderr for one in results]
    await until(lambda: _has_orders(stack, orders), "the replayed one is applied")


async def _has_orders(stack: Stack, number: int) -> bool:
    return await stack.count("orders") == number


async def _replay_unhandled(stack: Stack, operator: dict[str, str], owner: str) -> None:
    """Simulates a release that handles the type."""
    connection = await asyncpg.connect(owner)
    await connection.execute(
        "UPDATE unhandled_events SET type = 'order.created', "
        "body = convert_to(replace(convert_from(body, 'UTF8'), 'order.painted', 'order.created'), 'UTF8')"
    )
    await connection.close()
    replayed = stack.run("unhandled", "replay", "--type", "order.created", **operator)

    async def is_applied() -> bool:
        return await stack.count("orders") == 3

    assert replayed.returncode == 0, replayed.stderr
    await until(is_applied, "it is applied")
    assert await stack.count("unhandled_events") == 0


async def _apply_differences(stack: Stack, operator: dict[str, str]) -> None:
    marketplace = ovoko_api.Ovoko(parts={13: ovoko_api.Part(id=13, status=0)})
    async with serving(Simulation({"ovoko": marketplace})) as port:
        credentials = {
            "STOCKHOOK_OVOKO_API_URL": f"http://127.0.0.1:{port}/ovoko",
            "STOCKHOOK_OVOKO_USERNAME": ovoko_api.USERNAME,
            "STOCKHOOK_OVOKO_PASSWORD": ovoko_api.PASSWORD,
            "STOCKHOOK_OVOKO_USER_TOKEN": ovoko_api.USER_TOKEN,
        }
        arguments = ("reconcile", "ovoko", "parts", "--apply", "--yes")
        # The server runs on this event loop.
        result = await asyncio.to_thread(stack.run, *arguments, **operator, **credentials)

    assert result.returncode == 0, result.stderr
    assert await stack.count("parts") == 1


async def test_without_permission_to_declare_missing_objects_are_named(
    stack: Stack, users: Callable[[str], str]
) -> None:
    await stack.delete_queue("stockhook.orders.retry.2s")
    result = stack.run(
        "consume", "orders", STOCKHOOK_AMQP_URL=users("consumer"), STOCKHOOK_DECLARE_TOPOLOGY="false"
    )

    assert result.returncode == 78
    assert result.stderr.splitlines()[-1] == (
        "stockhook: queue stockhook.orders.retry.2s is missing: `stockhook topology` declares it"
    )


async def test_a_user_without_permission_to_declare_gets_an_error(users: Callable[[str], str]) -> None:
    async with Broker(users("ingest"), "test").connection() as connection:
        channel = await connection.channel()
        with pytest.raises(BrokerRefused, match="ACCESS_REFUSED"):
            await channel.declare_item(Exchange("stockhook.matrix", "direct"))


async def test_a_role_that_is_missing_keeps_no_other_from_its_privileges(
    stack: Stack, roles: Callable[[str], str], fresh_database: str
) -> None:
    """A release may need a role that no superuser has created yet."""
    superuser = await asyncpg.connect(fresh_database)
    await superuser.execute("ALTER ROLE stockhook_console RENAME TO stockhook_elsewhere")
    try:
        migrated = stack.run("migrate", STOCKHOOK_DATABASE_URL=roles("owner"))
    finally:
        await superuser.execute("ALTER ROLE stockhook_elsewhere RENAME TO stockhook_console")
        await superuser.close()
    reader = await asyncpg.connect(roles("reader"))
    may_read = await _may(reader, "SELECT FROM parts LIMIT 0")
    await reader.close()

    assert migrated.returncode == 0, migrated.stderr
    assert may_read


async def test_absent_roles_are_not_required(fresh_database: str, stack: Stack) -> None:
    migrated = stack.run("migrate", STOCKHOOK_DATABASE_URL=fresh_database)

    assert migrated.returncode == 0
