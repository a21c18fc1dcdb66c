"""The tables that a family's events write, with the family's rows of the tables that families share."""

from dataclasses import dataclass

from consumers.family import COMMUNICATIONS, FINDINGS, Table
from consumers.registry import FAMILIES, AnyFamily

# Columns that say when, how often or by which release a row was written, not what it means.
UNCOMPARED = frozenset({"revision", "summary", "finding_id", "noted_at"})


@dataclass(frozen=True, slots=True)
class FamilyRows:
    """The rows of one family in a table; `only` is the condition that selects them."""

    table: Table
    only: str = "true"


def _rows_of(family: AnyFamily) -> tuple[FamilyRows, ...]:
    rows = [*map(FamilyRows, family.tables), FamilyRows(FINDINGS, f"family = '{family.name}'")]
    if family.communications:
        kinds = ", ".join(f"'{kind.value}'" for kind in family.communications)
        rows.append(FamilyRows(COMMUNICATIONS, f"kind IN ({kinds})"))
    return tuple(rows)


ROWS: dict[str, tuple[FamilyRows, ...]] = {name: _rows_of(family) for name, family in FAMILIES.items()}
