"""SQL that makes writes of the product fail or wait.

There is one fault at a time. `Stack.empty` removes that of an earlier test.
"""

from collections.abc import Mapping

REMOVE_FAULT = """
DROP FUNCTION IF EXISTS test_fault CASCADE;
DROP SEQUENCE IF EXISTS test_fault_count;
"""


def fail_writes(*tables: str, sqlstate: str = "P0001", times: int | None = None) -> str:
    """Each write of these tables fails, or the first `times` writes."""
    return fail_rows(dict.fromkeys(tables, "true"), sqlstate=sqlstate, times=times)


def fail_rows(
    rows: Mapping[str, str], message: str = "not now", sqlstate: str = "P0001", times: int | None = None
) -> str:
    """Writes of some rows fail: each table has a condition on `NEW`."""
    statements = [f"RAISE EXCEPTION USING MESSAGE = '{message}', ERRCODE = '{sqlstate}';"]
    counter = []
    if times is not None:
        counter = ["CREATE SEQUENCE test_fault_count;"]
        statements.insert(0, f"IF nextval('test_fault_count') > {times} THEN RETURN NEW; END IF;")
    triggers = [
        _trigger(f"BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW WHEN ({condition})")
        for table, condition in rows.items()
    ]
    return "\n".join([*counter, _function(" ".join(statements)), *triggers])


def delay_writes(table: str, seconds: float, row: str | None = None) -> str:
    """Each statement that writes this table waits, or each row that fulfils a condition on `NEW`."""
    delay = _function(f"PERFORM pg_sleep({seconds}); RETURN NEW;")
    if row is None:
        return delay + _trigger(f"AFTER INSERT OR UPDATE ON {table} FOR EACH STATEMENT")
    return delay + _trigger(f"BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW WHEN ({row})")


def _function(statements: str) -> str:
    return f"CREATE FUNCTION test_fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statements} END $$;"


def _trigger(event: str) -> str:
    return f"CREATE TRIGGER test_fault {event} EXECUTE FUNCTION test_fault();"
