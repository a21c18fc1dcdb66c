"""Each kind of exclusive work has its own lock."""

import re
from pathlib import Path

from worker.postgres.locks import AdvisoryLock, AdvisoryLockClass

CHECKOUT = Path(__file__).resolve().parents[2]
LITERAL_KEY = re.compile(r"pg_(?:try_)?advisory_\w*lock\(\s*(\d+)")


def literal_keys(pattern: str) -> dict[str, list[int]]:
    return {
        path.name: [int(key) for key in keys]
        for path in CHECKOUT.glob(pattern)
        if (keys := LITERAL_KEY.findall(path.read_text()))
    }


def test_no_two_locks_share_a_key() -> None:
    keys = [*AdvisoryLock, *AdvisoryLockClass]

    assert len(set(keys)) == len(AdvisoryLock.__members__) + len(AdvisoryLockClass.__members__)


def test_code_takes_only_locks_of_the_enum() -> None:
    assert literal_keys("worker/**/*.py") == {}


def test_migrations_take_only_locks_of_the_enum() -> None:
    keys = literal_keys("schemas/migrations/*.sql")

    assert keys
    assert {key for used in keys.values() for key in used} == {AdvisoryLock.EVENT_LOG_MONTHS}
