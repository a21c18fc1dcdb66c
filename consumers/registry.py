"""All families. Each is defined in its own store.py."""

from typing import Any

from consumers.buybacks.store import BUYBACKS
from consumers.family import Family
from consumers.inventory.store import INVENTORY
from consumers.orders.store import ORDERS
from consumers.reminders.store import REMINDERS
from consumers.returns.store import RETURNS

# Each family has its own payload, key and state types.
AnyFamily = Family[Any, Any, Any]

FAMILIES: dict[str, AnyFamily] = {
    family.name: family for family in (INVENTORY, ORDERS, RETURNS, BUYBACKS, REMINDERS)
}

# The one family that handles each event type, by routing key.
FAMILY_OF: dict[str, str] = {
    event_type: family.name for family in FAMILIES.values() for event_type in family.event_types
}

# By what a family's events are about, such as `part`.
FAMILY_OF_ENTITY: dict[str, AnyFamily] = {family.entity: family for family in FAMILIES.values()}
