"""A gateway is introduced: each step of docs/guides/gateways.md, with the requests that arrive during it."""

from dataclasses import dataclass

import pytest

from schemas.envelope import Envelope
from tests.unit.test_gateway import BUYBACK, GATEWAY_SECRET, OWN, ask, behind, signed, unsigned
from tests.unit.test_service import BODY, SECRET, TOKEN, Stored, settings
from worker.config.settings import Settings
from worker.observability import metrics

DIRECT = OWN
WRONG = signed(b"another body")


@dataclass(frozen=True, slots=True)
class Kind:
    """A gateway by what it does with the marketplace's secret header, and the steps that introduce it."""

    gateway: str
    own: dict[str, str]
    last: str
    """The value of STOCKHOOK_GATEWAY_REQUIRE in the end."""

    @property
    def through(self) -> dict[str, str]:
        """The headers of Ovoko's webhook after the gateway forwarded it."""
        return {**self.own, **signed(BODY, self.gateway)}

    def settings(self, require: str) -> Settings:
        return behind(self.gateway, gateway_require=require)


KEEPS = Kind("hookdeck", OWN, "both")
DROPS = Kind("outpost", {}, "gateway")
STATIC = Kind("header", {}, "gateway")


def own_secrets(position: str = "newest") -> float:
    labels = {"provider": "ovoko", "position": position}
    return metrics.INGEST.get_sample_value("stockhook_secret_used_total", labels) or 0


@pytest.mark.parametrize("kind", [KEEPS, DROPS, STATIC], ids=lambda kind: kind.gateway)
async def test_a_gateway_is_introduced_without_an_interruption(kind: Kind) -> None:
    """Beside each step, the ingests that were not restarted yet have the settings of the step before."""
    before, optional, last = settings(), kind.settings("optional"), kind.settings(kind.last)
    stored = Stored()

    async def is_accepted(configured: Settings, headers: dict[str, str]) -> bool:
        return (await ask(configured, BODY, headers, stored)).status == 200

    # 1. Optional: the marketplace still sends directly.
    assert await is_accepted(before, DIRECT)
    assert await is_accepted(optional, DIRECT)
    # 2. The URL is changed: for a while, both kinds of requests arrive.
    absent = unsigned("absent")
    assert await is_accepted(optional, kind.through)
    assert unsigned("absent") == absent
    assert await is_accepted(optional, DIRECT)
    assert unsigned("absent") == absent + 1
    # 3. The last value: everything comes through the gateway.
    assert await is_accepted(last, kind.through)
    assert not await is_accepted(last, DIRECT)

    ids = {Envelope.from_headers(message.headers).event_id for message in stored.messages}
    assert (len(stored.messages), len(ids)) == (5, 1)


@pytest.mark.parametrize("kind", [KEEPS, DROPS, STATIC], ids=lambda kind: kind.gateway)
async def test_the_metric_of_the_own_secrets_says_whether_the_gateway_keeps_the_header(kind: Kind) -> None:
    before = own_secrets()

    assert (await ask(kind.settings("optional"), BODY, kind.through)).status == 200

    assert own_secrets() == before + (1 if kind.own else 0)


async def test_a_wrong_signature_is_refused_whatever_the_own_secret() -> None:
    for own in (OWN, {}):
        response = await ask(KEEPS.settings("optional"), BODY, {**own, **WRONG})

        assert response.status == 401
        assert b"signature is wrong" in response.body


async def test_a_token_that_was_not_compared_is_removed() -> None:
    """Buyback's token is in the body. With a valid signature, it may be one that is not configured here."""
    configured = KEEPS.settings("optional")
    unknown = BUYBACK.replace(TOKEN.encode(), b"token-of-another-time")
    stored = Stored()

    direct = await ask(configured, BUYBACK, {}, stored, "/webhooks/buyback")
    for body in (BUYBACK, unknown):
        response = await ask(configured, body, signed(body), stored, "/webhooks/buyback")
        assert response.status == 200
    refused = await ask(configured, unknown, {}, stored, "/webhooks/buyback")

    assert (direct.status, refused.status) == (200, 401)
    assert len({message.body for message in stored.messages}) == 1
    assert len({message.headers["x-event-id"] for message in stored.messages}) == 1
    assert b"token" not in stored.messages[0].body


async def test_neither_secret_is_needed_by_the_name_of_the_other() -> None:
    """The gateway's secret is none of the marketplace's, nor the other way round."""
    configured = STATIC.settings("optional")

    for headers in ({"x-webhook-secret": GATEWAY_SECRET}, {"x-gateway-secret": SECRET}):
        assert (await ask(configured, BODY, headers)).status == 401
