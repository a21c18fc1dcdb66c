"""Which tables a family's projection consists of, and what of them it is."""

from dataclasses import dataclass, fields

from consumers.family import CommunicationKind as Kind
from consumers.inventory.details import PartDetails
from consumers.returns.details import ReturnDetails

# What says when or how often a row was written, not what it means.
UNCOMPARED = frozenset({"revision", "finding_id", "noted_at"})


@dataclass(frozen=True, slots=True)
class Table:
    """`key` names a row. Its column `entity` is the log's entity_id; `only` are the family's own rows.

    `details` are columns that no event writes, and `beside` tables that none writes, by the same entity:
    a rebuild leaves both as they are.
    """

    name: str
    key: tuple[str, ...]
    entity: str
    only: str = "true"
    details: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def _columns(details: type[PartDetails | ReturnDetails], *others: str) -> tuple[str, ...]:
    return tuple(field.name for field in fields(details) if field.name not in others)


def _findings(family: str) -> Table:
    return Table("findings", ("entity_id", "kind", "event_id"), "entity_id", f"family = '{family}'")


def _communications(*kinds: Kind) -> Table:
    listed = ", ".join(f"'{kind.value}'" for kind in kinds)
    return Table("communications", ("event_id", "kind"), "order_id", f"kind IN ({listed})")


COMMUNICATIONS = {
    "buybacks": (
        Kind.MISSED_COLLECTION,
        Kind.ITEM_RECEIVED,
        Kind.QUALITY_CHECK_FAILED,
        Kind.ITEM_APPROVED,
        Kind.PAYMENT_DETAILS_RECEIVED,
    ),
    "reminders": (
        Kind.COLLECTION_DATE_REMINDER,
        Kind.SCHEDULE_PICKUP_FIRST,
        Kind.SCHEDULE_PICKUP_SECOND,
        Kind.DROP_OFF_REMINDER,
    ),
}

# The first of each is the one whose rows every batch of the family locks first.
ROWS: dict[str, tuple[Table, ...]] = {
    "inventory": (Table("parts", ("part_id",), "part_id", details=_columns(PartDetails)),),
    "orders": (Table("orders", ("order_id",), "order_id"),),
    "returns": (
        Table(
            "returns",
            ("return_id",),
            "return_id",
            details=_columns(ReturnDetails, "items"),
            beside=("return_items",),
        ),
    ),
    "buybacks": (
        Table("buyback_orders", ("order_id",), "order_id"),
        Table("buyback_items", ("order_id", "item_id"), "order_id"),
        Table("buyback_shipments", ("order_id", "tracking_code"), "order_id"),
    ),
    "reminders": (Table("reminders", ("order_id", "kind", "occurred_at"), "order_id"),),
}

TABLES: dict[str, tuple[Table, ...]] = {
    family: (*rows, _communications(*COMMUNICATIONS.get(family, ())), _findings(family))
    if family in COMMUNICATIONS
    else (*rows, _findings(family))
    for family, rows in ROWS.items()
}
