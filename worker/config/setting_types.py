"""The types of settings: how each is read from text, and which rule its value must follow."""

import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from cryptography.fernet import Fernet
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
)
from pydantic_settings import (
    NoDecode,
)

from worker.config.console_accounts import read_accounts
from worker.config.database_url import DatabaseUrl
from worker.config.gateway import (
    CUSTOM,
    PRESETS,
    read_keys,
    read_scheme,
)
from worker.config.security import (
    other_machines,
    refuse_exposed_broker,
    refuse_exposed_database,
    refuse_exposed_page,
    with_query,
)
from worker.config.subscribers import read_subscribers
from worker.config.urls import (
    check_hosts,
    checked,
    split,
    with_password,
)


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _delays(value: object) -> object:
    """`none` means no retry schedule. (An empty value is not set, so the default applies.)"""
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "none":
        return ()
    listed = _split(value)
    if not listed:
        raise ValueError("must be seconds, comma-separated, or none for no retry schedule")
    return listed


def _port(value: object) -> object:
    """A Kubernetes Service sets variables such as STOCKHOOK_INGEST_PORT in every pod of its namespace."""
    if isinstance(value, str) and re.match(r"(tcp|udp|sctp)://", value):
        raise ValueError(
            "must be a number; Kubernetes sets this for a Service of the same name: "
            "set enableServiceLinks: false in the pod template"
        )
    return value


def readable(path: Path) -> Path:
    try:
        if not path.is_file():
            raise ValueError("does not name a file")
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


def _networks(value: object) -> object:
    listed = _split(value)
    if not isinstance(listed, tuple):
        return value
    return tuple(_network(text) if isinstance(text, str) else text for text in listed)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(
            f"must be networks, comma-separated, such as 10.0.0.0/8,fd00::/8, which {text!r:.60} is not"
        ) from None
    if network.prefixlen == 0:
        raise ValueError(f"must not contain every address, as {text} does: anybody could name any client")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"must have IPv4 networks in their own form, not as {text}")
    return network


def _key_of_certificate(key: Path | None, info: ValidationInfo) -> Path | None:
    setting = _certificate_setting(info)
    if info.data.get(setting) is not None and key is None:
        raise ValueError(f"is required with STOCKHOOK_{setting.upper()}")
    return _beside_certificate(key, info)


def _beside_certificate(path: Path | None, info: ValidationInfo) -> Path | None:
    setting = _certificate_setting(info)
    if path is not None and info.data.get(setting) is None:
        raise ValueError(f"needs STOCKHOOK_{setting.upper()}")
    return path


def _certificate_setting(info: ValidationInfo) -> str:
    """Of the server that the setting belongs to."""
    assert info.field_name is not None, "these are validators of fields"
    return f"{info.field_name.partition('_')[0]}_certificate_file"


def _amqp_url(url: SecretStr, info: ValidationInfo) -> SecretStr:
    """The client library takes its files from the URL."""
    text = checked(url.get_secret_value(), "amqp", "amqps", several=True)
    if "no_verify_ssl" in dict(parse_qsl(split(text).query)):
        raise ValueError("must not have no_verify_ssl: set STOCKHOOK_AMQP_CA_FILE")
    files = _files(info, cafile="amqp_ca_file", certfile="amqp_certificate_file", keyfile="amqp_key_file")
    if files and split(text).scheme == "amqp":
        raise ValueError("must start with amqps:// where a CA or a certificate is set")
    text = with_query(_with_password(text, info, "amqp_password"), files)
    if not _is_development(info):
        refuse_exposed_broker(text, allow_plaintext=_allows_plaintext(info))
    return SecretStr(text)


def _database_url(url: SecretStr, info: ValidationInfo) -> SecretStr:
    """The driver takes its files from the URL. Where a CA is set, the host's name is verified as well."""
    text = checked(url.get_secret_value(), "postgresql", "postgres", several=True, socket=True)
    query = dict(parse_qsl(split(text).query))
    check_hosts(*(query[name].split(",") if name in query else [] for name in ("host", "port")))
    text = _with_password(text, info, "database_password", needs_user=False)
    files = _files(
        info,
        sslrootcert="database_ca_file",
        sslcert="database_certificate_file",
        sslkey="database_key_file",
    )
    text = with_query(text, {"sslmode": "verify-full", **files} if "sslrootcert" in files else files)
    if not _is_development(info):
        refuse_exposed_database(text, allow_plaintext=_allows_plaintext(info), environment=os.environ)
    DatabaseUrl.read(text)
    return SecretStr(text)


