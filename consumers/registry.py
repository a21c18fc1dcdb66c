"""All families on one screen."""

from typing import Any

from consumers.buybacks.store import BUYBACKS
from consumers.family import Family
from consumers.inventory.store import INVENTORY
from consumers.orders.store import ORDERS
from consumers.reminders.store import REMINDERS
from consumers.returns.store import RETURNS
from schemas.events import routing_key_of

# Each family has payload, key and state types of its own; here they only stand side by side.
AnyFamily = Family[Any, Any, Any]

FAMILIES: dict[str, AnyFamily] = {
    family.name: family for family in (INVENTORY, ORDERS, RETURNS, BUYBACKS, REMINDERS)
}

# The one family that each event type goes to, by routing key.
FAMILY_OF: dict[str, str] = {
    routing_key_of(payload): family.name for family in FAMILIES.values() for payload in family.payloads
}
