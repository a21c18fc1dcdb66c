"""The services of `make run` and `make test`: start, damage, restart, and cleanup."""

import asyncio
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aio_pika
import asyncpg
import pytest

from deploy.local.environment import write_env
from deploy.local.ports import (
    CANDIDATES,
    LOOPBACK,
    candidates,
    choose_and_remember,
    choose_ports,
    free_port_pair,
    is_free,
    listen,
    remembered_ports,
)
from deploy.local.postgres import asks_for_password
from deploy.local.process import (
    Command,
    Daemon,
    Process,
    Spawner,
    StartFailed,
    descendants,
    read_record,
    sweep,
)
from deploy.local.rabbitmq import ControlFailed, RabbitNode, speaks_amqp
from deploy.local.secrets import remembered_secrets
from deploy.local.services import CHECKOUT, AlreadyRunning, Services, is_running, local_services

QUEUE = "kept"
LISTENING = "0A"


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Below a private folder, as clones in home folders often are."""
    closed = tmp_path_factory.mktemp("closed")
    closed.chmod(0o700)
    return closed / "state"


@pytest.fixture(autouse=True, scope="module")
def nothing_given() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("STOCKHOOK_AMQP_URL", raising=False)
        patch.delenv("STOCKHOOK_DATABASE_URL", raising=False)
        yield


@pytest.fixture(scope="module")
def services(state: Path) -> Iterator[Services]:
    with local_services(state, durable=False, announce=silent) as services:
        yield services


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


async def publish(amqp_url: str, body: bytes) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, QUEUE)


async def take(amqp_url: str) -> bytes:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(QUEUE)
        async with asyncio.timeout(10):
            async with queue.iterator() as messages:
                async for message in messages:
                    await message.ack()
                    return message.body
    raise AssertionError("the queue gave nothing")


async def write_row(database_url: str, word: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (word text)")
    await connection.execute("INSERT INTO kept VALUES ($1)", word)
    await connection.close()


async def read_rows(database_url: str) -> list[str]:
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("SELECT word FROM kept ORDER BY word")
    await connection.close()
    return [row["word"] for row in rows]


def listening_on_every_address() -> set[int]:
    """Ports on which this machine listens on other addresses than loopback."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        int(fields[1].partition(":")[2], 16)
        for fields in sockets
        if fields[3] == LISTENING and fields[1].startswith("00000000:")
    }


def node_process(node: object) -> Process:
    assert isinstance(node, RabbitNode)
    process = Process.of(node.pids()[0])
    assert process is not None
    return process


def test_both_are_up_and_only_on_the_loopback_address(services: Services, state: Path) -> None:
    asyncio.run(publish(services.amqp_url, b"one"))
    asyncio.run(write_row(services.database_url, "one"))

    assert asyncio.run(take(services.amqp_url)) == b"one"
    assert asyncio.run(read_rows(services.database_url)) == ["one"]
    assert not listening_on_every_address() & set(remembered_ports(state / "ports.json").values())
    assert stat.S_IMODE((state / "secrets.json").stat().st_mode) == 0o600


def test_a_wrong_password_opens_neither(services: Services, state: Path) -> None:
    passwords = remembered_secrets(state / "secrets.json")
    wrong_amqp = services.amqp_url.replace(passwords["rabbitmq_password"], "wrong")
    wrong_database = services.database_url.replace(passwords["postgres_password"], "wrong")

    with pytest.raises(aio_pika.exceptions.AMQPConnectionError):
        asyncio.run(publish(wrong_amqp, b"one"))
    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(read_rows(wrong_database))


def test_the_broker_knows_one_user_and_no_guest(services: Services) -> None:
    assert services.rabbitmq is not None
    users = services.rabbitmq.ctl("--no-table-headers", "list_users").split()

    assert users == ["stockhook", "[administrator]"]
    with pytest.raises(ControlFailed, match="no-such-command"):
        services.rabbitmq.ctl("no-such-command")


