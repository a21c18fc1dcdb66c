"""All marketplaces whose events are known, with the schema of their events."""

from enum import StrEnum

from schemas import buyback, ovoko
from schemas.event_schema import EventSchema


class Provider(StrEnum):
    """A marketplace's name: in paths, routing keys, headers, tables and settings."""

    OVOKO = "ovoko"
    BUYBACK = "buyback"


SCHEMAS: dict[Provider, EventSchema] = {
    Provider.OVOKO: ovoko.SCHEMA,
    Provider.BUYBACK: buyback.SCHEMA,
}
