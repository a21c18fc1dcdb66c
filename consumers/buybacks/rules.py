"""The rules by which a buyback event changes an order."""

from enum import StrEnum


class Rule(StrEnum):
    FIRST = "first event of the order"
    NEW_ITEM = "first event of the item"
    NEW_SHIPMENT = "first event of the shipment"
    NEW_COLUMN = "per column: a value is stored where none was known"
    NEWEST = "per column: the newest value wins"
    OLDER = "per column: the newest value wins, and a newer one is known"
    CREATED_YIELDS = "per column: the created event yields to every other event"
    FURTHER_ALONG = "per column: at the same instant the status further along the order's life wins"
    GREATER_TEXT = "per column: at the same instant the greater text wins"
    REPEATED = "per column: repeats the known value"
