"""The configuration: environment variables, or files of the same names in a secrets folder."""

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from cryptography.fernet import Fernet, MultiFernet
from pydantic import (
    Field,
    IPvAnyAddress,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from schemas.clock import TOLERANCE
from schemas.trace_context import TRACE_IDS
from schemas.validation import BrokenRule, broken_rules
from worker.config.console_accounts import Account, read_accounts
from worker.config.gateway import (
    CUSTOM,
    PRESETS,
    Gateway,
    GatewayKey,
    Requirement,
    read_keys,
    read_scheme,
)
from worker.config.setting_types import (
    AmqpUrl,
    ApiUrl,
    ConsoleUsers,
    DashboardUrl,
    EncryptionKeys,
    GatewayEventUrl,
    GatewayName,
    GatewaySecrets,
    GatewaySignature,
    HostNames,
    IgnoredTypes,
    IngestClientCaFile,
    KeyFile,
    ManagementUrl,
    MarketplaceNames,
    Networks,
    OpsUrls,
    Port,
    PostgresUrl,
    PrometheusUrl,
    ProxyUrl,
    QueueUrl,
    ReadableFile,
    RetryDelays,
    Secrets,
    Subscribers,
    TraceUrl,
    marketplace_names,
    readable,
)
from worker.config.subscribers import Subscriber, read_subscribers
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import MISCONFIGURED

PREFIX = "STOCKHOOK_"

_PATH_PREFIX = r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$"


class BadSettings(StockhookError):
    """The configuration cannot be used. The text says which key, which rule, and what was given."""

    exit_code = MISCONFIGURED


class Settings(BaseSettings):
    """Read once at the start of a process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    # The URLs are judged by what stands above them.
    environment: Literal["production", "development"] = Field(
        default="production",
        description="`development` accepts weak secrets, and plaintext connections to other machines",
    )
    allow_plaintext: bool = Field(
        default=False,
        description="Whether broker and database may be on other machines without TLS",
    )
    amqp_ca_file: ReadableFile | None = Field(
        default=None, description="CA that signed the broker's certificate, where the system does not know it"
    )
    amqp_certificate_file: ReadableFile | None = Field(
        default=None, description="Certificate that we show the broker (PEM)"
    )
    amqp_key_file: ReadableFile | None = Field(default=None, description="Its private key")
    database_ca_file: ReadableFile | None = Field(
        default=None,
        description="CA that signed the database's certificate; with it, `sslmode` is `verify-full`",
    )
    database_certificate_file: ReadableFile | None = Field(
        default=None, description="Certificate that we show the database (PEM)"
    )
    database_key_file: ReadableFile | None = Field(default=None, description="Its private key")
    amqp_password: SecretStr | None = Field(
        default=None, description="Password of the broker's user, instead of one in STOCKHOOK_AMQP_URL"
    )
    amqp_url: AmqpUrl = Field(
        default=SecretStr("amqp://localhost:5672/"),
        description="RabbitMQ, 3.10 or newer; several hosts of a cluster: "
        "`amqps://user:password@h1:5671,h2:5671,h3:5671/vhost`",
    )
    database_password: SecretStr | None = Field(
        default=None, description="Password of the database's user, instead of one in STOCKHOOK_DATABASE_URL"
    )
    database_url: PostgresUrl = Field(
        default=SecretStr("postgresql://localhost:5432/stockhook"),
        description="Postgres, 15 or newer; several hosts with `target_session_attrs=read-write`",
    )
    management_password: SecretStr | None = Field(
        default=None,
        description="Password of the management API's user, instead of one in STOCKHOOK_MANAGEMENT_URL",
    )
    management_url: ManagementUrl | None = Field(
        default=None,
        description="RabbitMQ's management API, for `stockhook topology --check` to compare bindings: "
        "`http://user:password@host:15672`; several hosts are tried in turn",
    )
    declare_topology: bool = Field(
        default=True,
        description="Whether ingest and consumers declare exchanges and queues; if not, they verify that "
        "`stockhook topology` did",
    )
    ingest_host: str = Field(default="127.0.0.1", description="Address that the ingest listens on")
    ingest_port: Port = Field(default=8080, ge=1, le=65535, description="Port of the ingest")
    ingest_idle_timeout: float = Field(
        default=75.0,
        gt=0,
        le=86_400,
        description="Seconds before the ingest closes an idle connection; must be longer than the idle "
        "timeout of the proxy in front of it (docs/design/http-server.md)",
    )
    ingest_connections: int = Field(
        default=1024,
        ge=16,
        le=65_536,
        description="Connections that the ingest has open at most; half of them are for trusted proxies and "
        "for senders that have authenticated",
    )
    ingest_connections_per_address: int = Field(
        default=128,
        ge=1,
        le=65_536,
        description="Connections at most from one address (IPv6: from one /64 network) whose senders have "
        "not authenticated; does not apply to trusted proxies",
    )
    ingest_path_prefix: str = Field(
        default="",
        pattern=_PATH_PREFIX,
        description="Path before `/webhooks`, such as `/stockhook`, where a proxy passes it on",
    )
    ingest_certificate_file: Path | None = Field(
        default=None,
        description="Certificate of the ingest, with its chain (PEM). If set, the ingest uses TLS. A "
        "changed file is loaded within seconds, and on SIGHUP",
    )
    ingest_key_file: KeyFile = Field(default=None, validate_default=True, description="Its private key (PEM)")
    ingest_client_ca_file: IngestClientCaFile = Field(
        default=None,
        description="CA of the client certificates that the ingest then requires of every sender (mTLS)",
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="Addresses and networks of proxies in front of the ingest, comma-separated: only their "
        "`X-Forwarded-For` and `X-Request-Id` are used, and `traceparent` with `STOCKHOOK_TRUST_TRACEPARENT`",
    )
    ops_host: str = Field(default="127.0.0.1", description="Address of `/metrics`, `/livez`, `/readyz`")
    ops_port: Port = Field(
        default=9090,
        ge=1,
        le=65534,
        description="Port of the same; under `stockhook run` the ingest takes the next one",
    )
    console_host: str = Field(default="127.0.0.1", description="Address that the console listens on")
    console_port: Port = Field(default=8081, ge=1, le=65535, description="Port of the console")
    console_base_path: str = Field(
        default="",
        pattern=_PATH_PREFIX,
        description="Path under which browsers find the console, such as `/stockhook`, whether the proxy in "
        "front of it passes that on or removes it",
    )
    console_hosts: HostNames = Field(
        default=(),
        description="Host names by which browsers reach the console, comma-separated, without port; this "
        "machine's own addresses are always accepted",
    )
    console_certificate_file: Path | None = Field(
        default=None,
        description="Certificate of the console, with its chain (PEM). If set, the console uses TLS. A "
        "changed file is loaded within seconds",
    )
    console_key_file: KeyFile = Field(
        default=None, validate_default=True, description="Its private key (PEM)"
    )
    console_users: ConsoleUsers = Field(
        default=(),
        description="Accounts of the console, comma-separated: `NAME:ROLE:HASH` with the role `reader`, "
        "`operator` or `revealer`, or several as `operator+revealer`; `stockhook console hash-password` "
        "makes the hash",
    )
    console_session_hours: float = Field(
        default=12.0, gt=0, le=720, description="Hours after which a user of the console signs in again"
    )
    console_read_only: bool = Field(
        default=False, description="Whether the console refuses changes by users of every role"
    )
    console_trusted_proxies: Networks = Field(
        default=(),
        description="Addresses and networks of proxies in front of the console, comma-separated: only their "
        "`X-Forwarded-For`, `X-Forwarded-Proto` and headers about users are used",
    )
    console_proxy_user_header: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Header in which a trusted proxy names the user that it has authenticated, such as "
        "`X-Forwarded-User`",
    )
    console_proxy_groups_header: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Header in which it lists the user's groups, comma-separated: `stockhook-reader`, "
        "`stockhook-operator` and `stockhook-revealer` give a role. Without this setting, its users are "
        "readers",
    )
    console_ops_urls: OpsUrls = Field(
        default=(),
        description="Ops ports from which the console reads what only the processes know, comma-separated: "
        "`http://ingest:9090,http://consumers:9090`. Each address of a name is one process. By default those "
        "of this machine",
    )
    console_queue_url: QueueUrl | None = Field(
        default=None,
        description="Where a browser finds a queue, with `{queue}` in it: "
        "`https://rabbitmq.example/#/queues/stockhook/{queue}`",
    )
    console_dashboard_url: DashboardUrl | None = Field(
        default=None,
        description="Where a browser finds the dashboard of a family, with `{family}` in it",
    )
    console_gateway_event_url: GatewayEventUrl | None = Field(
        default=None,
        description="Where a browser finds an event of the webhook gateway, with `{gateway_event}` in it",
    )
    prometheus_password: SecretStr | None = Field(
        default=None, description="Password of Prometheus' user, instead of one in STOCKHOOK_PROMETHEUS_URL"
    )
    prometheus_url: PrometheusUrl | None = Field(
        default=None,
        description="Prometheus that scrapes our processes, for charts of the console of more than an hour: "
        "`https://user:password@host/prometheus`",
    )
    ovoko_header: str = Field(
        default="X-Webhook-Secret",
        pattern=r"^[A-Za-z0-9-]+$",
        description="HTTP header in which Ovoko sends the merchant's secret",
    )
    ovoko_secrets: Secrets = Field(
        default=(),
        description="Secrets accepted from Ovoko, comma-separated, the newest first: all are valid at once",
    )
    ovoko_api_url: ApiUrl = Field(default=SecretStr("https://api.rrr.lt"), description="Where Ovoko's API is")
    ovoko_username: str | None = Field(default=None, min_length=1, description="The user of Ovoko's API")
    ovoko_password: SecretStr | None = Field(default=None, min_length=1, description="Its password")
    ovoko_user_token: SecretStr | None = Field(
        default=None, min_length=1, description="Its token, from Ovoko"
    )
    ovoko_calls_per_second: float = Field(
        default=4.0, gt=0, le=1000, description="Maximum number of calls of Ovoko's API per second"
    )
    ovoko_timeout: float = Field(
        default=30.0, gt=0, le=600, description="Seconds that a call of Ovoko's API may take"
    )
    buyback_tokens: Secrets = Field(
        default=(),
        description="Tokens accepted from Luxclusif Buyback, comma-separated, the newest first: all are "
        "valid at once",
    )
    sealing_keys: EncryptionKeys = Field(
        default=(),
        description="Fernet keys that encrypt bank details, comma-separated: the first encrypts, all decrypt",
    )
    gateway: GatewayName = Field(
        default=None,
        description=f"Webhook gateway in front of the ingest, whose signatures are verified: "
        f"{', '.join(f'`{name}`' for name in (*PRESETS, CUSTOM))}",
    )
    gateway_signature: GatewaySignature = Field(
        default=None,
        validate_default=True,
        description="Signature scheme of `custom`, or single members that replace those of the preset, as "
        'JSON: `{"header": "x-acme-signature"}` (docs/reference/http-api.md)',
    )
    gateway_secrets: GatewaySecrets = Field(
        default=(),
        description="Secrets and public keys of the gateway, comma-separated, the newest first: all are "
        "valid at once. One for a single marketplace has its name before it: `ovoko=whsec_…`",
    )
    gateway_marketplaces: MarketplaceNames = Field(
        default=(),
        description="Marketplaces whose webhooks come through the gateway, comma-separated; by default all",
    )
    gateway_require: Requirement = Field(
        default="both",
        description="`both`: the gateway's signature and the marketplace's own secret; `gateway`: the "
        "signature alone; `optional`: one of the two, and no wrong signature",
    )
    gateway_tolerance: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="Seconds that the timestamp of a signature may differ from the ingest's clock",
    )
    buyback_api_url: ApiUrl | None = Field(
        default=None, description="Luxclusif Buyback's API for sellers, for `stockhook buyback`"
    )
    buyback_sts_url: ApiUrl | None = Field(
        default=None, description="Its token service: what stands before `/connect/token`"
    )
    buyback_client_id: str | None = Field(default=None, min_length=1, description="Client id there")
    buyback_client_secret: SecretStr | None = Field(
        default=None, min_length=1, description="Client secret there"
    )
    buyback_seller_id: str | None = Field(default=None, min_length=1, description="Our seller id there")
    buyback_real_ip: IPvAnyAddress | None = Field(
        default=None, description="Our own public address (`x-real-ip`), by which calls are limited there"
    )
    buyback_timeout: float = Field(
        default=15.0, gt=0, le=300, description="Seconds that one call of theirs may take"
    )
    rerequest_pickup: Literal["first_slot", "off"] = Field(
        default="off",
        description="After a missed pickup, `first_slot` requests another one in the first slot that is "
        "offered; `off` leaves it to you",
    )
    retry_delays: RetryDelays = Field(
        default=(7, 35, 175),
        description="Seconds before each further attempt at an event, comma-separated; `none` for no retries",
    )
    prefetch: int = Field(
        default=400, ge=1, le=2000, description="Deliveries a family holds unacknowledged at most"
    )
    batch_size: int = Field(default=200, ge=1, le=1000, description="Events in one transaction at most")
    body_limit: int = Field(
        default=262_144, ge=1024, le=8_388_608, description="Bytes of a webhook's body at most"
    )
    body_timeout: float = Field(
        default=10.0, gt=0, le=60, description="Seconds in which a body must have arrived"
    )
    publish_timeout: float = Field(
        default=0.5,
        gt=0,
        le=60,
        description="Seconds that the ingest waits for the broker's confirm before it spools an event",
    )
    spool_path: Path = Field(
        default=Path("stockhook-spool.sqlite3"),
        description="File into which the ingest writes events while the broker is unavailable",
    )
    spool_max_bytes: int = Field(
        default=1_073_741_824,
        ge=1_048_576,
        le=2**60,
        description="Bytes of events in the spool at most; beyond, senders get 503",
    )
    keep_dead_letters: bool = Field(
        default=True,
        description="Consumers move dead letters and the quarantine into the tables `dead_letters` and "
        "`unhandled_events`, where `stockhook dead` and `stockhook unhandled` find them",
    )
    changes: bool = Field(
        default=True,
        description="Consumers publish each change of a projection to the exchange `stockhook.changes`",
    )
    changes_private_targets: bool = Field(
        default=False,
        description="Whether subscribers of changes over HTTP may be at private, loopback or link-local "
        "addresses, and without TLS",
    )
    changes_proxy: ProxyUrl | None = Field(
        default=None,
        description="HTTP proxy for changes over HTTP, `http://user:password@host:3128`; with it, only the "
        "proxy can refuse private addresses",
    )
    changes_webhooks: Subscribers = Field(
        default=SecretStr("[]"),
        description="Subscribers of changes over HTTP, as JSON: "
        '`[{"name": "shop", "url": "https://…", "types": ["part.*"], "secret": "whsec_…"}]`; `secret` is '
        "`whsec_…` (shared), `whsk_…` (ed25519), or a list, the newest first: each signs",
    )
    clock_tolerance: float = Field(
        default=TOLERANCE.total_seconds(),
        gt=0,
        le=100 * 366 * 86_400,
        description="Seconds that a timestamp may be later than the reception of its event; a later one is "
        "implausible and does not win. Use the same value for all processes; after a change, run "
        "`stockhook rebuild`",
    )
    shutdown_grace: float = Field(
        default=6.0, gt=0, le=300, description="Seconds to finish in-flight deliveries after SIGTERM"
    )
    ignored_types: IgnoredTypes = Field(
        default=(),
        description="Event types to ignore: answered 200 and counted, but not stored. Comma-separated "
        "patterns, such as `ovoko.foo.*,buyback.Submission*`; none may match a type that a family handles",
    )
    unhandled_days: int = Field(
        default=90,
        ge=0,
        le=36_500,
        description="Days for which events of unhandled types stay in `unhandled_events`; 0: no limit",
    )
    event_log_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description="Days for which events stay in the event log; whole months are dropped. 0: no limit. "
        "Dropped events can be neither explained nor rebuilt",
    )
    dead_letter_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description="Days for which dead letters stay after their replay or discard; 0: no limit",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`json`, `console`, or by whether standard error is a terminal"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lines below this level are omitted"
    )
    tracing: bool = Field(
        default=False,
        description="Whether OpenTelemetry exports traces, as its own variables `OTEL_*` say; needs the "
        "extra `stockhook[otel]`",
    )
    trust_traceparent: bool = Field(
        default=False,
        description="Whether a webhook continues the trace of its `traceparent`, if a trusted proxy sent it "
        "or it has a valid signature of the gateway. All others are only linked to it",
    )
    trace_url: TraceUrl | None = Field(
        default=None,
        description="Where a browser finds a trace, with `{trace_id}` in it: "
        "`https://grafana.example/trace/{trace_id}`",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """A variable takes precedence over a file. pydantic's own reader of files raises tracebacks."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _from_files())

    @property
    def tolerance(self) -> timedelta:
        return timedelta(seconds=self.clock_tolerance)

    @property
    def delays(self) -> tuple[timedelta, ...]:
        return tuple(timedelta(seconds=seconds) for seconds in self.retry_delays)

    @property
    def subscribers(self) -> tuple[Subscriber, ...]:
        return read_subscribers(self.changes_webhooks.get_secret_value())

    @property
    def webhook_names(self) -> tuple[str, ...]:
        return tuple(subscriber.name for subscriber in self.subscribers)

    @property
    def ingest_scheme(self) -> str:
        return "http" if self.ingest_certificate_file is None else "https"

    @property
    def ingest_url(self) -> str:
        """Where commands on the same machine find the ingest."""
        return f"{self.ingest_scheme}://{_here(self.ingest_host)}:{self.ingest_port}{self.ingest_path_prefix}"

    @property
    def ingest_readiness_urls(self) -> tuple[str, ...]:
        """URLs of the ingest's readiness for commands on the same machine: one of them answers.

        If the ingest requires client certificates, its ops port answers: under `stockhook run` the second.
        """
        if self.ingest_client_ca_file is None:
            return (f"{self.ingest_url}/readyz",)
        ports = (self.ops_port, self.ops_port + 1)
        return tuple(f"http://{_here(self.ops_host)}:{port}/readyz" for port in ports)

    @property
    def console_accounts(self) -> tuple[Account, ...]:
        return read_accounts(self.console_users)

    @property
    def ops_urls(self) -> tuple[str, ...]:
        """The ops ports that the console reads: by default the two that `stockhook run` has here."""
        here = (f"http://{_here(self.ops_host)}:{port}" for port in (self.ops_port, self.ops_port + 1))
        return self.console_ops_urls or tuple(here)

    @cached_property
    def _gateway_in_front(self) -> Gateway | None:
        if self.gateway is None:
            return None
        scheme = read_scheme(self.gateway, self.gateway_signature, self.gateway_tolerance)
        keys = read_keys(scheme, self.gateway_secrets, marketplace_names())
        return Gateway(scheme, self.gateway_require, keys)

    def gateway_of(self, marketplace: str) -> Gateway | None:
        """The gateway through which the webhooks of a marketplace come; None if they come directly."""
        return self._gateways.get(marketplace)

    @cached_property
    def _gateways(self) -> dict[str, Gateway]:
        gateway = self._gateway_in_front
        names = self.gateway_marketplaces or marketplace_names()
        return {} if gateway is None else {name: gateway.of(name) for name in names}

    @property
    def gateway_keys(self) -> tuple[GatewayKey, ...]:
        return () if self._gateway_in_front is None else self._gateway_in_front.keys

    def trace_urls(self, evidence: Mapping[str, str] | None) -> tuple[str, ...]:
        """Where a browser finds the traces that the evidence of an event names."""
        if self.trace_url is None or evidence is None:
            return ()
        ids = (evidence[name] for name in TRACE_IDS if name in evidence)
        return tuple(self.trace_url.replace("{trace_id}", trace_id) for trace_id in ids)

    @property
    def encryptor(self) -> MultiFernet | None:
        keys = [Fernet(key.get_secret_value()) for key in self.sealing_keys]
        return MultiFernet(keys) if keys else None


def _here(host: str) -> str:
    """An address that a process listens on, as others on the same machine write it in a URL."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def read_settings() -> Settings:
    """Read the environment, and the folder that STOCKHOOK_SECRETS_DIR names. An empty value is not set.

    Raises:
        BadSettings: A value breaks its rule, or a file cannot be read.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise BadSettings("; ".join(map(_sentence, broken_rules(error), _inputs(error)))) from None


def _from_files() -> dict[str, str]:
    """The settings that have a non-empty file in the secrets folder.

    Raises:
        BadSettings
    """
    named = os.environ.get(f"{PREFIX}SECRETS_DIR")
    if not named:
        return {}
    folder = Path(named).expanduser()
    try:
        if not folder.is_dir():
            raise BadSettings(f"{PREFIX}SECRETS_DIR: no such folder: {named}")
        files = {path.name.upper(): path for path in sorted(folder.iterdir())}
    except OSError as error:
        raise BadSettings(f"{PREFIX}SECRETS_DIR: cannot be read: {error.strerror} ({named})") from None
    paths = {name: files[key] for name in Settings.model_fields if (key := PREFIX + name.upper()) in files}
    texts = {name: _text(name, path) for name, path in paths.items()}
    return {name: text for name, text in texts.items() if text}


def _text(name: str, path: Path) -> str:
    """Raises: BadSettings."""
    try:
        return readable(path).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        fault = "is not UTF-8"
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    except ValueError as error:
        fault = str(error)
    raise BadSettings(f"{PREFIX}{name.upper()}: {path} {fault}")


def _inputs(error: ValidationError) -> list[object]:
    return [detail["input"] for detail in error.errors(include_url=False, include_context=False)]


def _sentence(broken: BrokenRule, value: object) -> str:
    name = broken.path.partition(".")[0]
    is_secret = "SecretStr" in str(Settings.model_fields[name].annotation)
    given = os.environ.get(PREFIX + name.upper()) or value
    return f"{PREFIX}{name.upper()}: {broken.text}" + ("" if is_secret else f" (given: {given!r:.200})")
