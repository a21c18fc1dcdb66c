"""The HTTP side of the ingest, without a server: a request in, a response out."""

import asyncio
import re
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Protocol, assert_never

import orjson
import structlog
from cryptography.fernet import MultiFernet

from worker.amqp.channel import Message
from worker.amqp.timeouts import TimeoutGroup
from worker.config import ignored_types as ignored
from worker.config.gateway import Gateway
from worker.config.settings import Settings
from worker.ingest.event_sink import NotStored
from worker.ingest.openapi import openapi_document
from worker.intake.authentication import position
from worker.intake.content_encoding import NotDecoded, TooLarge, decoded
from worker.intake.gateway import authenticate, evidence_headers, is_signature_due
from worker.intake.intake import Accepted, Intake, Unauthorized, Unreadable, accept
from worker.intake.signature import Claim, Verified, read_claims
from worker.intake.signature import Refused as RefusedSignature
from worker.marketplaces.contract import Marketplace, SecretHeader
from worker.marketplaces.registry import MARKETPLACES
from worker.observability import metrics
from worker.observability.ops_server import readiness

log = structlog.get_logger(__name__)

# Some senders have a retry schedule of their own; this is for those that read the header.
RETRY_AFTER_SECONDS = 7

# Characters of a foreign text in a line of the log.
LONGEST_LOGGED = 200

# Anybody can send requests to a wrong path: one of them is logged per interval.
UNKNOWN_PATH_LOG_SECONDS = 60.0

WEBHOOKS = "/webhooks"
WEBHOOK_METHODS = "GET, HEAD, OPTIONS, POST"
PLAIN_TEXT = "text/plain"

# Bytes of a body beyond which a thread works on it, so that other requests do not wait for that.
LARGE_BODY = 32 * 1024

# So late it may be noticed that a body is.
LOOK_SECONDS = 0.25

# Standard Webhooks: the sender need not repeat this message, since it would get the same answer.
ABORT_MESSAGE = ("webhook-delivery", "abort-message")


