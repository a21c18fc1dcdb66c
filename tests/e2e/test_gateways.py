"""The proxies of deploy/gateways, with the files that are shipped, in front of the ingest."""

import asyncio
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support.authority import make_authority
from tests.support.events import body, numbered_id, order_created, part_changed
from tests.support.gateways import PROXIES, running_gateway
from tests.support.raw_http import ConnectionEnded, Sender, recording
from tests.support.samples import Samples, scrape, value
from tests.support.simulated_gateway import Gateway as SimulatedGateway
from tests.support.simulated_gateway import load
from tests.support.stack import OVOKO_SECRET, Stack, Worker, free_port, until

# Each proxy with two ingests, which takes minutes (`make test-proxies`).
pytestmark = pytest.mark.proxies

OVOKO = "/webhooks/ovoko"
SECRET = {"X-Webhook-Secret": OVOKO_SECRET, "Content-Type": "application/json"}

# What each calls the time after which it ends an idle connection to an ingest.
IDLE = {
    "nginx": {"keepalive_timeout 60s": "keepalive_timeout 1s"},
    "haproxy": {"timeout http-keep-alive 60s": "timeout http-keep-alive 1s"},
    "envoy": {"idle_timeout: 60s": "idle_timeout: 1s"},
    "traefik": {"idleConnTimeout: 60s": "idleConnTimeout: 1s"},
}

# What each calls the time that it waits for more of a body.
STALLED = {
    "nginx": {"client_body_timeout 10s": "client_body_timeout 1s"},
    "haproxy": {
        "timeout http-request 10s": "timeout http-request 1s",
        "timeout client 15s": "timeout client 1s",
    },
    "envoy": {"request_timeout: 15s": "request_timeout: 1s"},
    "traefik": {"readTimeout: 15s": "readTimeout: 1s"},
}
# HAProxy forwards a request once its buffer is full: the ingest itself sees that the body is incomplete.
FORWARDS_BEGINNINGS = ("haproxy",)

# What makes the proxy speak TLS with the ingest, and show a certificate.
TLS_TO_INGEST = {
    "nginx": {"http://stockhook;": "https://stockhook;", "# proxy_ssl_": "proxy_ssl_"},
    "haproxy": {"    # default-server": "    default-server"},
}

SENDERS = 12
# Each kill is tried with so many.
EVENTS = {"nginx": 5000, "haproxy": 5000, "envoy": 500, "traefik": 500}


def padded(size: int) -> bytes:
    """An event of exactly so many bytes."""
    event = body(order_created(1, number=1))
    return event[:-1] + b" " * (size - len(event)) + event[-1:]


@pytest.mark.parametrize("name", PROXIES)
async def test_events_arrive_over_tls_and_too_large_bodies_are_refused(
    stack: Stack, tmp_path: Path, name: str
) -> None:
    await stack.started("ingest")
    port = int(stack.environment["STOCKHOOK_INGEST_PORT"])
    limit = stack.settings.body_limit
    async with running_gateway(name, tmp_path / "gateway", [port]) as gateway:
        async with Sender(gateway.port, gateway.tls()) as sender:
            first = await sender.post(OVOKO, body(order_created(2, number=2)), SECRET)
            largest = await sender.post(OVOKO, padded(limit), SECRET)
            packed = gzip.compress(body(order_created(3, number=3)))
            inflated = await sender.post(OVOKO, packed, {**SECRET, "Content-Encoding": "gzip"})
            wrong = await sender.post(OVOKO, body(order_created(4)), {"X-Webhook-Secret": "wrong"})
            connections = sender.connections
            hidden = [await sender.post(path, b"", {}) for path in ("/readyz", "/openapi.json", "/")]
        async with Sender(gateway.port, gateway.tls()) as sender:
            too_large = await sender.post(OVOKO, padded(limit + 1), SECRET)
        async with Sender(gateway.port, gateway.tls()) as sender:
            far_too_large = await sender.post(OVOKO, padded(3 * limit), SECRET)

    assert [first.status, largest.status, inflated.status] == [200, 200, 200]
    assert json.loads(first.body)["event_id"] == numbered_id(2)
    assert (wrong.status, json.loads(wrong.body)["title"]) == (401, "Unauthorized")
    assert connections == 1, "a connection is kept for the next request"
    assert [answer.status for answer in hidden] == [404, 404, 404]
    assert (too_large.status, json.loads(too_large.body)["title"]) == (413, "Body too large")
    assert far_too_large.status == 413
    assert await stack.depths() == {"stockhook.orders": 3}


