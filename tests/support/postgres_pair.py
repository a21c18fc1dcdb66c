"""A Postgres primary and its synchronous standby, for tests of failovers."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local import services
from deploy.local.packages import DownloadFailed
from deploy.local.ports import choose_ports
from deploy.local.postgres import DATABASE, USER, PostgresNode, PostgresSettings, other_than_root, run_tool
from deploy.local.process import Process, Spawner, StartFailed, wait_until_gone
from deploy.local.programs import PostgresPrograms, has_programs
from tests.support.stack import until

PASSWORD = "the-password-of-both-servers"

RELOAD = "SELECT pg_reload_conf()"
SHUT_DOWN_SECONDS = 20
PAIR_SECONDS = 60

IS_SYNCHRONOUS = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))"

NOTHING_WRITES = """
SELECT current_setting('default_transaction_read_only')::boolean
    AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL)
"""


@dataclass(slots=True)
class PostgresPair:
    """The standby confirms every commit until one of the two has ended."""

    primary: PostgresNode
    standby: PostgresNode

    @property
    def url(self) -> str:
        """The URL with both hosts; a connection goes to the primary."""
        hosts = ",".join(
            urlsplit(node.url).netloc.rpartition("@")[2] for node in (self.primary, self.standby)
        )
        return f"postgresql://{USER}:{PASSWORD}@{hosts}/{DATABASE}?target_session_attrs=read-write"

    def kill_primary(self) -> None:
        """Kill only the postmaster with SIGKILL: each backend notices when it waits next."""
        (pid,) = self.primary.pids()
        os.kill(pid, signal.SIGKILL)

    async def make_primary_read_only(self) -> None:
        """Make the primary read-only, as some failovers do: open sessions continue, but cannot write."""
        await execute(self.primary, "ALTER SYSTEM SET default_transaction_read_only = on", RELOAD)
        await until(lambda: fetch_value(self.primary, NOTHING_WRITES), "no transaction writes", PAIR_SECONDS)

    def shut_down_primary(self) -> None:
        """Shut down as in a planned failover: the standby has received everything when the primary ends."""
        running = [Process.of(pid) for pid in self.primary.pids()]
        processes = [process for process in running if process is not None]
        for process in processes:
            process.signal(signal.SIGINT)
        if not wait_until_gone(processes, SHUT_DOWN_SECONDS):
            raise StartFailed(f"Postgres did not shut down within {SHUT_DOWN_SECONDS} s")

    async def promote_standby(self) -> None:
        """Return when it accepts writes."""
        await execute(self.standby, "SELECT pg_promote(true, 60)")

    async def rebuild_old_primary(self) -> None:
        """After a failover, make the old primary a standby with a fresh copy of the data.

        Return when it confirms every commit; then the pair can fail over in the other direction.
        """
        old = self.primary
        await asyncio.to_thread(old.kill)
        shutil.rmtree(old.settings.folder)
        await asyncio.to_thread(copy_data, old.settings, self.standby.url)
        await asyncio.to_thread(old.start)
        self.primary, self.standby = self.standby, old
        await self.make_synchronous()

    async def make_synchronous(self) -> None:
        """Make every commit wait for the standby."""
        await execute(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", RELOAD)
        await self.wait_until_synchronous()

    async def wait_until_synchronous(self) -> None:
        await until(
            lambda: fetch_value(self.primary, IS_SYNCHRONOUS), "the standby is synchronous", PAIR_SECONDS
        )


async def fetch_value(node: PostgresNode, query: str) -> object:
    connection = await asyncpg.connect(node.url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def execute(node: PostgresNode, *statements: str) -> None:
    connection = await asyncpg.connect(node.url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def postgres_programs() -> PostgresPrograms:
    """The programs of the tests' private Postgres; without pg_basebackup the test is skipped."""
    try:
        programs = services.find_programs(print)
    except DownloadFailed as failure:
        pytest.skip(f"needs a private Postgres: {failure}")
    if programs is None or not has_programs(programs.postgres.folder, "pg_basebackup"):
        pytest.skip("needs a private Postgres with pg_basebackup")
    return programs.postgres


@asynccontextmanager
async def postgres_pair(
    folder: Path, programs: PostgresPrograms | None = None
) -> AsyncIterator[PostgresPair]:
    """Run both with their data in this folder. Without installed programs, the test is skipped."""
    programs = postgres_programs() if programs is None else programs
    ports = choose_ports(["primary", "standby"], {})
    spawner = Spawner()

    def node(name: str) -> tuple[PostgresSettings, PostgresNode]:
        state = folder / name
        state.mkdir(mode=0o755)
        settings = PostgresSettings(state / "postgres", state / "log", programs, ports[name], PASSWORD)
        return settings, PostgresNode(settings, spawner=spawner, durable=False)

    _, primary = node("primary")
    of_standby, standby = node("standby")
    pair = PostgresPair(primary, standby)
    try:
        primary.start()
        copy_data(of_standby, primary.url)
        standby.start()
        await pair.make_synchronous()
        yield pair
    finally:
        for one in (standby, primary):
            one.kill()
        spawner.close()


def copy_data(standby: PostgresSettings, primary_url: str) -> None:
    """Copy the data of a running primary; the copy follows it once it is started."""
    standby.folder.mkdir(mode=0o700)
    identity = other_than_root([standby.folder, standby.programs.folder])
    if identity is not None:
        os.chown(standby.folder, identity.uid, identity.gid)
    run_tool(
        standby,
        identity,
        "pg_basebackup",
        "--pgdata",
        str(standby.data),
        "--dbname",
        primary_url,
        "--wal-method=stream",
        "--checkpoint=fast",
        "--no-sync",
        "--write-recovery-conf",
    )
