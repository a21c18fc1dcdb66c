"""The example events that the two marketplaces print in their documents, byte for byte.

Four are no JSON as printed (a comma too few or too many): `examples/printed` keeps those, and the
folder of their provider holds each with that comma repaired.
"""

from dataclasses import dataclass
from pathlib import Path

from schemas.events import Provider

_FOLDER = Path(__file__).with_name("examples")

# In the order of the documents.
_OVOKO = (
    "part.status.changed",
    "order.created",
    "order.cancelled",
    "order.return.created",
    "order.return.updated",
)
_BUYBACK = (
    "OrderCreatedEvent",
    "CollectionItemPickUpScheduledEvent",
    "OrderPickupReminderEvent.1",
    "CollectionItemPickupMissedEvent",
    "CollectionItemInTransitEvent",
    "CollectionItemReceivedEvent",
    "CollectionItemQualityCheckFailedEvent",
    "CollectionItemFinalizedEvent",
    "OrderCustomerPaymentDetailsCreatedEvent",
    "OrderDropOffPendingEvent",
    "OrderSchedulePickupReminderEvent",
    "OrderPickupReminderEvent.2",
    "OrderDropOffReminderEvent",
)
_BROKEN = (
    (Provider.OVOKO, "order.return.created"),
    (Provider.OVOKO, "order.return.updated"),
    (Provider.BUYBACK, "CollectionItemFinalizedEvent"),
    (Provider.BUYBACK, "OrderCustomerPaymentDetailsCreatedEvent"),
)


@dataclass(frozen=True, slots=True)
class Example:
    """`name` is the event type, numbered where a type is printed in two shapes."""

    provider: Provider
    event_type: str
    name: str
    body: bytes


def documented() -> tuple[Example, ...]:
    """Every example as valid JSON, in the order of the documents."""
    names = [(Provider.OVOKO, name) for name in _OVOKO]
    names += [(Provider.BUYBACK, name) for name in _BUYBACK]
    return tuple(_read(provider, name, Path(str(provider), f"{name}.json")) for provider, name in names)


def as_printed() -> tuple[Example, ...]:
    """The four that are no JSON, as they stand in the documents."""
    return tuple(_read(provider, name, Path("printed", f"{name}.txt")) for provider, name in _BROKEN)


def _read(provider: Provider, name: str, path: Path) -> Example:
    event_type = name.removesuffix(".1").removesuffix(".2")
    return Example(provider, event_type, name, (_FOLDER / path).read_bytes())
