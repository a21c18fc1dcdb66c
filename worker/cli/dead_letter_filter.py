"""The options that select dead letters."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from consumers.registry import FAMILIES
from worker.cli.context import WrongUsage
from worker.config.subscribers import ORIGIN_PREFIX
from worker.dead_letters.message import QUARANTINE_ORIGIN, is_of_webhook
from worker.dead_letters.store import Selection, State
from worker.tools.instants import NotAnInstant, read_instant

ORIGINS = (*FAMILIES, QUARANTINE_ORIGIN)


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
        if self.origin is not None and self.origin not in ORIGINS and not is_of_webhook(self.origin):
            origins = ", ".join((*ORIGINS, f"{ORIGIN_PREFIX}NAME"))
            raise WrongUsage(f"--origin must be one of {origins} (given: {self.origin!r})")
        return Selection(
            origin=self.origin,
            reason=self.reason,
            fingerprint=self.fingerprint,
            type=self.type,
            entity=self.entity,
            gateway_id=self.gateway_id,
            since=_instant("--since", self.since),
            until=_instant("--until", self.until),
            states=states,
        )

    @property
    def is_empty(self) -> bool:
        return self == Filter()


ANY = Filter()


def _instant(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return read_instant(text)
    except NotAnInstant as fault:
        raise WrongUsage(f"{option} {fault}") from None