@pytest.mark.parametrize("name", PROXIES)
async def test_what_a_sender_claims_about_itself_does_not_pass_as_the_proxys_word(
    tmp_path: Path, name: str
) -> None:
    event = body(part_changed(1, number=1))
    forged = {
        **SECRET,
        "X-Forwarded-For": "192.0.2.66",
        "X-Request-Id": "forged",
        "X_Forwarded_For": "192.0.2.67",
    }
    async with (
        recording() as ingest,
        running_gateway(name, tmp_path / "gateway", [ingest.port]) as gateway,
        Sender(gateway.port, gateway.tls()) as sender,
    ):
        await sender.post(OVOKO, event, {**SECRET, "X-Hookdeck-Signature": "YQ=="})
        await sender.post(f"{OVOKO}?a=%20b", event, forged)
    plain, other = ingest.requests

    assert (plain.target, plain.body) == (OVOKO.encode(), event)
    assert plain.values("x-webhook-secret") == [OVOKO_SECRET]
    assert plain.values("x-hookdeck-signature") == ["YQ=="]
    (address,) = plain.values("x-forwarded-for")
    # For a sender on the loopback interface, Envoy writes the machine's own address.
    assert address == "127.0.0.1" or name == "envoy"
    assert plain.values("host") == ["stockhook.example"]
    assert other.target == f"{OVOKO}?a=%20b".encode()
    assert ",".join(other.values("x-forwarded-for")).split(",")[-1].strip() == address
    assert other.values("x_forwarded_for") == []
    assert "forged" not in other.values("x-request-id")


@pytest.mark.parametrize("name", PROXIES)
async def test_a_request_that_was_sent_is_not_repeated_and_a_refused_connection_is(
    tmp_path: Path, name: str
) -> None:
    event = body(part_changed(1, number=1))
    async with (
        recording(hangs_up=True) as first,
        recording(hangs_up=True) as second,
        running_gateway(name, tmp_path / "hangs-up", [first.port, second.port]) as gateway,
        Sender(gateway.port, gateway.tls()) as sender,
    ):
        status = await post_status(sender, event)
    async with (
        recording() as living,
        running_gateway(name, tmp_path / "refused", [free_port(), living.port]) as gateway,
        Sender(gateway.port, gateway.tls()) as sender,
    ):
        statuses = [await post_status(sender, event) for _ in range(4)]

    assert status in (0, 502, 503), "the sender must send it again"
    assert len(first.requests) + len(second.requests) == 1
    assert statuses == [200] * 4
    assert len(living.requests) == 4


async def post_status(sender: Sender, event: bytes) -> int:
    """0 where no answer came."""
    try:
        return (await sender.post(OVOKO, event, SECRET)).status
    except ConnectionEnded:
        return 0


@pytest.mark.parametrize("name", PROXIES)
async def test_a_connection_that_is_idle_ends_at_the_proxy_first(tmp_path: Path, name: str) -> None:
    async with (
        recording() as ingest,
        running_gateway(name, tmp_path / "gateway", [ingest.port], IDLE[name]) as gateway,
        Sender(gateway.port, gateway.tls()) as sender,
    ):
        for number in range(6):
            await sender.post(OVOKO, body(part_changed(number, number=number)), SECRET)

        async def has_ended() -> bool:
            return used <= ingest.ended

        used = {request.connection for request in ingest.requests}
        await until(has_ended, "the proxy ends its idle connections", 10)

    assert len(used) <= 2, "each of what the proxy takes for two ingests has one connection"