def _management_url(url: SecretStr, info: ValidationInfo) -> SecretStr:
    text = checked(url.get_secret_value(), "http", "https", several=True)
    if split(text).query:
        raise ValueError("must consist of scheme, user, password, host, port and path alone")
    text = _with_password(text, info, "management_password")
    if not _is_development(info):
        refuse_exposed_page(text, allow_plaintext=_allows_plaintext(info))
    return SecretStr(text)


def _prometheus_url(url: SecretStr, info: ValidationInfo) -> SecretStr:
    text = checked(url.get_secret_value(), "http", "https")
    if split(text).query:
        raise ValueError("must consist of scheme, user, password, host, port and path alone")
    text = _with_password(text, info, "prometheus_password")
    sends_password = split(text).password is not None and bool(other_machines(text))
    if split(text).scheme == "http" and sends_password and not _allows_plaintext(info):
        raise ValueError("must start with https://: it would send a password to another machine in clear")
    return SecretStr(text.rstrip("/"))


def _with_password(url: str, info: ValidationInfo, setting: str, *, needs_user: bool = True) -> str:
    """The URL with the password of the setting, where that is set."""
    password = info.data.get(setting)
    if password is None:
        return url
    name = f"STOCKHOOK_{setting.upper()}"
    if needs_user and not split(url).username:
        raise ValueError(f"must contain the user whose password is in {name}")
    return with_password(url, password.get_secret_value(), name)


def _api_url(url: SecretStr, info: ValidationInfo) -> SecretStr:
    """The URL of a marketplace's API, to which we send credentials. It must contain none itself."""
    text = checked(url.get_secret_value(), "https", "http")
    parts = urlsplit(text)
    if parts.username is not None or parts.query:
        raise ValueError("must be no more than scheme, host, port and path")
    if parts.scheme == "http" and other_machines(text) and not _allows_plaintext(info):
        raise ValueError("must start with https://: it would send passwords to another machine in clear")
    return SecretStr(text.rstrip("/"))


def _proxy(url: SecretStr) -> SecretStr:
    text = checked(url.get_secret_value(), "http", "https")
    if urlsplit(text).path not in ("", "/") or urlsplit(text).query:
        raise ValueError("must consist of scheme, user, password, host and port alone")
    return SecretStr(text)


def _subscribers(webhooks: SecretStr, info: ValidationInfo) -> SecretStr:
    for subscriber in read_subscribers(webhooks.get_secret_value()):
        if "[" in urlsplit(subscriber.url).netloc and info.data.get("changes_proxy"):
            raise ValueError(
                f"{subscriber.name}: must have a host name, not an IPv6 address, for STOCKHOOK_CHANGES_PROXY"
            )
        if not subscriber.url.startswith("https://") and not info.data.get("changes_private_targets"):
            raise ValueError(f"{subscriber.name}: its url must start with https://")
    return webhooks


def _console_users(users: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    read_accounts(users)
    return users


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", name):
            raise ValueError(
                f"must be names without scheme and port, comma-separated, which {name!r:.60} is not"
            )
    return tuple(name.lower() for name in names)


def _ops_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_ops_url(url) for url in urls)


def _ops_url(url: str) -> str:
    text = checked(url, "http")
    parts = urlsplit(text)
    if parts.username is not None or parts.query or parts.path.strip("/") or parts.port is None:
        raise ValueError("must be URLs of ops ports, comma-separated, such as http://ingest:9090")
    return text.rstrip("/")


def _url_with(placeholder: str, example: str) -> AfterValidator:
    """The template of a URL. It becomes a link in pages that other people see."""

    def check(template: str) -> str:
        if placeholder not in template:
            raise ValueError(f"must contain {placeholder}, such as {example}")
        url = checked(template.replace(placeholder, "0"), "https", "http")
        if urlsplit(url).username is not None:
            raise ValueError("must not contain a user")
        return template

    return AfterValidator(check)


def _gateway(name: str | None) -> str | None:
    if name is not None and name != CUSTOM and name not in PRESETS:
        raise ValueError(f"must be one of {', '.join(PRESETS)} or {CUSTOM}")
    return name


