"""The content of the spool's file: entries with their sequence numbers, the file's state, and its statements.

Every entry carries a checksum, and so does the state, so that damaged content is recognized. Functions that
change them run in the caller's transaction and return the state after it.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b

import orjson

from worker.amqp.channel import Message

SOURCE_HEADER = "x-stream"
NUMBER_HEADER = "x-place"

# The types that sqlite3 returns: None, int, float, str or bytes.
Values = Sequence[object]


class Damaged(Exception):
    """The content of the file is not what was written."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """An entry; `message` carries its source and sequence number in its headers, if it has them."""

    number: int
    message: Message
    spooled_at: datetime


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry that has neither a number in the file nor a sequence number yet."""

    spooled_at: str
    family: str | None
    exchange: str
    routing_key: str
    type: str
    headers: str
    body: bytes
    size: int


def draft_of(message: Message, family: str | None) -> Draft:
    own = {SOURCE_HEADER, NUMBER_HEADER}
    headers = orjson.dumps({name: value for name, value in message.headers.items() if name not in own})
    return Draft(
        spooled_at=datetime.now(UTC).isoformat(),
        family=family,
        exchange=message.exchange,
        routing_key=message.routing_key,
        type=message.type,
        headers=headers.decode(),
        body=message.body,
        size=len(headers) + len(message.body),
    )


def fits(entry: Values) -> bool:
    """Whether these are the values that were written; a damaged page may give values of any type."""
    *fields, written, body = entry
    return isinstance(body, bytes) and _is_intact(fields, written, body)


def _is_intact(fields: Values, written: object, body: bytes = b"") -> bool:
    try:
        return _checksum(fields, body) == written
    except TypeError:
        return False