@pytest.mark.parametrize("name", PROXIES)
async def test_a_body_that_was_cut_off_is_not_passed_on(tmp_path: Path, name: str) -> None:
    event = body(part_changed(1, number=1))
    async with recording() as ingest, running_gateway(name, tmp_path / "gateway", [ingest.port]) as gateway:
        half = (
            f"POST {OVOKO} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(event) + 1}\r\n\r\n".encode() + event
        )
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=gateway.tls())
        writer.write(half)
        await writer.drain()
        async with Sender(gateway.port, gateway.tls()) as sender:
            await sender.post(OVOKO, event, SECRET)
        started_for_half = ingest.started - len(ingest.requests)
        writer.transport.abort()
        async with Sender(gateway.port, gateway.tls()) as sender:
            await sender.post(OVOKO, event, SECRET)

    assert started_for_half == 0
    assert [request.body for request in ingest.requests] == [event, event]


@pytest.mark.parametrize("name", PROXIES)
async def test_a_large_body_without_its_end_is_not_applied(stack: Stack, tmp_path: Path, name: str) -> None:
    """One is cut off by its sender, one stalls until the proxy gives up."""
    ingest = await stack.started("ingest")
    port = int(stack.environment["STOCKHOOK_INGEST_PORT"])
    event = padded(100_000)
    head = f"POST {OVOKO} HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: {OVOKO_SECRET}\r\n"
    started = f"{head}Content-Length: {len(event) + 1}\r\n\r\n".encode() + event
    incomplete = 0

    async def are_answered() -> bool:
        return received(await scrape(stack, ingest.ops_port)).get("408", 0) == incomplete

    async def has_beginning() -> bool:
        return (value(await scrape(stack, ingest.ops_port), "stockhook_body_bytes") or 0) > 0

    async with running_gateway(name, tmp_path / "gateway", [port], STALLED[name]) as gateway:
        for stalls in (False, True):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=gateway.tls())
            writer.write(started)
            await writer.drain()
            if name in FORWARDS_BEGINNINGS:
                # A reset that arrives before the proxy has read the request would discard it.
                await until(has_beginning, "the ingest has the beginning of the body")
            if stalls:
                async with asyncio.timeout(20):
                    answer = await reader.read()
                assert not answer.startswith(b"HTTP/1.1 2"), answer
                assert b"abort-message" not in answer.lower()
            writer.transport.abort()
            incomplete += name in FORWARDS_BEGINNINGS
            await until(are_answered, f"the ingest answered {incomplete} incomplete bodies")
        async with Sender(gateway.port, gateway.tls()) as sender:
            whole = await sender.post(OVOKO, event, SECRET)

    assert whole.status == 200
    assert received(await scrape(stack, ingest.ops_port)) == Counter({"accepted": 1, "408": incomplete})
    assert await stack.depths() == {"stockhook.orders": 1}


def received(samples: Samples) -> Counter[str]:
    """How often each result was the answer to one of Ovoko's webhooks."""
    return Counter(
        {
            dict(labels)["result"]: int(number)
            for (name, labels), number in samples.items()
            if name == "stockhook_received_total" and ("provider", "ovoko") in labels
        }
    )