def _gateway_signature(overrides: str | None, info: ValidationInfo) -> str | None:
    name = info.data.get("gateway")
    if name is not None:
        if name == CUSTOM and overrides is None:
            raise ValueError("is required with STOCKHOOK_GATEWAY=custom")
        read_scheme(name, overrides)
    return overrides


def _gateway_secrets(secrets: tuple[SecretStr, ...], info: ValidationInfo) -> tuple[SecretStr, ...]:
    name = info.data.get("gateway")
    # A process without STOCKHOOK_GATEWAY may have the secrets too, from a folder that processes share.
    if name is not None and "gateway_signature" in info.data:
        read_keys(read_scheme(name, info.data["gateway_signature"]), secrets, marketplace_names())
    return secrets


def _known_marketplaces(names: tuple[str, ...]) -> tuple[str, ...]:
    if names:
        known = marketplace_names()
        for name in names:
            if name not in known:
                raise ValueError(f"must be of {', '.join(known)}, comma-separated")
    return names


def marketplace_names() -> tuple[str, ...]:
    # It knows every event type, which most commands need not load.
    from schemas.registry import Provider

    return tuple(Provider)


def _is_development(info: ValidationInfo) -> bool:
    return info.data.get("environment") == "development"


def _allows_plaintext(info: ValidationInfo) -> bool:
    return info.data.get("allow_plaintext") is True


def _files(info: ValidationInfo, **settings: str) -> dict[str, str]:
    """The files that are set, by the names that a URL has for them."""
    given = {parameter: info.data.get(name) for parameter, name in settings.items()}
    return {parameter: str(path) for parameter, path in given.items() if path is not None}


def _fernet_key(key: SecretStr) -> SecretStr:
    try:
        Fernet(key.get_secret_value())
    except ValueError:
        raise ValueError("must be Fernet keys: 32 bytes in URL-safe base64") from None
    return key


def _ascending(delays: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(set(delays)) != list(delays):
        raise ValueError("must ascend: each delay names a queue of its own")
    return delays


def _ignorable(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if patterns:
        # It knows every event type, which most commands need not load.
        from worker.config import ignored_types as ignored

        ignored.check(patterns)
    return patterns


Port = Annotated[int, BeforeValidator(_port)]
ReadableFile = Annotated[Path, AfterValidator(readable)]
Strings = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)]

AmqpUrl = Annotated[SecretStr, AfterValidator(_amqp_url)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_database_url)]
ManagementUrl = Annotated[SecretStr, AfterValidator(_management_url)]
TraceUrl = Annotated[str, _url_with("{trace_id}", "https://grafana.example/trace/{trace_id}")]
QueueUrl = Annotated[str, _url_with("{queue}", "https://rabbitmq.example/#/queues/stockhook/{queue}")]
DashboardUrl = Annotated[str, _url_with("{family}", "https://grafana.example/d/pipeline?var-family={family}")]
GatewayEventUrl = Annotated[
    str, _url_with("{gateway_event}", "https://gateway.example/events/{gateway_event}")
]
PrometheusUrl = Annotated[SecretStr, AfterValidator(_prometheus_url)]
ApiUrl = Annotated[SecretStr, AfterValidator(_api_url)]
ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy)]

KeyFile = Annotated[Path | None, AfterValidator(_key_of_certificate)]
IngestClientCaFile = Annotated[Path | None, AfterValidator(_beside_certificate)]
EncryptionKeys = Annotated[
    tuple[Annotated[SecretStr, AfterValidator(_fernet_key)], ...], NoDecode, BeforeValidator(_split)
]

ConsoleUsers = Annotated[Secrets, AfterValidator(_console_users)]
HostNames = Annotated[Strings, AfterValidator(_host_names)]
OpsUrls = Annotated[Strings, AfterValidator(_ops_urls)]

GatewayName = Annotated[str | None, AfterValidator(_gateway)]
GatewaySignature = Annotated[str | None, AfterValidator(_gateway_signature)]
GatewaySecrets = Annotated[Secrets, AfterValidator(_gateway_secrets)]
MarketplaceNames = Annotated[Strings, AfterValidator(_known_marketplaces)]

RetryDelays = Annotated[
    tuple[Annotated[int, Field(ge=1, le=86_400)], ...],
    NoDecode,
    BeforeValidator(_delays),
    AfterValidator(_ascending),
]
Subscribers = Annotated[SecretStr, AfterValidator(_subscribers)]
IgnoredTypes = Annotated[Strings, AfterValidator(_ignorable)]
