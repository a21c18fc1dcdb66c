"""An unusable URL is refused at the start, in a sentence that quotes no part of it."""

import traceback
from contextlib import suppress
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from worker.amqp.hosts import hosts_of_url
from worker.config.database_url import DatabaseUrl, UnsupportedParameter
from worker.config.settings import BadSettings, read_settings
from worker.config.urls import (
    BadUrl,
    checked,
    encoded,
    hosts_of,
    port_of,
)

# A part of each password below; host and port may be parts of an unencoded password.
CANARY = "canary"

URLS = {
    "AMQP_URL": "amqp://us:{}@localhost:5672/v",
    "DATABASE_URL": "postgresql://us:{}@localhost:5432/db",
    "MANAGEMENT_URL": "http://us:{}@localhost:15672",
}
every_url = pytest.mark.parametrize("name", URLS)
ENVIRONMENTS = ("production", "development")


def refusal(monkeypatch: pytest.MonkeyPatch, name: str, value: str, environment: str = "production") -> str:
    """The sentence about a setting. Neither it nor a traceback contains a part of the value."""
    monkeypatch.setenv(f"STOCKHOOK_{name}", value)
    monkeypatch.setenv("STOCKHOOK_ENVIRONMENT", environment)
    with pytest.raises(BadSettings) as raised:
        read_settings()
    shown = str(raised.value) + "".join(traceback.format_exception(raised.value))
    assert CANARY not in shown
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"STOCKHOOK_{name}: ")
    return str(raised.value)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(
    "password", ["a/canary", "1/canary", "a?canary", "1?b=canary", "a#canary", "a@canary"]
)
@every_url
def test_a_password_that_is_not_percent_encoded_is_named_as_such(
    monkeypatch: pytest.MonkeyPatch, name: str, password: str, environment: str
) -> None:
    assert "percent-encode" in refusal(monkeypatch, name, URLS[name].format(password), environment)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("localhost:notaport", "must have a port from 1 to 65535"),
        ("localhost:99999", "must have a port from 1 to 65535"),
        ("localhost:0", "must have a port from 1 to 65535"),
        ("localhost:\u0665", "must have a port from 1 to 65535"),
        ("localhost:1:2", "a host or a port that cannot be read"),
        (":5672", "must name a host"),
        ("a..b", "neither a name nor an address"),
        ("a" * 64, "neither a name nor an address"),
        ("ho%00st", "neither a name nor an address"),
        ("-host", "neither a name nor an address"),
        ("xn--ü", "neither a name nor an address"),
        ("a b", "has a blank or a control character"),
        ("a\tb", "has a blank or a control character"),
        ("[::1", "cannot be parsed"),
        ("[::canary]", "cannot be parsed"),
        ("a,,b", "host"),
        ("a\u2100b", "cannot be parsed"),
    ],
)
@every_url
def test_a_bad_host_or_port_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, host: str, message: str, environment: str
) -> None:
    start = URLS[name].partition("@")[0].format("u7Kd0-canary-plenty")

    assert message in refusal(monkeypatch, name, f"{start}@{host}/x", environment)


@pytest.mark.parametrize("hosts", ["a:5672,b:5672", "a,b", "a,b,c:1", "[::1]:5672,[::2]:5672", "a,[::1]"])
@every_url
def test_several_hosts_are_accepted(monkeypatch: pytest.MonkeyPatch, name: str, hosts: str) -> None:
    url = URLS[name].partition("@")[0].format("p%2Fw,x") + f"@{hosts}/x"
    monkeypatch.setenv(f"STOCKHOOK_{name}", url)
    monkeypatch.setenv("STOCKHOOK_ENVIRONMENT", "development")

    assert getattr(read_settings(), name.lower()).get_secret_value() == url


@pytest.mark.parametrize("name", ["OVOKO_API_URL", "CHANGES_PROXY"])
@pytest.mark.parametrize("hosts", ["a:5672,b:5672", "a,b", "[::1]:5672,[::2]:5672"])
def test_several_hosts_where_one_is_used_are_refused_as_such(
    monkeypatch: pytest.MonkeyPatch, hosts: str, name: str
) -> None:
    assert refusal(monkeypatch, name, f"https://{hosts}") == (
        f"STOCKHOOK_{name}: names several hosts: name one"
    )