@pytest.mark.parametrize("name", EVENTS)
async def test_one_of_two_ingests_may_be_killed_under_load(stack: Stack, tmp_path: Path, name: str) -> None:
    other = {
        "STOCKHOOK_INGEST_PORT": str(free_port()),
        "STOCKHOOK_SPOOL_PATH": str(tmp_path / "other.sqlite3"),
    }
    killed, _ = [await listening_ingest(stack, **other), await listening_ingest(stack)]
    ports = [int(other["STOCKHOOK_INGEST_PORT"]), int(stack.environment["STOCKHOOK_INGEST_PORT"])]
    async with running_gateway(name, tmp_path / "gateway", ports) as gateway:
        numbers = iter(range(EVENTS[name]))
        statuses: Counter[int] = Counter()

        async def send_some() -> None:
            async with Sender(gateway.port, gateway.tls()) as sender:
                for number in numbers:
                    event = body(part_changed(number, number=number))
                    status = 0
                    while status != 200:
                        status = await post_status(sender, event)
                        statuses[status] += 1
                        assert statuses.total() < 2 * EVENTS[name], f"still refused: {statuses}"
                    if statuses[200] == EVENTS[name] // 3:
                        killed.kill()

        await asyncio.gather(*(send_some() for _ in range(SENDERS)))

    await stack.started("consume")

    async def is_applied() -> bool:
        return await stack.count("parts") == EVENTS[name]

    await until(is_applied, "each event is applied", 60)
    logged = await stack.fetch("SELECT event_id FROM event_log")
    print(f"\n{name}: {dict(statuses)}")

    assert statuses[200] == EVENTS[name]
    assert set(statuses) <= {0, 200, 502, 503}
    assert statuses.total() - statuses[200] <= SENDERS, "only what was in flight was sent again"
    assert {row["event_id"] for row in logged} == {
        UUID(numbered_id(number)) for number in range(EVENTS[name])
    }
    assert len(logged) == EVENTS[name]


@pytest.mark.parametrize("name", PROXIES)
async def test_the_ingest_believes_the_proxy_about_the_sender(
    stack: Stack, tmp_path: Path, name: str
) -> None:
    ingest = await stack.started("ingest", STOCKHOOK_TRUSTED_PROXIES="127.0.0.1")
    port = int(stack.environment["STOCKHOOK_INGEST_PORT"])
    forged = {"X-Webhook-Secret": "wrong", "X-Forwarded-For": "192.0.2.66", "X-Request-Id": "forged"}
    async with (
        running_gateway(name, tmp_path / "gateway", [port]) as gateway,
        Sender(gateway.port, gateway.tls(), own_address="127.0.0.2") as sender,
    ):
        answer = await sender.post(OVOKO, body(part_changed(1)), forged)

    async def refusal() -> dict[str, Any] | None:
        lines = map(json.loads, ingest.lines().splitlines())
        return next((line for line in lines if line["event"] == "request.refused"), None)

    logged = await until(refusal, "the refusal is logged")
    assert answer.status == 401
    # For a sender on the loopback interface, Envoy writes the machine's own address.
    assert logged["client"] == "127.0.0.2" or name == "envoy"
    assert logged["client"] != "192.0.2.66"
    assert logged.get("request_id") != "forged"
    assert ("request_id" in logged) == (name != "traefik")


async def test_an_ingest_may_have_a_path_prefix_behind_a_proxy(stack: Stack, tmp_path: Path) -> None:
    stack.environment["STOCKHOOK_INGEST_PATH_PREFIX"] = "/stockhook"
    await listening_ingest(stack)
    port = int(stack.environment["STOCKHOOK_INGEST_PORT"])
    prefix = {"location /webhooks/ {": "location /stockhook/webhooks/ {"}
    async with (
        running_gateway("nginx", tmp_path / "gateway", [port], prefix) as gateway,
        Sender(gateway.port, gateway.tls()) as sender,
    ):
        event = body(order_created(1, number=1))
        statuses = [(await sender.post(path, event, SECRET)).status for path in (f"/stockhook{OVOKO}", OVOKO)]

    assert statuses == [200, 404]
    assert await stack.depths() == {"stockhook.orders": 1}


@pytest.mark.parametrize("name", TLS_TO_INGEST)
async def test_a_proxy_shows_its_certificate_to_the_ingest(stack: Stack, tmp_path: Path, name: str) -> None:
    authority = make_authority(tmp_path / "authority")
    stack.environment |= {
        "STOCKHOOK_INGEST_CERTIFICATE_FILE": str(authority.certificate),
        "STOCKHOOK_INGEST_KEY_FILE": str(authority.key),
        "STOCKHOOK_INGEST_CLIENT_CA_FILE": str(authority.ca),
    }
    await listening_ingest(stack)
    port = int(stack.environment["STOCKHOOK_INGEST_PORT"])
    event = body(order_created(1, number=1))
    gateway_folder = tmp_path / "gateway"
    async with running_gateway(name, gateway_folder, [port], TLS_TO_INGEST[name], authority) as gateway:
        async with Sender(gateway.port, gateway.tls()) as sender:
            answers = [await sender.post(OVOKO, event, SECRET) for _ in range(3)]
        async with Sender(port, gateway.tls()) as sender:
            with pytest.raises(ConnectionEnded):
                await sender.post(OVOKO, event, SECRET)

    assert [answer.status for answer in answers] == [200] * 3


