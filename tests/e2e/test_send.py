"""`stockhook send` against answers of every kind, and against the real product."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import monotonic

import pytest

from schemas.registry import Provider
from tests.support.stack import Stack, free_port, until
from worker.simulator.http_client import Answer, Client, NoAnswer
from worker.simulator.webhook import Webhook

WEBHOOK = Webhook(Provider.OVOKO, "order.created", {"x-webhook-secret": "secret"}, b'{"a": 1}')
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@dataclass(slots=True)
class ScriptedServer:
    """Answers requests with these bytes, one by one; the last one is repeated.

    An empty answer closes the connection; None leaves the request without an answer.
    """

    answers: list[bytes | None]
    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    instants: list[float] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                self.instants.append(monotonic())
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                if answer is None:
                    continue
                writer.write(answer)
                if not answer or b"connection: close" in answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.close()


@asynccontextmanager
async def serving(*answers: bytes | None) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer(list(answers))
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()


async def test_requests_share_a_connection_and_are_complete() -> None:
    async with serving(OK) as server, Client(server.url) as client:
        answers = [await client.post(WEBHOOK) for _ in range(3)]
    head, body = server.requests[0].split(b"\r\n\r\n")

    assert answers == [Answer(200, b"{}")] * 3
    assert len(server.writers) == 1
    assert server.requests == [server.requests[0]] * 3
    assert body == WEBHOOK.body
    assert sorted(head.lower().split(b"\r\n")) == [
        b"content-length: 8",
        f"host: {server.url.removeprefix('http://')}".encode(),
        b"post /webhooks/ovoko http/1.1",
        b"x-webhook-secret: secret",
    ]


async def test_concurrent_requests_do_not_wait_for_each_other() -> None:
    async with serving(None, OK) as server, Client(server.url, timeout_seconds=5) as client:
        unanswered = asyncio.create_task(client.post(WEBHOOK))
        await until(lambda: _equals(len(server.requests), 1), "the first request is there")
        answer = await client.post(WEBHOOK)
        unanswered.cancel()

    assert answer == Answer(200, b"{}")
    assert len(server.writers) == 2


async def _equals(value: int, expected: int) -> bool:
    return value == expected


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Answer(200, b"{}")),
        (b"HTTP/1.1 413 Too Large\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx", Answer(413, b"x")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Answer(204, b"")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, Answer(200, b"{}")),
        (b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nall of it", Answer(200, b"all of it")),
    ],
)
async def test_every_way_to_answer_is_read_and_the_next_request_works(raw: bytes, answer: Answer) -> None:
    async with serving(raw, OK) as server, Client(server.url) as client:
        first = await client.post(WEBHOOK)
        second = await client.post(WEBHOOK)

    assert first == answer
    assert second == Answer(200, b"{}")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "connection broken"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "connection broken"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhalf", "connection broken"),
        (None, "timeout"),
    ],
)
async def test_an_invalid_response_is_reported_and_the_next_request_works(
    raw: bytes | None, message: str
) -> None:
    async with serving(raw, OK) as server, Client(server.url, timeout_seconds=0.3) as client:
        with pytest.raises(NoAnswer, match=message):
            await client.post(WEBHOOK)
        answer = await client.post(WEBHOOK)

    assert answer == Answer(200, b"{}")


async def test_a_closed_port_gives_no_answer() -> None:
    async with Client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(NoAnswer, match="connection refused"):
            await client.reach()


async def send(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `stockhook send` in another thread, because this one may serve it."""
    environment = {
        **os.environ,
        "STOCKHOOK_OVOKO_SECRETS": "secret",
        "STOCKHOOK_BUYBACK_TOKENS": "token",
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "worker", "send", "--url", url, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_an_absent_ingest_is_one_sentence_and_exit_code_69() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    for mode in (["--documented"], ["--rate", "1"]):
        ended = await send(url, *mode)

        assert ended.returncode == 69
        assert ended.stderr == f"stockhook: no answer from an ingest at {url} (connection refused)\n"


async def test_a_refused_example_is_shown_with_its_reason_and_fails_the_command() -> None:
    problem = b'{"title": "Unauthorized", "status": 401}'
    refusal = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: %d\r\n\r\n%s" % (len(problem), problem)
    async with serving(refusal, OK) as server:
        ended = await send(server.url, "--documented", "--provider", "ovoko")

    first, *rest = ended.stdout.splitlines()
    assert ended.returncode == 1
    assert "part.status.changed" in first
    assert "401 Unauthorized" in first
    assert len(rest) == 4


async def test_the_same_seed_sends_the_same_bytes() -> None:
    play = ("--rate", "100", "--seconds", "1", "--seed", "7", "--duplicates", "0.1", "--shuffle")
    async with serving(OK) as first, serving(OK) as second, serving(OK) as other:
        await send(first.url, *play)
        await send(second.url, *play)
        await send(other.url, *play, "--seed=8")

    bodies, again, others = (
        sorted(request.split(b"\r\n\r\n", 1)[1] for request in server.requests)
        for server in (first, second, other)
    )
    assert len(bodies) == 100
    assert bodies == again
    assert not set(bodies) & set(others)


async def test_an_event_is_sent_again_after_each_given_wait_and_then_no_more() -> None:
    async with serving(BUSY) as server:
        ended = await send(
            server.url, "--rate", "1", "--seconds", "1", "--resend-after", "0.1,0.5,1", "--json"
        )
    waits = [later - earlier for earlier, later in zip(server.instants, server.instants[1:], strict=False)]
    summary = json.loads(ended.stdout)

    assert ended.returncode == 1
    assert server.requests == [server.requests[0]] * 4
    assert [wait >= least - 0.01 for wait, least in zip(waits, (0.1, 0.5, 1), strict=True)] == [True] * 3
    assert (summary["events"], summary["accepted"], summary["given_up"]) == (1, 0, 1)
    assert summary["answers"] == {"503": 4}


async def test_slow_answers_do_not_slow_the_pace() -> None:
    async with serving(None) as server:
        sending = asyncio.create_task(
            send(server.url, "--rate", "100", "--seconds", "0.5", "--resend-after", "", "--json")
        )
        await until(lambda: _equals(len(server.requests), 50), "all events are sent, and none is answered")
        server.hang_up()
        ended = await sending

    assert ended.returncode == 1
    assert json.loads(ended.stdout)["given_up"] == 50


async def test_an_interrupted_simulation_prints_its_summary() -> None:
    async with serving(OK) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", "send", "--url", server.url, "--rate", "50", "--seconds", "60"),
            "--json",
            env={**os.environ, "STOCKHOOK_OVOKO_SECRETS": "secret", "STOCKHOOK_BUYBACK_TOKENS": "token"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Background jobs of a shell ignore SIGINT, and pass that on to their processes.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        await until(lambda: _at_least(len(server.requests), 20), "some are sent")
        process.send_signal(signal.SIGINT)
        out, error = await process.communicate()

    assert process.returncode == 130, error
    assert json.loads(out)["accepted"] >= 10
    assert error == b""


async def _at_least(value: int, least: int) -> bool:
    return value >= least


async def test_documented_events_are_all_accepted_by_the_product_and_those_as_printed_too(
    stack: Stack,
) -> None:
    await stack.started("ingest")

    ended = stack.run("send", "--documented", "--as-printed", "--json")

    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [line["status"] for line in lines] == [200] * 22
    assert all(line["event_id"] for line in lines)
    assert (await stack.depths())["stockhook.quarantine"] == 4


async def test_a_played_marketplace_reaches_the_event_log_each_event_once(
    stack: Stack, tmp_path: Path
) -> None:
    await stack.started_apart()
    accepted = tmp_path / "accepted.jsonl"
    play = ("--rate", "200", "--seconds", "3", "--seed", "7", "--duplicates", "0.1", "--shuffle")

    ended = stack.run("send", *play, "--output", str(accepted), "--json")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [json.loads(line) for line in accepted.read_text().splitlines()]
    event_ids = {line["event_id"] for line in lines}
    assert json.loads(ended.stdout)["accepted"] == len(lines) == 600
    assert len(event_ids) < 600

    await until(lambda: _is_applied(stack, len(event_ids)), "all are applied")
    rows = await stack.fetch("SELECT event_id, body, applied_at FROM event_log")
    private = {
        line["event_id"] for line in lines if line["type"] == "OrderCustomerPaymentDetailsCreatedEvent"
    }
    assert {str(row["event_id"]) for row in rows} == event_ids
    assert {
        str(row["event_id"]): sha256(row["body"]).hexdigest()
        for row in rows
        if str(row["event_id"]) not in private
    } == {line["event_id"]: line["body_sha256"] for line in lines if line["event_id"] not in private}
    assert await stack.depths() == {}


async def _is_applied(stack: Stack, count: int) -> bool:
    rows = await stack.fetch("SELECT count(*) AS rows FROM event_log WHERE applied_at IS NOT NULL")
    return bool(rows[0]["rows"] >= count)


async def test_an_ingest_that_dies_and_comes_back_gets_every_event_in_the_end(stack: Stack) -> None:
    ingest = await stack.started("ingest")
    play = ("--rate", "50", "--seconds", "4", "--resend-after", "1,4,8", "--json")
    sending = asyncio.create_task(asyncio.to_thread(stack.run, "send", *play))
    await until(lambda: _holds(stack, 20), "some have arrived")

    ingest.kill()
    await stack.started("ingest")
    ended = await sending

    summary = json.loads(ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (summary["events"], summary["accepted"], summary["given_up"]) == (200, 200, 0)
    assert summary["resent"] > 0


async def _holds(stack: Stack, count: int) -> bool:
    return sum((await stack.depths()).values()) >= count
