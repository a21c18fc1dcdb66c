"""The real PgBouncer in front of Postgres, with defaults except for the mode of its pools."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.packages import DownloadFailed, pgbouncer
from deploy.local.ports import LOOPBACK, choose_ports, is_free
from deploy.local.postgres import other_than_root
from deploy.local.process import Command, Daemon, Spawner
from deploy.local.programs import with_libraries
from deploy.local.services import PACKAGES, Services
from tests.support.events import body, order_created
from tests.support.stack import Stack, until

CONFIGURATION = """
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = {mode}
"""

Pooled = Callable[[str], str]


@pytest.fixture
def pooled(services: Services, tmp_path: Path) -> Iterator[Pooled]:
    """Start a PgBouncer with this mode of pools; return the URL through it."""
    try:
        program, libraries = pgbouncer(PACKAGES, print)
    except DownloadFailed as failure:
        pytest.skip(f"needs PgBouncer: {failure}")
    upstream = urlsplit(services.database_url)
    spawner = Spawner()
    daemons: list[Daemon] = []

    def start(mode: str) -> str:
        listen = choose_ports(["pgbouncer"], {})["pgbouncer"]
        folder = tmp_path / mode
        folder.mkdir()
        users, configuration, log = (folder / name for name in ("users", "pgbouncer.ini", "log"))
        users.write_text(f'"{upstream.username}" "{upstream.password}"\n')
        configuration.write_text(
            CONFIGURATION.format(
                host=upstream.hostname, port=upstream.port, listen=listen, users=users, mode=mode
            )
        )
        daemon = Daemon(
            "PgBouncer",
            Command(
                (str(program), str(configuration)),
                with_libraries(libraries),
                identity=other_than_root([folder, program]),
            ),
            record=folder / "pid",
            log=log,
            spawner=spawner,
        )
        daemons.append(daemon)
        daemon.start()
        daemon.wait_until_ready(lambda: not is_free(listen), 20)
        user = upstream.netloc.rpartition("@")[0]
        return upstream._replace(netloc=f"{user}@{LOOPBACK}:{listen}").geturl()

    yield start
    for daemon in daemons:
        daemon.kill()
    spawner.close()


async def test_a_pooler_by_session_works_with_its_defaults(stack: Stack, pooled: Pooled) -> None:
    stack.environment["STOCKHOOK_DATABASE_URL"] = pooled("session")
    migrated = stack.run("migrate")
    examined = stack.run("doctor", "--json")
    worker = stack.start("run")
    await stack.ready(worker, 60)
    await stack.post_ovoko(body(order_created(1)))

    async def is_applied() -> bool:
        return await stack.count("orders") == 1

    async def is_published() -> bool:
        return await stack.count("changes") == 0

    await until(is_applied, "it is applied")
    await until(is_published, "it is published")
    session = [one for one in json.loads(examined.stdout)["findings"] if one["subject"] == "session"]

    assert migrated.returncode == 0, migrated.stderr
    assert [one["level"] for one in session] == ["ok"]
    assert worker.stop(40) == 0


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_pooler_that_shares_its_sessions_is_refused_in_one_sentence(
    stack: Stack, pooled: Pooled, mode: str
) -> None:
    direct = stack.environment["STOCKHOOK_DATABASE_URL"]
    stack.environment["STOCKHOOK_DATABASE_URL"] = pooled(mode)
    consumed, migrated = stack.run("consume"), stack.run("migrate")
    examined = stack.run("doctor", "--json")
    session = [one for one in json.loads(examined.stdout)["findings"] if one["subject"] == "session"]
    connection = await asyncpg.connect(direct)
    left = await connection.fetchval(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    await connection.close()

    for done in (consumed, migrated):
        assert done.returncode == 78
        assert "pool_mode = session" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    assert [one["level"] for one in session] == ["error"]
    assert left == 0