# Two ingests are restarted twice.
STOPS = 4
OLD, NEW = "gateway-secret-old-0123456789", "gateway-secret-new-9876543210"


async def test_gateway_secrets_are_rotated_behind_nginx_under_load(stack: Stack, tmp_path: Path) -> None:
    """Hookdeck in front of nginx, nginx in front of two ingests that are restarted one after the other."""
    stack.environment |= {"STOCKHOOK_GATEWAY": "hookdeck", "STOCKHOOK_TRUSTED_PROXIES": "127.0.0.1"}
    first = {"STOCKHOOK_INGEST_PORT": stack.environment["STOCKHOOK_INGEST_PORT"]}
    second = {
        "STOCKHOOK_INGEST_PORT": str(free_port()),
        "STOCKHOOK_SPOOL_PATH": str(tmp_path / "other.sqlite3"),
    }
    places = (first, second)
    ingests = [await listening_ingest(stack, **place, STOCKHOOK_GATEWAY_SECRETS=OLD) for place in places]

    async def refused_signatures() -> float:
        samples = [await scrape(stack, ingest.ops_port) for ingest in ingests]
        counts = [
            number
            for sample in samples
            for (name, _), number in sample.items()
            if name == "stockhook_gateway_unsigned_total"
        ]
        assert counts
        return sum(counts)

    async def restart_ingests(secrets: str) -> None:
        assert await refused_signatures() == 0
        for index, place in enumerate(places):
            assert ingests[index].stop() == 0
            ingests[index] = await listening_ingest(stack, **place, STOCKHOOK_GATEWAY_SECRETS=secrets)

    await stack.started("consume")
    ports = [int(place["STOCKHOOK_INGEST_PORT"]) for place in places]
    async with running_gateway("nginx", tmp_path / "gateway", ports) as nginx:
        trusted = {"SSL_CERT_FILE": str(nginx.authority.ca), "STOCKHOOK_GATEWAY_SECRETS": OLD}
        gateway = await SimulatedGateway(stack, "hookdeck", forward_to=nginx.url, **trusted).ready()
        async with load(stack.settings, gateway.url, 40) as sent:
            await gateway.accepts(30)
            await gateway.control("rotate", {"secret": NEW})
            await gateway.accepts(30)
            await restart_ingests(f"{NEW},{OLD}")
            await gateway.accepts(30)
            await gateway.control("retire")
            await gateway.accepts(30)
            await restart_ingests(NEW)
            await gateway.accepts(30)
        state = await gateway.is_empty()
        assert await refused_signatures() == 0

    async def are_logged() -> bool:
        return await stack.count("event_log") == sent.sent

    await until(are_logged, "each event is in the event log", 60)
    audit = stack.run("audit", "--json")
    providers = await stack.fetch("SELECT DISTINCT provider FROM event_log")
    print(f"\n{state}")

    assert sent.sent == sent.accepted == state["accepted"] == state["delivered"]
    assert (state["given_up"], state["keys"], len(providers)) == (0, 1, 2)
    # An ingest that stops ends its idle connections, on some of which nginx may just send a request.
    assert state["answers"].keys() <= {"200", "502"}
    assert state["answers"].get("502", 0) <= STOPS * SENDERS, "only what was in flight was sent again"
    assert audit.returncode == 0, audit.stdout


async def listening_ingest(stack: Stack, **overrides: str) -> Worker:
    """On another port, with a prefix or with TLS, it does not answer where `Stack.ready` asks."""
    worker = stack.start("ingest", **overrides)

    async def says_so() -> bool:
        return '"event":"ingest.listening"' in worker.lines()

    await until(says_so, "the ingest listens")
    return worker
