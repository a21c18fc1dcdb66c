"""Hides the values of private columns in the output of tools."""

from typing import TypeVar

from consumers.registry import AnyFamily

REDACTED = "(redacted)"

V = TypeVar("V")


def redacted(family: AnyFamily, column: str, value: V) -> V | str:
    """The value, or REDACTED if there is one and the family's column is private."""
    return REDACTED if value is not None and column in family.private else value
