"""Faults on demand: their assignment to requests, and their effect on responses."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from typing import assert_never

import orjson
from pydantic import BaseModel, ConfigDict, Field

from worker.simulator.marketplace import Request, Response, as_json

OVERSIZED_BYTES = 100_000_000
NO_CONTENT = 204


class Kind(StrEnum):
    """The first six prevent the marketplace's handling, the others alter its response."""

    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate-limited"
    ERROR = "error"
    ERROR_AS_200 = "error-as-200"
    UNAVAILABLE = "unavailable"
    REDIRECT = "redirect"
    SLOW = "slow"
    CUT = "cut"
    HANG_UP = "hang-up"
    TRICKLE = "trickle"
    OVERSIZED = "oversized"
    DECLARED = "declared"
    COMPRESSED = "compressed"
    WRONG_TYPES = "wrong-types"
    NOT_JSON = "not-json"


DESCRIPTIONS = {
    Kind.UNAUTHORIZED: "401",
    Kind.RATE_LIMITED: "429, with Retry-After",
    Kind.ERROR: "500",
    Kind.ERROR_AS_200: "200, with R500 in its body: as Ovoko fails",
    Kind.UNAVAILABLE: "503, with Retry-After",
    Kind.REDIRECT: "302 to the same address, at each request",
    Kind.SLOW: "the answer comes late",
    Kind.CUT: "the connection ends in the middle of the body",
    Kind.HANG_UP: "the connection ends before the answer",
    Kind.TRICKLE: "the body comes a byte at a time",
    Kind.OVERSIZED: "a body of 100 MB, in chunks",
    Kind.DECLARED: "a body of 100 MB, as its length says",
    Kind.COMPRESSED: "a body that says it is compressed",
    Kind.WRONG_TYPES: "JSON in which each value has another type",
    Kind.NOT_JSON: "a page of HTML with status 200",
}


class Fault(BaseModel):
    """`seconds`: how late a slow answer is (30), how far apart a trickle's bytes (1), Retry-After (1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    method: str = Field(default="", description="Only requests with this method")
    path: str = Field(default="", description="Only requests whose path contains this, such as an order's id")
    times: int | None = Field(default=None, ge=1, description="Number of requests; all if omitted")
    seconds: float | None = Field(default=None, ge=0, le=3600)

    @property
    def pause_seconds(self) -> float:
        if self.seconds is not None:
            return self.seconds
        return 30.0 if self.kind is Kind.SLOW else 1.0


# The ways to send a response.


@dataclass(frozen=True, slots=True)
class Whole:
    response: Response
    after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Send the head and half of the body; without `response` nothing."""

    response: Response | None


@dataclass(frozen=True, slots=True)
class Trickle:
    response: Response
    seconds_apart: float


@dataclass(frozen=True, slots=True)
class Flood:
    """Send a body of this many bytes."""

    response: Response
    size: int
    is_declared: bool


Sending = Whole | Cut | Trickle | Flood


def instead(fault: Fault, path: str) -> Response | None:
    """The response that replaces the marketplace's handling; None if it handles the request."""
    retry_after = {"retry-after": str(ceil(fault.pause_seconds))}
    match fault.kind:
        case Kind.UNAUTHORIZED:
            return as_json(401, {"error": "invalid_token"})
        case Kind.RATE_LIMITED:
            return Response(429, b"", retry_after)
        case Kind.ERROR:
            return as_json(500, {"title": "simulated error"})
        case Kind.ERROR_AS_200:
            return as_json(200, {"msg": "simulated error", "status_code": "R500"})
        case Kind.UNAVAILABLE:
            return Response(503, b"", retry_after)
        case Kind.REDIRECT:
            return Response(302, b"", {"location": path})
        case _:
            return None


def sending(fault: Fault | None, response: Response) -> Sending:
    """The way to send a response under a fault."""
    if fault is None:
        return Whole(response)
    match fault.kind:
        case (
            Kind.UNAUTHORIZED
            | Kind.RATE_LIMITED
            | Kind.ERROR
            | Kind.ERROR_AS_200
            | Kind.UNAVAILABLE
            | Kind.REDIRECT
        ):
            return Whole(response)
        case Kind.SLOW:
            return Whole(response, fault.pause_seconds)
        case Kind.CUT:
            return Cut(_with_body(response))
        case Kind.HANG_UP:
            return Cut(None)
        case Kind.TRICKLE:
            return Trickle(response, fault.pause_seconds)
        case Kind.OVERSIZED:
            return Flood(_with_body(response), OVERSIZED_BYTES, is_declared=False)
        case Kind.DECLARED:
            return Flood(_with_body(response), OVERSIZED_BYTES, is_declared=True)
        case Kind.COMPRESSED:
            headers = {**response.headers, "content-encoding": "gzip"}
            return Whole(Response(response.status, response.body, headers))
        case Kind.WRONG_TYPES:
            wrong = _with_body(response)
            return Whole(Response(wrong.status, _with_wrong_types(wrong.body), wrong.headers))
        case Kind.NOT_JSON:
            return Whole(Response(200, b"<html><body>Welcome</body></html>", {"content-type": "text/html"}))
        case unreachable:
            assert_never(unreachable)


def _with_body(response: Response) -> Response:
    """A response with a body that a fault can alter: `{}` replaces an empty one, and 200 replaces 204."""
    if response.body:
        return response
    return as_json(200 if response.status == NO_CONTENT else response.status, {})


def _with_wrong_types(body: bytes) -> bytes:
    return orjson.dumps(_other_type(orjson.loads(body)))


def _other_type(value: object) -> object:
    match value:
        case dict():
            return {name: _other_type(member) for name, member in value.items()}
        case list():
            return {"items": value}
        case str():
            return [value]
        case _:
            return "seven"


# If two names match, the longer one applies.
_NAMES = "|".join(sorted(Kind, key=len, reverse=True))
_IN_PATH = re.compile(rf"fault-({_NAMES})(?![a-z])")


@dataclass(slots=True)
class Faults:
    """The pending faults, the newest first, and the faults of ids in paths."""

    pending: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        self.pending.insert(0, fault)

    def clear(self) -> None:
        self.pending.clear()

    def take(self, request: Request) -> Fault | None:
        """The fault of this request. A fault with `times` ends after this many requests."""
        for place, fault in enumerate(self.pending):
            if fault.method.upper() in ("", request.method) and fault.path in request.path:
                self._use(place, fault)
                return fault
        return _fault_of_path(request.path)

    def _use(self, place: int, fault: Fault) -> None:
        if fault.times is None:
            return
        if fault.times == 1:
            del self.pending[place]
        else:
            self.pending[place] = fault.model_copy(update={"times": fault.times - 1})


def _fault_of_path(path: str) -> Fault | None:
    """The fault that an id in the path names, such as `fault-slow` or `fault-slow-2`."""
    match = _IN_PATH.search(path)
    return None if match is None else Fault(kind=Kind(match[1]))
