"""Every Prometheus metric that a process exports.

Metrics without a `registry` are exported by every process, the others only by the process that they are
about: in any other process a gauge would be 0, which is wrong.
"""

from collections.abc import Iterable
from importlib.metadata import version
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

INGEST = CollectorRegistry()
CONSUMER = CollectorRegistry()

# What the ingest answers to webhooks; each has its count from the start, since a counter that begins
# with its first event has never increased.
RESULTS = (
    "accepted",
    "quarantined",
    "unhandled",
    "ignored",
    "400",
    "401",
    "404",
    "405",
    "408",
    "411",
    "413",
    "415",
    "500",
    "503",
    "busy",
)
HTTP_REFUSALS = ("400", "408", "431")
CONNECTION_KINDS = ("trusted", "authenticated", "stranger")
CONNECTION_REFUSALS = ("address", "strangers", "total", "handshake")

BUILD_LABELS = {"version": version("stockhook"), "python": python_version()}
BUILD = Info("stockhook_build", "Versions of Stockhook and of the Python that runs it")
BUILD.info(BUILD_LABELS)
PUBLISHER_READY = Gauge(
    "stockhook_publisher_ready", "1 while this process has a connection over which the broker confirms"
)
LOG_LINES_DROPPED = Counter(
    "stockhook_log_lines_dropped_total",
    "Log lines that were dropped because standard error was not read",
)
SPANS_EXPORTED = Counter(
    "stockhook_spans_exported_total", "Spans that the collector of traces has accepted (STOCKHOOK_TRACING)"
)
SPANS_DROPPED = Counter(
    "stockhook_spans_dropped_total",
    "Spans that were dropped: queue_full (more than OTEL_BSP_MAX_QUEUE_SIZE, or too many links, waited for "
    "the collector), or export_failed (the collector did not accept them)",
    ["reason"],
)
# By OpenTelemetry's conventions for messaging, with its buckets. Observed when a span ends.
_MESSAGING_LABELS = (
    "messaging_system",
    "messaging_operation_name",
    "messaging_destination_name",
    "error_type",
)
_MESSAGING_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
SEND_SECONDS = Histogram(
    "messaging_client_operation_duration_seconds",
    "Time from sending a message to the broker's confirm, with STOCKHOOK_TRACING; has exemplars",
    _MESSAGING_LABELS,
    buckets=_MESSAGING_BUCKETS,
)
PROCESS_SECONDS = Histogram(
    "messaging_process_duration_seconds",
    "Time of processing a batch, or an event that was handled alone, with STOCKHOOK_TRACING; has exemplars",
    _MESSAGING_LABELS,
    buckets=_MESSAGING_BUCKETS,
)

