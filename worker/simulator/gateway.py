"""A webhook gateway: accepts what marketplaces send, answers 200, then signs, forwards and retries."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_bytes, token_hex
from urllib.parse import quote, urlencode

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from schemas.registry import Provider
from schemas.validation import broken_rules
from worker.config.gateway import PRIVATE_PREFIX, SHARED_PREFIX, GatewayKey, SignatureScheme, read_key
from worker.config.signing_keys import encoded, public_text
from worker.intake.signature import sign
from worker.simulator.faults import Sending, Whole
from worker.simulator.gateway_behaviour import ForwardedWebhook, GatewayBehaviour, id_headers
from worker.simulator.http_client import Answer, Client, NoAnswer
from worker.simulator.marketplace import Request, Response, as_json, now

log = structlog.get_logger(__name__)

# Requests to the ingest at the same time.
OPEN_REQUESTS = 64

# The maximum of waiting events; beyond, senders get 503.
MOST_WAITING = 10_000
MOST_WAITING_BYTES = 67_108_864

PROGRESS_SECONDS = 10.0

# Headers of one connection only (RFC 9110, 7.6.1), or set again for the next.
_OF_A_HOP = frozenset(
    {
        "connection", "content-length", "expect", "host", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    """Counts of events; `answers` counts requests by status or by error."""

    accepted: int = 0
    refused: int = 0
    delivered: int = 0
    given_up: int = 0
    answers: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Event:
    event_id: str
    request_id: str
    target: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class _Rotation(BaseModel):
    """Without `secret`, the gateway makes one. With `marketplace`, it is only for that one."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secret: SecretStr | None = None
    marketplace: Provider | None = None


