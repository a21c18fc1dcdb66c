"""Which rule made a trade-in's event count, in words."""

from collections.abc import Iterator

from consumers.buybacks.decide import BuybackOrder, decide
from consumers.buybacks.lww import Record
from consumers.buybacks.normalize import Buyback
from consumers.family import Event

# A stamp begins with one digit (settled or not), then the instant, then the rank.
_RANK_FROM = -2


def why(known: BuybackOrder | None, event: Event[Buyback]) -> str:
    """The rules by which `decide` takes an event's columns or leaves them."""
    if known is None:
        return "the first that is known of the order"
    alone = decide(None, event).state
    rules = [
        *_rules("order", known.order, alone.order),
        *(rule for key, item in alone.items.items() for rule in _rules("item", known.items.get(key), item)),
        *(
            rule
            for key, shipment in alone.shipments.items()
            for rule in _rules("shipment", known.shipments.get(key), shipment)
        ),
    ]
    return "; ".join(dict.fromkeys(rules)) or "it says nothing of the order's columns"


def _rules(what: str, known: Record | None, told: Record) -> Iterator[str]:
    """One for each column, of which many are the same."""
    if known is None:
        yield f"an {what} that was not known" if what == "item" else f"a {what} that was not known"
        return
    for column, value in told.values.items():
        if column == "occurred_at":
            continue
        if column not in known.stamps:
            yield "column by column: what was not known is taken"
            continue
        yield _between((known.stamps[column], str(known.values[column])), (told.stamps[column], str(value)))


def _between(known: tuple[str, str], told: tuple[str, str]) -> str:
    known_at, told_at = known[0], told[0]
    if known_at[0] != told_at[0]:
        return "created yields to all else"
    if known_at[:_RANK_FROM] != told_at[:_RANK_FROM]:
        return "column by column the newest wins" + (
            "" if told_at > known_at else ", and a newer one is known"
        )
    if known_at != told_at:
        return "at the same instant the one further along its life wins"
    return "at the same instant the greater text wins" if told[1] != known[1] else "it says the same again"