class Stores(Protocol):
    """What keeps events; raises NotStored."""

    async def store(self, message: Message, family: str | None) -> None: ...

    async def check(self) -> str | None: ...

    def look(self) -> Mapping[str, object]: ...


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` has lower-case names, and all values of a name that came several times, joined by commas;
    `body` yields what arrives, and raises BodyIncomplete."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: AsyncIterable[bytes]


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class BodyIncomplete(Exception):
    """The body ended early, or its chunks were malformed: what arrived of it is not an event."""


class Refused(Exception):
    """A request that is answered with a problem document (RFC 9457)."""

    def __init__(
        self, status: int, title: str, detail: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(title)
        self.response = Response(
            status=status,
            body=orjson.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}),
            content_type="application/problem+json",
            headers=headers,
        )


@dataclass(slots=True)
class _UnknownPaths:
    """Webhooks sent to a wrong address: all are counted, and one is logged per interval."""

    _logged_at: float | None = None
    _unlogged: int = 0

    def note(self, request: Request) -> None:
        metrics.UNKNOWN_PATHS.inc()
        now = monotonic()
        if self._logged_at is not None and now - self._logged_at < UNKNOWN_PATH_LOG_SECONDS:
            self._unlogged += 1
            return
        path, method = _inert(request.path), _inert(request.method)
        log.warning("path.unknown", path=path, method=method, unlogged_before=self._unlogged)
        self._logged_at, self._unlogged = now, 0


@dataclass(slots=True)
class Ingest:
    settings: Settings
    storage: Stores
    _sealer: MultiFernet | None = field(init=False)
    _openapi: bytes = field(init=False)
    _ignored: re.Pattern[str] = field(init=False)
    _deadlines: TimeoutGroup = field(default_factory=lambda: TimeoutGroup(LOOK_SECONDS))
    _unknown_paths: _UnknownPaths = field(default_factory=_UnknownPaths)

    def __post_init__(self) -> None:
        self._sealer = self.settings.sealer
        self._openapi = openapi_document(self.settings)
        self._ignored = ignored.compiled(self.settings.ignored_types)

    async def handle(self, request: Request) -> Response:
        """Answer any request; what is refused is counted."""
        path = _tidy(request.path)
        marketplace = _MARKETPLACE_OF_PATH.get(path)
        try:
            if marketplace is None:
                return await self._look(request, path)
            return await self._answer(marketplace, request)
        except Refused as refusal:
            response = refusal.response
        except Exception:
            log.exception("request.failed", path=_inert(request.path))
            response = Refused(500, "Our fault", "The event was not stored: send it again.").response
        if marketplace is not None:
            metrics.RECEIVED.labels(marketplace.name, str(response.status)).inc()
        return response

    async def _look(self, request: Request, path: str) -> Response:
        if path == WEBHOOKS or path.startswith(f"{WEBHOOKS}/"):
            self._unknown_paths.note(request)
        if path not in ("/livez", "/readyz", "/openapi.json"):
            raise Refused(404, "Not found", f"Webhooks go to {' and '.join(_MARKETPLACE_OF_PATH)}.")
        if request.method not in ("GET", "HEAD"):
            raise _not_allowed("GET, HEAD")
        match path:
            case "/livez":
                return Response(200, b'{"status": "alive"}')
            case "/readyz":
                return Response(*await readiness({"intake": self.storage.check}, self.storage.look))
            case _:
                return Response(200, self._openapi)

    async def _answer(self, marketplace: Marketplace, request: Request) -> Response:
        """A webhook, or a console's check of the address."""
        reason = marketplace.disabled_reason(self.settings)
        if reason is not None:
            raise Refused(404, "Endpoint is disabled", reason)
        match request.method:
            case "POST":
                return await self._receive(marketplace, request)
            case "GET" | "HEAD":
                return Response(200, b"", PLAIN_TEXT)
            case "OPTIONS":
                return Response(204, b"", PLAIN_TEXT, (("allow", WEBHOOK_METHODS),))
            case _:
                raise _not_allowed(WEBHOOK_METHODS)

    async def _receive(self, marketplace: Marketplace, request: Request) -> Response:
        gateway = self.settings.gateway_of(marketplace.name)
        claims = None if gateway is None else _claims(marketplace, gateway, request.headers)
        self._check_request(marketplace, gateway, request)
        raw = await self._read(request)
        if gateway is not None and claims is not None:
            await self._verify(marketplace, gateway, claims, raw, request.headers)
        body = self._decoded(raw, request)
        received_at = datetime.now(UTC)
        if len(body) > LARGE_BODY:
            intake = await asyncio.to_thread(self._intake, marketplace, gateway, body, received_at)
        else:
            intake = self._intake(marketplace, gateway, body, received_at)
        match intake:
            case Accepted(event_id=event_id, reason=reason) as accepted:
                if accepted.secret is not None:
                    _count_secret(marketplace, accepted.secret)
                result = self._result(accepted)
                if result != "ignored":
                    evidence = evidence_headers(gateway, request.headers)
                    await self._store(accepted, evidence)
                metrics.RECEIVED.labels(marketplace.name, result).inc()
                if result == "quarantined":
                    log.warning(
                        "event.quarantined", provider=marketplace.name, event_id=event_id, reason=reason
                    )
                answer = {"status": "accepted", "event_id": str(event_id)}
                return Response(200, orjson.dumps(answer))
            case Unauthorized():
                raise _unauthorized()
            case Unreadable():
                raise Refused(
                    400,
                    "Not a webhook",
                    "The body is no JSON object, and no secret can be read in it.",
                    (ABORT_MESSAGE,),
                )
            case unreachable:
                assert_never(unreachable)

    def _result(self, accepted: Accepted) -> str:
        if accepted.unhandled is not None:
            is_ignored = self._ignored.fullmatch(accepted.unhandled) is not None
            return "ignored" if is_ignored else "unhandled"
        return "quarantined" if accepted.reason else "accepted"

    def _intake(
        self, marketplace: Marketplace, gateway: Gateway | None, body: bytes, received_at: datetime
    ) -> Intake:
        secrets = marketplace.secrets(self.settings)
        return accept(
            marketplace.name,
            body,
            received_at,
            secrets,
            self._sealer,
            is_authentic=_replaces_secret(gateway),
        )

    def _check_request(self, marketplace: Marketplace, gateway: Gateway | None, request: Request) -> None:
        """Whatever can be said before the body is read."""
        headers = request.headers
        if isinstance(marketplace.authentication, SecretHeader) and not _replaces_secret(gateway):
            presented = headers.get(marketplace.authentication.name(self.settings).lower(), "")
            secret = position(presented, marketplace.secrets(self.settings))
            if secret is None:
                raise _unauthorized()
            _count_secret(marketplace, secret)
        if "content-length" not in headers and "transfer-encoding" not in headers:
            raise _length_required()
        declared = headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdecimal()):
            raise Refused(400, "No length", "Content-Length must be a number of bytes.")
        if len(declared) > 18 or int(declared) > self.settings.body_limit:
            raise self._too_large()

    async def _verify(
        self,
        marketplace: Marketplace,
        gateway: Gateway,
        claims: Sequence[Claim],
        body: bytes,
        headers: Mapping[str, str],
    ) -> None:
        """Verify a body as it was received, before anything in it is parsed. Raises: Refused."""
        verify = partial(
            authenticate,
            gateway.scheme,
            gateway.keys_for(marketplace.name),
            claims,
            body,
            headers.get("content-encoding", ""),
            self.settings.body_limit,
        )
        is_large = len(body) > LARGE_BODY or "content-encoding" in headers
        outcome = await asyncio.to_thread(verify) if is_large else verify()
        if not isinstance(outcome, Verified):
            raise _refused_signature(marketplace, outcome)
        age = "older" if outcome.position else "newest"
        metrics.GATEWAY_SECRET_USED.labels(marketplace.name, age).inc()

    async def _read(self, request: Request) -> bytes:
        chunks: list[bytes] = []
        size = 0
        timeout = self._deadlines.timeout(self.settings.body_timeout)
        try:
            async with timeout:
                async for chunk in request.body:
                    size += len(chunk)
                    if size > self.settings.body_limit:
                        raise self._too_large()
                    chunks.append(chunk)
        except BodyIncomplete:
            raise _incomplete() from None
        except TimeoutError:
            raise Refused(
                408,
                "Body too slow",
                f"The body must arrive within {self.settings.body_timeout:g} seconds.",
                (("connection", "close"),),
            ) from None
        finally:
            self._deadlines.forget(timeout)
        if size < int(request.headers.get("content-length", "0")):
            raise _incomplete()
        return b"".join(chunks)

    def _decoded(self, body: bytes, request: Request) -> bytes:
        try:
            return decoded(body, request.headers.get("content-encoding", ""), self.settings.body_limit)
        except TooLarge:
            raise self._too_large() from None
        except NotDecoded:
            raise Refused(
                415,
                "Unknown encoding",
                "The body is neither JSON nor what Content-Encoding says: send JSON, plain, gzip or deflate.",
                (("accept-encoding", "gzip, deflate"),),
            ) from None

    def _too_large(self) -> Refused:
        return Refused(
            413,
            "Body too large",
            f"A body may have {self.settings.body_limit} bytes at most.",
            (("connection", "close"), ABORT_MESSAGE),
        )

    async def _store(self, accepted: Accepted, evidence: Mapping[str, str]) -> None:
        """Return once the event is ours: confirmed by the broker, or on disk."""
        message = accepted.message
        if evidence:
            message = replace(message, headers={**message.headers, **evidence})
        try:
            await self.storage.store(message, accepted.family)
        except NotStored as error:
            log.warning("event.refused", reason=str(error))
            raise Refused(
                503,
                "Cannot take events in",
                "The event was not stored: send it again.",
                (("retry-after", str(RETRY_AFTER_SECONDS)),),
            ) from error


_MARKETPLACE_OF_PATH = {marketplace.path: marketplace for marketplace in MARKETPLACES.values()}


# RFC 9110 asks for a challenge; the scheme is named after what all marketplaces do.
_CHALLENGE = ("www-authenticate", "Webhook")


def _tidy(path: str) -> str:
    """The path without trailing and doubled slashes, which people easily type."""
    return "/" + "/".join(filter(None, path.split("/")))


def _inert(text: str) -> str:
    """Foreign text that is safe in any log."""
    return ascii(text)[1:-1][:LONGEST_LOGGED]


def _count_secret(marketplace: Marketplace, position: int) -> None:
    """The newest comes first: when the others are used no more, they can go."""
    metrics.SECRET_USED.labels(marketplace.name, "older" if position else "newest").inc()


def _unauthorized() -> Refused:
    return Refused(401, "Unauthorized", "No active secret came with it.", (_CHALLENGE,))


def _replaces_secret(gateway: Gateway | None) -> bool:
    """Whether the gateway answers for the sender, so that the marketplace's own secret need not come."""
    return gateway is not None and gateway.require == "gateway"


def _claims(marketplace: Marketplace, gateway: Gateway, headers: Mapping[str, str]) -> Sequence[Claim] | None:
    """What the gateway's headers say; None if none came, and none need come. Raises: Refused."""
    if not is_signature_due(gateway, headers):
        metrics.GATEWAY_UNSIGNED.labels(marketplace.name, "absent").inc()
        return None
    claims = read_claims(gateway.scheme, headers, datetime.now(UTC))
    if isinstance(claims, RefusedSignature):
        raise _refused_signature(marketplace, claims)
    return claims


def _refused_signature(marketplace: Marketplace, refused: RefusedSignature) -> Refused:
    """The answer names the rule and the header, never its value."""
    metrics.GATEWAY_UNSIGNED.labels(marketplace.name, refused.rule).inc()
    detail = f"The gateway's signature is {refused.rule} (header {refused.header})."
    return Refused(401, "Unauthorized", detail, (_CHALLENGE,))


def _incomplete() -> Refused:
    # 408 invites the sender to repeat the request, which 400 does not.
    detail = "The body ended early, or its chunks are malformed: send it again."
    return Refused(408, "Body incomplete", detail, (("connection", "close"),))


def _length_required() -> Refused:
    # By its headers such a request has no body: what its sender sent as one would be lost.
    detail = "Declare the body with Content-Length, or send it chunked."
    return Refused(411, "Length required", detail, (("connection", "close"),))


def _not_allowed(allowed: str) -> Refused:
    return Refused(405, "Method not allowed", f"Allowed: {allowed}.", (("allow", allowed),))
