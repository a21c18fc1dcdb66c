"""The effects of policies on our queues. Pure.

A queue's arguments take precedence over policies; of two numbers, the lower one applies. Only the matching
policy with the highest priority applies to a queue, together with one operator policy.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import orjson

from worker.amqp.topology import Arguments, Queue

OURS = r"^stockhook\."
DEAD = r"^stockhook\.(quarantine|.+\.dead)$"
NAME = "stockhook"
PRIORITY = 1000

# A definition must not be empty. This one changes nothing for our queues: they refuse and do not drop.
HARMLESS: dict[str, str | int] = {"overflow": "reject-publish"}

# Older versions allow fewer keys in an operator policy. No queue ever has this length.
NEVER_FULL = 1_000_000_000
HARMLESS_OF_OPERATORS: dict[str, str | int] = {"max-length": NEVER_FULL}

# RabbitMQ 4 drops a message after 20 deliveries, unless its queue has another limit or a dead-letter
# exchange.
UNLIMITED: dict[str, str | int] = {**HARMLESS, "delivery-limit": -1}


@dataclass(frozen=True, slots=True)
class Hazard:
    """A setting of a policy that would make `queues` lose events. `source` names the policy, or both."""

    source: str
    what: str
    queues: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        first, *others = self.queues
        more = f" and {len(others)} more" if others else ""
        return f"{self.source}: {self.what} ({first}{more})"


def hazards(queues: Iterable[Mapping[str, object]], expected: Iterable[Queue], vhost: str) -> list[Hazard]:
    """`queues` are as the management API returns them."""
    live_queues = {str(live_queue.get("name")): live_queue for live_queue in queues}
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for queue in expected:
        properties = live_queues.get(queue.name, {})
        effective = properties.get("effective_policy_definition")
        if not isinstance(effective, Mapping):
            continue
        source, remedy = _source(properties, vhost)
        for what in _losses(queue.arguments, effective):
            grouped.setdefault((source, what, remedy), []).append(queue.name)
    return [Hazard(source, what, tuple(names), remedy) for (source, what, remedy), names in grouped.items()]


def _losses(arguments: Arguments, effective: Mapping[str, object]) -> Iterator[str]:
    has_dead_letter_exchange = "x-dead-letter-exchange" in arguments
    own_ttl = arguments.get("x-message-ttl")
    ttl = _number(effective.get("message-ttl"))
    if ttl is not None and (not isinstance(own_ttl, int) or ttl < own_ttl):
        yield f"message-ttl {ttl}: messages that wait longer than {ttl} ms expire"
    expires = _number(effective.get("expires"))
    if expires is not None:
        yield f"expires {expires}: a queue that is unused for {expires} ms is deleted with its events"
    overflow = arguments.get("x-overflow") or effective.get("overflow", "drop-head")
    for name in ("max-length", "max-length-bytes"):
        length = _number(effective.get(name))
        if length is not None and overflow == "drop-head" and length < NEVER_FULL:
            yield f"{name} {length} with drop-head: a full queue drops its oldest events"
    exchange = effective.get("dead-letter-exchange")
    if exchange is not None and not has_dead_letter_exchange:
        yield f"dead-letter-exchange {exchange}: messages that leave the queue go there"
    limit = _number(effective.get("delivery-limit"))
    if limit is not None and limit >= 0 and not has_dead_letter_exchange:
        yield f"delivery-limit {limit}: messages that are delivered more often are dropped"


def limited(queues: Iterable[Mapping[str, object]], expected: Iterable[Queue]) -> list[str]:
    """Queues with the default delivery limit of RabbitMQ 4 and without a dead-letter exchange."""
    live = {
        str(live_queue.get("name")): live_queue.get("effective_policy_definition") for live_queue in queues
    }
    names = []
    for queue in expected:
        effective = live.get(queue.name)
        limit = _number(effective.get("delivery-limit")) if isinstance(effective, Mapping) else None
        if "x-dead-letter-exchange" not in queue.arguments and limit is None and queue.name in live:
            names.append(queue.name)
    return names


def protecting_commands(vhost: str) -> list[str]:
    """For a shell: with this policy, none with a lower priority applies to our queues."""
    return [_policy("set_policy", vhost, NAME, PRIORITY, OURS, HARMLESS)]


def unlimiting_command(vhost: str) -> str:
    """The same for RabbitMQ 4 or newer; older versions refuse it and do not need it."""
    return _policy("set_policy", vhost, f"{NAME}-dead", PRIORITY + 1, DEAD, UNLIMITED)


def _source(properties: Mapping[str, object], vhost: str) -> tuple[str, str]:
    """The names of the policies that apply, and the commands that override them."""
    sources, remedies = [], []
    if properties.get("policy"):
        sources.append(f"policy {properties['policy']}")
        remedies.append(_policy("set_policy", vhost, NAME, PRIORITY, OURS, HARMLESS))
    if properties.get("operator_policy"):
        sources.append(f"operator policy {properties['operator_policy']}")
        remedies.append(_policy("set_operator_policy", vhost, NAME, PRIORITY, OURS, HARMLESS_OF_OPERATORS))
    return " or ".join(sources), "; ".join(remedies) + " (with a priority above theirs)"


def _policy(
    command: str, vhost: str, name: str, priority: int, pattern: str, definition: Mapping[str, str | int]
) -> str:
    return (
        f"rabbitmqctl {command} -p '{vhost}' --priority {priority} --apply-to queues "
        f"{name} '{pattern}' '{orjson.dumps(definition).decode()}'"
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