def test_a_killed_postgres_comes_back_with_its_rows(services: Services) -> None:
    assert services.postgres is not None
    asyncio.run(write_row(services.database_url, "two"))
    process = Process.of(services.postgres.pids()[0])
    assert process is not None
    children = descendants(process.pid)

    services.postgres.kill()

    assert children
    assert not any(member.lives() for member in [process, *children])
    services.postgres.start()
    assert "two" in asyncio.run(read_rows(services.database_url))


def test_a_killed_broker_comes_back_with_its_messages(services: Services) -> None:
    assert services.rabbitmq is not None
    asyncio.run(publish(services.amqp_url, b"kept"))
    process = node_process(services.rabbitmq)

    services.rabbitmq.kill()

    assert not process.lives()
    services.rabbitmq.start()
    assert asyncio.run(take(services.amqp_url)) == b"kept"


def test_a_frozen_service_keeps_its_connections_and_is_silent(services: Services, state: Path) -> None:
    assert services.rabbitmq is not None
    assert services.postgres is not None
    ports = remembered_ports(state / "ports.json")
    probes = ((services.rabbitmq, speaks_amqp, "amqp"), (services.postgres, asks_for_password, "postgres"))
    for node, answers, name in probes:
        node.pause()
        frozen = answers(ports[name])
        node.resume()

        assert not frozen
        assert answers(ports[name])


def test_a_second_run_in_the_same_folder_is_refused(services: Services, state: Path) -> None:
    again = local_services(state, durable=False, announce=silent)

    with pytest.raises(AlreadyRunning, match=f"already running here, as process {os.getpid()}$"):
        again.__enter__()
    assert services.rabbitmq is not None
    assert is_running(state)


def test_a_durable_run_finds_its_data_again_even_on_other_ports_and_leaves_nothing(tmp_path: Path) -> None:
    with local_services(tmp_path, durable=True, announce=silent) as first:
        assert first.rabbitmq is not None
        assert first.postgres is not None
        asyncio.run(publish(first.amqp_url, b"durable"))
        asyncio.run(write_row(first.database_url, "durable"))
        pids = [*first.rabbitmq.pids(), *first.postgres.pids()]
        started = [process for pid in pids for process in (Process.of(pid), *descendants(pid)) if process]
    still_there = [process for process in started if process.lives()]
    ports = remembered_ports(tmp_path / "ports.json")
    free_again = all(is_free(port) for port in ports.values())

    with (
        listen(ports["amqp"]),
        listen(ports["epmd"]),
        local_services(tmp_path, durable=True, announce=silent) as second,
    ):
        body = asyncio.run(take(second.amqp_url))
        rows = asyncio.run(read_rows(second.database_url))

    assert len(started) >= 3 + 4
    assert still_there == []
    assert free_again
    assert not is_running(tmp_path)
    assert (body, rows) == (b"durable", ["durable"])
    assert second.amqp_url != first.amqp_url
    assert second.database_url == first.database_url


def test_services_die_with_a_program_that_is_killed() -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "deploy.local", "services", "--ephemeral"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    lines = [program.stdout.readline(), program.stdout.readline()]
    started = descendants(program.pid)
    program.kill()
    program.communicate()

    assert [shlex.split(line)[1].partition("=")[0] for line in lines] == [
        "STOCKHOOK_AMQP_URL",
        "STOCKHOOK_DATABASE_URL",
    ]
    assert len(started) >= 3
    wait_for(lambda: not any(process.lives() for process in started), seconds=20)


