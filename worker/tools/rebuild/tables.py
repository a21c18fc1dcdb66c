"""The tables that a family's events write, with the family's rows of the tables that families share."""

from dataclasses import dataclass

from consumers.family import Table
from consumers.registry import FAMILIES, AnyFamily

# Columns that say when or how often a row was written, not what it means.
UNCOMPARED = frozenset({"revision", "finding_id", "noted_at"})


@dataclass(frozen=True, slots=True)
class FamilyRows:
    """The rows of one family in a table; `only` is the condition that selects them."""

    table: Table
    only: str = "true"


def _rows_of(family: AnyFamily) -> tuple[FamilyRows, ...]:
    findings = Table("findings", key=("entity_id", "kind", "event_id"), entity="entity_id")
    rows = [*map(FamilyRows, family.tables), FamilyRows(findings, f"family = '{family.name}'")]
    if family.communications:
        communications = Table("communications", key=("event_id", "kind"), entity="order_id")
        kinds = ", ".join(f"'{kind.value}'" for kind in family.communications)
        rows.append(FamilyRows(communications, f"kind IN ({kinds})"))
    return tuple(rows)


ROWS: dict[str, tuple[FamilyRows, ...]] = {name: _rows_of(family) for name, family in FAMILIES.items()}
