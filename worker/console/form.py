"""Fields of forms, as actions read them."""

from collections.abc import Mapping

from worker.console.access import Refused
from worker.observability.inert_text import visible

LONGEST_REASON = 500

NOTHING_DONE = "Nothing was done: "


def optional_reason(form: Mapping[str, str]) -> str | None:
    """The reason of a change, for the audit trail; None if the field is empty.

    Raises:
        Refused
    """
    text = form.get("reason", "").strip()
    if len(text) > LONGEST_REASON:
        raise Refused(400, f"{NOTHING_DONE}a reason has {LONGEST_REASON} characters at most.")
    return visible(text) or None


def required_reason(form: Mapping[str, str]) -> str:
    """Raises: Refused."""
    reason = optional_reason(form)
    if reason is None:
        raise Refused(400, f"{NOTHING_DONE}give a reason, for the audit trail.")
    return reason