def _checksum(fields: Values, body: bytes = b"") -> bytes:
    return blake2b(orjson.dumps(fields) + body, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class State:
    """Counters of the file, changed in the same transaction as its entries."""

    source: int
    last_number: int = 0
    depth: int = 0
    size: int = 0
    last_numbers: Mapping[str, int] = field(default_factory=dict)
    """The last sequence number, per family."""

    def values(self) -> Values:
        last_numbers = orjson.dumps(self.last_numbers).decode()
        fields = (self.source, self.last_number, self.depth, self.size, last_numbers)
        return (*fields, _checksum(fields))


IS_MADE = "SELECT count(*) FROM sqlite_schema"


def has_tables(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(IS_MADE).fetchone() != (0,))


# `stream` is the source and `place` the sequence number: files of earlier releases have these columns.
CREATE_ENTRIES = """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    spooled_at TEXT NOT NULL,
    stream INTEGER,
    family TEXT,
    place INTEGER,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    type TEXT NOT NULL,
    headers TEXT NOT NULL,
    checksum BLOB NOT NULL,
    body BLOB NOT NULL
)
"""

# The number of columns of the table of entries.
COLUMNS = 11

# One row; `places` is State.last_numbers.
CREATE_STATE = """
CREATE TABLE state (
    stream INTEGER NOT NULL,
    last_number INTEGER NOT NULL,
    depth INTEGER NOT NULL,
    size INTEGER NOT NULL,
    places TEXT NOT NULL,
    checksum BLOB NOT NULL
)
"""

INSERT_STATE = "INSERT INTO state VALUES (?, ?, ?, ?, ?, ?)"


def create_tables(connection: sqlite3.Connection, state: State) -> None:
    connection.execute(CREATE_ENTRIES)
    connection.execute(CREATE_STATE)
    connection.execute(INSERT_STATE, state.values())


READ_STATE = "SELECT * FROM state"


def read_state(connection: sqlite3.Connection) -> State:
    """Raises: Damaged."""
    values = connection.execute(READ_STATE).fetchone()
    if values is None or not _is_intact(values[:-1], values[-1]):
        raise Damaged
    source, last_number, depth, size, last_numbers, _ = values
    return State(source, last_number, depth, size, orjson.loads(last_numbers))


OLDEST = "SELECT * FROM entries ORDER BY number LIMIT ?"


def read_oldest(connection: sqlite3.Connection, limit: int) -> list[Spooled]:
    """Raises: Damaged."""
    entries = connection.execute(OLDEST, (limit,)).fetchall()
    if not all(map(fits, entries)):
        raise Damaged
    return [_spooled(entry) for entry in entries]


def _spooled(
    entry: tuple[int, str, int | None, str, int | None, str, str, str, str, bytes, bytes],
) -> Spooled:
    number, spooled_at, source, _, sequence_number, exchange, routing_key, kind, headers, _, body = entry
    stamps = {} if sequence_number is None else {SOURCE_HEADER: source, NUMBER_HEADER: sequence_number}
    message = Message(exchange, routing_key, kind, orjson.loads(headers) | stamps, body)
    return Spooled(number, message, datetime.fromisoformat(spooled_at))


OLDEST_AT = "SELECT spooled_at FROM entries ORDER BY number LIMIT 1"


def read_oldest_at(connection: sqlite3.Connection) -> datetime | None:
    """Raises: Damaged."""
    row = connection.execute(OLDEST_AT).fetchone()
    try:
        return None if row is None else datetime.fromisoformat(row[0])
    except (TypeError, ValueError) as error:
        raise Damaged from error


UPDATE_STATE = """
UPDATE state
SET stream = ?, last_number = ?, depth = ?, size = ?, places = ?, checksum = ?
"""

INSERT = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def insert(connection: sqlite3.Connection, drafts: Sequence[Draft], state: State) -> State:
    state, entries = _numbered(drafts, state)
    connection.executemany(INSERT, entries)
    connection.execute(UPDATE_STATE, state.values())
    return state


def _numbered(drafts: Sequence[Draft], state: State) -> tuple[State, list[Values]]:
    """The entries of these drafts, numbered on from a state, and the state after them."""
    last_numbers = dict(state.last_numbers)
    entries: list[Values] = []
    for number, draft in enumerate(drafts, start=state.last_number + 1):
        source, sequence_number = None, None
        if draft.family is not None:
            source = state.source
            sequence_number = last_numbers[draft.family] = last_numbers.get(draft.family, 0) + 1
        target = (draft.exchange, draft.routing_key, draft.type, draft.headers)
        fields = (number, draft.spooled_at, source, draft.family, sequence_number, *target)
        entries.append((*fields, _checksum(fields, draft.body), draft.body))
    depth = state.depth + len(drafts)
    size = state.size + sum(draft.size for draft in drafts)
    return State(state.source, state.last_number + len(drafts), depth, size, last_numbers), entries


REMOVE = """
DELETE FROM entries
WHERE number IN (SELECT value FROM json_each(?))
RETURNING length(CAST(headers AS BLOB)) + length(body)
"""


def remove(connection: sqlite3.Connection, numbers: Sequence[int], state: State) -> State:
    """Numbers of missing entries change nothing."""
    removed = connection.execute(REMOVE, (orjson.dumps(numbers).decode(),)).fetchall()
    size = state.size - sum(bytes_ for (bytes_,) in removed)
    state = replace(state, depth=state.depth - len(removed), size=size)
    connection.execute(UPDATE_STATE, state.values())
    return state


# A damaged file may hold several images of the same page.
CARRY_OVER = "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

MEASURE = """
SELECT count(*), coalesce(sum(length(CAST(headers AS BLOB)) + length(body)), 0), coalesce(max(number), 0)
FROM entries
"""


def carry_over(connection: sqlite3.Connection, entries: Iterable[Values], state: State) -> State:
    """Insert entries of another file, and take the rest of the state from `state`."""
    connection.executemany(CARRY_OVER, entries)
    depth, size, last_number = connection.execute(MEASURE).fetchone()
    last_number = max(last_number, state.last_number)
    state = replace(state, last_number=last_number, depth=depth, size=size)
    connection.execute(UPDATE_STATE, state.values())
    return state
