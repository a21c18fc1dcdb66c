"""Which of libpq's parameters in the database's URL are honoured, and how.

Managed Postgres hands out URLs that were made for libpq. The driver knows some of its parameters and
would send the others to the server as settings, which ends the connection.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode

from worker.config.urls import split
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import MISCONFIGURED

CONNECT_SECONDS = 5.0

# Parameters that the driver reads, and `options`, which the server reads.
HONOURED = frozenset(
    {
        "host",
        "port",
        "dbname",
        "user",
        "password",
        "passfile",
        "options",
        "sslmode",
        "sslnegotiation",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "target_session_attrs",
        "krbsrvname",
        "gsslib",
        "connect_timeout",
    }
)

FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")

# The values that the driver accepts.
VALUES: Mapping[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "primary", "read-write"),
    "gsslib": ("gssapi",),
    "ssl_min_protocol_version": ("TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1.2", "TLSv1.3"),
}

_DEADLINES = "every statement has a deadline of its own"
_NAMED = "each process gives its own name"

# Ignored whatever the value, with the reason why that is harmless.
HARMLESS: Mapping[str, str] = {
    "keepalives": _DEADLINES,
    "keepalives_idle": _DEADLINES,
    "keepalives_interval": _DEADLINES,
    "keepalives_count": _DEADLINES,
    "tcp_user_timeout": _DEADLINES,
    "application_name": _NAMED,
    "fallback_application_name": _NAMED,
    "load_balance_hosts": "the host that answers is used",
    "sslcompression": "TLS is never compressed",
    "sslsni": "the host's name is always sent",
    "max_protocol_version": "the driver speaks version 3.0",
}

# Ignored with these values, which request only what the driver does anyway.
HARMLESS_VALUES: Mapping[str, tuple[str, ...]] = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("UTF8", "UTF-8", "utf8", "utf-8", "auto"),
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "min_protocol_version": ("3.0",),
    "replication": ("false", "off", "no", "0"),
    "requiressl": ("0",),
    "sslcertmode": ("allow",),
}

# The remedies for parameters that are refused.
REMEDIES: Mapping[str, str] = {
    "channel_binding": "use sslmode=verify-full, which keeps a man in the middle out as well",
    "gssencmode": "use TLS",
    "hostaddr": "use the address as the host",
    "requiressl": "use sslmode=verify-full",
    "service": "copy the service file's parameters into the URL",
    "servicefile": "copy the service file's parameters into the URL",
    "sslcertmode": "remove it",
    "sslcrldir": "use sslcrl",
    "target_session_attrs": "use read-write",
}
LEAVE_OUT = "remove it; settings of the session go into options, as in options=-c%20search_path%3Dshop"

_NAME = re.compile("[a-z_]{1,40}")

VERIFIED = "the server's certificate and name are verified, which keeps a man in the middle out as well"


class UnsupportedParameter(StockhookError, ValueError):
    """The text names the parameter and what to do, and continues a sentence about the URL.

    A file that it names can disappear after the settings were read.
    """

    exit_code = MISCONFIGURED

    @property
    def sentence(self) -> str:
        return f"STOCKHOOK_DATABASE_URL {self}"


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """`dsn` is for the driver, with the first host; `hosts` are tried one after the other.

    Without a port, it is the environment's or 5432. `ignored` has the reason of each parameter that is
    left out.
    """

    dsn: str
    hosts: tuple[tuple[str, int | None], ...]
    connect_seconds: float
    ignored: Mapping[str, str]

    @classmethod
    def read(cls, url: str) -> Self:
        """Raises: UnsupportedParameter."""
        parts = split(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        ignored: dict[str, str] = {}
        for name, value in query.items():
            if (why := _why_ignored(name, value, query)) is not None:
                ignored[name] = why
            else:
                _refuse_unsupported(name, value)
        if query.get("sslrootcert") == "system":
            query["sslrootcert"] = _system_bundle(query)
        for_driver = {
            name: value
            for name, value in query.items()
            if name in HONOURED and name not in ("host", "port", "connect_timeout")
        }
        credentials, at, listed = parts.netloc.rpartition("@")
        # The driver is given each host beside it. It could not parse an IPv6 address among several hosts.
        netloc = f"{credentials}{at}{listed.partition(',')[0]}"
        dsn = parts._replace(netloc=netloc, query=urlencode(for_driver, quote_via=quote)).geturl()
        return cls(dsn, tuple(_hosts(parts, query)), _connect_seconds(query), ignored)


def _why_ignored(name: str, value: str, query: Mapping[str, str]) -> str | None:
    if name in HARMLESS:
        return HARMLESS[name]
    if value in HARMLESS_VALUES.get(name, ()):
        return "the driver does so anyway"
    if (name, value) == ("channel_binding", "require") and query.get("sslmode") == "verify-full":
        return VERIFIED
    return None


def _refuse_unsupported(name: str, value: str) -> None:
    """Raises: UnsupportedParameter."""
    if name not in HONOURED:
        # Anything that is not a name may be part of a password.
        named = f", {name}" if _NAME.fullmatch(name) else ""
        remedy = REMEDIES.get(name, LEAVE_OUT)
        raise UnsupportedParameter(f"has a parameter that cannot be honoured{named}: {remedy}")
    if name in VALUES and value not in VALUES[name]:
        raise UnsupportedParameter(f"has a {name} that cannot be used: {' or '.join(VALUES[name])}")
    if name == "connect_timeout" and not (value.isascii() and value.isdecimal()):
        raise UnsupportedParameter("has a connect_timeout that is not a number of seconds")
    if name in FILES and value != "system" and not Path(value).is_file():
        raise UnsupportedParameter(f"has a parameter {name} whose file does not exist")


def _system_bundle(query: Mapping[str, str]) -> str:
    """Raises: UnsupportedParameter."""
    if query.get("sslmode") != "verify-full":
        raise UnsupportedParameter("has sslrootcert=system, which needs sslmode=verify-full")
    bundle = ssl.get_default_verify_paths().cafile
    if bundle is None:
        raise UnsupportedParameter(
            "has sslrootcert=system, and this system has no bundle of CAs: set STOCKHOOK_DATABASE_CA_FILE"
        )
    return bundle


def _connect_seconds(query: Mapping[str, str]) -> float:
    """Per host, as with libpq. 0 means no limit there, and the default here."""
    return float(min(int(query.get("connect_timeout", 0)), 60)) or CONNECT_SECONDS


def _hosts(parts: SplitResult, query: Mapping[str, str]) -> list[tuple[str, int | None]]:
    """The hosts before the path, or else those in the query; none if the driver has to find them."""
    listed = parts.netloc.rpartition("@")[2]
    ports = [_port(port) for port in query.get("port", "").split(",")]
    if listed:
        hosts = [_host_and_port(unquote(host)) for host in listed.split(",")]
        default = ports[0] if len(ports) == 1 else None
        return [(host, port or default) for host, port in hosts]
    named = [host for host in query.get("host", "").split(",") if host]
    return list(zip(named, ports * len(named) if len(ports) == 1 else ports, strict=False))


def _host_and_port(listed: str) -> tuple[str, int | None]:
    if listed.startswith("/"):
        return listed, None
    if listed.startswith("["):
        host, _, port = listed[1:].partition("]")
        return host, _port(port.removeprefix(":"))
    host, _, port = listed.partition(":")
    return host, _port(port)


def _port(text: str) -> int | None:
    return int(text) if text else None