@dataclass(slots=True)
class SimulatedGateway:
    """`keys` sign, the newest first. Everything is in memory: events that wait at its end are lost.

    `time_scale` multiplies the delays between attempts, and Retry-After.
    """

    client: Client
    behaviour: GatewayBehaviour
    scheme: SignatureScheme
    keys: list[GatewayKey]
    time_scale: float
    most_waiting: int = MOST_WAITING
    tally: Tally = field(default_factory=Tally)
    _waiting: "set[asyncio.Task[None]]" = field(default_factory=set)
    _waiting_bytes: int = 0
    _open: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPEN_REQUESTS))

    async def answer(self, request: Request) -> Sending:
        """Each POST outside of /control/ is accepted as a webhook."""
        if request.path.startswith("/control/"):
            return Whole(self._control(request))
        if request.method != "POST":
            return Whole(as_json(405, {"title": "POST a webhook, or see /control/state"}))
        size = self._waiting_bytes + len(request.body)
        if len(self._waiting) >= self.most_waiting or size > MOST_WAITING_BYTES:
            self.tally.refused += 1
            return Whole(Response(503, headers={"retry-after": "1"}))
        return Whole(as_json(200, {"status": "SUCCESS", "request_id": self._accept(request)}))

    def _accept(self, request: Request) -> str:
        headers = {name: value for name, value in request.headers.items() if name not in _OF_A_HOP}
        body = request.body
        if not self.behaviour.keeps_request:
            headers = {"content-type": "application/json"}
            body = _rewritten(body)
        query = f"?{urlencode(request.query)}" if request.query else ""
        target = quote(request.path) + query
        event = _Event(token_hex(12), token_hex(12), target, request.path, headers, body)
        self.tally.accepted += 1
        self._waiting_bytes += len(body)
        task = asyncio.create_task(self._deliver(event))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return f"req_{event.request_id}"

    async def _deliver(self, event: _Event) -> None:
        try:
            await self._attempt_until_done(event)
        finally:
            self._waiting_bytes -= len(event.body)

    async def _attempt_until_done(self, event: _Event) -> None:
        attempt = 0
        while True:
            attempt += 1
            answer = await self._attempt(event, attempt)
            status = None if answer is None else answer.status
            if answer is not None and answer.is_success:
                self.tally.delivered += 1
                log.info("event.delivered", event_id=event.event_id, path=event.path, attempt=attempt)
                return
            received = {} if answer is None else answer.headers
            delay = self.behaviour.delay_after(attempt, status, received)
            if delay is None:
                self.tally.given_up += 1
                log.warning(
                    "event.given_up", event_id=event.event_id, path=event.path, attempt=attempt, status=status
                )
                return
            seconds = delay.total_seconds() * self.time_scale
            log.info(
                "event.retry_scheduled",
                event_id=event.event_id,
                path=event.path,
                attempt=attempt,
                status=status,
                seconds=seconds,
            )
            await asyncio.sleep(seconds)

    async def _attempt(self, event: _Event, attempt: int) -> Answer | None:
        """None if there was no whole answer."""
        async with self._open:
            try:
                answer = await self.client.send(event.target, self._headers(event, attempt), event.body)
            except NoAnswer as error:
                self.tally.answers[str(error)] += 1
                return None
        self.tally.answers[str(answer.status)] += 1
        return answer

    def _headers(self, event: _Event, attempt: int) -> dict[str, str]:
        """Each attempt is signed again, with the secrets and the time of that attempt."""
        delivery = ForwardedWebhook(
            event.event_id,
            event.request_id,
            event.path,
            attempt,
            self.behaviour.delay_after(attempt, None, {}),
        )
        signature = sign(
            self.scheme,
            self._keys_for(event.path),
            event.body,
            message_id=f"msg_{event.event_id}",
            sent_at=now(),
        )
        ids = id_headers(self.behaviour, self.scheme.header[0], delivery)
        return {"user-agent": "stockhook-simulated-gateway", **event.headers, **ids, **signature}

    def _keys_for(self, path: str) -> list[GatewayKey]:
        """The keys of the marketplace at this path, then the keys for all marketplaces."""
        marketplace = path.rpartition("/")[2]
        fitting = [key for key in self.keys if key.marketplace in (None, marketplace)]
        return sorted(fitting, key=lambda key: key.marketplace is None)

    def _control(self, request: Request) -> Response:
        match request.method, request.path.removeprefix("/control/"):
            case "GET", "state":
                return as_json(200, self.state())
            case "POST", "rotate":
                return self._rotate(request.body)
            case "POST", "retire":
                return self._retire()
            case _:
                return as_json(
                    404, {"title": "try GET /control/state, POST /control/rotate or /control/retire"}
                )

    def state(self) -> dict[str, object]:
        tally = self.tally
        return {
            "accepted": tally.accepted,
            "refused": tally.refused,
            "delivered": tally.delivered,
            "given_up": tally.given_up,
            "waiting": len(self._waiting),
            "answers": dict(tally.answers),
            "keys": len(self.keys),
        }

    def _rotate(self, body: bytes) -> Response:
        """Sign with a new secret too, from the next attempt on; the answer shows the secret."""
        try:
            rotation = _Rotation.model_validate_json(body or b"{}")
            secret = (
                new_secret(self.scheme, self.keys)
                if rotation.secret is None
                else rotation.secret.get_secret_value()
            )
            key = read_key(self.scheme, secret, rotation.marketplace)
        except ValidationError as error:
            errors = [*map(str, broken_rules(error))]
            return as_json(400, {"title": "no such rotation", "errors": errors})
        except ValueError as error:
            return as_json(400, {"title": "no such rotation", "errors": [f"secret: {error}"]})
        if key.kind == "public":
            return as_json(400, {"title": "no such rotation", "errors": ["secret: a public key cannot sign"]})
        self.keys.insert(0, key)
        log.info("secret.rotated", keys=len(self.keys), marketplace=key.marketplace)
        public = public_text(key) if key.kind == "private" else None
        return as_json(200, {"secret": secret, "public_key": public, "keys": len(self.keys)})

    def _retire(self) -> Response:
        """Sign only with the newest secrets: the older ones have expired."""
        newest: dict[str | None, GatewayKey] = {}
        for key in self.keys:
            newest.setdefault(key.marketplace, key)
        self.keys[:] = newest.values()
        log.info("secret.retired", keys=len(self.keys))
        return as_json(200, {"keys": len(self.keys)})

    async def stop(self) -> None:
        for task in self._waiting:
            task.cancel()
        if self._waiting:
            await asyncio.wait(self._waiting)


@asynccontextmanager
async def running(gateway: SimulatedGateway) -> AsyncIterator[None]:
    """Report progress while the context lasts; at its end, waiting events are lost."""
    progress = asyncio.create_task(_report(gateway))
    try:
        yield
    finally:
        progress.cancel()
        lost = gateway.state()["waiting"]
        await gateway.stop()
        log.info("gateway.stopped", **{**gateway.state(), "waiting": lost})


async def _report(gateway: SimulatedGateway) -> None:
    last = gateway.state()
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        state = gateway.state()
        if state != last:
            log.info("gateway.progress", **state)
        last = state


def _rewritten(body: bytes) -> bytes:
    """A JSON document of the same content; other bodies stay the same."""
    try:
        return orjson.dumps(orjson.loads(body))
    except ValueError:
        return body


def new_secret(scheme: SignatureScheme, present: Sequence[GatewayKey] = ()) -> str:
    """In the form of the scheme, and of the same kind as the newest present key."""
    if scheme.algorithm == "ed25519" or (present and present[0].kind == "private"):
        return PRIVATE_PREFIX + encoded(token_bytes(32))
    match scheme.secret:
        case "text":
            return token_hex(32)
        case "base64":
            return encoded(token_bytes(32))
        case "whsec":
            return SHARED_PREFIX + encoded(token_bytes(32))
