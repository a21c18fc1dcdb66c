"""URLs from settings, checked when they are read, so that no client gets one that it cannot parse.

The text of an error never quotes the URL: what looks like a host or a port may be part of a password.
"""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import idna

from worker.observability.errors import StockhookError
from worker.observability.exit_codes import USAGE

ENCODE = (
    "percent-encode what is special in user and password (/ is %2F, ? is %3F, # is %23, @ is %40, [ is %5B)"
)

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?", re.IGNORECASE)
_SCHEME_AND_HOSTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?")


class BadUrl(StockhookError, ValueError):
    """A URL that cannot be used. The text says why, and continues a sentence about the URL."""

    exit_code = USAGE


def checked(text: str, *schemes: str, several: bool = False, socket: bool = False) -> str:
    """The URL, its hosts in ASCII, without blanks around it.

    `several` hosts are separated by commas. Where a `socket` will do, there may be no host, or the
    percent-encoded folder of a socket.

    Raises:
        BadUrl
    """
    text = text.strip()
    if text.partition("://")[0].lower() not in schemes:
        raise BadUrl("must start with " + " or ".join(f"{scheme}://" for scheme in schemes))
    if "#" in text:
        raise BadUrl(f"has a # in it: {ENCODE}")
    if any(not character.isprintable() or character == " " for character in text):
        raise BadUrl("has a blank or a control character in it: percent-encode it (a blank is %20)")
    try:
        parts = split(text)
    except ValueError:
        raise BadUrl(f"cannot be parsed: {ENCODE}") from None
    credentials, at, listed = parts.netloc.rpartition("@")
    if "@" in credentials or _has_late_at(parts):
        raise BadUrl(f"has an @ in the wrong place: {ENCODE}")
    if not parts.netloc and parts.path.startswith("//"):
        # Clients disagree on whether a host begins there.
        raise BadUrl("has four slashes or more and no host: write the host after two slashes")
    for part in (*credentials.partition(":")[::2], parts.path):
        _check_encoding(part)
    _check_query(parts.query)
    hosts = listed.split(",")
    if hosts != [""] or not socket:
        hosts = [_checked_host(host, socket=socket) for host in hosts]
    if len(hosts) > 1 and not several:
        raise BadUrl("names several hosts: name one")
    start, _, rest = text.partition("://")
    return f"{start}://{credentials}{at}{','.join(hosts)}{rest[len(parts.netloc) :]}"


def encoded(text: str) -> str:
    """The URL with blanks, accents and similar characters after its host percent-encoded."""
    match = re.fullmatch(r"([^/?#]*://[^/?#]*)([^\x00-\x1f\x7f-\x9f]*)", text.strip())
    if match is None:
        return text
    rest = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", match[2])
    return match[1] + quote(rest, safe="%/?#:@!$&'()*+,;=~")


def with_password(url: str, password: str, setting: str) -> str:
    """The URL with a password that has a setting of its own.

    Raises:
        BadUrl: It has one already.
    """
    parts = split(url)
    if parts.password or any(name == "password" for name, _ in parse_qsl(parts.query)):
        raise BadUrl(f"has a password in it, and {setting} is set as well: keep one of the two")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user = credentials.partition(":")[0]
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{hosts}").geturl()


def hosts_of(url: str) -> list[str]:
    """The hosts of a URL that was checked, without ports and brackets."""
    return [host.strip("[]") for host, _ in hosts_and_ports(url)]


def hosts_and_ports(url: str) -> list[tuple[str, str | None]]:
    """The hosts of a URL that was checked, an IPv6 address in brackets, each with its port if it has one."""
    return [_host_and_port(listed) for listed in split(url).netloc.rpartition("@")[2].split(",")]


def port_of(url: str) -> int:
    """The port of an HTTP URL that was checked."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def split(url: str) -> SplitResult:
    """As `urlsplit`, with several hosts: newer versions of Python refuse an IPv6 address among them.

    Raises:
        ValueError
    """
    match = _SCHEME_AND_HOSTS.fullmatch(url)
    if match is None:
        return urlsplit(url)
    scheme, hosts, rest = match.groups()
    credentials, at, listed = hosts.rpartition("@")
    for host in listed.split(","):
        urlsplit(f"{scheme}://{credentials}{at}{host}")
    return urlsplit(f"{scheme}://{rest}")._replace(netloc=hosts)


def check_hosts(hosts: Sequence[str], ports: Sequence[str]) -> None:
    """Check the hosts and ports in the query of a database URL.

    Raises:
        BadUrl
    """
    for host in hosts:
        _checked_host(host, socket=True)
    for port in ports:
        _check_port(port)
    if len(ports) not in (0, 1, len(hosts)):
        raise BadUrl("must name one port, or one for each host")


def _has_late_at(parts: SplitResult) -> bool:
    """Whether the @ that ends a password seems to stand in what is read as path or query."""
    if not parts.netloc or "@" in parts.netloc:
        return False
    return "@" in parts.path or (not parts.path and "@" in parts.query)


def _check_encoding(part: str) -> None:
    try:
        text = unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise BadUrl("has percent-encoded bytes in it that are no UTF-8") from None
    if "\0" in text:
        raise BadUrl("has %00 in it")


def _check_query(query: str) -> None:
    if not query:
        return
    try:
        parse_qsl(query, strict_parsing=True)
    except ValueError:
        raise BadUrl(f"must have name=value after its question mark: {ENCODE}") from None
    _check_encoding(query)


def _host_and_port(listed: str) -> tuple[str, str | None]:
    match = _HOST_AND_PORT.fullmatch(listed)
    if match is None:
        raise BadUrl(f"has a host or a port that cannot be read: {ENCODE}")
    return match[1], match[2]


def _checked_host(listed: str, *, socket: bool) -> str:
    """Host and port, the host in ASCII."""
    host, port = _host_and_port(listed)
    if port:
        _check_port(port)
    if not host:
        raise BadUrl("must name a host")
    if host.startswith("["):
        _check_ipv6(host[1:-1])
    elif not (socket and unquote(host).startswith("/")):
        host = _ascii_name(host)
    return host if port is None else f"{host}:{port}"


def _check_port(port: str) -> None:
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise BadUrl(
            f"must have a port from 1 to 65535; if what is read as the port belongs to the password: {ENCODE}"
        )


def _check_ipv6(address: str) -> None:
    try:
        is_well = ip_address(unquote(address)).version == 6
    except ValueError:
        is_well = False
    if not is_well:
        raise BadUrl("must have an IPv6 address between its brackets")


def _ascii_name(host: str) -> str:
    """Raises: BadUrl. International names are encoded as registries do (IDNA 2008)."""
    try:
        name = host if host.isascii() else idna.encode(host, uts46=True).decode()
    except UnicodeError:
        name = ""
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise BadUrl(
            f"has a host that is neither a name nor an address; if it is a part of the password: {ENCODE}"
        )
    return name
