"""The headers that connect a message with its trace (W3C Trace Context). Pure.

They come from outside, so each is checked whenever it is read: a malformed or oversized one counts as
missing.
"""

import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
# The trace of the first publish, in a message that was replayed.
ORIGIN_TRACEPARENT = "x-origin-traceparent"
TRACE_HEADERS = frozenset((TRACEPARENT, TRACESTATE, ORIGIN_TRACEPARENT))
# In the evidence of an event: its trace, and that of its first publish.
TRACE_IDS = ("trace_id", "origin_trace_id")

# The specification requires that so many characters and members are passed on, and allows more to be dropped.
LONGEST_TRACESTATE = 512
MOST_MEMBERS = 32

# Version 00 has this length; what a later version appends after another dash is accepted, and not read.
LENGTH = 55
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,64})?"
)
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")


class TraceContext(NamedTuple):
    """A span that another one can name as its parent, or link to. Ids are lower-case hexadecimal."""

    trace_id: str
    span_id: str
    is_sampled: bool
    tracestate: str = ""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"

    @property
    def ids(self) -> dict[str, str]:
        """As log lines and exemplars name them."""
        return {"trace_id": self.trace_id, "span_id": self.span_id}

    @property
    def headers(self) -> dict[str, str]:
        headers = {TRACEPARENT: self.traceparent}
        if self.tracestate:
            headers[TRACESTATE] = self.tracestate
        return headers


def is_recorded(traceparent: str) -> bool:
    """Whether a valid one says that its trace is recorded. It is called for each event."""
    return traceparent[54] in "13579bdf"


def recorded_trace(traceparent: str | None) -> str | None:
    """The trace that a valid one names, if that is recorded."""
    return traceparent[3:35] if traceparent is not None and is_recorded(traceparent) else None


def read_traceparent(text: object, tracestate: object = "") -> TraceContext | None:
    traceparent = valid_traceparent(text)
    if traceparent is None:
        return None
    state = valid_tracestate(tracestate) or ""
    return TraceContext(traceparent[3:35], traceparent[36:52], is_recorded(traceparent), state)


def read_context(headers: Mapping[str, object]) -> TraceContext | None:
    """The context in the headers of a request or a message; None if there is no valid one."""
    text = headers.get(TRACEPARENT)
    return None if text is None else read_traceparent(text, headers.get(TRACESTATE))


def read_origin(headers: Mapping[str, object]) -> TraceContext | None:
    """Of a replayed message: the context of its first publish."""
    return read_traceparent(headers.get(ORIGIN_TRACEPARENT))


def valid_traceparent(text: object) -> str | None:
    """The text itself, if it is valid. Called for each event."""
    if not isinstance(text, str) or _TRACEPARENT.fullmatch(text) is None:
        return None
    return None if len(text) > LENGTH and text.startswith("00") else text


def valid_tracestate(text: object) -> str | None:
    if not isinstance(text, str) or not text or len(text) > LONGEST_TRACESTATE:
        return None
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    is_valid = len(members) <= MOST_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return text if members and is_valid else None


Traceparent = Annotated[str | None, BeforeValidator(valid_traceparent)]
Tracestate = Annotated[str | None, BeforeValidator(valid_tracestate)]


def context_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """The context in the headers of a request, unchanged."""
    passed: dict[str, str] = {}
    if (traceparent := valid_traceparent(headers.get(TRACEPARENT))) is not None:
        passed[TRACEPARENT] = traceparent
        if (tracestate := valid_tracestate(headers.get(TRACESTATE))) is not None:
            passed[TRACESTATE] = tracestate
    return passed


def passed_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """What a copy of a message has of these headers: its context, and that of its first publish."""
    passed = context_headers(headers)
    if (origin := valid_traceparent(headers.get(ORIGIN_TRACEPARENT))) is not None:
        passed[ORIGIN_TRACEPARENT] = origin
    return passed


def origin_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """The header of a replay: the first original, however often the message was replayed before."""
    first = valid_traceparent(headers.get(ORIGIN_TRACEPARENT)) or valid_traceparent(headers.get(TRACEPARENT))
    return {} if first is None else {ORIGIN_TRACEPARENT: first}


def recorded_ids(headers: Mapping[str, object]) -> dict[str, str]:
    """The ids of the traces of a message that are recorded, by their names in TRACE_IDS."""
    contexts = (valid_traceparent(headers.get(name)) for name in (TRACEPARENT, ORIGIN_TRACEPARENT))
    ids = zip(TRACE_IDS, map(recorded_trace, contexts), strict=True)
    return {name: trace_id for name, trace_id in ids if trace_id is not None}
