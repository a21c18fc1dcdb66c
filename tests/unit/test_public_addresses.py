"""Webhooks are posted only to public addresses, in the same way on every version of Python."""

from ipaddress import IPv6Address, ip_address

import pytest

from worker.change_feed.endpoint import is_public

# IPv4 addresses; IPv6 addresses that embed one are equal to it.
PRIVATE_4 = (
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
)
PUBLIC_4 = (
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "198.20.0.1",
    "223.255.255.255",
)


def embedded(prefix: str, address: str, shift: int = 0) -> str:
    """An IPv6 address that embeds an IPv4 address at this distance in bits from its end."""
    return str(IPv6Address(int(IPv6Address(prefix)) | int(ip_address(address)) << shift))


@pytest.mark.parametrize("address", PRIVATE_4)
def test_a_special_purpose_address_of_ipv4_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC_4)
def test_another_address_of_ipv4_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", [*PRIVATE_4, *PUBLIC_4])
@pytest.mark.parametrize(
    ("prefix", "shift"),
    [
        pytest.param("::ffff:0:0", 0, id="IPv4-mapped"),
        pytest.param("::", 0, id="IPv4-compatible"),
        pytest.param("::ffff:0:0:0", 0, id="IPv4-translated"),
        pytest.param("64:ff9b::", 0, id="NAT64"),
        pytest.param("64:ff9b:1::", 0, id="local NAT64"),
        pytest.param("64:ff9b:1:7::", 40, id="local NAT64 of another length"),
        pytest.param("2002::", 80, id="6to4"),
        pytest.param("2001::", 0, id="Teredo client"),
        pytest.param("2001::", 64, id="Teredo server"),
    ],
)
def test_an_address_that_embeds_one_of_ipv4_is_refused(prefix: str, shift: int, address: str) -> None:
    assert not is_public(embedded(prefix, address, shift))


@pytest.mark.parametrize(
    "address",
    [
        "::",
        "::1",
        "100::1",
        "5f00::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:1ff:ffff::1",
        "2001:db8::1",
        "2002::1",
        "3ffe::1",
        "3fff::1",
        "4000::1",
        "fc00::1",
        "fd00::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fec0::1%1",
        "feff::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_a_special_purpose_address_of_ipv6_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700:4700::1111", "2a00:1450::1", "3ff0::1"],
)
def test_a_global_unicast_address_of_ipv6_is_public(address: str) -> None:
    assert is_public(address)
