"""The example events that the marketplaces print in their documents, byte for byte.

Some are no JSON as printed (a comma too few or too many): `examples/printed` keeps those, and the
folder of their provider holds each with that comma repaired.
"""

from dataclasses import dataclass
from pathlib import Path

from schemas.registry import SCHEMAS, Provider

_FOLDER = Path(__file__).with_name("examples")


@dataclass(frozen=True, slots=True)
class Example:
    """`name` is the event type, numbered where a type is printed in two shapes."""

    provider: Provider
    event_type: str
    name: str
    body: bytes


def documented() -> tuple[Example, ...]:
    """Every example as valid JSON, in the order of the documents."""
    return tuple(
        _read(provider, name, Path(str(provider), f"{name}.json"))
        for provider, schema in SCHEMAS.items()
        for name in schema.examples
    )


def as_printed() -> tuple[Example, ...]:
    """Those that are no JSON, as they stand in the documents."""
    return tuple(
        _read(provider, name, Path("printed", f"{name}.txt"))
        for provider, schema in SCHEMAS.items()
        for name in schema.broken_examples
    )


def _read(provider: Provider, name: str, path: Path) -> Example:
    event_type = name.removesuffix(".1").removesuffix(".2")
    return Example(provider, event_type, name, (_FOLDER / path).read_bytes())
