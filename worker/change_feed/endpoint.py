"""Posts to merchants' endpoints: signed, with limits, and only to public addresses."""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

import httpcore

from schemas.changes import CONTENT_TYPE
from worker.config.signing_keys import STANDARD_WEBHOOKS, SigningKey
from worker.intake.signature import sign
from worker.observability.errors import refused_certificate, safe_summary
from worker.observability.resolver import look_up

# A slower answer is a failure.
ANSWER_SECONDS = 10.0
LONGEST_ANSWER = 65_536

# IANA's registries of special-purpose addresses. (Python's own tables differ from version to version.)
_NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared by customers of a carrier
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local: also the metadata of cloud machines
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
# Only this is given out as global unicast. Outside it are loopback, link-local, site-local (fec0::/10),
# unique local and multicast addresses, and those that embed one of IPv4 (mapped, compatible, NAT64).
_GLOBAL_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, such as Teredo, which embeds two addresses of IPv4
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which embeds an address of IPv4
            "3ffe::/16",  # an experiment that has ended
            "3fff::/20",  # documentation
        ),
    )
)

_TIMEOUTS = {"connect": 5.0, "read": ANSWER_SECONDS, "write": 5.0, "pool": ANSWER_SECONDS}


class NotDelivered(Exception):
    """The endpoint did not accept the post. The text says why, and quotes nothing from the answer.

    `status` is that of the answer; None without a whole answer.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class Gone(NotDelivered):
    """The endpoint answered 410: it will not accept posts again."""


class _NoTarget(Exception):
    """The host has no address, or one that we do not connect to. The text says which."""


class _PublicAddresses(httpcore.AsyncNetworkBackend):
    """Connects to the checked address itself: its name could resolve to another one in the meantime."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # as httpcore calls it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await resolve(host, port)
        except OSError as error:
            raise _NoTarget("its host name cannot be resolved") from error
        if not all(map(is_public, addresses)):
            raise _NoTarget("its host has a private address")
        *others, last = addresses
        for address in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self._backend.connect_tcp(last, port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
        raise _NoTarget("Unix sockets are not supported")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class Endpoint:
    """One endpoint, with a pool of connections."""

    url: str
    keys: Sequence[SigningKey]
    answer_seconds: float
    _pool: httpcore.AsyncConnectionPool

    @classmethod
    def of(
        cls,
        url: str,
        keys: Sequence[SigningKey],
        *,
        connections: int,
        allow_private: bool,
        proxy: str | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> "Endpoint":
        """With a proxy, only the proxy can check addresses, since it resolves the name."""
        if proxy is None:
            backend = None if allow_private else _PublicAddresses()
            pool = httpcore.AsyncConnectionPool(max_connections=connections, network_backend=backend)
        else:
            pool = _proxied(proxy, connections)
        return cls(url, keys, answer_seconds, pool)

    async def close(self) -> None:
        await self._pool.aclose()

    async def post(self, webhook_id: str, body: bytes) -> int:
        """The status of the answer, which alone counts. Redirects are not followed. Raises: NotDelivered."""
        headers = [
            # httpcore's own Host header has no brackets around an IPv6 address.
            ("host", urlsplit(self.url).netloc),
            ("content-type", CONTENT_TYPE),
            ("user-agent", "stockhook"),
            *signed_headers(self.keys, webhook_id, datetime.now(UTC), body).items(),
        ]
        try:
            async with (
                asyncio.timeout(self.answer_seconds),
                self._pool.stream(
                    "POST", self.url, headers=headers, content=body, extensions={"timeout": _TIMEOUTS}
                ) as answer,
            ):
                status = answer.status
                await _read_for_reuse(answer)
        except Exception as error:
            raise NotDelivered(self._failure_text(error)) from error
        if status == 410:
            raise Gone("it answered 410", status)
        if not 200 <= status < 300:
            raise NotDelivered(f"it answered {status}", status)
        return status

    def _failure_text(self, error: Exception) -> str:
        match error:
            case _NoTarget():
                return str(error)
            case httpcore.ProxyError():
                return "the proxy refuses to connect to it"
            case httpcore.ConnectError() | httpcore.ConnectTimeout():
                return refused_certificate(error) or "cannot connect to it"
            case TimeoutError() | httpcore.TimeoutException():
                return f"no whole answer within {self.answer_seconds:g} s"
            case httpcore.ProtocolError() | httpcore.NetworkError():
                # The client raises either if a connection ends without an answer.
                return "the connection broke, or the answer is not HTTP"
            case _:
                return safe_summary(error)


def _proxied(proxy: str, connections: int) -> httpcore.AsyncConnectionPool:
    parts = urlsplit(proxy)
    user, password = (unquote(part or "").encode() for part in (parts.username, parts.password))
    return httpcore.AsyncHTTPProxy(
        f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/",
        (user, password) if user else None,
        max_connections=connections,
    )


async def _read_for_reuse(answer: httpcore.Response) -> None:
    """Read an answer, so that its connection can be reused. After an answer that is too long it is closed."""
    size = 0
    async for piece in answer.aiter_stream():
        size += len(piece)
        if size > LONGEST_ANSWER:
            return


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host name.

    Raises:
        OSError: The name cannot be resolved.
    """
    entries = await look_up(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in entries]


def is_public(address: str) -> bool:
    """Whether an address is public: not private, loopback or link-local, nor embedding one."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NOT_PUBLIC_4)
    return parsed in _GLOBAL_6 and not any(parsed in network for network in _NOT_PUBLIC_6)


def signed_headers(
    keys: Iterable[SigningKey], webhook_id: str, sent_at: datetime, body: bytes
) -> dict[str, str]:
    """The headers of Standard Webhooks, with one signature per key."""
    return sign(STANDARD_WEBHOOKS, [each.key for each in keys], body, message_id=webhook_id, sent_at=sent_at)
