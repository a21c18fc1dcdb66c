"""Tables beside the event log as the console meets them after years, and addresses that look into them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import asyncpg

from tests.support.console_examples import Ids, addresses
from worker.actions.registry import KINDS
from worker.console.routes import SCREENS
from worker.dead_letters.criteria import ORIGINS

# Scaled down with --events. Of the dead letters, those that wait; as many again are handled.
LETTERS, ACTIONS, AUDIT_RECORDS, JOBS, UNHANDLED = 10_000, 100_000, 100_000, 500, 10_000

# Origins of letters: the families, the quarantine, and a subscriber.
LETTER_ORIGINS = (*ORIGINS, "webhook.shop")

LETTERS_SQL = """
INSERT INTO dead_letters
    (message_key, origin, state, event_id, provider, type, entity_id, reason, exception, fingerprint,
     attempts, received_at, first_failed_at, last_failed_at, arrived_at, headers, body, provenance, evidence)
SELECT gen_random_uuid(), ($2::text[])[1 + number % cardinality($2::text[])],
       CASE WHEN number <= $1 THEN 'waiting' ELSE (ARRAY['replayed', 'discarded'])[1 + number % 2] END,
       gen_random_uuid(), 'ovoko', 'part.status.changed', (1000000000 + number * 20)::text,
       'exhausted: RaiseError [P0001] in consumers/family.py:write #' || number % 25, 'RaiseError',
       lpad(to_hex(number % 25), 8, '0'), 4, at, at, at + interval '217 s', at + interval '217 s',
       json_build_object('x-attempt', 4, 'x-reason', 'exhausted', 'x-provider', 'ovoko',
                         'x-event-type', 'part.status.changed'),
       convert_to(format(
           '{"event_type": "part.status.changed", "timestamp": "%s", "event_data": {"part_id": "%s", '
           '"status": "sold"}}', to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'), 1000000000 + number * 20),
           'UTF8'),
       'webhook',
       jsonb_build_object('gateway_event', 'evt_letter_' || number, 'gateway_attempt', 4,
                          'request_id', md5('letter' || number))
FROM (
    SELECT number, now() - interval '30 days' * (number / $1::float8) AS at
    FROM generate_series(2 * $1::bigint, 1, -1) AS number
) AS letters
"""

# One in fifty needs an operator.
ACTIONS_SQL = """
INSERT INTO actions
    (kind, key, subject, request, state, attempts, event_id, created_at, published_at, finished_at, outcome)
SELECT ($2::text[])[1 + number % cardinality($2::text[])], 'bench:' || number, 'order-' || number / 3,
       '{}'::bytea,
       CASE WHEN number % 50 = 0 THEN (ARRAY['failed', 'refused', 'unknown'])[1 + number / 50 % 3]
            ELSE 'done' END,
       1, gen_random_uuid(), at, at, at,
       json_build_object('status', 200, 'reason', 'the marketplace accepted it',
                         'reference', md5(number::text))
FROM (
    SELECT number, now() - interval '365 days' * (number / $1::float8) AS at
    FROM generate_series($1::bigint, 1, -1) AS number
) AS actions
"""

LETTER_AUDIT_SQL = """
INSERT INTO dead_letter_audit (dead_letter_id, at, who, action, reason)
SELECT 1 + number % (SELECT count(*) FROM dead_letters),
       now() - interval '365 days' * (number / $1::float8),
       (ARRAY['anna', 'boris', 'carla'])[1 + number % 3], (ARRAY['discarded', 'replayed'])[1 + number % 2],
       'sent again by hand ' || number
FROM generate_series($1::bigint, 1, -1) AS number
"""

OPERATOR_AUDIT_SQL = """
INSERT INTO operator_audit (at, who, action, subject, reason)
SELECT now() - interval '365 days' * (number / $1::float8),
       (ARRAY['anna', 'boris', 'carla'])[1 + number % 3],
       (ARRAY['family.paused', 'family.resumed'])[1 + number % 2], 'inventory', 'maintenance ' || number
FROM generate_series($1::bigint, 1, -1) AS number
"""

# None is open: the console would execute it.
JOBS_SQL = """
INSERT INTO bulk_jobs
    (kind, selection, last_id, matched, rate, who, reason, state, total, tally, starts, started_at,
     progress_at, ended_at)
SELECT (ARRAY['dry_run', 'replay', 'discard'])[1 + number % 3], '{"origin": "inventory"}',
       (SELECT max(dead_letter_id) FROM dead_letters), 1000, 50, 'anna', 'after the repair of the tables',
       (ARRAY['done', 'cancelled'])[1 + number % 2], 1000,
       CASE number % 3
           WHEN 0 THEN json_build_object(
               'handled', 1000,
               'outcomes', (SELECT json_object_agg('outcome ' || one, json_build_object(
                   'letters', 20, 'examples', (SELECT json_agg(id) FROM generate_series(1, 20) AS id)))
               FROM generate_series(1, 50) AS one))
           WHEN 1 THEN json_build_object(
               'replayed', 900, 'applied', 710, 'came_back', 190, 'not_replayed', 100,
               'returned', (SELECT json_agg(id) FROM generate_series(1, 100) AS id),
               'unready', (SELECT json_agg(json_build_array(id, 'it cannot be read'))
                           FROM generate_series(1, 100) AS id))
           ELSE json_build_object('discarded', 1000)
       END,
       1, now(), now(), now()
FROM generate_series(1, $1::bigint) AS number
"""

UNHANDLED_SQL = """
INSERT INTO unhandled_events (provider, type, event_id, content_id, received_at, body)
SELECT 'ovoko', 'part.kind.' || number % 40, gen_random_uuid(), gen_random_uuid(),
       now() - interval '30 days' * (number / $1::float8), '{}'
FROM generate_series($1::bigint, 1, -1) AS number
"""

# The first event after this share of the log.
EVENTS_SQL = """
SELECT event_id, entity_id, evidence->>'gateway_event' AS gateway_id
FROM event_log
WHERE entity_id NOT IN ('long', 'short') AND seq >= (SELECT max(seq) * $1::float8 FROM event_log)
ORDER BY seq
LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Filled:
    """Ids of rows, and gateway ids of a new and of an old event."""

    ids: Ids
    old_event_id: str
    gateway_id: str
    old_gateway_id: str


async def fill(connection: "asyncpg.Connection[asyncpg.Record]", share: float) -> None:
    for statement, number, *more in (
        (LETTERS_SQL, LETTERS, list(LETTER_ORIGINS)),
        (ACTIONS_SQL, ACTIONS, sorted(KINDS)),
        (LETTER_AUDIT_SQL, AUDIT_RECORDS // 2),
        (OPERATOR_AUDIT_SQL, AUDIT_RECORDS // 2),
        (JOBS_SQL, JOBS),
        (UNHANDLED_SQL, UNHANDLED),
    ):
        await connection.execute(statement, max(10, int(number * share)), *more, timeout=None)
    await connection.execute("VACUUM (ANALYZE)", timeout=None)


async def look_up(connection: "asyncpg.Connection[asyncpg.Record]") -> Filled:
    letters = await connection.fetch(
        "SELECT DISTINCT ON (origin) dead_letter_id FROM dead_letters WHERE state = 'waiting' "
        "ORDER BY origin, dead_letter_id"
    )
    old = await connection.fetchrow(EVENTS_SQL, 0.05, timeout=None)
    new = await connection.fetchrow(EVENTS_SQL, 0.995, timeout=None)
    assert old is not None
    assert new is not None
    actions = await connection.fetch("SELECT action_id FROM actions WHERE state = 'failed' LIMIT 3")
    jobs = await connection.fetch("SELECT job_id FROM bulk_jobs ORDER BY job_id DESC LIMIT 6")
    ids = Ids(
        part=new["entity_id"],
        order="order-1",
        returned="return-1",
        buyback_order="order-2",
        event_id=str(new["event_id"]),
        letters=tuple(row["dead_letter_id"] for row in letters),
        actions=tuple(str(row["action_id"]) for row in actions),
        jobs=tuple(row["job_id"] for row in jobs),
    )
    return Filled(ids, str(old["event_id"]), new["gateway_id"], old["gateway_id"])


def rows(filled: Filled) -> Mapping[str, Sequence[str]]:
    """Addresses by the name of what they request: each screen, and those of the lists and of the search with
    the filters that operators use.
    """
    ids = filled.ids
    unknown = "00000000-0000-4000-8000-00000000ffff"
    extra = {
        "search: a part": _search(q=ids.part),
        "search: a new event": _search(q=ids.event_id),
        "search: an old event": _search(q=filled.old_event_id),
        "search: a gateway's id, new": _search(q=filled.gateway_id),
        "search: a gateway's id, old": _search(q=filled.old_gateway_id),
        "search: an unknown id": _search(q="evt_unknown"),
        "search: an unknown event": _search(q=unknown),
        "entity: 4 events": [f"/entities/inventory/{ids.part}"],
        "entity: 150 events": ["/entities/inventory/short"],
        "entity: 100,000 events": ["/entities/inventory/long"],
        "entity: 100,000 events, a time": ["/entities/inventory/long?at=2026-01-01T00:00"],
        "dead letters: groups": ["/dead-letters"],
        "dead letters: list": ["/dead-letters?view=list"],
        "dead letters: a page in the middle": [f"/dead-letters?view=list&after={int(LETTERS * 1.5)}"],
        "dead letters: a kind of failure": ["/dead-letters?fingerprint=00000007"],
        "dead letters: a reason": ["/dead-letters?reason=%2317&view=groups"],
        "dead letters: an entity, any state": ["/dead-letters?entity=1000000100&state=any"],
        "dead letters: discarded, groups": ["/dead-letters?state=discarded&view=groups"],
        "dead letters: a gateway's id": ["/dead-letters?gateway_id=evt_letter_77&state=any"],
        "actions: all": ["/actions"],
        "actions: failed": ["/actions?state=failed"],
        "actions: a kind": [f"/actions?kind={sorted(KINDS)[0]}"],
        "actions: an unknown kind": ["/actions?kind=unknown"],
        "actions: a subject": ["/actions?subject=order-7000"],
        "audit trail: all": ["/audit-trail"],
        "audit trail: a user": ["/audit-trail?who=boris"],
        "audit trail: a letter": ["/audit-trail?subject=77"],
        "audit trail: no match": ["/audit-trail?who=zoe"],
        "jobs/new: all letters": ["/jobs/new?all=1"],
    }
    return {screen.path: addresses(screen.path, ids) for screen in SCREENS} | extra


def _search(**query: str) -> list[str]:
    return [f"/search?{urlencode(query)}"]
