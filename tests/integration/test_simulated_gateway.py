"""The simulated gateway over real HTTP: requests to an endpoint behind it, and answers to the sender."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import standardwebhooks
from structlog.testing import capture_logs

from tests.support.endpoint import Behaviour, Endpoint, Request, endpoint, failing_first
from tests.support.signing import PRIVATE_KEY, PUBLIC_KEY, verify
from tests.support.stack import http_client, until
from worker.config.gateway import GatewayKey, read_key, read_scheme
from worker.intake.signature import Verified
from worker.simulator.gateway import SimulatedGateway, new_secret, running
from worker.simulator.gateway_behaviour import BEHAVIOURS
from worker.simulator.http_client import Client
from worker.simulator.server import serving

BODY = b'{ "event_id": "1" }'
HEADERS = {"X-Webhook-Secret": "ours", "X-Trace": "abc", "Content-Type": "application/json; charset=utf-8"}


class Gateway:
    """A gateway, its endpoint, and its control over HTTP."""

    def __init__(
        self, simulated: SimulatedGateway, shop: Endpoint, port: int, client: httpx.AsyncClient
    ) -> None:
        self.simulated, self.shop, self.client = simulated, shop, client
        self.url = f"http://127.0.0.1:{port}"

    async def send(self, body: bytes = BODY, path: str = "/webhooks/ovoko") -> httpx.Response:
        return await self.client.post(self.url + path, content=body, headers=HEADERS)

    async def control(self, path: str, **document: str) -> httpx.Response:
        return await self.client.post(f"{self.url}/control/{path}", json=document or None)

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = (await self.client.get(f"{self.url}/control/state")).json()
        return state

    async def has_received(self, requests: int) -> list[Request]:
        async def look() -> bool:
            return len(self.shop.requests) >= requests

        await until(look, f"{requests} requests were forwarded")
        return self.shop.requests


@asynccontextmanager
async def gateway(
    name: str, secrets: list[str] | None = None, behaviour: Behaviour = lambda _: 200, most_waiting: int = 100
) -> AsyncIterator[Gateway]:
    scheme = read_scheme(BEHAVIOURS[name].preset)
    keys = [read_key(scheme, secret) for secret in secrets or [new_secret(scheme)]]
    async with endpoint(behaviour) as shop, http_client() as client:
        simulated = SimulatedGateway(
            Client(f"http://127.0.0.1:{shop.port}"), BEHAVIOURS[name], scheme, keys, 0.0001, most_waiting
        )
        async with simulated.client, running(simulated), serving(simulated) as port:
            yield Gateway(simulated, shop, port, client)


def accepts(one: Gateway, request: Request, keys: list[GatewayKey]) -> bool:
    """Verify a request as the ingest does."""
    scheme = one.simulated.scheme
    verdict = verify(scheme, keys, request.headers, request.body, datetime.now(UTC))
    return isinstance(verdict, Verified)


@pytest.mark.parametrize(
    "name", ["hookdeck", "svix", "standard-webhooks", "convoy", "outpost", "header", "stripe"]
)
async def test_a_forwarded_request_is_signed_and_the_sender_is_answered_200(name: str) -> None:
    async with gateway(name) as one:
        answer = await one.send()
        (request,) = await one.has_received(1)

        assert answer.status_code == 200
        assert answer.json()["request_id"].startswith("req_")
        assert accepts(one, request, one.simulated.keys)
        other = [read_key(one.simulated.scheme, new_secret(one.simulated.scheme))]
        assert not accepts(one, request, other)


async def test_hookdeck_forwards_headers_and_bytes_and_adds_its_ids() -> None:
    async with gateway("hookdeck") as one:
        await one.send()
        (request,) = await one.has_received(1)

    assert request.body == BODY
    assert request.headers["x-webhook-secret"] == "ours"
    assert request.headers["content-type"] == "application/json; charset=utf-8"
    assert request.headers["x-hookdeck-eventid"].startswith("evt_")
    assert request.headers["x-hookdeck-attempt-count"] == "1"
    assert request.headers["host"] == f"127.0.0.1:{one.shop.port}"


@pytest.mark.parametrize("name", ["svix", "outpost", "eventbridge", "svix-bridge"])
async def test_other_gateways_forward_only_the_json(name: str) -> None:
    async with gateway(name) as one:
        await one.send()
        (request,) = await one.has_received(1)

    assert request.body == b'{"event_id":"1"}'
    assert request.headers["content-type"] == "application/json"
    assert not {"x-webhook-secret", "x-trace"} & request.headers.keys()


async def test_the_library_of_the_standard_accepts_the_gateways_signatures() -> None:
    secret = new_secret(read_scheme("standard-webhooks"))
    async with gateway("standard-webhooks", [secret]) as one:
        await one.send()
        (request,) = await one.has_received(1)

    assert standardwebhooks.Webhook(secret).verify(request.body, request.headers) == {"event_id": "1"}


async def test_an_event_is_sent_again_until_it_is_accepted_under_the_same_id() -> None:
    async with gateway("svix", behaviour=failing_first(3, 503)) as one:
        await one.send()
        requests = await one.has_received(4)

        async def is_delivered() -> bool:
            return (await one.state())["delivered"] == 1

        await until(is_delivered, "it is delivered")
        state = await one.state()

    assert len({request.headers["svix-id"] for request in requests}) == 1
    assert state["answers"] == {"503": 3, "204": 1}
    assert (state["accepted"], state["waiting"], state["given_up"]) == (1, 0, 0)


async def test_a_request_that_waits_during_a_rotation_is_signed_with_the_new_secret() -> None:
    answers = {"status": 503}
    async with gateway("hookdeck", behaviour=lambda _: answers["status"]) as one:
        await one.send()
        await one.has_received(1)
        new = read_key(one.simulated.scheme, (await one.control("rotate")).json()["secret"])
        await one.control("retire")
        answers["status"] = 200

        async def is_delivered() -> bool:
            return (await one.state())["delivered"] == 1

        await until(is_delivered, "it is delivered")

        assert accepts(one, one.shop.taken[0], [new])


async def test_svix_bridge_loses_a_request_that_is_answered_503() -> None:
    with capture_logs() as lines:
        async with gateway("svix-bridge", behaviour=lambda _: 503) as one:
            await one.send()

            async def is_lost() -> bool:
                return (await one.state())["given_up"] == 1

            await until(is_lost, "it is given up")

    assert len(one.shop.requests) == 1
    (line,) = [line for line in lines if line["event"] == "event.given_up"]
    assert (line["status"], line["attempt"]) == (503, 1)


@pytest.mark.parametrize(("name", "headers"), [("hookdeck", 2), ("svix", 1)])
async def test_a_rotation_signs_with_both_secrets_and_retiring_with_only_the_newest(
    name: str, headers: int
) -> None:
    async with gateway(name) as one:
        (old,) = one.simulated.keys
        rotated = (await one.control("rotate")).json()
        new = read_key(one.simulated.scheme, rotated["secret"])
        await one.send()
        await one.has_received(1)
        retired = (await one.control("retire")).json()
        await one.send()
        both, newest = await one.has_received(2)

        assert [rotated["keys"], retired["keys"]] == [2, 1]
        assert [accepts(one, both, [key]) for key in (old, new)] == [True, True]
        assert [accepts(one, newest, [key]) for key in (old, new)] == [False, True]
    assert len([header for header in both.headers if "-signature" in header]) == headers


async def test_a_secret_for_one_marketplace_signs_only_its_webhooks() -> None:
    async with gateway("hookdeck") as one:
        (common,) = one.simulated.keys
        await one.control("rotate", secret="only-for-ovoko-0123456789", marketplace="ovoko")
        own = read_key(one.simulated.scheme, "only-for-ovoko-0123456789")
        await one.send()
        await one.has_received(1)
        await one.send(path="/webhooks/buyback")
        ovoko, buyback = await one.has_received(2)

        assert [accepts(one, ovoko, [key]) for key in (own, common)] == [True, True]
        assert [accepts(one, buyback, [key]) for key in (own, common)] == [False, True]


async def test_an_ed25519_key_rotates_to_another() -> None:
    async with gateway("standard-webhooks", [PRIVATE_KEY]) as one:
        rotated = (await one.control("rotate")).json()
        await one.send()
        (request,) = await one.has_received(1)
        public = [read_key(one.simulated.scheme, text) for text in (PUBLIC_KEY, rotated["public_key"])]

        assert [accepts(one, request, [key]) for key in public] == [True, True]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"secret": "canary-not-whsec"}, "secret: must begin with whsec_"),
        ({"secret": PUBLIC_KEY}, "a public key cannot sign"),
        ({"marketplace": "unknown"}, "marketplace: "),
        ({"canary": "x"}, "canary: "),
    ],
)
async def test_a_rotation_that_is_none_is_refused(document: dict[str, str], message: str) -> None:
    async with gateway("svix") as one:
        answer = await one.control("rotate", **document)

        assert answer.status_code == 400
        assert message in json.dumps(answer.json())
        assert "canary-not" not in answer.text
        assert (await one.state())["keys"] == 1


async def test_a_full_gateway_refuses_senders() -> None:
    async with gateway("hookdeck", behaviour=lambda _: None, most_waiting=3) as one:
        answers = [(await one.send()).status_code for _ in range(5)]
        state = await one.state()

    assert answers == [200, 200, 200, 503, 503]
    assert (state["accepted"], state["refused"], state["waiting"]) == (3, 2, 3)


async def test_no_log_line_has_a_secret_or_a_body() -> None:
    with capture_logs() as lines:
        async with gateway("hookdeck", ["canary-secret-0123456789"], failing_first(1)) as one:
            await one.send(b'{"token": "canary-token"}')
            await one.control("rotate", secret="canary-other-0123456789")
            await one.has_received(2)

    assert lines
    assert "canary" not in repr(lines)
    assert "canary" not in repr(one.simulated)


def test_a_day_of_retries_is_scaled() -> None:
    longest = max(max(behaviour.delays, default=timedelta(0)) for behaviour in BEHAVIOURS.values())

    assert longest * 0.0001 < timedelta(seconds=5)