RECEIVED = Counter(
    "stockhook_received_total",
    "Webhook requests by answer: accepted, quarantined, unhandled (of a type that no family handles), "
    "ignored (such a type of STOCKHOOK_IGNORED_TYPES, only counted), busy (503: too many bodies in memory), "
    "or the HTTP status of any other refusal",
    ["provider", "result"],
    registry=INGEST,
)
UNKNOWN_PATHS = Counter(
    "stockhook_unknown_paths_total",
    "Requests to a path under /webhooks that belongs to no marketplace: a sender may have a wrong address",
    registry=INGEST,
)
SECRET_USED = Counter(
    "stockhook_secret_used_total",
    "Webhooks by secret: `newest` is the first one in the setting, `older` any other",
    ["provider", "position"],
    registry=INGEST,
)
GATEWAY_UNSIGNED = Counter(
    "stockhook_gateway_unsigned_total",
    "Webhooks without a valid signature of the gateway: absent (accepted without one, while "
    "STOCKHOOK_GATEWAY_REQUIRE=optional), or the rule for which the signature was refused",
    ["provider", "reason"],
    registry=INGEST,
)
GATEWAY_SECRET_USED = Counter(
    "stockhook_gateway_secret_used_total",
    "Webhooks by the gateway's secret that signed them: the newest, which is listed first, or an older one",
    ["provider", "position"],
    registry=INGEST,
)
HTTP_REFUSED = Counter(
    "stockhook_http_refused_total",
    "Requests that the ingest's HTTP server refused by itself, for example because they are malformed",
    ["status"],
    registry=INGEST,
)
CONNECTIONS = Gauge(
    "stockhook_http_connections",
    "Open connections of the ingest: trusted (from a trusted proxy), authenticated (by a valid secret or a "
    "client certificate), or stranger",
    ["kind"],
    registry=INGEST,
)
CONNECTIONS_REFUSED = Counter(
    "stockhook_http_connections_refused_total",
    "Connections closed before a request arrived whole, or not admitted: too many of one address, of "
    "strangers or in total, or a failed TLS handshake",
    ["reason"],
    registry=INGEST,
)
BODY_BYTES = Gauge(
    "stockhook_body_bytes",
    "Bytes of request bodies in memory that the ingest has not answered",
    registry=INGEST,
)
CERTIFICATE_EXPIRES_AT = Gauge(
    "stockhook_ingest_certificate_expiry_timestamp_seconds",
    "When the certificate of the ingest expires; 0 without TLS",
    registry=INGEST,
)
CERTIFICATE_LOADS = Counter(
    "stockhook_ingest_certificate_loads_total",
    "Attempts to load the certificate of the ingest: ok, or failed (the previous one stays in use)",
    ["result"],
    registry=INGEST,
)
PUBLISH_SECONDS = Histogram(
    "stockhook_publish_seconds",
    "Time from publishing an event to the broker's confirm",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=INGEST,
)
SPOOL_OPEN = Gauge(
    "stockhook_spool_open", "1 when there is a spool; without it events are refused", registry=INGEST
)
SPOOL_EVENTS = Gauge("stockhook_spool_events", "Events in the spool", registry=INGEST)
SPOOL_BYTES = Gauge("stockhook_spool_bytes", "Bytes of the events in the spool", registry=INGEST)
SPOOL_LIMIT_BYTES = Gauge(
    "stockhook_spool_limit_bytes", "Bytes that the events in the spool may have at most", registry=INGEST
)
SPOOL_DISK_FREE_BYTES = Gauge(
    "stockhook_spool_disk_free_bytes", "Bytes free on the disk that the spool is on", registry=INGEST
)
SPOOL_AGE_SECONDS = Gauge(
    "stockhook_spool_age_seconds", "Age of the oldest event in the spool; 0 when empty", registry=INGEST
)
SPOOLED = Counter("stockhook_spooled_total", "Events that were written to the spool", registry=INGEST)
DRAINED = Counter("stockhook_drained_total", "Events that were published from the spool", registry=INGEST)

