"""Events of types that no family handles, which marketplaces send too.

The Buyback platform has one subscription per address, which also sends submissions and offers. Their payloads
are not documented; these are invented.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from random import Random

from schemas.registry import Provider
from worker.simulator import ovoko_events as used_parts
from worker.simulator.buyback_events import event
from worker.simulator.lifecycle import GeneratedEvent, happens, new_id


def submission(rng: Random, at: datetime) -> tuple[GeneratedEvent, ...]:
    """The events of a submission by a customer, and of its offer."""
    submission_id = new_id(rng)
    item = {"id": new_id(rng), "brandName": "Example", "condition": "Good"}
    customer = {"firstName": "Ada", "email": f"{submission_id}@example.com"}
    submitted = {"id": submission_id, "customer": customer, "items": [item]}
    offer = {
        "id": new_id(rng),
        "submissionId": submission_id,
        "price": {"amount": rng.randrange(10, 2_000), "currencyIsoCode": "EUR"},
    }
    return (
        event("SubmissionCreatedEvent", submitted, at),
        event("OfferCreatedEvent", offer, at + timedelta(minutes=1)),
    )


def price_change(rng: Random, at: datetime) -> GeneratedEvent:
    """An event about a new price of a part at Ovoko."""
    data = {"part_id": str(rng.randrange(10**6, 10**9)), "price": f"{rng.randrange(5, 900)}.00"}
    return used_parts.event(new_id(rng), "part.price.changed", at, data)


def with_unhandled(
    events: Iterable[GeneratedEvent], *, share: float, providers: Sequence[Provider], seed: int
) -> Iterator[GeneratedEvent]:
    """Mix unhandled events into the events; `share` is their share of all, from 0 to less than 1."""
    rng = Random(f"unhandled {seed}")
    for one in events:
        while happens(rng, share):
            if Provider.OVOKO in providers and (Provider.BUYBACK not in providers or happens(rng, 0.2)):
                yield price_change(rng, one.occurred_at)
            else:
                yield rng.choice(submission(rng, one.occurred_at))
        yield one
