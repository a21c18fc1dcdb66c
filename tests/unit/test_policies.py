"""The effect of the broker's policies on our queues."""

from typing import Any

import pytest

from tests.support.stack import delays
from worker.amqp.management import Snapshot
from worker.amqp.policies import HARMLESS, UNLIMITED, hazards
from worker.amqp.topology import topology
from worker.config.check import Level
from worker.tools.doctor.broker import check_policies

QUEUES = topology(delays(7, 35), ["orders"]).queues
RETRY = ("stockhook.orders.retry.7s", "stockhook.orders.retry.35s")


def listed(effective: object, **policies: str) -> list[dict[str, object]]:
    """All queues in the format of the management API."""
    return [{"name": queue.name, "effective_policy_definition": effective, **policies} for queue in QUEUES]


def affected(effective: dict[str, Any]) -> set[str]:
    hazardous = hazards(listed(effective, policy="all"), QUEUES, "stockhook")
    return {name for hazard in hazardous for name in hazard.queues}


EVERY = {queue.name for queue in QUEUES}
LAST = {name for name in EVERY if name.endswith((".dead", ".quarantine"))}


@pytest.mark.parametrize(
    ("effective", "queues"),
    [
        ({"message-ttl": 3000}, EVERY),
        # The lower of the two counts.
        ({"message-ttl": 20_000}, {name for name in EVERY if not name.endswith("retry.7s")}),
        ({"expires": 1000}, EVERY),
        # Queues of families and retry queues refuse messages beyond their limit.
        ({"max-length": 5}, LAST),
        ({"max-length-bytes": 5, "overflow": "drop-head"}, LAST),
        ({"max-length": 5, "overflow": "reject-publish"}, set()),
        ({"dead-letter-exchange": "elsewhere"}, LAST),
        ({"delivery-limit": 5}, LAST),
        (HARMLESS, set()),
        (UNLIMITED, set()),
        ({"queue-leader-locator": "balanced", "max-length": "text", "expires": True}, set()),
    ],
    ids=lambda value: str(value if isinstance(value, dict) else sorted(value)),
)
def test_a_policy_is_named_for_the_queues_in_which_it_would_lose_events(
    effective: dict[str, Any], queues: set[str]
) -> None:
    assert affected(effective) == queues


def test_unexpected_responses_of_the_management_api_are_ignored() -> None:
    for value in (None, [], "", 5):
        assert hazards(listed(value), QUEUES, "stockhook") == []
    assert hazards([{}, {"name": 5}], QUEUES, "stockhook") == []


def test_the_policy_is_named_with_the_command_that_overrides_it() -> None:
    (hazard,) = hazards(listed({"message-ttl": 3000}, policy="all"), QUEUES, "shop")
    (both,) = hazards(listed({"message-ttl": 3000}, policy="all", operator_policy="guard"), QUEUES, "shop")

    assert str(hazard).startswith("policy all: message-ttl 3000: ")
    assert hazard.remedy.startswith(
        "rabbitmqctl set_policy -p 'shop' --priority 1000 --apply-to queues stockhook "
    )
    assert both.source == "policy all or operator policy guard"
    assert "rabbitmqctl set_operator_policy -p 'shop' --priority 1000 " in both.remedy


def test_a_delivery_limit_of_rabbitmq_4_that_would_drop_dead_letters_is_named() -> None:
    def warned(version: str, effective: dict[str, str | int]) -> set[str]:
        snapshot = Snapshot(listed(effective, policy="stockhook"), [], None)
        findings = list(check_policies(snapshot, QUEUES, "stockhook", version))
        assert not [finding for finding in findings if finding.level is Level.ERROR]
        return {finding.what.partition(":")[0] for finding in findings if finding.level is Level.WARNING}

    assert warned("4.0.5", HARMLESS) == LAST
    assert warned("4.0.5", UNLIMITED) == set()
    assert warned("3.10.8", HARMLESS) == set()
