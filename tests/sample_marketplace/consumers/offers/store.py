"""The table `offers`."""

from collections.abc import Collection, Sequence
from typing import get_args

from consumers.family import Connection, Event, Family, Table, write
from consumers.offers.changes import change_type, public_state
from consumers.offers.decide import Offer, OfferPayload, decide

LOAD_OFFERS = """
SELECT offer_id, is_for_sale, price, occurred_at, revision
FROM offers
WHERE offer_id = ANY($1::text[])
ORDER BY offer_id
"""

LOCK_OFFERS = LOAD_OFFERS + "FOR UPDATE"

SAVE_OFFERS = """
INSERT INTO offers AS stored (offer_id, is_for_sale, price, occurred_at, revision)
SELECT *
FROM unnest($1::text[], $2::boolean[], $3::numeric[], $4::timestamptz[], $5::bigint[])
ON CONFLICT (offer_id) DO UPDATE
SET is_for_sale = excluded.is_for_sale,
    price = excluded.price,
    occurred_at = excluded.occurred_at,
    revision = excluded.revision
WHERE stored.revision = excluded.revision - 1
"""


async def load(
    connection: Connection, events: Sequence[Event[OfferPayload]], *, lock: bool
) -> dict[str, Offer]:
    offer_ids = sorted({event.payload.entity_id for event in events})
    rows = await connection.fetch(LOCK_OFFERS if lock else LOAD_OFFERS, offer_ids)
    return {row["offer_id"]: Offer(**row) for row in rows}


async def save(connection: Connection, offers: Collection[Offer]) -> None:
    rows = [(one.offer_id, one.is_for_sale, one.price, one.occurred_at, one.revision + 1) for one in offers]
    await write(connection, SAVE_OFFERS, rows)


def key(payload: OfferPayload) -> str:
    return payload.entity_id


OFFERS: Family[OfferPayload, str, Offer] = Family(
    name="offers",
    entity="offer",
    payloads=get_args(OfferPayload),
    tables=(Table("offers", key=("offer_id",), entity="offer_id"),),
    key=key,
    load=load,
    decide=decide,
    save=save,
    change_type=change_type,
    public_state=public_state,
)
