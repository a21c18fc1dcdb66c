"""The HTTP side of the ingest, without a server: a request in, a response out."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Protocol, assert_never

import orjson
import structlog
from cryptography.fernet import MultiFernet
from prometheus_client import Counter

from schemas.trace_context import context_headers
from worker.amqp.channel import Message
from worker.config import ignored_types as ignored
from worker.config.gateway import Gateway
from worker.config.settings import Settings
from worker.ingest.body_memory import BodyMemory, NoRoom
from worker.ingest.body_reader import BodyReader
from worker.ingest.event_sink import NotStored
from worker.ingest.exchange import (
    ABORT_MESSAGE,
    CHALLENGE,
    RETRY_AFTER_SECONDS,
    Refused,
    Request,
    Response,
    length_required,
    no_room,
    not_allowed,
    too_large,
    unauthorized,
)
from worker.ingest.openapi import openapi_document
from worker.ingest.request_log import RequestLog
from worker.ingest.request_trace import RequestTrace
from worker.intake.authentication import position
from worker.intake.content_encoding import NotDecoded, TooLarge, decoded, is_encoded
from worker.intake.gateway import authenticate, evidence_headers, is_signature_due
from worker.intake.intake import Accepted, Intake, Unauthorized, Unreadable, accept
from worker.intake.signature import Claim, Verified, read_claims
from worker.intake.signature import Refused as RefusedSignature
from worker.marketplaces.contract import Marketplace, SecretHeader
from worker.marketplaces.registry import MARKETPLACES
from worker.observability import metrics, tracing
from worker.observability.ops_server import readiness

log = structlog.get_logger(__name__)

WEBHOOKS = "/webhooks"
PROBES = ("/livez", "/readyz", "/openapi.json")
# Instead of the path, for a request without the prefix.
OUTSIDE = ""
WEBHOOK_METHODS = "GET, HEAD, OPTIONS, POST"
PLAIN_TEXT = "text/plain"

# Bytes of a body beyond which a thread works on it, so that other requests do not wait for that.
LARGE_BODY = 32 * 1024


class Stores(Protocol):
    """Stores events. Raises: NotStored."""

    async def store(self, message: Message, family: str | None) -> None: ...

    async def check(self) -> str | None: ...

    def details(self) -> Mapping[str, object]: ...


@dataclass(slots=True)
class Ingest:
    settings: Settings
    storage: Stores
    _encryptor: MultiFernet | None = field(init=False)
    _openapi: bytes = field(init=False)
    _ignored: re.Pattern[str] = field(init=False)
    _bodies: BodyMemory = field(init=False)
    _reader: BodyReader = field(init=False)
    # Several threads at once would slow down the event loop, and together be no faster.
    _one_large_body: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    _log: RequestLog = field(default_factory=RequestLog)

    def __post_init__(self) -> None:
        self._encryptor = self.settings.encryptor
        self._openapi = openapi_document(self.settings)
        self._ignored = ignored.compiled(self.settings.ignored_types)
        limit = self.settings.body_limit
        self._bodies = BodyMemory.for_bodies_of(limit)
        self._reader = BodyReader(limit, self.settings.body_timeout, self._bodies)

    async def handle(self, request: Request) -> Response:
        """Answer any request; what is refused is counted."""
        path = self._without_prefix(_tidy(request.path))
        marketplace = _MARKETPLACE_OF_PATH.get(path)
        tracer = tracing.active()
        trace = None
        if tracer is not None and marketplace is not None:
            trace = RequestTrace(tracer, marketplace.path, self.settings.ingest_scheme)
        try:
            if marketplace is None:
                return await self._serve_other(request, path)
            return await self._answer(marketplace, request, trace)
        except Refused as error:
            refusal = error
        except Exception:
            self._log.failed(request)
            refusal = Refused(500, "Our fault", "The event was not stored: send it again.")
        if marketplace is not None:
            metrics.RECEIVED.labels(marketplace.name, refusal.result).inc()
            if trace is not None:
                trace.refused(refusal.response.status)
            self._log.refused(marketplace.name, request, refusal)
        return refusal.response

    def _without_prefix(self, path: str) -> str:
        """Probes are answered with and without the prefix."""
        prefix = self.settings.ingest_path_prefix
        if not prefix or path in PROBES:
            return path
        inside = path.removeprefix(prefix)
        return inside if inside != path and inside.startswith("/") else OUTSIDE

    async def _serve_other(self, request: Request, path: str) -> Response:
        if path not in PROBES:
            if f"{WEBHOOKS}/" in f"{_tidy(request.path)}/":
                metrics.UNKNOWN_PATHS.inc()
                self._log.unknown_path(request)
            prefix = self.settings.ingest_path_prefix
            addresses = " and ".join(f"{prefix}{known}" for known in _MARKETPLACE_OF_PATH)
            raise Refused(404, "Not found", f"Webhooks go to {addresses}.")
        if request.method not in ("GET", "HEAD"):
            raise not_allowed("GET, HEAD")
        match path:
            case "/livez":
                return Response(200, b'{"status": "alive"}')
            case "/readyz":
                return Response(*await readiness({"intake": self.storage.check}, self.storage.details))
            case _:
                return Response(200, self._openapi)

    async def _answer(
        self, marketplace: Marketplace, request: Request, trace: RequestTrace | None
    ) -> Response:
        """A webhook, or a console's check of the address."""
        reason = marketplace.disabled_reason(self.settings)
        if reason is not None:
            raise Refused(404, "Endpoint is disabled", reason)
        match request.method:
            case "POST":
                return await self._receive(marketplace, request, trace)
            case "GET" | "HEAD":
                return Response(200, b"", PLAIN_TEXT)
            case "OPTIONS":
                return Response(204, b"", PLAIN_TEXT, (("allow", WEBHOOK_METHODS),))
            case _:
                raise not_allowed(WEBHOOK_METHODS)

    async def _receive(
        self, marketplace: Marketplace, request: Request, trace: RequestTrace | None
    ) -> Response:
        gateway = self.settings.gateway_of(marketplace.name)
        claims = None if gateway is None else _claims(marketplace, gateway, request.headers)
        # Whether the signature suffices. It is verified before the body is parsed.
        is_signed = gateway is not None and claims is not None and gateway.require != "both"
        secret = self._check_request(marketplace, request, is_signed=is_signed)
        if secret is not None and claims is None:
            request.authenticated()
        with self._bodies.holding() as held:
            try:
                raw = await self._reader.read(request, held, has_secret=secret is not None)
                if gateway is not None and claims is not None:
                    await self._verify(marketplace, gateway, claims, raw, request.headers)
                body = self._decoded(raw, request)
                self._bodies.resize(held, len(body))
            except NoRoom:
                raise no_room() from None
            if secret is not None:
                _count_secret(marketplace, secret)
            trusted_context = {}
            if self.settings.trust_traceparent and (request.is_from_proxy or claims is not None):
                trusted_context = context_headers(request.headers)
            accepted = await self._accept(marketplace, body, is_signed=is_signed)
            receiving = self._receive_event(marketplace, gateway, request, accepted, trusted_context, trace)
            if trace is None:
                response = await receiving
            else:
                response = await trace.answering(receiving, request.headers, trusted_context)
            if gateway is not None and claims is None:
                metrics.GATEWAY_UNSIGNED.labels(marketplace.name, "absent").inc()
            return response

    async def _accept(self, marketplace: Marketplace, body: bytes, *, is_signed: bool) -> Accepted:
        """Read a body, which may have the secret of its sender. Raises: Refused."""
        received_at = datetime.now(UTC)
        if len(body) > LARGE_BODY:
            async with self._one_large_body:
                intake = await asyncio.to_thread(self._intake, marketplace, body, received_at, is_signed)
        else:
            intake = self._intake(marketplace, body, received_at, is_signed)
        match intake:
            case Accepted():
                return intake
            case Unauthorized():
                raise unauthorized()
            case Unreadable():
                raise Refused(
                    400,
                    "Not a webhook",
                    "The body is no JSON object, and no secret can be read in it.",
                    (ABORT_MESSAGE,),
                )
            case unreachable:
                assert_never(unreachable)

    async def _receive_event(
        self,
        marketplace: Marketplace,
        gateway: Gateway | None,
        request: Request,
        accepted: Accepted,
        trusted_context: Mapping[str, str],
        trace: RequestTrace | None,
    ) -> Response:
        """Store an event whose sender is authenticated. Raises: Refused."""
        request.authenticated()
        if accepted.secret is not None:
            _count_secret(marketplace, accepted.secret)
        result = self._result(accepted)
        if result != "ignored":
            added = {**evidence_headers(gateway, request.headers), **trusted_context}
            await self._store(accepted, added, trace)
        if trace is not None:
            trace.note(accepted.event_id, result)
        _counter(metrics.RECEIVED, marketplace.name, result).inc()
        if result == "quarantined":
            log.warning(
                "event.quarantined",
                provider=marketplace.name,
                event_id=accepted.event_id,
                reason=accepted.reason,
            )
        return Response(200, orjson.dumps({"status": "accepted", "event_id": str(accepted.event_id)}))

    def _result(self, accepted: Accepted) -> str:
        if accepted.unhandled is not None:
            is_ignored = self._ignored.fullmatch(accepted.unhandled) is not None
            return "ignored" if is_ignored else "unhandled"
        return "quarantined" if accepted.reason else "accepted"

    def _intake(
        self, marketplace: Marketplace, body: bytes, received_at: datetime, is_signed: bool
    ) -> Intake:
        secrets = marketplace.secrets(self.settings)
        return accept(
            marketplace.name,
            body,
            received_at,
            secrets,
            self._encryptor,
            is_authentic=is_signed,
        )

    def _check_request(self, marketplace: Marketplace, request: Request, *, is_signed: bool) -> int | None:
        """Check what is known before the body is read; returns the position of the secret in the headers.

        A request that `is_signed` needs no secret.
        """
        headers = request.headers
        secret = None
        if isinstance(marketplace.authentication, SecretHeader):
            presented = headers.get(marketplace.authentication.name(self.settings).lower(), "")
            secret = position(presented, marketplace.secrets(self.settings))
            if secret is None and not is_signed:
                raise unauthorized()
        if "content-length" not in headers and "transfer-encoding" not in headers:
            raise length_required()
        declared = headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdecimal()):
            raise Refused(400, "No length", "Content-Length must be a number of bytes.")
        if len(declared) > 18 or int(declared) > self.settings.body_limit:
            raise too_large(self.settings.body_limit)
        return secret

    async def _verify(
        self,
        marketplace: Marketplace,
        gateway: Gateway,
        claims: Sequence[Claim],
        body: bytes,
        headers: Mapping[str, str],
    ) -> None:
        """Verify a body as it was received, before anything in it is parsed. Raises: Refused."""
        encoding = headers.get("content-encoding", "")
        arguments = (gateway.scheme, gateway.keys, claims, body, encoding, self.settings.body_limit)
        # Signatures of public keys take long, and a sender may send several.
        if len(body) > LARGE_BODY or is_encoded(encoding) or gateway.has_public_key:
            async with self._one_large_body:
                outcome = await asyncio.to_thread(authenticate, *arguments)
        else:
            outcome = authenticate(*arguments)
        if not isinstance(outcome, Verified):
            raise _refused_signature(marketplace, outcome)
        age = "older" if outcome.position else "newest"
        _counter(metrics.GATEWAY_SECRET_USED, marketplace.name, age).inc()

    def _decoded(self, body: bytes, request: Request) -> bytes:
        try:
            return decoded(body, request.headers.get("content-encoding", ""), self.settings.body_limit)
        except TooLarge:
            raise too_large(self.settings.body_limit) from None
        except NotDecoded:
            raise Refused(
                415,
                "Unknown encoding",
                "The body is neither JSON nor what Content-Encoding says: send JSON, plain, gzip or deflate.",
                (("accept-encoding", "gzip, deflate"),),
            ) from None

    async def _store(
        self, accepted: Accepted, headers: Mapping[str, str], trace: RequestTrace | None
    ) -> None:
        """Return once the event is ours: confirmed by the broker, or on disk. `headers` are added to it."""
        message = accepted.message
        if headers:
            message = replace(message, headers={**message.headers, **headers})
        try:
            if trace is None:
                await self.storage.store(message, accepted.family)
            else:
                with trace.sending(message, accepted) as traced:
                    await self.storage.store(traced, accepted.family)
        except NotStored as error:
            log.warning("event.refused", reason=str(error))
            raise Refused(
                503,
                "Cannot store events",
                "The event was not stored: send it again.",
                (("retry-after", str(RETRY_AFTER_SECONDS)),),
            ) from error


