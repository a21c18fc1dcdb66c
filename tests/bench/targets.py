"""The product's targets, which are independent of the machine: ratios, and a few durations."""

from tests.bench.lineup import (
    BARE_AIO_PIKA,
    BARE_AIORMQ,
    BARE_PUBLISHER,
    BEHIND_GATEWAY,
    FASTAPI,
    FASTSTREAM,
    WITH_FEED,
)
from tests.bench.results import Bound, Target

TARGETS = (
    Target("drain parts", Bound.AT_LEAST, 1.1, BARE_AIO_PIKA.name),
    Target("drain parts", Bound.AT_LEAST, 0.75, BARE_AIORMQ.name),
    Target("drain parts", Bound.AT_LEAST, 7, FASTSTREAM.name),
    Target("drain parts", Bound.AT_MOST, 1.25, WITH_FEED.name),
    Target("drain buyback", Bound.AT_LEAST, 5, FASTSTREAM.name),
    Target("drain mixed", Bound.AT_LEAST, 5, FASTSTREAM.name),
    Target("ingest", Bound.AT_LEAST, 0.95, BARE_PUBLISHER.name),
    Target("ingest", Bound.AT_LEAST, 1.5, FASTAPI.name),
    # With the signature of a gateway, at least 0.95 of the rate without it.
    Target("ingest", Bound.AT_MOST, 1 / 0.95, BEHIND_GATEWAY.name),
    Target("latency at 300 events/s, p50", Bound.AT_MOST, 15),
    Target("latency at 300 events/s, p99", Bound.AT_MOST, 1, FASTSTREAM.name),
    Target("change feed at 300 events/s, from the commit, p50", Bound.AT_MOST, 100),
    Target("growth, drain parts", Bound.AT_LEAST, 0.9, "2,000,000 rows"),
    Target("memory of the ingest, 64 connections", Bound.AT_MOST, 150),
    *(
        Target(f"p99 at 100 webhooks/s, {connections}", Bound.AT_MOST, 2, beside)
        for connections in ("connections kept open", "each on a new connection")
        for beside in ("beside 600 strangers", "through a trusted proxy, beside 600 strangers")
    ),
    # The bound of docs/design/http-server.md, for each kind of body.
    Target("peak memory of the ingest with 600 bodies of 250 kB", Bound.AT_MOST, 384),
    Target("memory of the consumer, full window", Bound.AT_MOST, 150),
    *(
        Target(f"lateness of the {step} s step, {waiting} waiting", Bound.AT_MOST, seconds)
        for step in (1, 2, 3, 7, 35, 175)
        for waiting, seconds in (("1", 0.1), ("5,000", 0.5))
    ),
    Target("first page of the console with all its files, compressed", Bound.AT_MOST, 60),
    Target("requests of the first page to other hosts", Bound.AT_MOST, 0),
    Target("answer of the console, p95", Bound.AT_MOST, 100),
    Target("CPU of the console", Bound.AT_MOST, 2),
    *(
        Target(f"scaling, {families}, retried", Bound.AT_MOST, 0)
        for families in ("one family", "all families")
    ),
)
