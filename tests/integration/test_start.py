"""Every command reports refusals of the operating system in one sentence, with an exit code."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy.local.ports import free_port_pair
from tests.support.stack import free_port

SECRET = "a-secret-canary-0123456789"
# An address of TEST-NET-1, which no machine has.
NOT_OURS = "192.0.2.1"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which everything would start, although broker and database do not respond."""
    closed = free_port()
    return {
        "STOCKHOOK_AMQP_URL": f"amqp://127.0.0.1:{closed}/",
        "STOCKHOOK_DATABASE_URL": f"postgresql://127.0.0.1:{closed}/x",
        "STOCKHOOK_INGEST_PORT": str(free_port()),
        "STOCKHOOK_OPS_PORT": str(free_port_pair()),
        "STOCKHOOK_OVOKO_SECRETS": SECRET,
        "STOCKHOOK_SPOOL_PATH": str(tmp_path / "spool.sqlite3"),
    }


@pytest.fixture
def taken() -> Iterator[str]:
    """A port that another process listens on."""
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield str(other.getsockname()[1])


def sentence(command: str, environment: dict[str, str], code: int) -> str:
    """The output, without the log, of a command that ends with this code."""
    done = subprocess.run(
        [sys.executable, "-m", "worker", *command.split()],
        env={**os.environ, **environment, "STOCKHOOK_LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.returncode == code, done.stderr
    assert len(said) == 1, done.stderr
    assert said[0].startswith("stockhook: ")
    return said[0]


@pytest.mark.parametrize("command", ["ingest", "run"])
def test_a_port_of_the_ingest_that_is_taken_is_a_sentence(
    environment: dict[str, str], taken: str, command: str
) -> None:
    said = sentence(command, {**environment, "STOCKHOOK_INGEST_PORT": taken}, 78)

    assert said == (
        f"stockhook: cannot listen on '127.0.0.1' port {taken} (Address already in use): "
        "set STOCKHOOK_INGEST_PORT to a free port"
    )


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (NOT_OURS, "Cannot assign requested address"),
        ("a..b", "no host can have this name"),
        ("[::1]", "Name or service not known"),
    ],
)
def test_a_host_of_the_ingest_that_cannot_be_listened_on_is_a_sentence(
    environment: dict[str, str], host: str, reason: str
) -> None:
    said = sentence("ingest", {**environment, "STOCKHOOK_INGEST_HOST": host}, 78)

    assert said == (
        f"stockhook: cannot listen on {host!r} port {environment['STOCKHOOK_INGEST_PORT']} ({reason}): "
        "set STOCKHOOK_INGEST_HOST to an address of this machine"
    )


@pytest.mark.parametrize("command", ["ingest", "consume"])
def test_an_ops_port_that_is_taken_is_a_sentence(
    environment: dict[str, str], taken: str, command: str
) -> None:
    said = sentence(command, {**environment, "STOCKHOOK_OPS_PORT": taken}, 78)

    assert said == (
        f"stockhook: cannot listen on '127.0.0.1' port {taken} (Address already in use): "
        "set STOCKHOOK_OPS_PORT to a free port"
    )


def test_an_ops_host_that_cannot_be_listened_on_is_a_sentence(environment: dict[str, str]) -> None:
    said = sentence("consume", {**environment, "STOCKHOOK_OPS_HOST": NOT_OURS}, 78)

    assert said.endswith("set STOCKHOOK_OPS_HOST to an address of this machine")


def test_a_simulator_reports_that_its_port_is_in_use(environment: dict[str, str], taken: str) -> None:
    said = sentence(f"simulate marketplaces --port {taken}", environment, 78)

    assert said.endswith(f"port {taken} (Address already in use): set --port to a free port")


def test_a_spool_that_another_process_uses_is_a_sentence_and_can_be_tried_again(
    environment: dict[str, str],
) -> None:
    path = environment["STOCKHOOK_SPOOL_PATH"]
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = sentence("ingest", environment, 75)

    assert said == (
        f"stockhook: another process uses the spool ({path}.lock is locked): "
        "stop it, or set STOCKHOOK_SPOOL_PATH"
    )


@pytest.mark.parametrize("command", ["ingest", "run", "health"])
def test_a_secrets_file_that_is_no_text_is_a_sentence(
    environment: dict[str, str], tmp_path: Path, command: str
) -> None:
    file = tmp_path / "secrets/stockhook_buyback_tokens"
    file.parent.mkdir()
    file.write_bytes(b"canary\xff")
    said = sentence(command, {**environment, "STOCKHOOK_SECRETS_DIR": str(file.parent)}, 78)

    assert said == f"stockhook: STOCKHOOK_BUYBACK_TOKENS: {file} is not UTF-8"


@pytest.mark.parametrize("command", ["run", "consume", "doctor"])
def test_a_url_that_cannot_be_read_is_a_sentence(environment: dict[str, str], command: str) -> None:
    url = "amqp://us:can/ary@localhost/"
    said = sentence(
        command, {**environment, "STOCKHOOK_AMQP_URL": url, "STOCKHOOK_ENVIRONMENT": "development"}, 78
    )

    assert said.startswith("stockhook: STOCKHOOK_AMQP_URL: has an @ in the wrong place: percent-encode")
    assert "ary" not in said
