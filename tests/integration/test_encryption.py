"""TLS to broker and database: the right CA and host name connect, all others give a clear error."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.services import Services
from tests.support.authority import Authority, make_authority
from tests.support.events import body, order_created
from tests.support.stack import Stack, until


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "wrong")


@pytest.fixture
async def encrypting_postgres(
    services: Services, authority: Authority, tmp_path: Path
) -> AsyncIterator[None]:
    """The tests' Postgres with TLS."""
    if services.postgres is None:
        pytest.skip("needs a Postgres of our own")
    connection = await asyncpg.connect(services.database_url)
    folder = Path(await connection.fetchval("SHOW data_directory"))
    owner = folder.stat()
    for name, source in (("server.crt", authority.certificate), ("server.key", authority.key)):
        (folder / name).write_bytes(source.read_bytes())
        (folder / name).chmod(0o600)
        os.chown(folder / name, owner.st_uid, owner.st_gid)
    await _set_ssl(connection, "on")
    yield
    await _set_ssl(connection, "off")
    await connection.close()


async def _set_ssl(connection: "asyncpg.Connection[asyncpg.Record]", value: str) -> None:
    await connection.execute(f"ALTER SYSTEM SET ssl = {value}")
    await connection.execute("SELECT pg_reload_conf()")

    async def is_set() -> bool:
        return bool(await connection.fetchval("SHOW ssl") == value)

    await until(is_set, f"ssl is {value}")


def at(url: str, scheme: str, host: str, port: int | None = None) -> str:
    parts = urlsplit(url)
    return parts._replace(
        scheme=scheme, netloc=f"{parts.username}:{parts.password}@{host}:{port or parts.port}"
    ).geturl()


def test_the_broker_is_verified(
    stack: Stack, amqps_port: int, authority: Authority, stranger: Authority
) -> None:
    plain = stack.environment["STOCKHOOK_AMQP_URL"]
    here, misnamed = (at(plain, "amqps", host, amqps_port) for host in ("127.0.0.1", "localhost"))

    right = stack.run("topology", STOCKHOOK_AMQP_URL=here, STOCKHOOK_AMQP_CA_FILE=str(authority.ca))
    wrong = stack.run("topology", STOCKHOOK_AMQP_URL=here, STOCKHOOK_AMQP_CA_FILE=str(stranger.ca))
    unknown = stack.run("topology", STOCKHOOK_AMQP_URL=here)
    other = stack.run("topology", STOCKHOOK_AMQP_URL=misnamed, STOCKHOOK_AMQP_CA_FILE=str(authority.ca))

    assert (right.returncode, right.stdout, right.stderr) == (0, "declared\n", "")
    for refused in (wrong, unknown):
        assert refused.returncode == 69
        assert "cannot reach the broker (its certificate is not accepted: unable to get" in refused.stderr
    assert other.returncode == 69
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in other.stderr
    for refused in (wrong, unknown, other):
        assert len(refused.stderr.splitlines()) == 1


async def test_events_pass_over_tls(
    stack: Stack, amqps_port: int, encrypting_postgres: None, authority: Authority
) -> None:
    stack.environment |= {
        "STOCKHOOK_AMQP_URL": at(stack.environment["STOCKHOOK_AMQP_URL"], "amqps", "127.0.0.1", amqps_port),
        "STOCKHOOK_AMQP_CA_FILE": str(authority.ca),
        "STOCKHOOK_DATABASE_CA_FILE": str(authority.ca),
    }
    await stack.started("run")
    await stack.post_ovoko(body(order_created(1)))

    async def is_there() -> bool:
        return await stack.count("orders") == 1

    await until(is_there, "the order is in its table")
    encrypted = await stack.fetch(
        "SELECT bool_and(ssl) AS all FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
        "WHERE application_name = 'stockhook/consumer'"
    )
    assert encrypted == [{"all": True}]


async def test_the_database_is_verified(
    stack: Stack, encrypting_postgres: None, authority: Authority, stranger: Authority
) -> None:
    here = stack.environment["STOCKHOOK_DATABASE_URL"]
    misnamed = at(here, "postgresql", "localhost")

    right = stack.run("migrate", STOCKHOOK_DATABASE_CA_FILE=str(authority.ca))
    wrong = stack.run("migrate", STOCKHOOK_DATABASE_CA_FILE=str(stranger.ca))
    other = stack.run(
        "migrate", STOCKHOOK_DATABASE_URL=misnamed, STOCKHOOK_DATABASE_CA_FILE=str(authority.ca)
    )

    assert right.returncode == 0
    assert wrong.returncode == 69
    assert "cannot reach the database (its certificate is not accepted: unable to get" in wrong.stderr
    assert other.returncode == 69
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in other.stderr


async def test_a_database_without_tls_is_refused_where_it_must_have_it(
    stack: Stack, authority: Authority
) -> None:
    refused = stack.run("migrate", STOCKHOOK_DATABASE_CA_FILE=str(authority.ca))

    assert refused.returncode == 69
    assert len(refused.stderr.splitlines()) == 1
