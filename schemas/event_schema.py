"""What a marketplace's events look like: the contract between its schema module and its readers."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from schemas.tolerance import Tolerant


class Payload(Tolerant):
    """An event, as it was read from a body."""

    @property
    @abstractmethod
    def occurred_at(self) -> datetime:
        """When it happened, as the sender says."""

    @property
    @abstractmethod
    def entity_id(self) -> str:
        """The id of what the event is about."""


@dataclass(frozen=True, slots=True)
class EventIds:
    """The ids that distinguish an event: see `schemas.identity`."""

    event_id: UUID
    content_id: UUID


class NotIdentified(ValueError):
    """The body lacks a member that the ids are made of. The text names the member."""


# The type of an event, and its body without the member that names the type.
Identify = Callable[[str, Mapping[str, Any]], EventIds]


@dataclass(frozen=True, slots=True)
class EventSchema:
    """How the bodies of one marketplace are read.

    `type_member` is the member that names the event type; each model has it as a Literal. `observations` are
    events that Stockhook publishes about what it saw in the marketplace's lists: no webhook may be of these
    types. `unwrap` removes an envelope around the event. `identify` raises NotIdentified. An event of a type
    that no family handles gets its ids from `identify_unhandled`, or else from `identify`.
    `possible_entity_ids` are the values, most likely first, that may be the entity's id in an event that
    breaks its model. `examples` and `broken_examples` name the files in `schemas/examples`: the events that
    the marketplace's documents print, and those of them that are no JSON as printed.
    """

    type_member: str
    webhooks: tuple[type[Payload], ...]
    identify: Identify
    observations: tuple[type[Payload], ...] = ()
    unwrap: Callable[[Any], Any] = lambda document: document
    identify_unhandled: Identify | None = None
    possible_entity_ids: Callable[[Mapping[str, Any]], Iterator[object]] = lambda _event: iter(())
    examples: tuple[str, ...] = ()
    broken_examples: tuple[str, ...] = ()

    def by_type(self, models: tuple[type[Payload], ...]) -> dict[str, type[Payload]]:
        """These models by their event type, as spelled on the wire."""
        return {get_args(model.model_fields[self.type_member].annotation)[0]: model for model in models}