APPLIED = Counter(
    "stockhook_applied_total", "Events applied for the first time", ["family"], registry=CONSUMER
)
DUPLICATES = Counter(
    "stockhook_duplicates_total", "Events that were in the log already", ["family"], registry=CONSUMER
)
STALE = Counter("stockhook_stale_total", "Applied events that changed no row", ["family"], registry=CONSUMER)
FINDINGS = Counter("stockhook_findings_total", "Findings noted", ["family"], registry=CONSUMER)
IMPLAUSIBLE_TIMESTAMPS = Counter(
    "stockhook_implausible_timestamps_total",
    "Applied events whose timestamp is later than their reception by more than STOCKHOOK_CLOCK_TOLERANCE",
    ["family"],
    registry=CONSUMER,
)
RETRIED = Counter(
    "stockhook_retried_total", "Events sent to a retry queue", ["family", "step"], registry=CONSUMER
)
DEAD = Counter("stockhook_dead_total", "Events sent to the dead letters", ["family"], registry=CONSUMER)
BATCH_EVENTS = Histogram(
    "stockhook_batch_events",
    "Events in one transaction",
    ["family"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    registry=CONSUMER,
)
BATCH_SECONDS = Histogram(
    "stockhook_batch_seconds",
    "Time from the start of a batch to its ack",
    ["family"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=CONSUMER,
)
FLUSH_SECONDS = Histogram(
    "stockhook_flush_seconds",
    "Duration of a flush, which makes the batches durable that any family committed before it; they are "
    "acknowledged after it",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=CONSUMER,
)
EVENT_AGE_SECONDS = Histogram(
    "stockhook_event_age_seconds",
    "Time from the ingest to the commit, of the oldest event of each batch",
    ["family"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
    registry=CONSUMER,
)
IN_FLIGHT = Gauge(
    "stockhook_in_flight", "Deliveries of a family that are not settled yet", ["family"], registry=CONSUMER
)
WAITING_FOR_DATABASE = Gauge(
    "stockhook_waiting_for_database",
    "1 while a family waits for the database",
    ["family"],
    registry=CONSUMER,
)
PAUSED_BY_USER = Gauge(
    "stockhook_paused_by_user",
    "1 while a user's pause of a family lasts, as last read; each process exports it for every family",
    ["family"],
    registry=CONSUMER,
)
CIRCUIT_OPEN = Gauge(
    "stockhook_circuit_open",
    "1 while a family tries one event at a time because everything fails",
    ["family"],
    registry=CONSUMER,
)
QUEUE_MESSAGES = Gauge(
    "stockhook_queue_messages",
    "Messages ready in a queue, as last measured; the role is work, retry, dead or quarantine; of actions "
    "action, action_retry or dead; of a subscriber to changes webhook, webhook_retry or dead",
    ["queue", "family", "role", "step"],
    registry=CONSUMER,
)
QUEUE_CONSUMERS = Gauge(
    "stockhook_queue_consumers",
    "Consumers of a queue, of all processes, as last measured",
    ["queue", "family", "role", "step"],
    registry=CONSUMER,
)
QUEUES_MEASURED_AT = Gauge(
    "stockhook_queues_measured_timestamp_seconds",
    "When the queues were last measured",
    registry=CONSUMER,
)
DEAD_LETTERS = Gauge(
    "stockhook_dead_letters",
    "Dead letters that wait in the table dead_letters; the origin is a family, quarantine, or webhook.<name>",
    ["origin"],
    registry=CONSUMER,
)
UNHANDLED = Counter(
    "stockhook_unhandled_total",
    "Events of types that no family handles, moved into the table unhandled_events; types without a "
    "label of their own count as `other`",
    ["provider", "type"],
    registry=CONSUMER,
)
CHANGES_PUBLISHED = Counter(
    "stockhook_changes_published_total",
    "Changes published to the change feed, by type; one that was published again after a crash counts twice",
    ["type"],
    registry=CONSUMER,
)
CHANGES_WAITING_SECONDS = Gauge(
    "stockhook_changes_waiting_seconds",
    "Age of the oldest change that is still to be published; 0 when there is none",
    registry=CONSUMER,
)
CHANGES_MISSING = Gauge(
    "stockhook_changes_missing",
    "Committed changes that are neither published nor waiting",
    ["family"],
    registry=CONSUMER,
)
CHANGE_DELAY_SECONDS = Histogram(
    "stockhook_change_delay_seconds",
    "Time from a change to its confirmed publish, of the oldest of those published together",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
    registry=CONSUMER,
)
WEBHOOKS = Counter(
    "stockhook_webhooks_total",
    "Posts to subscribers of the change feed: delivered, failed (to a retry queue), or dead",
    ["subscriber", "result"],
    registry=CONSUMER,
)
WEBHOOK_ANSWERS = Counter(
    "stockhook_webhook_answers_total",
    "Answers of subscribers to posts by HTTP status; none: no whole answer, such as a refused connection",
    ["subscriber", "status"],
    registry=CONSUMER,
)
WEBHOOK_ANSWERED_AT = Gauge(
    "stockhook_webhook_answered_timestamp_seconds",
    "Time of the last answer of a subscriber, by HTTP status",
    ["subscriber", "status"],
    registry=CONSUMER,
)
WEBHOOK_CIRCUIT_OPEN = Gauge(
    "stockhook_webhook_circuit_open",
    "Whether the circuit breaker of a subscriber is open: its endpoint failed repeatedly and gets one post "
    "at a time",
    ["subscriber"],
    registry=CONSUMER,
)
ACTIONS = Counter(
    "stockhook_actions_total",
    "Attempts at actions: done, not_needed, retried, refused (4xx), failed (the last retry failed), or "
    "unknown (the request may have been accepted, and is not repeated)",
    ["kind", "result"],
    registry=CONSUMER,
)
ACTIONS_WAITING = Gauge(
    "stockhook_actions_waiting",
    "Actions that are not done: due, doing, refused, failed or unknown",
    ["kind", "state"],
    registry=CONSUMER,
)
ACTIONS_WAITING_SECONDS = Gauge(
    "stockhook_actions_waiting_seconds",
    "Age of the oldest action that is due, in a retry queue or before it; 0 when there is none",
    ["kind"],
    registry=CONSUMER,
)
ACTION_SECONDS = Histogram(
    "stockhook_action_seconds",
    "Time that one attempt at an action took",
    ["kind"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=CONSUMER,
)
MISSING = Gauge("stockhook_missing", "Accepted events that cannot be found", ["family"], registry=CONSUMER)
AUDITED_AT = Gauge(
    "stockhook_audited_timestamp_seconds", "Time of the last successful audit", registry=CONSUMER
)
DATABASE_CONNECTIONS = Gauge(
    "stockhook_database_connections",
    "Open connections to the database, idle or in use",
    ["state"],
    registry=CONSUMER,
)
DATABASE_LIMIT = Gauge(
    "stockhook_database_connections_limit",
    "Connections to the database that this process opens at most",
    registry=CONSUMER,
)
DATABASE_WAITING = Gauge(
    "stockhook_database_waiting",
    "Transactions that wait for a connection to the database",
    registry=CONSUMER,
)


def initialize_ingest(providers: Iterable[str]) -> None:
    for status in HTTP_REFUSALS:
        HTTP_REFUSED.labels(status)
    for kind in CONNECTION_KINDS:
        CONNECTIONS.labels(kind)
    for reason in CONNECTION_REFUSALS:
        CONNECTIONS_REFUSED.labels(reason)
    for outcome in ("ok", "failed"):
        CERTIFICATE_LOADS.labels(outcome)
    for provider in providers:
        for result in RESULTS:
            RECEIVED.labels(provider, result)
        for position in ("newest", "older"):
            SECRET_USED.labels(provider, position)


def initialize_gateway(provider: str, reasons: Iterable[str]) -> None:
    for reason in reasons:
        GATEWAY_UNSIGNED.labels(provider, reason)
    for position in ("newest", "older"):
        GATEWAY_SECRET_USED.labels(provider, position)


def initialize_webhook(subscriber: str) -> None:
    for result in ("delivered", "failed", "dead"):
        WEBHOOKS.labels(subscriber, result)


def initialize_family(family: str, steps: Iterable[str]) -> None:
    for counter in (
        APPLIED,
        DUPLICATES,
        STALE,
        FINDINGS,
        IMPLAUSIBLE_TIMESTAMPS,
        DEAD,
        BATCH_EVENTS,
        BATCH_SECONDS,
    ):
        counter.labels(family)
    for gauge in (EVENT_AGE_SECONDS, IN_FLIGHT, WAITING_FOR_DATABASE, CIRCUIT_OPEN):
        gauge.labels(family)
    for step in steps:
        RETRIED.labels(family, step)
