"""Event types that are answered 200 and only counted: `STOCKHOOK_IGNORED_TYPES`."""

import re
from collections.abc import Iterable, Sequence

from consumers.registry import FAMILY_OF
from schemas.registry import Provider

_PATTERN = re.compile(rf"(?:{'|'.join(Provider)})\.[^\s,]+")


def check(patterns: Iterable[str]) -> None:
    """Raises: ValueError, if a pattern names no marketplace, or matches a type that a family handles."""
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(
                f"must be event types that begin with their marketplace ({', '.join(Provider)}) and a dot; "
                "* matches any characters"
            )
        matches = compiled([pattern])
        for taken, family in FAMILY_OF.items():
            if matches.fullmatch(taken):
                raise ValueError(f"must not match {taken}, which the family {family} takes")


def compiled(patterns: Sequence[str]) -> re.Pattern[str]:
    """A regular expression for whole routing keys; `*` in a pattern matches any characters."""
    alternatives = (re.escape(pattern).replace(r"\*", ".*") for pattern in patterns)
    return re.compile("|".join(alternatives) if patterns else r"(?!)", re.DOTALL)
