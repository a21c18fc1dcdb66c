"""The options that select dead letters."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from cyclopts import Parameter

from worker.cli.context import WrongUsage
from worker.dead_letters.criteria import BadCriterion, instant_of, origin_of
from worker.dead_letters.search import Selection
from worker.dead_letters.store import State

T = TypeVar("T")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters."""

    origin: str | None = None
    "Only of this family, of the quarantine, or of a subscriber of the change feed: `webhook.shop`."
    reason: Annotated[str | None, Parameter(name="--reason")] = None
    "Only those whose reason contains this text."
    fingerprint: str | None = None
    "Only those of this group, as `dead list --group` shows it."
    type: str | None = None
    "Only this event type, as the marketplace spells it."
    entity: str | None = None
    "Only about this part, order or return."
    since: str | None = None
    "Only those that arrived at this time or later: ISO 8601, or `30m`, `12h`, `7d` ago."
    until: str | None = None
    "Only those that arrived before this time."
    gateway_id: str | None = None
    "Only those whose request the gateway or proxy calls so: the id of its event or request, or a URL."

    def selection(self, states: tuple[State, ...] | None) -> Selection:
        """Raises: WrongUsage."""
        return Selection(
            origin=_read("--origin", self.origin, origin_of),
            reason=self.reason,
            fingerprint=self.fingerprint,
            type=self.type,
            entity=self.entity,
            gateway_id=self.gateway_id,
            since=_read("--since", self.since, _instant),
            until=_read("--until", self.until, _instant),
            states=states,
        )

    @property
    def is_empty(self) -> bool:
        return self == Filter()


ANY = Filter()


def _instant(text: str) -> datetime:
    return instant_of(text, datetime.now(UTC))


def _read(option: str, text: str | None, read: Callable[[str], T]) -> T | None:
    """Raises: WrongUsage."""
    try:
        return None if text is None else read(text)
    except BadCriterion as error:
        raise WrongUsage(f"{option} {error} (given: {text!r})") from None
