"""Which event types have a label of their own in the metric of unhandled events."""

import re
from dataclasses import dataclass, field

# Per process. All other types share one label, so that no sender can create labels without limit.
MOST_LABELS = 50
OTHER = "other"

_TYPE = re.compile(r"[A-Za-z0-9][\w.:-]{0,79}", re.ASCII)


@dataclass(slots=True)
class Labels:
    """`names` are the routing keys of the types that have a label."""

    names: set[str] = field(default_factory=set)

    def of(self, provider: str, event_type: str) -> str:
        """The type itself, for the first types that look like a type."""
        name = f"{provider}.{event_type}"
        if len(self.names) < MOST_LABELS and _TYPE.fullmatch(event_type):
            self.names.add(name)
        return event_type if name in self.names else OTHER
