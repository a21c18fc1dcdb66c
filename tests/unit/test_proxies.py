"""The proxy of the environment for a marketplace's API, and unusable proxies."""

import pytest

from worker.config.proxies import proxy_for
from worker.config.settings import BadSettings

API = "https://api.example/v2"
PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "ALL_PROXY": "socks5://other"}, PROXY),
        ({"ALL_PROXY": PROXY}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": "proxy.example:3128"}, PROXY),
        ({"HTTPS_PROXY": "http://us:p%40w@[::1]:3128"}, "http://us:p%40w@[::1]:3128"),
        ({"ALL_PROXY": "socks5://other", "NO_PROXY": "api.example"}, None),
    ],
)
def test_the_variable_of_the_scheme_comes_first(environment: dict[str, str], expected: str | None) -> None:
    proxy = proxy_for(API, environment)

    assert (proxy and proxy.url) == expected


@pytest.mark.parametrize(
    ("url", "exempt"),
    [
        (API, "*"),
        (API, "example"),
        (API, ".example"),
        (API, "*.example"),
        (API, "API.example"),
        (API, "other, api.example"),
        (API, "other api.example"),
        ("https://api.example:8443/", "api.example:8443"),
        ("https://10.1.2.3/", "10.0.0.0/8"),
        ("https://10.1.2.3/", "10.1.2.3"),
        ("https://[fd02::7]/", "fd02::/112"),
        ("https://[fd02::7]/", "[fd02::7]"),
    ],
)
def test_no_proxy_exempts_hosts_domains_and_networks(url: str, exempt: str) -> None:
    assert proxy_for(url, {"HTTPS_PROXY": PROXY, "NO_PROXY": exempt}) is None


@pytest.mark.parametrize(
    "exempt",
    [
        "",
        ",",
        "fd02::/112",
        "10.0.0.0/8",
        "pi.example",
        "api.example.org",
        "api.example:99",
        "[",
        "http://",
        "a b",
    ],
)
def test_a_host_that_no_proxy_does_not_list_uses_the_proxy(exempt: str) -> None:
    assert proxy_for(API, {"HTTPS_PROXY": PROXY, "NO_PROXY": exempt}) is not None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("socks5://proxy-canary:1080", "must start with http:// or https://"),
        ("socks5h://us:canary@proxy:1080", "must start with http:// or https://"),
        ("http://proxy-canary:99999", "must have a port from 1 to 65535"),
        ("http://us:can/ary@proxy-canary", "percent-encode"),
        ("http://", "must name a host"),
        ("http://a..canary", "neither a name nor an address"),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_a_sentence_without_its_value(
    variable: str, value: str, message: str
) -> None:
    with pytest.raises(BadSettings) as raised:
        proxy_for(API, {variable: value})

    assert str(raised.value).startswith(f"{variable}: ")
    assert message in str(raised.value)
    assert str(raised.value).endswith("; or exempt api.example from it in NO_PROXY")
    assert "canary" not in str(raised.value)
