"""The state of a subscriber of the change feed."""

from collections.abc import Iterable, Mapping
from typing import Any

# A CloudEvent as a subscriber reads it.
PublishedChange = Mapping[str, Any]
Entity = tuple[str, ...]


def last_states(changes: Iterable[PublishedChange]) -> dict[Entity, Any]:
    """The state of a subscriber that applies each change once, by `sequence`."""
    newest: dict[Entity, PublishedChange] = {}
    for change in changes:
        entity = entity_of(change)
        if entity not in newest or change["sequence"] > newest[entity]["sequence"]:
            newest[entity] = change
    return {entity: change["data"]["after"] for entity, change in newest.items()}


def entity_of(change: PublishedChange) -> Entity:
    kind = change["type"].split(".")[1]
    after = change["data"]["after"]
    if kind in ("reminder", "communication"):
        return (kind, change["subject"], after["kind"], after["occurred_at"], str(after.get("item_id")))
    return (kind, change["subject"])
