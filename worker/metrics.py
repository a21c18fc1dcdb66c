"""Every Prometheus metric that a process exports."""

from prometheus_client import Counter, Gauge, Histogram

RECEIVED = Counter(
    "stockhook_received_total",
    "Webhook requests by answer: accepted, quarantined, or the HTTP status of a refusal",
    ["provider", "result"],
)
PUBLISH_SECONDS = Histogram(
    "stockhook_publish_seconds",
    "Time from publishing an event to the broker's confirm",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
APPLIED = Counter("stockhook_applied_total", "Events applied for the first time", ["family"])
DUPLICATES = Counter("stockhook_duplicates_total", "Events that were in the log already", ["family"])
STALE = Counter("stockhook_stale_total", "Applied events that changed no row", ["family"])
FINDINGS = Counter("stockhook_findings_total", "Findings noted", ["family"])
RETRIED = Counter("stockhook_retried_total", "Events sent to a retry step", ["family", "step"])
DEAD = Counter("stockhook_dead_total", "Events sent to the dead letters", ["family"])
BATCH_EVENTS = Histogram(
    "stockhook_batch_events",
    "Events in one transaction",
    ["family"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
BATCH_SECONDS = Histogram(
    "stockhook_batch_seconds",
    "Time from taking a batch to its ack",
    ["family"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
EVENT_AGE_SECONDS = Histogram(
    "stockhook_event_age_seconds",
    "Time from the ingest to the commit, of the oldest event of each batch",
    ["family"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
PAUSED = Gauge("stockhook_paused", "1 while a family waits for the database", ["family"])
BREAKER = Gauge(
    "stockhook_breaker_open", "1 while a family tries one event at a time since everything fails", ["family"]
)
MISSING = Gauge("stockhook_missing", "Accepted events that are nowhere to be found", ["family"])
SPOOL_EVENTS = Gauge("stockhook_spool_events", "Events in the spool")
SPOOL_BYTES = Gauge("stockhook_spool_bytes", "Bytes of the events in the spool")
SPOOL_AGE_SECONDS = Gauge("stockhook_spool_age_seconds", "Age of the oldest event in the spool; 0 when empty")
SPOOLED = Counter("stockhook_spooled_total", "Events that were written to the spool")
DRAINED = Counter("stockhook_drained_total", "Events that were published from the spool")
AUDITED_AT = Gauge("stockhook_audited_timestamp_seconds", "When missing events were last looked for")