@pytest.mark.parametrize("name", ["AMQP_URL", "MANAGEMENT_URL"])
@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ("localhost,b", "to b in clear"),
        ("localhost,", "must name a host"),
        ("localhost,a:0", "must have a port"),
        ("localhost,[::canary]", "cannot be parsed"),
        ("[::1],canary]", "cannot be parsed"),
    ],
)
def test_each_of_several_hosts_is_checked(
    monkeypatch: pytest.MonkeyPatch, name: str, hosts: str, message: str
) -> None:
    start = URLS[name].partition("@")[0].format("u7Kd0-canary-plenty")

    assert message in refusal(monkeypatch, name, f"{start}@{hosts}/v")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OVOKO_API_URL", "https://api.example:99999/x", "must have a port"),
        ("BUYBACK_API_URL", "https://a..b/x", "neither a name nor an address"),
        ("BUYBACK_STS_URL", "https://api.example/a b", "a blank"),
        ("OVOKO_API_URL", "https://", "must name a host"),
        ("AMQP_URL", "amqp://us:p%FFcanary@localhost/", "no UTF-8"),
        ("AMQP_URL", "amqp://us:p%00canary@localhost/", "%00"),
        ("AMQP_URL", "amqp://localhost/?canary", "name=value"),
        ("AMQP_URL", "amqp://us:p,canary/x?y@localhost/", "percent-encode"),
        ("DATABASE_URL", "postgresql://localhost/db?port=canary", "must have a port"),
        ("DATABASE_URL", "postgresql:///db?host=a,b,c&port=1,2", "one port, or one for each host"),
        ("DATABASE_URL", "postgresql:///db?host=a..b", "neither a name nor an address"),
        ("MANAGEMENT_URL", "http://localhost:15672/?a=b", "must consist of scheme, user"),
    ],
)
def test_other_parts_of_a_url_are_checked_as_well(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    assert message in refusal(monkeypatch, name, value)


@every_url
def test_a_password_can_have_a_setting_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    password = "p/a?s#s@w:o[r]d%41 ö"
    monkeypatch.setenv(f"STOCKHOOK_{name}", URLS[name].replace(":{}", ""))
    monkeypatch.setenv(f"STOCKHOOK_{name.replace('URL', 'PASSWORD')}", password)

    url = getattr(read_settings(), name.lower()).get_secret_value()

    assert url == URLS[name].format(quote(password, safe=""))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql:///db", "postgresql://:secret@/db"),
        (
            "postgresql:///db?user=us&host=/run/postgresql",
            "postgresql://:secret@/db?user=us&host=/run/postgresql",
        ),
        ("postgresql://us@one:1,two:2/db", "postgresql://us:secret@one:1,two:2/db"),
    ],
)
def test_the_database_password_goes_with_sockets_and_several_hosts(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: str
) -> None:
    monkeypatch.setenv("STOCKHOOK_ENVIRONMENT", "development")
    monkeypatch.setenv("STOCKHOOK_DATABASE_URL", url)
    monkeypatch.setenv("STOCKHOOK_DATABASE_PASSWORD", "secret")

    assert read_settings().database_url.get_secret_value() == expected


@every_url
def test_two_passwords_are_refused_by_the_names_of_both_settings(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = f"STOCKHOOK_{name.replace('URL', 'PASSWORD')}"
    monkeypatch.setenv(other, "canary-2")

    assert other in refusal(monkeypatch, name, URLS[name].format("canary-1"))


def test_a_database_password_in_the_query_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOOK_DATABASE_PASSWORD", "canary-2")
    url = "postgresql://localhost/db?user=us&password=canary-1"

    assert "STOCKHOOK_DATABASE_PASSWORD" in refusal(monkeypatch, "DATABASE_URL", url)


@pytest.mark.parametrize("name", ["AMQP_URL", "MANAGEMENT_URL"])
def test_a_password_without_its_user_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"STOCKHOOK_{name.replace('URL', 'PASSWORD')}", CANARY)

    assert "must contain the user" in refusal(monkeypatch, name, URLS[name].replace("us:{}@", ""))


