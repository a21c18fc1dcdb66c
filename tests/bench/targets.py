"""The product's targets, which are independent of the machine: ratios, and a few durations."""

from tests.bench.lineup import (
    ALL_RECORDED,
    BARE_AIO_PIKA,
    BARE_AIORMQ,
    BEHIND_GATEWAY,
    FASTAPI,
    FASTSTREAM,
    ONE_PER_CENT,
    WITHOUT_FEED,
)
from tests.bench.measures.hot import COST, RATE, SIZES
from tests.bench.measures.ingest import LIMIT, SERIAL_LIMIT
from tests.bench.results import Bound, Target

TARGETS = (
    Target("drain parts", Bound.AT_LEAST, 1.0, BARE_AIORMQ.name),
    Target("drain parts", Bound.AT_LEAST, 1.6, BARE_AIO_PIKA.name),
    Target("drain parts", Bound.AT_LEAST, 9, FASTSTREAM.name),
    Target("drain parts", Bound.AT_LEAST, 0.8, WITHOUT_FEED.name),
    Target("drain buyback", Bound.AT_LEAST, 6, FASTSTREAM.name),
    Target("drain mixed", Bound.AT_LEAST, 8, FASTSTREAM.name),
    Target("ingest", Bound.AT_LEAST, 1.5, FASTAPI.name),
    # With the signature of a gateway, at least 0.95 of the rate without it.
    Target("ingest", Bound.AT_MOST, 1 / 0.95, BEHIND_GATEWAY.name),
    Target(LIMIT, Bound.AT_LEAST, 0.9, SERIAL_LIMIT),
    *(
        Target(
            f"latency at {rate} events/s, {percentile}",
            Bound.AT_MOST,
            1.5,
            FASTSTREAM.name,
            or_figure=milliseconds,
        )
        for rate in (100, 300)
        for percentile, milliseconds in (("p50", 1.2), ("p99", 5))
    ),
    Target("latency at 1000 events/s, p99", Bound.AT_MOST, 20),
    *(
        Target(f"CPU per event at {rate} events/s", Bound.AT_MOST, 0.8, FASTSTREAM.name)
        for rate in (100, 300, 1000)
    ),
    # An event does not cost more because its part has more logged events: equal within the noise.
    Target(RATE, Bound.AT_LEAST, 0.8, SIZES[-1].name),
    Target(COST, Bound.AT_MOST, 1.2, SIZES[-1].name),
    Target("change feed at 300 events/s, from the commit, p50", Bound.AT_MOST, 100),
    # Of the rate without traces.
    Target("drain with traces", Bound.AT_LEAST, 0.95, ONE_PER_CENT.name),
    Target("drain with traces", Bound.AT_LEAST, 0.75, ALL_RECORDED.name),
    Target("growth, drain parts", Bound.AT_LEAST, 0.95, "2,000,000 rows"),
    Target("rebuild of parts", Bound.AT_LEAST, 15_000, "1,000,000 rows"),
    Target("memory of the ingest, at rest", Bound.AT_MOST, 80),
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
    # Two consumers, Postgres and RabbitMQ need a core each.
    Target("scaling, one family", Bound.AT_LEAST, 1.5, "2 consumers", cores=4),
    *(
        Target(f"scaling, {families}, retried", Bound.AT_MOST, 0)
        for families in ("one family", "all families")
    ),
)
