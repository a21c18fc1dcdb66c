"""The entities that a reconciliation has read, on disk: a marketplace may list millions."""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from typing import Self

import orjson

from worker.tools.reconcile.difference import Kind

CREATE = """
CREATE TABLE entity (
    entity_id text PRIMARY KEY,
    is_listed integer NOT NULL,
    doubt integer
) WITHOUT ROWID
"""

COUNT_LISTED = """
SELECT count(*)
FROM entity
WHERE is_listed AND entity_id IN (SELECT value FROM json_each(?))
"""

NOTE = """
INSERT INTO entity (entity_id, is_listed, doubt)
VALUES (?, 1, ?)
ON CONFLICT (entity_id) DO UPDATE
SET is_listed = 1,
    doubt = excluded.doubt
"""

DOUBT = """
INSERT INTO entity (entity_id, is_listed, doubt)
VALUES (?, 0, ?)
ON CONFLICT (entity_id) DO NOTHING
"""

COUNT_DOUBTS = "SELECT count(*) FROM entity WHERE doubt IS NOT NULL"

DOUBTS = """
SELECT entity_id
FROM entity
WHERE doubt IS NOT NULL
ORDER BY doubt, entity_id
LIMIT ?
"""


class Scratch:
    """A temporary file without a name, with at most 8 MiB in memory."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -8192", "temp_store = FILE"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(CREATE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def note_listed(self, doubts: Mapping[str, Kind | None]) -> int:
        """Note the entities of a page with their possible differences; return how many were listed before.

        The latest entry of an entity counts.
        """
        (count,) = self._connection.execute(COUNT_LISTED, (orjson.dumps(list(doubts)).decode(),)).fetchone()
        self._connection.executemany(
            NOTE, ((entity_id, kind and kind.rank) for entity_id, kind in doubts.items())
        )
        return int(count)

    def doubt_unlisted(self, entity_ids: Collection[str]) -> None:
        self._connection.executemany(DOUBT, ((entity_id, Kind.ONLY_HERE.rank) for entity_id in entity_ids))

    def count_doubts(self) -> int:
        (count,) = self._connection.execute(COUNT_DOUBTS).fetchone()
        return int(count)

    def doubts(self, most: int) -> Iterator[str]:
        """At most `most` possible differences, those in the status first."""
        for (entity_id,) in self._connection.execute(DOUBTS, (most,)):
            yield entity_id
