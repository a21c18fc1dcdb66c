"""Requests that proxy and ingest might read differently, beside the requests of another sender."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.support.events import body, numbered_id, order_created
from tests.support.gateways import PROXIES, Gateway, running_gateway
from tests.support.raw_http import Sender, listening
from tests.support.smuggling import OVOKO, Attack, Tap, attacks, http2_attacks, was_smuggled
from tests.support.stack import OVOKO_SECRET, OVOKO_SECRET_OLD, Stack

# Each proxy is attacked, which takes minutes (`make test-proxies`).
pytestmark = pytest.mark.proxies

ATTACKERS = 24
VICTIMS = 4
# An attack that leaves its request incomplete gets no answer; one that hides a request may get two.
FIRST_ANSWER_SECONDS = 1.0
FURTHER_ANSWER_SECONDS = 0.1
PAUSE_SECONDS = 0.02
# The others are attacked with whole hidden requests alone, which saves time.
ALL_KINDS = ("nginx", "haproxy")


@pytest.mark.parametrize("name", PROXIES)
async def test_no_hidden_request_reaches_the_ingest_and_no_answer_goes_to_another(
    stack: Stack, tmp_path: Path, name: str
) -> None:
    await stack.started("ingest")
    tap = Tap(int(stack.environment["STOCKHOOK_INGEST_PORT"]))
    secrets = (OVOKO_SECRET_OLD, OVOKO_SECRET)
    todo = [
        attack
        for attack in (*attacks(*secrets), *http2_attacks(*secrets))
        if name in ALL_KINDS or attack.name.endswith("request")
    ]
    async with listening(tap.serve) as port, running_gateway(name, tmp_path / "gateway", [port]) as gateway:
        attacked = asyncio.Event()
        victims = [asyncio.create_task(_send(gateway, number, attacked)) for number in range(VICTIMS)]
        waiting = iter(todo)
        answers = await asyncio.gather(*(_attack(gateway, waiting) for _ in range(ATTACKERS)))
        attacked.set()
        sent = await asyncio.gather(*victims)
    requests = list(tap.requests())
    smuggled = [fields for fields in requests if was_smuggled(fields)]
    answered = sum(answers, Counter[str]())
    print(f"\n{name}: {len(todo)} attacks, {dict(answered)}; {len(requests)} requests, {sum(sent)} of others")

    assert smuggled == []
    assert len(requests) >= sum(sent)
    assert answered.total() == len(todo)


async def _attack(gateway: Gateway, waiting: Iterator[Attack]) -> Counter[str]:
    answered: Counter[str] = Counter()
    tls = {protocol: gateway.tls(protocol) for protocol in ("h2", "http/1.1")}
    for attack in waiting:
        protocol = "h2" if attack.name.startswith("HTTP/2") else "http/1.1"
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=tls[protocol])
        answer = b""
        with suppress(OSError, TimeoutError):
            writer.write(attack.wire)
            async with asyncio.timeout(FIRST_ANSWER_SECONDS):
                answer = await reader.read(65_536)
            async with asyncio.timeout(FURTHER_ANSWER_SECONDS):
                while await reader.read(65_536):
                    pass
        # `close` would wait for the proxy to end TLS, longer than the test runs.
        writer.transport.abort()
        answered[answer[9:12].decode("latin-1") if answer.startswith(b"HTTP") else protocol] += 1
    return answered


async def _send(gateway: Gateway, victim: int, attacked: asyncio.Event) -> int:
    """Events with the right secret and with a wrong one in turn, until the attacks are over."""
    for round_ in count():
        async with Sender(gateway.port, gateway.tls()) as sender:
            for turn in range(10):
                number = victim * 1_000_000 + round_ * 10 + turn
                secret = "wrong" if turn % 3 == 2 else OVOKO_SECRET
                await asyncio.sleep(PAUSE_SECONDS)
                event = body(order_created(number, number=number))
                answer = await sender.post(OVOKO, event, {"X-Webhook-Secret": secret})
                expected = 401 if secret == "wrong" else 200
                assert answer.status == expected, (number, answer)
                assert json.loads(answer.body).get("event_id") == (
                    numbered_id(number) if expected == 200 else None
                )
        if attacked.is_set():
            return (round_ + 1) * 10
    raise AssertionError("count() has no end")
