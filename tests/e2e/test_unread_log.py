"""Events are received and applied although standard error is a pipe that is not read."""

import asyncio
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support import stack as stack_module
from tests.support.events import body, return_updated
from tests.support.stack import Stack, http_client, until

EVENTS = 60


@pytest.fixture
def unread(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The standard error of each process of the stack is a small pipe that is not read."""
    pipes: list[int] = []
    stack.forks = False
    start = subprocess.Popen

    def begin(command: list[str], **options: object) -> object:
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        pipes.append(reading)
        process = start(command, **{**options, "stdout": writing, "stderr": writing})
        os.close(writing)
        return process

    monkeypatch.setattr(stack_module.subprocess, "Popen", begin)
    yield
    for reading in pipes:
        os.close(reading)


@pytest.mark.parametrize("commands", [("ingest", "consume"), ("run",)], ids=["apart", "run"])
async def test_a_log_that_is_not_read_stops_no_event(
    stack: Stack, unread: None, commands: tuple[str, ...]
) -> None:
    processes = [stack.start(command, STOCKHOOK_LOG_LEVEL="debug") for command in commands]
    for process in processes:
        await stack.ready(process, 60)
    headers = {"X-Webhook-Secret": stack.settings.ovoko_secrets[0].get_secret_value()}
    async with http_client(30) as client:
        for number in range(EVENTS):
            # Each causes a line of the ingest (it is quarantined), then a batch with a line.
            for sent in (b"no JSON %d" % number, body(return_updated(number))):
                answer = await client.post(f"{stack.url}/webhooks/ovoko", content=sent, headers=headers)
                assert answer.status_code == 200

    async def all_applied() -> bool:
        return await stack.count("event_log") == EVENTS

    await until(all_applied, "all events are applied", 60)
    for process in processes:
        assert (await stack.ops(process.ops_port, "/readyz")).status_code == 200
        process.signal(signal.SIGTERM)
    codes = [await asyncio.to_thread(process.wait, 40) for process in processes]

    assert codes == [0] * len(commands)
