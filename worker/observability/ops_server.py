"""The ops port of every process: `/livez`, `/readyz`, `/metrics`, served by the loop that works.

A loop that hangs does not answer, so a probe of this port sees it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import orjson
import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics import exposition as openmetrics

from worker.observability.listening import listening_on

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Intended:
    """Why something does not work although the process is ready: a user wants it so."""

    reason: str


# A check returns the reason why the process is not ready, or None.
Check = Callable[[], Awaitable[str | Intended | None]]
Checks = Mapping[str, Check]

_REQUEST_TIMEOUT_SECONDS = 5
_CHECK_TIMEOUT_SECONDS = 2
_JSON = "application/json"


# Further members of the body of `/readyz`.
Details = Callable[[], Mapping[str, object]]


async def readiness(checks: Checks, details: Details | None = None) -> tuple[int, bytes]:
    """HTTP status and JSON body of `/readyz`: 200 when every check is well or intended, else 503."""
    results = {name: await _result(check) for name, check in checks.items()}
    ready = all(result is None or isinstance(result, Intended) for result in results.values())
    body = {
        "status": "ready" if ready else "not ready",
        "checks": {name: _text(result) or "ok" for name, result in results.items()},
        **(details() if details else {}),
    }
    return 200 if ready else 503, orjson.dumps(body)


async def reasons(checks: Checks) -> dict[str, str | None]:
    """The reason of each check that is not well, or None."""
    return {name: _text(await _result(check)) for name, check in checks.items()}


async def _result(check: Check) -> str | Intended | None:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
            return await check()
    except TimeoutError:
        return "no answer in time"


def _text(result: str | Intended | None) -> str | None:
    return result.reason if isinstance(result, Intended) else result


@asynccontextmanager
async def serve_ops(
    host: str, port: int, checks: Checks, registry: CollectorRegistry, details: Details | None = None
) -> AsyncIterator[None]:
    """Listen while the context lasts; `registry` is what this process exports beside what all do.

    Raises:
        CannotListen
    """

    # A second series for each counter and histogram, which is not needed.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # it lacks annotations

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_TIMEOUT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                response = await _response(head, checks, registry, details)
                # uvloop raises RuntimeError for a write to a client that is gone.
                if not writer.is_closing():
                    writer.write(response)
                    await writer.drain()
        writer.close()

    with listening_on(host, port, host_setting="STOCKHOOK_OPS_HOST", port_setting="STOCKHOOK_OPS_PORT"):
        server = await asyncio.start_server(on_connection, host, port)
    async with server:
        log.info("ops.listening", host=host, port=port)
        yield


async def _response(
    head: bytes, checks: Checks, registry: CollectorRegistry, details: Details | None
) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        return _encode(405, _JSON, b'{"status": "method not allowed"}')
    match path:
        case b"/livez":
            return _encode(200, _JSON, b'{"status": "alive"}')
        case b"/readyz":
            status, body = await readiness(checks, details)
            return _encode(status, _JSON, body)
        case b"/metrics" if _accepts_openmetrics(head):
            # Each registry ends with a mark of its own.
            common, own = (_openmetrics(each) for each in (REGISTRY, registry))
            return _encode(200, openmetrics.CONTENT_TYPE_LATEST, common.removesuffix(b"# EOF\n") + own)
        case b"/metrics":
            return _encode(200, CONTENT_TYPE_LATEST, generate_latest() + generate_latest(registry))
        case _:
            return _encode(404, _JSON, b'{"status": "try /livez, /readyz or /metrics"}')


def _accepts_openmetrics(head: bytes) -> bool:
    """Whether a header asks for the format that has exemplars, as Prometheus does."""
    lines = head.lower().split(b"\r\n")
    return any(line.startswith(b"accept:") and b"application/openmetrics-text" in line for line in lines)


def _openmetrics(registry: CollectorRegistry) -> bytes:
    text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # it lacks annotations
    return text


def _encode(status: int, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} \r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
