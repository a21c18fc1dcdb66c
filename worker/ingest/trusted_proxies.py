"""`X-Forwarded-For` and `X-Request-Id` are used only if a trusted proxy sent them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Removed from the requests of all other senders.
PROXY_HEADERS = ("x-forwarded-for", "x-request-id")

# Only so many of the last entries of X-Forwarded-For are read: a chain of proxies is shorter.
MOST_HOPS = 20

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    networks: Sequence[Network] = ()

    def include(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self.networks)

    def client(self, peer: Address | None, headers: Mapping[str, str]) -> str:
        """The address of the client that sent a request, as text for logs.

        Each proxy appends the address from which it received the request. Read from the right, the first
        address that is not a trusted proxy is the client's: entries before it may be forged.
        """
        client = peer
        if self.include(peer):
            entries = headers.get("x-forwarded-for", "").split(",")
            for entry in reversed(entries[-MOST_HOPS:]):
                address = read_forwarded(entry)
                if address is None:
                    break
                client = address
                if not self.include(address):
                    break
        return UNKNOWN if client is None else str(client)

    def without_untrusted(self, peer: Address | None, headers: dict[str, str]) -> dict[str, str]:
        """The headers without those that only a trusted proxy may send."""
        if not self.include(peer):
            for name in PROXY_HEADERS:
                headers.pop(name, None)
        return headers


@lru_cache(maxsize=4096)
def read_address(text: str) -> Address | None:
    """An IPv4 address that is written as IPv6 (`::ffff:192.0.2.1`) is the IPv4 address."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def read_forwarded(entry: str) -> Address | None:
    """One entry of X-Forwarded-For; some proxies add a port, and brackets to IPv6 addresses."""
    text = entry.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return read_address(text)


@lru_cache(maxsize=4096)
def network_key(address: Address | None) -> str:
    """One client for the limits: an IPv4 address, or an IPv6 /64 network, which one customer has."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return UNKNOWN if address is None else str(address)
