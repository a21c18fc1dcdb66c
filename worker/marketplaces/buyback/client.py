"""The buyback platform's API for sellers: five endpoints, and their access token."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Generic, TypeVar
from urllib.parse import quote

import httpx
import jiter
from pydantic import BaseModel, ValidationError

from schemas.events import read_json, read_model
from schemas.validation import broken_rules
from worker.config.settings import Settings
from worker.marketplaces.buyback.account import Account, account_of
from worker.marketplaces.buyback.errors import refused_members, title
from worker.marketplaces.buyback.requests import (
    DropoffRequest,
    PaymentDetails,
    PickupCapabilities,
    PickupRequest,
    Read,
    Sent,
    ShipmentCapabilities,
)
from worker.marketplaces.http import (
    Answer,
    CallRefused,
    CredentialsRefused,
    InvalidRequest,
    Unavailable,
    UnexpectedResponse,
    call,
    http_client,
    repeated,
)
from worker.marketplaces.oauth_token import Granted, TokenCache

M = TypeVar("M", bound=Read)
P = TypeVar("P", bound=BaseModel)

SCOPE = "buyback buyback.partner"
TIMEOUT = timedelta(seconds=15)

CREDENTIALS = "STOCKHOOK_BUYBACK_CLIENT_ID and its secret"
NOT_THERE = (404, 405)

# An id is one path segment, and never a relative one.
_ORDER_ID = re.compile(r"(?!\.+$)[A-Za-z0-9._~-]{1,200}")


class BadOrderId(InvalidRequest, ValueError):
    """An id that a path cannot contain."""


def check_order_id(order_id: str) -> None:
    """Raises: BadOrderId."""
    if not _ORDER_ID.fullmatch(order_id):
        raise BadOrderId("an order's id is made of letters, digits, -, _, . and ~")


@dataclass(frozen=True, slots=True)
class ParsedAnswer(Generic[M]):
    """The members of an answer that are known, and the whole answer, because it has no documented schema."""

    read: M
    document: dict[str, object] | list[object]


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """A request that the platform accepted, with the status of its answer."""

    status: int


@dataclass(slots=True)
class Seller:
    """Calls raise Unavailable, CallRefused or UnexpectedResponse, and BadOrderId before anything is sent."""

    account: Account
    http: httpx.AsyncClient
    within: timedelta = TIMEOUT
    pause_seconds: float = 0.5
    _tokens: TokenCache = field(init=False)

    def __post_init__(self) -> None:
        self._tokens = TokenCache(self._fetch_token)

    async def shipment_capabilities(self, order_id: str) -> ParsedAnswer[ShipmentCapabilities]:
        """Whether an order may be picked up, and dropped off."""
        return await self._get(order_id, "shipment-capabilities", ShipmentCapabilities)

    async def pickup_capabilities(self, order_id: str) -> ParsedAnswer[PickupCapabilities]:
        """When an order can be picked up."""
        return await self._get(order_id, "pickup-capabilities", PickupCapabilities)

    async def request_pickup(self, order_id: str, request: PickupRequest) -> AcceptedRequest:
        """Request a pickup, also again after a missed one."""
        return await self._post(order_id, "pickup-request", request)

    async def request_dropoff(self, order_id: str, request: DropoffRequest) -> AcceptedRequest:
        """Request the shipping documents for an order that the customer drops off."""
        return await self._post(order_id, "dropoff-request", request)

    async def send_payment_details(self, order_id: str, details: PaymentDetails) -> AcceptedRequest:
        """Send the payment details of an order whose payment type is Cash."""
        return await self._post(order_id, "payment-details", details)

    async def _get(self, order_id: str, endpoint: str, model: type[M]) -> ParsedAnswer[M]:
        url = self._url(order_id, endpoint)
        try:
            answer = await repeated(partial(self._authorized, "GET", url), endpoint, self.pause_seconds)
        except CredentialsRefused:
            raise
        except CallRefused as error:
            raise _with_answer(error, title(error.body)) from None
        document = _document(answer.body)
        return ParsedAnswer(_read(model, answer.body) if isinstance(document, dict) else model(), document)

    async def _post(self, order_id: str, endpoint: str, request: Sent) -> AcceptedRequest:
        """Never repeated: without an answer, the request may have been accepted."""
        body = request.as_body()
        try:
            answer = await self._authorized("POST", self._url(order_id, endpoint), body)
        except CredentialsRefused:
            raise
        except CallRefused as error:
            shown_title = "" if isinstance(request, PaymentDetails) else title(error.body)
            raise _with_answer(error, shown_title, *refused_members(error.body, body)) from None
        return AcceptedRequest(answer.status)

    def _url(self, order_id: str, endpoint: str) -> str:
        check_order_id(order_id)
        seller_id = quote(self.account.seller_id, safe="")
        return f"{self.account.api_url.rstrip('/')}/v2/sellers/{seller_id}/orders/{order_id}/{endpoint}"

    async def _authorized(self, method: str, url: str, body: bytes | None = None) -> Answer:
        """Send a request with the cached token. Replace a refused one once: after a 401, nothing was done."""
        token = await self._tokens.token()
        try:
            return await self._call(method, url, body, token)
        except CredentialsRefused:
            token = await self._tokens.token(refused=token)
        try:
            return await self._call(method, url, body, token)
        except CredentialsRefused as error:
            raise CredentialsRefused(error.status, text=f"{error}; see {CREDENTIALS}") from None

    async def _call(self, method: str, url: str, body: bytes | None, token: str) -> Answer:
        headers = {"authorization": f"Bearer {token}", "x-real-ip": self.account.real_ip}
        if body is not None:
            headers["content-type"] = "application/json"
        request = self.http.build_request(method, url, content=body, headers=headers)
        return await call(self.http, request, self.within)

    async def _fetch_token(self) -> Granted:
        """The platform requires a multipart form (docs/providers.md)."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self.account.client_id,
            "client_secret": self.account.client_secret.get_secret_value(),
            "scope": SCOPE,
        }
        request = self.http.build_request(
            "POST",
            f"{self.account.sts_url.rstrip('/')}/connect/token",
            files={name: (None, value.encode()) for name, value in form.items()},
            headers={"x-real-ip": self.account.real_ip},
        )
        try:
            answer = await call(self.http, request, self.within)
        except Unavailable as error:
            # Nothing was requested with the token, so the outcome is known.
            raise Unavailable(f"no access token: {error}", retry_after=error.retry_after) from error
        except CallRefused as error:
            raise CredentialsRefused(error.status, text=_token_refusal(error)) from None
        except UnexpectedResponse as error:
            raise UnexpectedResponse(f"no access token: {error}") from error
        return _read(Granted, answer.body, "no access token: ")


