"""The address of a request's client, and the proxies that may state it."""

from ipaddress import ip_network

import pytest

from worker.ingest.trusted_proxies import TrustedProxies, network_key, read_address

PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
PROXY = "10.1.2.3"


def client(peer: str, forwarded_for: str | None = None) -> str:
    headers = {} if forwarded_for is None else {"x-forwarded-for": forwarded_for}
    return PROXIES.client(read_address(peer), headers)


@pytest.mark.parametrize(
    ("forwarded_for", "known"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("203.0.113.9, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.9.9.9", "192.0.2.7"),
        ("203.0.113.9, 192.0.2.7, 10.9.9.9, fd00::1", "192.0.2.7"),
        ("192.0.2.7:51234", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:51234", "2001:db8::7"),
        ('"[2001:db8::7]:51234"', "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:10.9.9.9", "10.9.9.9"),
        ("  192.0.2.7\t", "192.0.2.7"),
        ("10.9.9.8, 10.9.9.9", "10.9.9.8"),
    ],
)
def test_of_a_trusted_proxy_the_last_address_that_is_none_is_the_client(
    forwarded_for: str, known: str
) -> None:
    assert client(PROXY, forwarded_for) == known
    assert client(f"::ffff:{PROXY}", forwarded_for) == known


@pytest.mark.parametrize(
    "garbage", ["", "unknown", "_hidden", "1.2.3", "192.0.2.7 x", "<script>", "\udce4", ","]
)
def test_an_address_before_garbage_is_not_trusted(garbage: str) -> None:
    assert client(PROXY, garbage) == PROXY
    assert client(PROXY, f"192.0.2.7, {garbage}") == PROXY
    assert client(PROXY, f"192.0.2.7, {garbage}, 10.9.9.9") == "10.9.9.9"


def test_the_header_of_an_untrusted_peer_is_ignored() -> None:
    headers = {"x-forwarded-for": "192.0.2.7", "x-request-id": "r", "host": "x"}

    assert client("203.0.113.1", "192.0.2.7") == "203.0.113.1"
    assert client("203.0.113.1") == "203.0.113.1"
    assert PROXIES.without_untrusted(read_address("203.0.113.1"), dict(headers)) == {"host": "x"}
    assert PROXIES.without_untrusted(read_address(PROXY), dict(headers)) == headers
    assert TrustedProxies().client(None, headers) == "unknown"


def test_a_long_chain_is_read_only_from_its_end() -> None:
    assert client(PROXY, ", ".join(["192.0.2.7", *["10.0.0.1"] * 5_000])) == "10.0.0.1"


def test_an_ipv6_network_of_64_bits_counts_as_one_address() -> None:
    same, other = ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"), "2001:db8:0:2::1"

    assert len({network_key(read_address(text)) for text in same}) == 1
    assert network_key(read_address(other)) != network_key(read_address(same[0]))
    assert network_key(read_address("::ffff:192.0.2.7")) == network_key(read_address("192.0.2.7"))
    assert network_key(read_address("fe80::1%eth0")) == network_key(read_address("fe80::2%eth1"))
    assert network_key(None) == "unknown"
