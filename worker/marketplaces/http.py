"""Calls to a marketplace's API: with a deadline and a size limit, without redirects and compression."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import httpx
import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from worker.config.http import http_date, tls_context
from worker.config.proxies import proxy_for
from worker.config.urls import port_of
from worker.observability import tracing
from worker.observability.errors import StockhookError, refused_certificate
from worker.observability.exit_codes import USAGE
from worker.observability.tracing import Kind

T = TypeVar("T")

log = structlog.get_logger(__name__)

ANSWER_LIMIT_BYTES = 1_048_576
CONNECT_SECONDS = 5.0
ATTEMPTS = 4
LONGEST_RETRY_AFTER = timedelta(seconds=30)

# Client errors that are temporary; with these, and with 503, nothing was done.
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_NOTHING_DONE = (*_LATER, HTTPStatus.SERVICE_UNAVAILABLE)


class InvalidRequest(StockhookError):
    """A request that cannot be sent. The text says why."""

    exit_code = USAGE


class CallFailed(StockhookError):
    """A call failed. The text says why, and quotes nothing private.

    `outcome_unknown`: the request may have been executed.
    """

    def __init__(self, text: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(text)
        self.outcome_unknown = outcome_unknown


class Unavailable(CallFailed):
    """No answer, or one that asks to try later."""

    def __init__(
        self, text: str, *, retry_after: timedelta | None = None, outcome_unknown: bool = False
    ) -> None:
        super().__init__(text, outcome_unknown=outcome_unknown)
        self.retry_after = retry_after


class CallRefused(CallFailed):
    """An answer 4xx: the request was not executed. `body` may quote the request, so never log it."""

    def __init__(self, status: int, body: bytes = b"", text: str | None = None) -> None:
        super().__init__(text or f"refused with status {_named(status)}")
        self.status = status
        self.body = body


class CredentialsRefused(CallRefused):
    """Our credentials were refused; the request itself may be valid."""


class UnexpectedResponse(CallFailed):
    """An invalid answer: too large, a redirect, not JSON, or with other types."""


class UnreadableRow(UnexpectedResponse):
    """The answer is valid except for the one requested row."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class FetchedRow(Generic[T]):
    """A row as it was at `requested_at` or later: when the request was sent, by our clock.

    None if the marketplace has no such row.
    """

    row: T | None
    requested_at: datetime


