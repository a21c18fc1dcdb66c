"""Parameters of libpq in a database URL: supported, ignored, and refused ones."""

import pytest

from worker.config.database_url import CONNECT_SECONDS, DatabaseUrl
from worker.config.settings import BadSettings, read_settings

URL = "postgresql://us:pw@db:5433/shop"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://us:pw@db/shop", (("db", None),)),
        ("postgresql://us:pw@db:5433,[fd00::1]:5434/shop", (("db", 5433), ("fd00::1", 5434))),
        ("postgresql://us@%2Fvar%2Frun/shop", (("/var/run", None),)),
        ("postgresql:///shop?host=/var/run,db&port=5433", (("/var/run", 5433), ("db", 5433))),
        ("postgresql:///shop?host=a,b&port=1,2", (("a", 1), ("b", 2))),
        ("postgresql:///shop", ()),
    ],
)
def test_the_hosts_are_tried_in_their_order(url: str, hosts: tuple[tuple[str, int | None], ...]) -> None:
    assert DatabaseUrl.read(url).hosts == hosts


def test_parameters_that_the_driver_supports_are_passed_to_it() -> None:
    query = "sslmode=require&target_session_attrs=read-write&options=-c%20search_path%3Dshop"

    assert DatabaseUrl.read(f"{URL}?{query}").dsn == f"{URL}?{query}"


@pytest.mark.parametrize(
    "parameter",
    [
        "keepalives=1",
        "keepalives_idle=30",
        "tcp_user_timeout=1000",
        "application_name=shop",
        "channel_binding=prefer",
        "gssencmode=disable",
        "client_encoding=UTF8",
    ],
)
def test_harmless_parameters_are_ignored(parameter: str) -> None:
    read = DatabaseUrl.read(f"{URL}?{parameter}")

    assert read.dsn == URL
    assert list(read.ignored) == [parameter.partition("=")[0]]


def test_channel_binding_is_ignored_where_the_certificate_is_verified() -> None:
    read = DatabaseUrl.read(f"{URL}?sslmode=verify-full&channel_binding=require")

    assert "sslmode=verify-full" in read.dsn
    assert "verified" in read.ignored["channel_binding"]


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("", CONNECT_SECONDS), ("?connect_timeout=10", 10), ("?connect_timeout=0", CONNECT_SECONDS)],
)
def test_the_time_to_connect_is_that_of_the_url(query: str, seconds: float) -> None:
    read = DatabaseUrl.read(URL + query)

    assert (read.connect_seconds, read.dsn) == (seconds, URL)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("channel_binding=require", "cannot be honoured, channel_binding: use sslmode=verify-full"),
        ("gssencmode=require", "cannot be honoured, gssencmode: use TLS"),
        ("hostaddr=10.0.0.1", "cannot be honoured, hostaddr: use the address as the host"),
        ("service=shop", "cannot be honoured, service: copy the service file's parameters into the URL"),
        ("require_auth=scram-sha-256", "cannot be honoured, require_auth: remove it"),
        ("replication=database", "cannot be honoured, replication: remove it"),
        ("pgbouncer=true", "cannot be honoured, pgbouncer: remove it"),
        ("hunter2%20%2F=1", "has a parameter that cannot be honoured: remove it"),
        ("target_session_attrs=standby", "has a target_session_attrs that cannot be used: any or primary"),
        ("sslmode=on", "has a sslmode that cannot be used: disable or allow"),
        ("connect_timeout=soon", "has a connect_timeout that is not a number of seconds"),
        ("sslrootcert=/nowhere/hunter2.pem", "has a parameter sslrootcert whose file does not exist"),
        ("sslrootcert=system&sslmode=require", "has sslrootcert=system, which needs sslmode=verify-full"),
    ],
)
def test_an_unsupported_parameter_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, query: str, message: str
) -> None:
    monkeypatch.setenv("STOCKHOOK_DATABASE_URL", f"postgresql://us:pw@127.0.0.1/shop?{query}")

    with pytest.raises(BadSettings) as raised:
        read_settings()

    assert str(raised.value).startswith("STOCKHOOK_DATABASE_URL: has ")
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_the_driver_parses_one_host_and_receives_each() -> None:
    read = DatabaseUrl.read("postgresql://us:p%2Cw@one:1,[::1]:2,%2Frun/db?target_session_attrs=read-write")

    assert read.dsn == "postgresql://us:p%2Cw@one:1/db?target_session_attrs=read-write"
    assert read.hosts == (("one", 1), ("::1", 2), ("/run", None))
