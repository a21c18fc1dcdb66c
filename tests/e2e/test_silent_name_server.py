"""Processes stop on SIGTERM while a name server does not respond."""

import asyncio
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import stack as stack_module
from tests.support.stack import Stack, until

# A private resolv.conf ($1) with one server: a socket that does not answer.
UNANSWERED = """
set -eu
mount --make-rprivate /
mount --bind "$1" /etc/resolv.conf
shift
exec "$@"
"""
NOWHERE = "unanswered.stockhook.example"


@pytest.fixture
def silent(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of the only name server of the stack's processes."""
    address = ".".join(["127", *(str(1 + secrets.randbelow(253)) for _ in range(3))])
    configuration = tmp_path / "resolv.conf"
    # A lookup lasts for four minutes.
    configuration.write_text(f"nameserver {address}\noptions timeout:30 attempts:4\n")
    confine = ["unshare", "--mount", "sh", "-c", UNANSWERED, "sh", str(configuration)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind((address, 53))
        except PermissionError:
            pytest.skip("needs the right to be a name server, which this machine does not give")
        if shutil.which("unshare") is None or subprocess.run([*confine, "true"], check=False).returncode:
            pytest.skip("needs the right to mount, which this machine does not give")
        server.setblocking(False)
        stack.forks = False
        start = subprocess.Popen
        monkeypatch.setattr(
            stack_module.subprocess, "Popen", lambda command, **rest: start([*confine, *command], **rest)
        )
        yield server


async def wait_for_query(server: socket.socket, what: str, seconds: float = 30) -> None:
    async def question() -> bool:
        try:
            return NOWHERE.partition(".")[0].encode() in server.recv(4096)
        except BlockingIOError:
            return False

    await until(question, what, seconds)


@pytest.mark.parametrize(
    ("command", "nowhere"),
    [
        ("consume", ("STOCKHOOK_AMQP_URL", "STOCKHOOK_DATABASE_URL")),
        ("consume", ("STOCKHOOK_AMQP_URL", "STOCKHOOK_MANAGEMENT_URL")),
        ("ingest", ("STOCKHOOK_AMQP_URL",)),
        ("run", ("STOCKHOOK_AMQP_URL", "STOCKHOOK_DATABASE_URL")),
    ],
    ids=["consume", "consume with its database", "ingest", "run"],
)
async def test_a_process_stops_in_time_while_no_name_server_responds(
    stack: Stack, silent: socket.socket, command: str, nowhere: tuple[str, ...]
) -> None:
    urls = {
        "STOCKHOOK_AMQP_URL": f"amqp://user:password@{NOWHERE}/stockhook",
        "STOCKHOOK_DATABASE_URL": f"postgresql://user:password@{NOWHERE}/stockhook",
        "STOCKHOOK_MANAGEMENT_URL": f"http://user:password@{NOWHERE}:15672",
    }
    process = stack.start(
        command,
        STOCKHOOK_ALLOW_PLAINTEXT="true",
        STOCKHOOK_ENVIRONMENT="development",
        STOCKHOOK_SHUTDOWN_GRACE="250",
        **{name: urls[name] for name in nowhere},
    )
    await wait_for_query(silent, f"{command} looks up a name")

    async def is_up() -> bool:
        return process.lines().count("ops.listening") == (2 if command == "run" else 1)

    await until(is_up, "the process has its signal handlers", 60)

    # Less than the duration of a lookup, and less than the grace period.
    assert await asyncio.to_thread(process.stop, 180) == 0
