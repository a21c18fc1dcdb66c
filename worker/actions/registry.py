"""All kinds of actions."""

from worker.actions import buyback, ovoko
from worker.actions.types import AnyKind
from worker.config.settings import Settings

KINDS: dict[str, AnyKind] = {kind.name: kind for kind in (*buyback.KINDS, *ovoko.KINDS)}


def enabled_kinds(settings: Settings) -> frozenset[str]:
    """The kinds that events may enqueue."""
    return frozenset(name for name, kind in KINDS.items() if kind.is_enabled(settings))
