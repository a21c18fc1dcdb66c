"""Rules outside development: no plaintext to other machines, no well-known users, no weak secrets."""

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode

from pydantic import SecretStr

from worker.config.gateway import GatewayKey
from worker.config.urls import hosts_of, split

SHORTEST_SECRET = 12
FEWEST_CHARACTERS = 5

# The length of a signature's key, in bytes.
SHORTEST_KEY = 16

# Users that every RabbitMQ has by default.
DEFAULT_USERS = frozenset({"guest"})

# The beginnings of placeholders, reduced to letters and digits.
PLACEHOLDERS = ("changeme", "replaceme", "password", "passw0rd", "yoursecret", "yourtoken", "secretsecret")

# Tokens that the marketplace's documents print in their examples.
PRINTED_TOKENS = frozenset(
    {
        "ffba2e99-4316-4860-a3a2-6d67ebb58d96",
        "6972cce1-4afc-4408-ae78-15392b692f41",
        "1180e49d-b894-4907-92bc-7b23545510d3",
        "9226e1e1-ae8b-4d12-a461-84e95e196393",
        "8f52b1f6-38a4-4e2f-b448-cb677aa15b42",
        "6ac42187-469a-4985-bba6-4c1d506d3dc0",
        "502bad4c-f70b-4cb8-ad45-d51522ae5ffa",
    }
)

# The values of libpq's sslmode that never send anything in clear.
ENCRYPTING_MODES = frozenset({"require", "verify-ca", "verify-full"})


def secret_weakness(secret: str) -> str | None:
    """The fault of a secret, as the predicate of a sentence; None for a good secret."""
    letters = re.sub(r"[^a-z0-9]", "", secret.lower())
    if not secret:
        return "is empty"
    if len(secret) < SHORTEST_SECRET:
        return f"is shorter than {SHORTEST_SECRET} characters"
    if len(set(secret)) < FEWEST_CHARACTERS:
        return "repeats a few characters"
    if letters.startswith(PLACEHOLDERS):
        return "is a placeholder"
    if secret.lower() in PRINTED_TOKENS:
        return "is printed in the marketplace's documents"
    return None


def weak_secrets(secrets: Sequence[SecretStr]) -> Iterator[str]:
    """Yield a message per weak secret, with its number from 1, without its text."""
    for number, secret in enumerate(secrets, start=1):
        fault = secret_weakness(secret.get_secret_value())
        if fault is not None:
            yield f"secret {number} {fault}"


def weak_gateway_keys(keys: Sequence[GatewayKey]) -> Iterator[str]:
    """Yield a message per weak key, with its number from 1. Public keys are not secret."""
    for number, key in enumerate(keys, start=1):
        fault = _key_weakness(key.data) if key.kind == "shared" else None
        if fault is not None:
            yield f"secret {number} {fault}"


def _key_weakness(data: bytes) -> str | None:
    text = data.decode("ascii", errors="replace")
    if text.isascii() and text.isprintable():
        return secret_weakness(text)
    if len(data) < SHORTEST_KEY:
        return f"is shorter than {SHORTEST_KEY} bytes"
    if len(set(data)) < FEWEST_CHARACTERS:
        return "repeats a few bytes"
    return None


def other_machines(url: str) -> list[str]:
    """The hosts of a URL that are not this machine. A database URL may name several, or a socket's folder."""
    query = parse_qsl(split(url).query)
    listed = [host for name, value in query if name == "host" for host in value.split(",")]
    return [host for host in [*hosts_of(url), *listed] if not is_this_machine(host)]


def is_this_machine(host: str) -> bool:
    """An address that other machines cannot reach; also a socket's folder."""
    host = unquote(host)
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_exposed_broker(url: str, *, allow_plaintext: bool) -> None:
    """Raises: ValueError: The URL uses plaintext or a well-known user for another machine."""
    parts = split(url)
    hosts = other_machines(url)
    if not hosts:
        return
    if parts.scheme != "amqps" and not allow_plaintext:
        raise ValueError(_in_clear(hosts, "amqps://"))
    if unquote(parts.username or "guest") in DEFAULT_USERS:
        raise ValueError(f"must name a user of its own, not guest, at {hosts[0]}")
    if "certfile" not in dict(parse_qsl(parts.query)):
        _refuse_weak_password(parts)


def refuse_exposed_database(url: str, *, allow_plaintext: bool, environment: Mapping[str, str]) -> None:
    """Raises: ValueError, as above. Without a password in the URL, libpq may read one from elsewhere."""
    parts = split(url)
    hosts = other_machines(url)
    if not hosts:
        return
    query = dict(parse_qsl(parts.query))
    mode = query.get("sslmode", environment.get("PGSSLMODE") or "prefer")
    if mode not in ENCRYPTING_MODES and not allow_plaintext:
        raise ValueError(_in_clear(hosts, "sslmode=verify-full and STOCKHOOK_DATABASE_CA_FILE"))
    given = {name for name, value in environment.items() if value}
    elsewhere = {"sslcert", "passfile"} & query.keys() or {"PGPASSWORD", "PGPASSFILE"} & given
    if not (elsewhere and parts.password is None):
        _refuse_weak_password(parts)


def refuse_exposed_page(url: str, *, allow_plaintext: bool) -> None:
    """Raises: ValueError, as above, for the management API."""
    parts = split(url)
    hosts = other_machines(url)
    if not hosts:
        return
    if parts.scheme != "https" and not allow_plaintext:
        raise ValueError(_in_clear(hosts, "https://"))
    if unquote(parts.username or "guest") in DEFAULT_USERS:
        raise ValueError(f"must name a user of its own, not guest, at {hosts[0]}")
    _refuse_weak_password(parts)


def _in_clear(hosts: Sequence[str], remedy: str) -> str:
    return (
        f"would send passwords and events to {hosts[0]} in clear: use {remedy}, "
        "or set STOCKHOOK_ALLOW_PLAINTEXT=true for a private network"
    )


def _refuse_weak_password(parts: SplitResult) -> None:
    fault = secret_weakness(unquote(parts.password or ""))
    if fault is not None:
        raise ValueError(f"the password {fault}: set a longer one, or STOCKHOOK_ENVIRONMENT=development")


def with_query(url: str, added: Mapping[str, str]) -> str:
    """The URL with these parameters, unless it has them already."""
    names = {name for name, _ in parse_qsl(split(url).query, keep_blank_values=True)}
    missing = {name: value for name, value in added.items() if name not in names}
    if not missing:
        return url
    return f"{url}{'&' if names else '?'}{urlencode(missing, safe='/', quote_via=quote)}"
