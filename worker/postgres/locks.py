"""The advisory locks in Postgres: one value per kind of work, so that no two kinds exclude each other.

Source of the two key spaces: PostgreSQL documentation, "Advisory Locks" (one bigint, or two integers).
"""

from enum import IntEnum, unique


@unique
class AdvisoryLock(IntEnum):
    """The key of each lock with one bigint."""

    MIGRATIONS = 7357017175
    # The function add_event_log_months takes this one.
    EVENT_LOG_MONTHS = 7357017176
    REPLAY = 7357017177
    RETENTION = 7357017178
    DRY_RUN = 7357017179


@unique
class AdvisoryLockClass(IntEnum):
    """The first of the two integers of a lock per name; the second is the hash of the name."""

    REBUILD = 735701
    ACTIONS_OF_SUBJECT = 735702
    EVENT_ID = 735703
    BULK_JOBS_OF_USER = 735704


TRY_LOCK = "SELECT pg_try_advisory_lock($1::bigint)"
LOCK = "SELECT pg_advisory_lock($1::bigint)"
UNLOCK = "SELECT pg_advisory_unlock($1::bigint)"

TRY_LOCK_NAME = "SELECT pg_try_advisory_lock($1::integer, hashtext($2))"
LOCK_NAME_IN_TRANSACTION = "SELECT pg_advisory_xact_lock($1::integer, hashtext($2))"