_MARKETPLACE_OF_PATH = {marketplace.path: marketplace for marketplace in MARKETPLACES.values()}


def _tidy(path: str) -> str:
    """The path without trailing and doubled slashes, which people easily type."""
    return "/" + "/".join(filter(None, path.split("/")))


@cache
def _counter(metric: Counter, *labels: str) -> Counter:
    """The client library takes longer to find a counter by its labels than to increment it."""
    return metric.labels(*labels)


def _count_secret(marketplace: Marketplace, position: int) -> None:
    """The newest comes first: when the others are used no more, they can go."""
    _counter(metrics.SECRET_USED, marketplace.name, "older" if position else "newest").inc()


def _claims(marketplace: Marketplace, gateway: Gateway, headers: Mapping[str, str]) -> Sequence[Claim] | None:
    """The content of the gateway's headers; None if none came, and none are required. Raises: Refused."""
    if not is_signature_due(gateway, headers):
        return None
    claims = read_claims(gateway.scheme, headers, datetime.now(UTC))
    if isinstance(claims, RefusedSignature):
        raise _refused_signature(marketplace, claims)
    return claims


def _refused_signature(marketplace: Marketplace, refused: RefusedSignature) -> Refused:
    """The answer names the rule and the header, but not its value."""
    metrics.GATEWAY_UNSIGNED.labels(marketplace.name, refused.rule).inc()
    detail = f"The gateway's signature is {refused.rule} (header {refused.header})."
    return Refused(401, "Unauthorized", detail, (CHALLENGE,))