@pytest.mark.parametrize(
    "url",
    [
        "amqp://us:p%2Fw%3F%23%40@my_broker:5672/v%2Fh?name=x",
        "amqp://us:pw@[::1]:5672/",
        "amqp://us:pw@[fe80::1%25eth0]:5672/",
        "amqp://us:p:w@localhost./",
        "amqp://us:pö@localhost/",
    ],
)
def test_a_usable_url_is_unchanged(url: str) -> None:
    assert checked(url, "amqp") == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://us:pw@bröker.example:5672/v\n", "amqp://us:pw@xn--brker-kua.example:5672/v"),
        ("postgresql://u@straße.example,b/db", "postgresql://u@xn--strae-oqa.example,b/db"),
        ("postgresql://u@%2Fvar%2Frun:5432/db", "postgresql://u@%2Fvar%2Frun:5432/db"),
        ("postgresql://u@/db", "postgresql://u@/db"),
    ],
)
def test_hosts_are_sent_to_the_resolver_in_ascii(url: str, expected: str) -> None:
    assert checked(url, "amqp", "postgresql", several=True, socket=True) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "https://shop.example/hooks/böse nacht?q=ä b",
            "https://shop.example/hooks/b%C3%B6se%20nacht?q=%C3%A4%20b",
        ),
        ("https://shop.example/50%/a%2Fb", "https://shop.example/50%25/a%2Fb"),
        ("https://shop.example/a#b", "https://shop.example/a#b"),
        ("no url", "no url"),
    ],
)
def test_the_path_and_query_are_percent_encoded_once(url: str, expected: str) -> None:
    assert encoded(url) == expected
    assert encoded(expected) == expected


# The characters of URLs, and characters that break them.
unusual_text = st.text(st.sampled_from("ab1:@/?#[]%,=&.-_ \n\0öß\u0662\u2100\u202e\uff12"), max_size=14)
DSN_ARGUMENTS = (
    *("host", "port", "user", "password", "passfile", "database", "service", "servicefile", "direct_tls"),
    *("server_settings", "target_session_attrs", "krbsrvname", "gsslib"),
)


@example(user="//]", password="", host="[", rest="")
@given(user=unusual_text, password=unusual_text, host=unusual_text, rest=unusual_text)
def test_every_client_can_parse_an_accepted_url(user: str, password: str, host: str, rest: str) -> None:
    written = f"{user}:{password}@{host}/{rest}"
    with suppress(BadUrl):
        url = checked(f"http://{written}", "http")
        assert URL(url).raw_host == httpx.URL(url).raw_host.decode() == urlsplit(url).hostname
    with suppress(BadUrl):
        url = checked(f"amqp://{written}", "amqp", several=True)
        for one in hosts_of_url(url):
            assert URL(one.url).raw_host == one.name.rpartition(":")[0].strip("[]").lower()
    with suppress(BadUrl, UnsupportedParameter):
        url = checked(f"postgresql://{written}", "postgresql", several=True, socket=True)
        read = DatabaseUrl.read(url)
        addresses, *_ = _parse_connect_dsn_and_args(
            **{**dict.fromkeys(DSN_ARGUMENTS), "dsn": read.dsn, "ssl": False}
        )
        expected = [unquote(host) for host in hosts_of(url)]
        assert expected == [""] or [host for host, _ in read.hosts] == expected
        assert expected == [""] or [address[0] for address in addresses] == expected[:1]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://shop.example/hooks", 443),
        ("http://shop.example", 80),
        ("https://shop.example:8443", 8443),
        ("http://[::1]:81/", 81),
    ],
)
def test_an_http_url_has_the_port_of_its_scheme_unless_it_names_one(url: str, port: int) -> None:
    assert port_of(url) == port