@asynccontextmanager
async def selling(account: Account, within: timedelta = TIMEOUT) -> AsyncIterator[Seller]:
    """A seller with its own connections, and a time limit `within` for each call."""
    async with http_client(account.api_url, account.sts_url) as http:
        yield Seller(account, http, within)


def open_seller(settings: Settings) -> AbstractAsyncContextManager[Seller]:
    """Raises: BadSettings, which names what is not set."""
    return selling(account_of(settings), timedelta(seconds=settings.buyback_timeout))


def _document(body: bytes) -> dict[str, object] | list[object]:
    """Raises: UnexpectedResponse."""
    try:
        read_json(body)
        # Without Decimals, which would become text in JSON output.
        document = jiter.from_json(body, allow_inf_nan=False)
    except ValueError:
        raise UnexpectedResponse("the answer is no JSON") from None
    if not isinstance(document, dict | list):
        raise UnexpectedResponse("the answer is neither a JSON object nor an array")
    return document


def _read(model: type[P], body: bytes, prefix: str = "") -> P:
    """Raises: UnexpectedResponse, which names members and rules, no values."""
    try:
        return read_model(model, body)
    except ValidationError as error:
        text = "; ".join(map(str, broken_rules(error, most=3)))
        raise UnexpectedResponse(f"{prefix}the answer is not as expected: {text}") from None
    except ValueError:
        raise UnexpectedResponse(f"{prefix}the answer is not as expected: it is no JSON") from None


def _with_answer(error: CallRefused, shown_title: str, *members: str) -> CallRefused:
    """The error, with the parts of the answer that may be shown."""
    text = f"{error} ({shown_title.rstrip('.')})" if shown_title else str(error)
    if members:
        text += f"; see {', '.join(members)}"
    return CallRefused(error.status, error.body, text)


def _token_refusal(error: CallRefused) -> str:
    """The text for a refused token request, with the error code of RFC 6749, 5.2, if there is one."""
    match = re.search(rb'"error"\s*:\s*"([a-z_]{1,40})"', error.body)
    code = f" ({match[1].decode()})" if match else ""
    what = "STOCKHOOK_BUYBACK_STS_URL" if error.status in NOT_THERE else CREDENTIALS
    return f"no access token: refused with status {error.status}{code}; see {what}"
