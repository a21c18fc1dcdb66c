"""The filters of dead letters as parameters of an address, and the selections that they stand for. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from urllib.parse import parse_qsl, urlencode

from worker.console.row_ids import row_id
from worker.dead_letters.criteria import BadCriterion, instant_of, origin_of
from worker.dead_letters.search import Selection
from worker.dead_letters.store import State
from worker.observability.inert_text import visible

FILTERS = ("origin", "state", "reason", "fingerprint", "type", "entity", "since", "until", "gateway_id")

LABELS = {
    "origin": "Origin",
    "state": "State",
    "reason": "Reason contains",
    "fingerprint": "Fingerprint",
    "type": "Event type",
    "entity": "Entity",
    "since": "Arrived since",
    "until": "Arrived before",
    "gateway_id": "Gateway or request id",
    "ids": "Dead letters",
}

ANY = "any"
STATES = (*(state.value for state in State), ANY)

LONGEST = 300
MOST_IDS = 1000

# Says that all letters are meant: without it and without criteria, none are.
ALL = "all"

# The name of a ticked checkbox of the list, before the id: of parameters with the same name, one counts.
TICKED = "letter-"


class BadFilter(ValueError):
    """The text is a sentence for the user."""


def given(parameters: Mapping[str, str]) -> dict[str, str]:
    """The filters that are set, with their texts as they are."""
    texts = {name: parameters.get(name, "").strip() for name in FILTERS}
    return {name: text for name, text in texts.items() if text}


def selection_of(parameters: Mapping[str, str], now: datetime) -> Selection:
    """Raises: BadFilter."""
    texts = given(parameters)
    for name, text in texts.items():
        if len(text) > LONGEST or not text.isprintable():
            raise BadFilter(
                f"{LABELS[name]} must be printable text of at most {LONGEST} characters "
                f"(given: {visible(text[:40])}{'…' if len(text) > 40 else ''})."
            )
    state = texts.get("state", State.WAITING.value)
    if state not in STATES:
        raise BadFilter(f"{LABELS['state']} must be one of {', '.join(STATES)} (given: {state}).")
    try:
        name = "origin"
        origin = origin_of(texts[name]) if name in texts else None
        name = "since"
        since = instant_of(texts[name], now) if name in texts else None
        name = "until"
        until = instant_of(texts[name], now) if name in texts else None
    except BadCriterion as error:
        raise BadFilter(f"{LABELS[name]} {error} (given: {texts[name]}).") from None
    return Selection(
        ids=_ids(parameters),
        origin=origin,
        reason=texts.get("reason"),
        fingerprint=texts.get("fingerprint"),
        type=texts.get("type"),
        entity=texts.get("entity"),
        since=since,
        until=until,
        states=None if state == ANY else (State(state),),
        gateway_id=texts.get("gateway_id"),
    )


def _ids(parameters: Mapping[str, str]) -> tuple[int, ...] | None:
    """Raises: BadFilter."""
    ticked = [name.removeprefix(TICKED) for name in parameters if name.startswith(TICKED)]
    listed = [text for text in parameters.get("ids", "").split(",") if text.strip()]
    if not ticked and not listed:
        return None
    ids = sorted({number_of(text, "The id of a dead letter") for text in (*ticked, *listed)})
    if len(ids) > MOST_IDS:
        raise BadFilter(f"At most {MOST_IDS:,} dead letters can be named: use a filter instead.")
    return tuple(ids)


def number_of(text: str, what: str) -> int:
    """Raises: BadFilter."""
    number = row_id(text)
    if number is None:
        raise BadFilter(f"{what} must be a number (given: {visible(text[:40])}).")
    return number


def texts_of(selection: Selection) -> dict[str, str]:
    """A selection as parameters, with fixed times, without its states and its highest id."""
    texts: dict[str, str] = {}
    if selection.ids is not None:
        texts["ids"] = ",".join(map(str, selection.ids))
    for name in FILTERS:
        value = None if name == "state" else getattr(selection, name)
        if value is not None:
            texts[name] = value.isoformat() if isinstance(value, datetime) else str(value)
    return texts


def query_of(selection: Selection) -> str:
    """For a hidden field: the same letters, also later."""
    return urlencode(texts_of(selection) or {ALL: "1"})


def chosen(parameters: Mapping[str, str], now: datetime) -> Selection:
    """The letters that an action is meant for, in any state.

    Raises:
        BadFilter
    """
    selection = replace(selection_of({**parameters, "state": ""}, now), states=None)
    if selection == Selection(states=None) and not parameters.get(ALL):
        raise BadFilter("No dead letters were chosen: tick some in the list, or use a filter.")
    return selection


def selection_in(query: str, now: datetime) -> Selection:
    """The inverse of `query_of`.

    Raises:
        BadFilter
    """
    try:
        parameters = dict(parse_qsl(query, max_num_fields=20))
    except ValueError:
        raise BadFilter("The form cannot be read: load the page again.") from None
    return chosen(parameters, now)


def described(selection: Selection) -> list[tuple[str, str]]:
    """The criteria for a person: a label and a text each."""
    return [
        (LABELS[name], text.replace(",", ", ") if name == "ids" else text)
        for name, text in texts_of(selection).items()
    ]
