"""Which rule made a part's event count, in words."""

from consumers.family import Event
from consumers.inventory.decide import IN_WAREHOUSE, WRITTEN_OFF, Change, Part, decide
from schemas.ovoko import PartEvent

NOT_AGAINST_PLAUSIBLE = "an implausible timestamp makes nothing sellable against a plausible one"
STANDS_UNTIL_LATER = "an implausible timestamp: it stands until a plausible one is received later"
AT_THE_SAME_INSTANT = "at the same instant the status that speaks more against selling wins"


def why(part: Part | None, event: Event[PartEvent]) -> str:
    """The rule by which `decide` takes an event or leaves it."""
    change = Change.of(event)
    if part is None:
        return "the first status that is known"
    after = decide(part, event).state
    rule = _of_status(part.latest, change)
    if not event.is_plausible and change.status != WRITTEN_OFF:
        rule = NOT_AGAINST_PLAUSIBLE if change.status == IN_WAREHOUSE else STANDS_UNTIL_LATER
    elif part.has_implausible and WRITTEN_OFF not in (part.latest.status, change.status):
        rule = _beside_implausible(part.latest, change, after.latest)
    if after.latest == part.latest and after.external_id != part.external_id:
        return f"{rule}; the merchant's id is taken from the newest event that names one"
    return rule


def _beside_implausible(known: Change, told: Change, after: Change) -> str:
    """Of a plausible event of a part that has an implausible one."""
    if after == known:
        return "the newest plausible status stands, and this one changes nothing"
    if after == told:
        return "a plausible status that was received later overrules an implausible one"
    return "with it the newest plausible status overrules an implausible one"


def _of_status(known: Change, told: Change) -> str:
    if known.status == WRITTEN_OFF and told.status != WRITTEN_OFF:
        return f"{WRITTEN_OFF} is final"
    if told.status == WRITTEN_OFF and known.status != WRITTEN_OFF:
        overruled = ", also over what happened later" if told < known else ""
        return f"{WRITTEN_OFF} is final{overruled}"
    if told == known:
        return "it says the same again"
    if told.occurred_at != known.occurred_at:
        return "newest wins" if told > known else "newest wins, and a newer one is known"
    if told.rank == known.rank:
        return "at the same instant and equally sellable, the greater event id wins"
    return AT_THE_SAME_INSTANT