@asynccontextmanager
async def http_client(*urls: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client for `call`, which limits the total time: httpx limits only each read.

    The hosts of these URLs are reached through the environment's proxy, all others directly.

    Raises:
        BadSettings: A proxy or SSL_CERT_FILE cannot be used.
    """
    context = tls_context()
    proxies = {url: proxy_for(url, os.environ) for url in urls}
    async with httpx.AsyncClient(
        headers={"accept-encoding": "identity", "accept": "application/json", "user-agent": "stockhook"},
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        follow_redirects=False,
        # httpx would use every proxy of the environment, and fails if it cannot parse one.
        trust_env=False,
        verify=context,
        mounts={
            "{0.scheme}://{0.netloc}".format(urlsplit(url)): httpx.AsyncHTTPTransport(
                verify=context, trust_env=False, proxy=proxy.url
            )
            for url, proxy in proxies.items()
            if proxy is not None
        },
    ) as client:
        yield client


async def call(
    client: httpx.AsyncClient,
    request: httpx.Request,
    within: timedelta,
    limit: int = ANSWER_LIMIT_BYTES,
) -> Answer:
    """Send once, and read the whole answer `within` this time, `limit` bytes at most.

    Raises:
        Unavailable
        CallRefused
        UnexpectedResponse
    """
    return _judged(*await fetch(client, request, within, limit))


async def fetch(
    client: httpx.AsyncClient,
    request: httpx.Request,
    within: timedelta,
    limit: int = ANSWER_LIMIT_BYTES,
) -> tuple[httpx.Response, bytes]:
    """Like `call`, for any status: some APIs report the result in the body.

    Raises:
        Unavailable
        UnexpectedResponse
    """
    tracer = tracing.active()
    if tracer is None:
        return await _fetch(client, request, within, limit)
    # Paths and queries have ids and credentials, so they are in no attribute.
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "server.address": request.url.host,
        "server.port": port_of(str(request.url)),
    }
    current = tracing.current()
    parent = None if current is None else current.context
    with tracer.span(request.method, Kind.CLIENT, attributes, parent=parent) as span:
        response, body = await _fetch(client, request, within, limit)
        span.set("http.response.status_code", response.status_code)
        if response.status_code >= 400:
            span.fail(str(response.status_code))
        return response, body


async def _fetch(
    client: httpx.AsyncClient, request: httpx.Request, within: timedelta, limit: int
) -> tuple[httpx.Response, bytes]:
    """Raises as `fetch` does."""
    seconds = within.total_seconds()
    changes = _changes(request)
    try:
        async with asyncio.timeout(seconds):
            response = await client.send(request, stream=True)
            try:
                body = await _read(response, limit)
            finally:
                await response.aclose()
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        why = refused_certificate(error) or str(error) or type(error).__name__
        raise Unavailable(f"cannot connect ({why})") from error
    except httpx.ProxyError as error:
        status = str(error)[:3]
        answer = f" with status {status}" if status.isdecimal() else ""
        raise Unavailable(f"the proxy refuses to connect{answer}") from error
    except httpx.TransportError as error:
        raise Unavailable(
            f"the connection broke ({type(error).__name__})", outcome_unknown=changes
        ) from error
    except TimeoutError:
        raise Unavailable(f"no whole answer within {seconds:g} s", outcome_unknown=changes) from None
    return response, body


async def _read(response: httpx.Response, limit: int) -> bytes:
    """Raises: UnexpectedResponse. Of a compressed answer a few bytes can be gigabytes."""
    changes = _changes(response.request)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise UnexpectedResponse("the answer is compressed, which was not requested", outcome_unknown=changes)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise UnexpectedResponse(f"the answer is larger than {limit:,} bytes", outcome_unknown=changes)
    return bytes(body)


def _judged(response: httpx.Response, body: bytes) -> Answer:
    status = response.status_code
    if response.is_success:
        return Answer(status, body)
    if is_worth_repeating(status):
        raise Unavailable(
            f"answered {_named(status)}",
            retry_after=retry_after(response.headers.get("retry-after"), datetime.now(UTC)),
            outcome_unknown=_changes(response.request) and status not in _NOTHING_DONE,
        )
    if status == HTTPStatus.UNAUTHORIZED:
        raise CredentialsRefused(status, body)
    if response.is_client_error:
        raise CallRefused(status, body)
    text = f"answered with a redirect ({status}), which is not followed"
    raise UnexpectedResponse(text, outcome_unknown=_changes(response.request))


def is_worth_repeating(status: int) -> bool:
    """Too slow, too early, too many calls, or the server's own fault."""
    return status in _LATER or 500 <= status < 600


def _changes(request: httpx.Request) -> bool:
    """Whether the request changes something on the server."""
    return request.method != "GET"


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def retry_after(text: str | None, now: datetime) -> timedelta | None:
    """The value of a Retry-After header, in seconds or as a date; None if it cannot be read."""
    if text is None:
        return None
    if text.isascii() and text.isdecimal():
        return timedelta(seconds=min(int(text[:9]), 86_400))
    until = http_date(text)
    return None if until is None else max(until - now, timedelta(0))


async def repeated(
    request_once: Callable[[], Awaitable[T]], what: str, pause_seconds: float = 0.5, attempts: int = ATTEMPTS
) -> T:
    """Repeat a call while it is unavailable, up to `attempts` calls. For calls that may be repeated.

    Pauses grow from `pause_seconds`, and are at least as long as Retry-After. If that is more than 30 s, the
    call is not repeated.

    Raises:
        Unavailable: The last one.
        CallRefused
        UnexpectedResponse
    """
    growing = wait_exponential_jitter(multiplier=pause_seconds, max=8, jitter=pause_seconds)

    def pause(state: RetryCallState) -> float:
        failure_retry_after = _failure(state).retry_after
        return max(
            growing(state), 0.0 if failure_retry_after is None else failure_retry_after.total_seconds()
        )

    def log_repetition(state: RetryCallState) -> None:
        seconds = round(state.upcoming_sleep, 3)
        log.warning("call.repeated", call=what, reason=str(_failure(state)), seconds=seconds)

    async def attempt() -> T:
        # tenacity would take a function that merely returns an awaitable for a synchronous one.
        return await request_once()

    retrying = AsyncRetrying(
        retry=retry_if_exception(_is_worth_waiting),
        stop=stop_after_attempt(attempts),
        wait=pause,
        before_sleep=log_repetition,
        reraise=True,
    )
    return await retrying(attempt)


def _is_worth_waiting(error: BaseException) -> bool:
    return isinstance(error, Unavailable) and (
        error.retry_after is None or error.retry_after <= LONGEST_RETRY_AFTER
    )


def _failure(state: RetryCallState) -> Unavailable:
    assert state.outcome is not None, "tenacity calls it after an attempt"
    error = state.outcome.exception()
    assert isinstance(error, Unavailable), "nothing else is repeated"
    return error
