"""What the ingest's HTTP server and its service exchange: requests, responses, and refusals."""

from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass

import orjson

# Some senders have a retry schedule of their own; this is for those that read the header.
RETRY_AFTER_SECONDS = 7

# Standard Webhooks: the sender need not repeat this message, since it would get the same answer.
ABORT_MESSAGE = ("webhook-delivery", "abort-message")

# RFC 9110 requires a challenge; the scheme is named after what all marketplaces do.
CHALLENGE = ("www-authenticate", "Webhook")


def _nothing() -> None:
    pass


def _no() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` has lower-case names; the values of a repeated header are joined by commas. It contains
    X-Forwarded-For and X-Request-Id only if a trusted proxy sent the request. `body` yields the chunks of the
    body, and raises BodyIncomplete. `client` is the address of the sender, for logs. `authenticated` is
    called once the request has presented every secret and signature that it needs. `is_from_proxy`: a trusted
    proxy sent it. `is_whole` is true once the whole body has arrived.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: AsyncIterable[bytes]
    client: str = "unknown"
    authenticated: Callable[[], None] = _nothing
    is_from_proxy: bool = False
    is_whole: Callable[[], bool] = _no


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class BodyIncomplete(Exception):
    """The body ended early, or its chunks were malformed: what arrived of it is not an event."""


class Refused(Exception):
    """A request that is answered with a problem document (RFC 9457). Its label is `result`, or the status."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        headers: tuple[tuple[str, str], ...] = (),
        result: str | None = None,
    ) -> None:
        super().__init__(title)
        self.result = result or str(status)
        self.response = Response(
            status=status,
            body=orjson.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}),
            content_type="application/problem+json",
            headers=headers,
        )


def unauthorized() -> Refused:
    return Refused(401, "Unauthorized", "The request has no active secret.", (CHALLENGE,))


def incomplete() -> Refused:
    # 408 invites the sender to repeat the request, which 400 does not.
    detail = "The body ended early, or its chunks are malformed: send it again."
    return Refused(408, "Body incomplete", detail, (("connection", "close"),))


def no_room() -> Refused:
    detail = "Too many bodies arrive at the same time: send it again."
    headers = (("retry-after", str(RETRY_AFTER_SECONDS)), ("connection", "close"))
    return Refused(503, "Too busy", detail, headers, result="busy")


def too_large(limit: int) -> Refused:
    detail = f"A body may have {limit} bytes at most."
    return Refused(413, "Body too large", detail, (("connection", "close"), ABORT_MESSAGE))


def length_required() -> Refused:
    # By its headers such a request has no body: what its sender sent as one would be lost.
    detail = "Declare the body with Content-Length, or send it chunked."
    return Refused(411, "Length required", detail, (("connection", "close"),))


def not_allowed(allowed: str) -> Refused:
    return Refused(405, "Method not allowed", f"Allowed: {allowed}.", (("allow", allowed),))
