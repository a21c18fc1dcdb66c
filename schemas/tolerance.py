"""Validation that treats an unreadable optional field as absent, and names it."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

T = TypeVar("T")

# A document that breaks more rules than these counts as invalid. A body of 256 KiB is not large enough for so
# many members with names; without a bound, one with as many elements would take seconds.
MOST_BROKEN_RULES = 25_000

# From a value up to what holds it, and on: deeper than any model is nested.
MOST_ROUNDS = 20

Path = tuple[str | int, ...]

# What is to be removed from a document, by the steps that lead there; None is where it ends.
Tree = dict[str | int, "Tree | None"]


class Tolerant(BaseModel):
    """A document as it was read. Fields that could not be read are absent."""

    # A private attribute of pydantic costs each document more than the reading of its fields. A copy loses
    # this one, and comparisons ignore it.
    __slots__ = ("_unreadable_fields",)

    @property
    def unreadable_fields(self) -> tuple[str, ...]:
        """Their names, sorted, as paths without the indexes of arrays."""
        return getattr(self, "_unreadable_fields", ())

    def note_unreadable_fields(self, names: tuple[str, ...]) -> None:
        object.__setattr__(self, "_unreadable_fields", names)


def validated(validate: Callable[[Any], T], document: Any) -> tuple[T, tuple[str, ...]]:
    """Validate a document, and return the names of the fields that were left out. The document is changed.

    A value that breaks a rule is removed. If it is required, so is what contains it: an element of an array
    or an optional object.

    Raises:
        ValidationError: With all broken rules; one of them is about something required.
    """
    unreadable: set[str] = set()
    first: ValidationError | None = None
    for _ in range(MOST_ROUNDS):
        try:
            return validate(document), tuple(sorted(unreadable))
        except ValidationError as error:
            first = first or error
            if error.error_count() > MOST_BROKEN_RULES:
                break
            details = error.errors(include_url=False, include_context=False, include_input=False)
            places = [detail["loc"] for detail in details]
            paths = {_existing(document, place) for place in places}
            if () in paths:
                break
            unreadable |= {".".join(step for step in place if isinstance(step, str)) for place in places}
            _remove(document, _as_tree(paths))
    assert first is not None, "it is valid otherwise"
    raise first


def _existing(document: Any, place: Path) -> Path:
    path: Path = ()
    for step in place:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            break
        path = (*path, step)
    return path


def _as_tree(paths: Iterable[Path]) -> Tree:
    tree: Tree = {}
    # What holds others comes before them: they go with it.
    for *holders, last in sorted(paths, key=len):
        node = tree
        for step in holders:
            below = node.setdefault(step, {})
            if below is None:
                break
            node = below
        else:
            node[last] = None
    return tree


def _remove(holder: Any, tree: Tree) -> None:
    """An array that becomes empty is removed as well, because an empty array has a meaning.

    Each array is gone through once: to remove its elements one by one takes too long where they are many.
    """
    gone = set()
    for step, below in tree.items():
        if below is not None:
            _remove(holder[step], below)
        if below is None or holder[step] == []:
            gone.add(step)
    if isinstance(holder, list):
        holder[:] = [element for index, element in enumerate(holder) if index not in gone]
    else:
        for step in gone:
            del holder[step]
