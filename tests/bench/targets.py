"""What the product is to reach, in figures that hold on any machine: ratios, and a few times."""

from tests.bench.lineup import BARE_AIO_PIKA, BARE_AIORMQ, BARE_PUBLISHER, FASTAPI, FASTSTREAM
from tests.bench.results import Bound, Target

TARGETS = (
    Target("drain parts", Bound.AT_LEAST, 1.1, BARE_AIO_PIKA.name),
    Target("drain parts", Bound.AT_LEAST, 0.75, BARE_AIORMQ.name),
    Target("drain parts", Bound.AT_LEAST, 7, FASTSTREAM.name),
    Target("drain buyback", Bound.AT_LEAST, 5, FASTSTREAM.name),
    Target("drain mixed", Bound.AT_LEAST, 5, FASTSTREAM.name),
    Target("ingest", Bound.AT_LEAST, 0.95, BARE_PUBLISHER.name),
    Target("ingest", Bound.AT_LEAST, 1.5, FASTAPI.name),
)