def test_ctrl_c_ends_it_with_exit_code_0() -> None:
    given = {"STOCKHOOK_AMQP_URL": "amqp://theirs", "STOCKHOOK_DATABASE_URL": "postgresql://theirs"}
    program = subprocess.Popen(
        [sys.executable, "-m", "deploy.local", "services", "--ephemeral"],
        cwd=CHECKOUT,
        env={**os.environ, **given},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    program.stdout.readline()
    program.send_signal(signal.SIGINT)
    program.communicate()

    assert program.returncode == 0


def daemon(folder: Path, script: str, spawner: Spawner) -> Daemon:
    command = Command(("sh", "-c", script), {"PATH": os.defpath})
    return Daemon("thing", command, record=folder / "pid", log=folder / "log", spawner=spawner)


def test_a_service_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    spawner = Spawner()
    thing = daemon(tmp_path, "echo 'no room left'; exit 3", spawner)
    thing.start()

    with pytest.raises(StartFailed, match=r"thing ended with code 3\nno room left"):
        thing.wait_until_ready(lambda: False, seconds=10)
    spawner.close()


def test_waiting_for_an_unresponsive_service_ends(tmp_path: Path) -> None:
    spawner = Spawner()
    thing = daemon(tmp_path, "exec sleep 60", spawner)
    thing.start()

    with pytest.raises(StartFailed, match="thing did not answer within 0 s"):
        thing.wait_until_ready(lambda: False, seconds=0.1)
    thing.stop(seconds=5)
    assert not thing.running()
    spawner.close()


def test_a_sweep_ends_only_recorded_processes(tmp_path: Path) -> None:
    spawner = Spawner()
    thing = daemon(tmp_path, "exec sleep 60", spawner)
    thing.start()
    record = tmp_path / "pid"
    process = read_record(record)
    assert process is not None
    other = tmp_path / "other"
    other.write_text(record.read_text().replace(f'"born": {process.born}', '"born": 1'))

    sweep(other, patience=0)
    survived = process.lives()
    sweep(record, patience=0)

    assert survived
    assert not process.lives()
    assert not record.exists()
    thing.stop(seconds=5)
    spawner.close()


def test_ports_are_all_different_and_the_preferred_ones_if_free(tmp_path: Path) -> None:
    first = choose_and_remember(tmp_path / "ports.json", ["one", "two", "three"])
    again = choose_and_remember(tmp_path / "ports.json", ["one", "two", "three"])
    with listen(first["two"]):
        moved = choose_ports(["one", "two"], first, taken=[first["one"]])

    assert len(set(first.values())) == 3
    assert again == first
    assert not set(moved.values()) & {first["one"], first["two"]}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("32768\t60999\n", range(10_000, 32_768)),
        ("20000\t60999\n", range(10_000, 20_000)),
        ("1024\t65535\n", range(10_000, 32_768)),
        ("text", range(10_000, 32_768)),
        (None, range(10_000, 32_768)),
    ],
)
def test_ports_are_below_the_range_that_outgoing_connections_take(
    tmp_path: Path, setting: str | None, expected: range
) -> None:
    file = tmp_path / "ip_local_port_range"
    if setting is not None:
        file.write_text(setting)

    assert candidates(file) == expected


def test_chosen_ports_are_outside_that_range_and_all_different() -> None:
    pairs = [free_port_pair() for _ in range(50)]
    ports = [choose_ports(["port"], {})["port"] for _ in range(50)]
    ports += [port for pair in pairs for port in (pair, pair + 1)]

    assert len(set(ports)) == 150
    assert all(port in CANDIDATES or port - 1 in CANDIDATES for port in ports)


def test_a_pair_of_ports_is_free_as_a_pair() -> None:
    first = free_port_pair(20_000)
    with listen(first + 1):
        other = free_port_pair(first)

    assert other != first
    assert is_free(other)
    assert is_free(other + 1)


def test_the_env_file_is_private_and_a_shell_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("older")
    write_env(path, {"STOCKHOOK_X": "it's $HOME", "STOCKHOOK_URL": f"http://{LOOPBACK}"})
    done = subprocess.run(
        ["sh", "-c", '. "$0"; printf %s "$STOCKHOOK_X $STOCKHOOK_URL"', str(path)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "it's $HOME http://127.0.0.1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    first = remembered_secrets(path)

    assert remembered_secrets(path) == first
    assert len(set(first.values())) == len(first)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
