"""RabbitMQ users and Postgres roles with the minimum of permissions, as data.

They use the names of the topology, so that both stay consistent. `tests/integration/test_permissions.py`
tries each permission.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from consumers.registry import FAMILIES
from schemas.registry import Provider
from worker.amqp import policies
from worker.amqp.definitions import exchange_definition
from worker.amqp.policies import protecting_commands, unlimiting_command
from worker.amqp.queue_set import dead_queue, main_queue
from worker.amqp.topology import (
    ACTIONS,
    CHANGES,
    EVENTS,
    PROBE,
    QUARANTINE,
    RETURN,
    topology,
)
from worker.postgres.pool import Connection

NOTHING = "^$"
PREFIX = "^stockhook\\."

# The queues of subscribers of changes over HTTP, and their dead letters; retry queues are not read.
SUBSCRIBERS = r"stockhook\.webhook\.[a-z0-9-]+(\.dead)?"

# RabbitMQ 4.2.7, 4.3.1 and newer show the depth of a queue only to users with a permission for it. Permission
# to write to a queue allows a user to bind it to the exchanges that the user may read, and nothing else.
WORK_QUEUES = rf"stockhook\.({'|'.join([*FAMILIES, ACTIONS])}|webhook\.[a-z0-9-]+)"
RETRY_QUEUES = rf"{WORK_QUEUES}\.retry\.[0-9]+s"
PROCESSED_QUEUES = rf"{WORK_QUEUES}(\.retry\.[0-9]+s|\.dead)?"

# Routing keys of received events: no observations, which only `stockhook reconcile --apply` publishes.
RECEIVED = f"^({'|'.join(['quarantine', *Provider])})\\.(?!stockhook\\.)"


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """One RabbitMQ user; the three permissions are patterns over names of queues and exchanges.

    `topics` is a pattern over the routing keys that it may publish to the topic exchange.
    """

    name: str
    purpose: str
    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING
    topics: str | None = None
    tags: tuple[str, ...] = ()


def broker_users() -> tuple[BrokerUser, ...]:
    """All users, from the least to the most privileged."""
    consumed = [queue for family in FAMILIES for queue in (main_queue(family), dead_queue(family))]
    return (
        BrokerUser(
            "stockhook_monitor",
            "`stockhook status`, `audit`, `doctor`: reads the number of waiting messages, and receives none",
            # The quarantine's exchange has the name of its queue: it may publish there.
            write=_one_of([QUARANTINE], PROCESSED_QUEUES),
            tags=("monitoring",),
        ),
        BrokerUser(
            "stockhook_ingest",
            "`stockhook ingest`: publishes events",
            write=_one_of([EVENTS, PROBE]),
            topics=RECEIVED,
        ),
        BrokerUser(
            "stockhook_consumer",
            "`stockhook consume`: reads its queues, publishes to retry queues and dead letters",
            write=_one_of([RETURN, QUARANTINE, PROBE, CHANGES], RETRY_QUEUES),
            read=_one_of([*consumed, QUARANTINE, main_queue(ACTIONS), dead_queue(ACTIONS)], SUBSCRIBERS),
        ),
        BrokerUser(
            "stockhook_console",
            "`stockhook console`: publishes replayed events, and reads the number of waiting messages",
            # Dead letters go to the return exchange; edited and quarantined ones are routed again. The rest
            # is for the numbers, as for the monitor.
            write=_one_of([EVENTS, RETURN, QUARANTINE], PROCESSED_QUEUES),
            topics=RECEIVED,
        ),
        BrokerUser(
            "stockhook_operator",
            "`stockhook dead`, `unhandled`, `reconcile --apply`: publishes replayed events and observations",
            write=_one_of([EVENTS, RETURN, PROBE]),
        ),
        BrokerUser(
            "stockhook_topology",
            "`stockhook topology`, once per release: declares (which takes all three permissions)",
            configure=PREFIX,
            write=PREFIX,
            read=PREFIX,
        ),
    )


def _one_of(names: Iterable[str], *patterns: str) -> str:
    return "^(" + "|".join([*map(re.escape, names), *patterns]) + ")$"


def broker_commands(users: Sequence[BrokerUser], vhost: str) -> list[str]:
    """Commands for a shell, in this order. `add_user` prompts for the password, so it is in no history."""
    lines = ["# 1. Virtual host, users, permissions, and a policy that protects our queues."]
    lines += ["", f"rabbitmqctl add_vhost '{vhost}'"]
    for user in users:
        lines += [
            "",
            f"# {user.name}: {user.purpose}",
            f"rabbitmqctl add_user {user.name}",
            f"rabbitmqctl set_user_tags {user.name} {' '.join(user.tags)}".rstrip(),
            f"rabbitmqctl set_permissions -p '{vhost}' {user.name} "
            f"'{user.configure}' '{user.write}' '{user.read}'",
        ]
    topics = [
        f"rabbitmqctl set_topic_permissions -p '{vhost}' {user.name} {EVENTS} '{user.topics}' '{NOTHING}'"
        for user in users
        if user.topics is not None
    ]
    return [
        *lines,
        "",
        "# Only the matching policy with the highest priority applies to a queue. With this one, a policy",
        "# for all queues (message-ttl, max-length, expires) cannot make ours lose events.",
        *protecting_commands(vhost),
        "",
        "# RabbitMQ 4.0 and newer drop a dead letter after 20 deliveries. For these versions, remove the #:",
        f"# {unlimiting_command(vhost)}",
        "",
        "# Every broker has it, with a well-known password.",
        "rabbitmqctl delete_user guest",
        "",
        "# 2. Declare exchanges and queues: `stockhook topology`, as the user stockhook_topology.",
        "",
        "# 3. After step 2 and before an ingest or a console starts: RabbitMQ 4.3 refuses topic permissions",
        "#    for an exchange that does not exist.",
        *topics,
    ]


def broker_definitions(users: Sequence[BrokerUser], vhost: str) -> dict[str, Any]:
    """Definitions for `rabbitmqctl import_definitions`, once the users exist. They contain no passwords.

    They declare the exchange of the topic permissions, without which RabbitMQ 4.3 refuses them.
    """
    (events,) = (exchange for exchange in topology(()).exchanges if exchange.name == EVENTS)
    return {
        "exchanges": [exchange_definition(events, vhost)],
        "policies": [
            {
                "vhost": vhost,
                "name": policies.NAME,
                "pattern": policies.OURS,
                "apply-to": "queues",
                "priority": policies.PRIORITY,
                "definition": policies.HARMLESS,
            }
        ],
        "permissions": [
            {
                "user": user.name,
                "vhost": vhost,
                "configure": user.configure,
                "write": user.write,
                "read": user.read,
            }
            for user in users
        ],
        "topic_permissions": [
            {"user": user.name, "vhost": vhost, "exchange": EVENTS, "write": user.topics, "read": NOTHING}
            for user in users
            if user.topics is not None
        ],
    }


OWNER = "stockhook_owner"
CONSUMER = "stockhook_consumer"
OPERATOR = "stockhook_operator"
READER = "stockhook_reader"
CONSOLE = "stockhook_console"

_PROJECTION = ("SELECT", "INSERT", "UPDATE")
_FAMILY_TABLES = [table for family in FAMILIES.values() for table in family.tables]


@dataclass(frozen=True, slots=True)
class DatabaseRole:
    """One Postgres role with its privileges on tables, sequences and functions."""

    name: str
    purpose: str
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sequences: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()


CONSUMER_TABLES: dict[str, tuple[str, ...]] = {
    "schema_migrations": ("SELECT",),
    "event_ids": ("SELECT", "INSERT"),
    "reused_event_ids": ("SELECT", "INSERT"),
    "event_log": ("SELECT", "INSERT"),
    "event_log_dropped": ("SELECT",),
    **{table.name: _PROJECTION for table in _FAMILY_TABLES},
    **{name: ("SELECT", "INSERT", "DELETE") for table in _FAMILY_TABLES for name in table.detail_tables},
    "communications": _PROJECTION,
    "findings": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "event_sequences": _PROJECTION,
    "poison_candidates": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "dead_letters": ("SELECT", "INSERT"),
    "dead_letter_audit": (),
    # Consumers also delete old unhandled events.
    "unhandled_events": ("SELECT", "INSERT", "DELETE"),
    "actions": _PROJECTION,
    "changes": ("SELECT", "INSERT", "DELETE"),
    "change_locks": ("SELECT", "UPDATE"),
    "change_counts": _PROJECTION,
    "webhooks": _PROJECTION,
    "paused_families": ("SELECT",),
    "operator_audit": (),
    "bulk_jobs": (),
}
_ALL_READ: dict[str, tuple[str, ...]] = dict.fromkeys(CONSUMER_TABLES, ("SELECT",))

ROLES = (
    DatabaseRole(OWNER, "`stockhook migrate`, `rebuild`, `retain`: owns the tables"),
    DatabaseRole(
        CONSUMER,
        "`stockhook consume`: writes projections, and can neither update nor delete the log",
        tables=CONSUMER_TABLES,
        sequences=("event_log_seq",),
        functions=(
            "add_event_log_months(timestamptz, timestamptz)",
            "keep_earlier_receptions(uuid[], uuid[], text[], timestamptz[], text)",
        ),
    ),
    DatabaseRole(
        READER,
        "`stockhook status`, `audit`, `doctor`: reads",
        tables=_ALL_READ,
    ),
    DatabaseRole(
        CONSOLE,
        "`stockhook console`: reads, writes the states of dead letters and actions, pauses, jobs and audits",
        tables={
            **_ALL_READ,
            "dead_letters": ("SELECT", "UPDATE"),
            "dead_letter_audit": ("SELECT", "INSERT"),
            "actions": ("SELECT", "UPDATE"),
            "paused_families": ("SELECT", "INSERT", "DELETE"),
            "operator_audit": ("SELECT", "INSERT"),
            "bulk_jobs": _PROJECTION,
        },
    ),
    DatabaseRole(
        OPERATOR,
        "`stockhook dead`, `unhandled`, `actions`, `reconcile`, `pause`, `resume`: reads, and writes the "
        "states of dead letters, pauses, and the audit",
        tables={
            **_ALL_READ,
            "dead_letters": ("SELECT", "UPDATE"),
            "dead_letter_audit": ("SELECT", "INSERT"),
            "unhandled_events": ("SELECT", "DELETE"),
            "actions": _PROJECTION,
            "paused_families": ("SELECT", "INSERT", "DELETE"),
            "operator_audit": ("SELECT", "INSERT"),
        },
    ),
)


def roles_sql() -> str:
    """SQL for a superuser, once: creates the roles, and the owner of the tables."""
    lines = ["-- Made by `stockhook grants postgres`. Run it as a superuser in the database of Stockhook;"]
    lines += ["-- then give each role a password (\\password), and run `stockhook migrate` as the owner."]
    for role in ROLES:
        lines += [
            "",
            f"-- {role.purpose}",
            "DO $$ BEGIN",
            f"    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role.name}') THEN",
            f"        CREATE ROLE {role.name} LOGIN;",
            "    END IF;",
            "END $$;",
        ]
    names = ", ".join(role.name for role in ROLES)
    lines += [
        "",
        "DO $$ BEGIN",
        "    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());",
        f"    EXECUTE format('GRANT CONNECT ON DATABASE %I TO {names}', current_database());",
        # A rebuild uses its own schema.
        f"    EXECUTE format('GRANT CREATE ON DATABASE %I TO {OWNER}', current_database());",
        "END $$;",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC;",
        f"GRANT USAGE ON SCHEMA public TO {names};",
        f"GRANT CREATE ON SCHEMA public TO {OWNER};",
        "",
        "-- `stockhook migrate` grants the rest, table by table, each time it is run.",
        "",
    ]
    return "\n".join(lines)


def role_grants(role: DatabaseRole) -> list[str]:
    """The statements with which the owner grants a role its privileges."""
    statements = [
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role.name}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role.name}",
    ]
    statements += [
        f"GRANT {', '.join(privileges)} ON {table} TO {role.name}"
        for table, privileges in role.tables.items()
        if privileges
    ]
    statements += [f"GRANT USAGE ON SEQUENCE {sequence} TO {role.name}" for sequence in role.sequences]
    for function in role.functions:
        statements.append(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        statements.append(f"GRANT EXECUTE ON FUNCTION {function} TO {role.name}")
    return statements


KNOWN_ROLES = """
SELECT rolname
FROM pg_roles
WHERE rolname = ANY($1::text[])
"""

OWNED = "SELECT pg_get_userbyid(relowner) = current_user FROM pg_class WHERE oid = 'event_log'::regclass"


async def grant_tables(connection: Connection) -> bool:
    """Grant privileges to the roles that exist, if the tables are the owner's; return whether it did.

    A release may need a role that no superuser has created yet: the others get their privileges.
    """
    known = {row["rolname"] for row in await connection.fetch(KNOWN_ROLES, [role.name for role in ROLES])}
    if OWNER not in known or not await connection.fetchval(OWNED):
        return False
    async with connection.transaction():
        for role in ROLES[1:]:
            for statement in role_grants(role) if role.name in known else ():
                await connection.execute(statement)
    return True


def role_as_json(role: DatabaseRole) -> dict[str, Any]:
    return {
        "role": role.name,
        "purpose": role.purpose,
        "tables": role.tables,
        "sequences": role.sequences,
        "functions": role.functions,
    }
