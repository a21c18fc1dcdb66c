"""How each webhook gateway forwards and retries. Pure.

Sources: the gateways' documents. Users configure the schedules of Hookdeck, Convoy and Outpost; those here
are plausible examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum, auto
from typing import Literal

from worker.config.gateway import CUSTOM, PRESETS

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class RetryAfter(StrEnum):
    """How a gateway treats the Retry-After of an answer, beside the delay of its own schedule."""

    IGNORED = auto()
    FOLLOWED = auto()
    CLAMPED = auto()
    """To at least the delay, and at most twice the delay."""
    LATER = auto()
    """The later of both; a negative one ends the retries."""


@dataclass(frozen=True, slots=True)
class GatewayBehaviour:
    """`delays` are the delays before each further attempt.

    `retried` are the statuses other than 2xx that are retried, None for all of them. With `keeps_request`,
    headers and bytes of the marketplace's request are forwarded; without, only the content of its JSON.
    """

    preset: str
    delays: tuple[timedelta, ...]
    timeout: timedelta
    retry_after: RetryAfter = RetryAfter.IGNORED
    retried: frozenset[int] | None = None
    heeds_abort: bool = False
    keeps_request: bool = True
    ids: Literal["hookdeck", "convoy", "outpost"] | None = None

    def delay_after(self, attempt: int, status: int | None, headers: Mapping[str, str]) -> timedelta | None:
        """Before the next attempt; None if there is none. `attempt` counts from 1; no status is no answer."""
        if attempt > len(self.delays):
            return None
        if status is not None and self.retried is not None and status not in self.retried:
            return None
        if self.heeds_abort and headers.get("webhook-delivery") == "abort-message":
            return None
        delay = self.delays[attempt - 1]
        seconds = _seconds(headers.get("retry-after", ""))
        if seconds is None:
            return delay
        requested = timedelta(seconds=seconds)
        match self.retry_after:
            case RetryAfter.IGNORED:
                return delay
            case RetryAfter.FOLLOWED:
                return max(requested, timedelta(0))
            case RetryAfter.CLAMPED:
                return min(max(requested, delay), 2 * delay)
            case RetryAfter.LATER:
                return max(requested, delay) if seconds >= 0 else None


def _seconds(text: str) -> int | None:
    """None for dates too, which the ingest does not send."""
    try:
        return int(text[:10])
    except ValueError:
        return None


def doubling(first: timedelta, retries: int, longest: timedelta) -> tuple[timedelta, ...]:
    # No delay can exceed the longest: beyond 40 doublings the product would overflow.
    return tuple(min(first * 2 ** min(number, 40), longest) for number in range(retries))


_PLAIN = doubling(timedelta(seconds=10), 10, HOUR)
_SVIX = (timedelta(seconds=5), 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR)
_EVENTBRIDGE_RETRIED = frozenset({401, 407, 409, 429, *range(500, 600)})


def _svix(preset: str) -> GatewayBehaviour:
    return GatewayBehaviour(
        preset, _SVIX, timedelta(seconds=15), RetryAfter.CLAMPED, heeds_abort=True, keeps_request=False
    )


BEHAVIOURS: Mapping[str, GatewayBehaviour] = {
    **{name: GatewayBehaviour(name, _PLAIN, timedelta(seconds=30)) for name in (*PRESETS, CUSTOM)},
    "hookdeck": GatewayBehaviour(
        "hookdeck", doubling(MINUTE, 50, HOUR), timedelta(seconds=60), RetryAfter.FOLLOWED, ids="hookdeck"
    ),
    "svix": _svix("svix"),
    "standard-webhooks": _svix("standard-webhooks"),
    "convoy": GatewayBehaviour("convoy", _PLAIN, timedelta(seconds=10), ids="convoy"),
    "outpost": GatewayBehaviour(
        "outpost",
        doubling(timedelta(seconds=30), 10, 5 * HOUR),
        timedelta(seconds=5),
        keeps_request=False,
        ids="outpost",
    ),
    # For 24 hours or 185 attempts.
    "eventbridge": GatewayBehaviour(
        "header",
        doubling(timedelta(seconds=1), 184, 8 * MINUTE),
        timedelta(seconds=5),
        RetryAfter.LATER,
        _EVENTBRIDGE_RETRIED,
        keeps_request=False,
    ),
    # Its HTTP output ignores the status.
    "svix-bridge": GatewayBehaviour("header", (), timedelta(seconds=30), keeps_request=False),
}
"""By the name of a preset, or of a gateway that sends a static header instead of a signature."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a gateway knows about a webhook beside its bytes. `original_ip` is the sender's address."""

    event_id: str
    request_id: str
    path: str
    attempt: int
    will_retry_after: timedelta | None
    original_ip: str = field(default="127.0.0.1")


def id_headers(behaviour: GatewayBehaviour, signature_header: str, delivery: Delivery) -> dict[str, str]:
    """Evidence, which no gateway signs. Hookdeck and Outpost use the prefix of the signature's header."""
    prefix = signature_header.removesuffix("-signature")
    match behaviour.ids:
        case None:
            return {}
        case "hookdeck":
            headers = {
                "eventid": f"evt_{delivery.event_id}",
                "requestid": f"req_{delivery.request_id}",
                "attempt-count": str(delivery.attempt),
                "attempt-trigger": "INITIAL" if delivery.attempt == 1 else "AUTOMATIC",
                "event-url": f"https://dashboard.hookdeck.com/events/evt_{delivery.event_id}",
                "source-name": delivery.path.rpartition("/")[2] or "source",
                "connection-name": "stockhook",
                "verified": "true",
                "original-ip": delivery.original_ip,
            }
            if delivery.will_retry_after is not None:
                headers["will-retry-after"] = str(int(delivery.will_retry_after.total_seconds()))
            return {f"{prefix}-{name}": value for name, value in headers.items()}
        case "convoy":
            return {
                "x-convoy-event-id": f"evt_{delivery.event_id}",
                "x-convoy-eventdelivery-id": f"evd_{delivery.event_id}",
                "x-convoy-idempotency-key": delivery.request_id,
                "x-convoy-source-id": f"src_{delivery.path.rpartition('/')[2]}",
            }
        case "outpost":
            return {f"{prefix}-event-id": f"evt_{delivery.event_id}", f"{prefix}-topic": "webhooks"}
