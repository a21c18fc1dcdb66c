"""Which rule made a reminder's event count, in words."""

from consumers.family import Event
from consumers.reminders.decide import Reminder, Reminding, decide


def why(known: Reminder | None, event: Event[Reminding]) -> str:
    """The rule by which `decide` takes an event or leaves it."""
    if known is None:
        return "a reminder that was not known; it calls for its communication"
    if decide(known, event).state != known:
        return "the same reminder with more days: the greater number stands"
    return "the same reminder again: the greater number of days stands"
