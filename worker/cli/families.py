"""Arguments that name a family, or what its events are about: the choices are those of the registry."""

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from consumers.registry import FAMILIES, FAMILY_OF_ENTITY

_ENTITIES = ", ".join(
    f"{entity} ({family.event_types[0].partition('.')[0]})" for entity, family in FAMILY_OF_ENTITY.items()
)

if TYPE_CHECKING:
    FamilyName = str
    Entity = str
else:
    FamilyName = Literal[tuple(FAMILIES)]
    Entity = Annotated[
        Literal[tuple(FAMILY_OF_ENTITY)],
        Parameter(help=f"What the id belongs to, with its marketplace: {_ENTITIES}."),
    ]
