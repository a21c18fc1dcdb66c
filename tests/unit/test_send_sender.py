"""The sender repeats failed requests, gives up after a limit, and counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from schemas.registry import Provider
from worker.simulator.http_client import Answer, NoAnswer
from worker.simulator.rate_sender import RESEND_AFTER, Sender, Tally
from worker.simulator.webhook import Webhook

AT_ONCE = (timedelta(0), timedelta(0), timedelta(0))
FAST = 1_000_000.0


@dataclass
class ScriptedIngest:
    """Answers each event with these, one by one; None is no answer. The last one is repeated."""

    script: Sequence[int | None]
    requests: list[Webhook] = field(default_factory=list)

    async def post(self, webhook: Webhook) -> Answer:
        before = sum(request is webhook for request in self.requests)
        self.requests.append(webhook)
        status = self.script[min(before, len(self.script) - 1)]
        if status is None:
            raise NoAnswer("connection refused")
        return Answer(status, b"{}")


def _webhooks(count: int) -> list[Webhook]:
    return [Webhook(Provider.OVOKO, "order.created", {}, b"%d" % number) for number in range(count)]


async def _played(
    ingest: ScriptedIngest, webhooks: list[Webhook]
) -> tuple[Tally, list[tuple[Webhook, Answer]]]:
    tally = Tally()
    accepted: list[tuple[Webhook, Answer]] = []
    sender = Sender(ingest, tally, AT_ONCE, lambda webhook, answer: accepted.append((webhook, answer)))
    await sender.play(webhooks, FAST)
    return tally, accepted


def test_the_schedule_is_ovokos() -> None:
    assert [delay.total_seconds() for delay in RESEND_AFTER] == [7, 35, 175]


async def test_each_event_is_sent_once_in_order_where_all_are_accepted() -> None:
    ingest, webhooks = ScriptedIngest([200]), _webhooks(20)

    tally, accepted = await _played(ingest, webhooks)

    assert ingest.requests == webhooks
    assert [webhook for webhook, _ in accepted] == webhooks
    assert (tally.sent, tally.accepted, tally.resent, tally.given_up) == (20, 20, 0, 0)
    assert tally.answers == {"200": 20}
    assert len(tally.latencies) == 20


async def test_a_failure_is_followed_by_the_same_request_until_it_is_accepted() -> None:
    ingest, (webhook,) = ScriptedIngest([503, None, 204]), _webhooks(1)

    tally, accepted = await _played(ingest, [webhook])

    assert ingest.requests == [webhook] * 3
    assert accepted == [(webhook, Answer(204, b"{}"))]
    assert (tally.sent, tally.accepted, tally.resent, tally.given_up) == (1, 1, 2, 0)
    assert tally.answers == {"503": 1, "no answer: connection refused": 1, "204": 1}


async def test_sending_an_event_ends_after_four_failures() -> None:
    ingest = ScriptedIngest([401])

    tally, accepted = await _played(ingest, _webhooks(2))

    assert len(ingest.requests) == 8
    assert accepted == []
    assert (tally.sent, tally.accepted, tally.resent, tally.given_up) == (2, 0, 6, 2)


async def test_a_redirect_is_a_failure() -> None:
    tally, _ = await _played(ScriptedIngest([302]), _webhooks(1))

    assert tally.given_up == 1


def test_quantiles_are_measured_values() -> None:
    tally = Tally()
    tally.latencies.extend(number / 1000 for number in range(100, 0, -1))

    assert tally.quantile(0.5) == 0.051
    assert tally.quantile(0.99) == 0.1
    assert tally.quantile(1.0) == 0.1
    assert Tally().quantile(0.5) is None
