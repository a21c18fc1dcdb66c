"""Reads from Ovoko's API, with a rate limit and retries."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TypeVar
from urllib.parse import quote

import httpx
import structlog

from schemas.ovoko_api import (
    MOST_PARTS_ON_A_PAGE,
    Answer,
    Entity,
    InvalidAnswer,
    ListedPart,
    OrderReturn,
    PartDescription,
    Rows,
    rows_of,
)
from worker.config.settings import Settings
from worker.marketplaces.http import (
    ATTEMPTS,
    FetchedRow,
    UnexpectedResponse,
    UnreadableRow,
    fetch,
    http_client,
    repeated,
)
from worker.marketplaces.ovoko.account import Account, account_of
from worker.marketplaces.ovoko.response import judged
from worker.marketplaces.rate_limiter import RateLimiter

LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes. A page of 100 parts with their photos' addresses comes to some hundred thousand."""

# The maximum number of unreadable fields in a log line.
MOST_NAMED = 10

log = structlog.get_logger(__name__)

Row = TypeVar("Row", bound=Entity)


@dataclass(frozen=True, slots=True)
class OvokoApi:
    """Each method is one read, and raises Unavailable, CallRefused or UnexpectedResponse.

    A call is tried `attempts` times while the API is unavailable.
    """

    account: Account
    http: httpx.AsyncClient
    rate_limiter: RateLimiter
    within: timedelta
    pause_seconds: float = 0.5
    attempts: int = ATTEMPTS

    async def part(self, part_id: str) -> FetchedRow[ListedPart]:
        return await self._one("/get/part", part_id, ListedPart)

    async def part_description(self, part_id: str) -> FetchedRow[PartDescription]:
        return await self._one("/get/part", part_id, PartDescription)

    async def parts(
        self, page: int, *, limit: int, date_from: date | None = None
    ) -> tuple[Rows[ListedPart], int]:
        """A page of the list, from page 1, and how many parts there are in all; `limit` is 100 at most.

        Whether `date_from` is about a part's creation or its last change is not documented.
        """
        if not 1 <= limit <= MOST_PARTS_ON_A_PAGE:
            raise ValueError(f"limit must be between 1 and {MOST_PARTS_ON_A_PAGE}")
        query: dict[str, str | int] = {"page": page, "limit": limit}
        if date_from is not None:
            query["date_from"] = date_from.isoformat()
        answer, _ = await self._request("/v2/get/parts", query)
        if answer.pagination is None:
            raise UnexpectedResponse("pagination: missing")
        return _rows(answer, ListedPart), answer.pagination.total_count

    async def order_return(self, return_id: str) -> FetchedRow[OrderReturn]:
        return await self._one("/get/order_return", return_id, OrderReturn)

    async def order_returns(
        self, page: int, *, created_from: date | None = None, created_to: date | None = None
    ) -> Rows[OrderReturn]:
        """A page of the returns, from page 1; empty after the last. The documents name no size."""
        query: dict[str, str | int] = {"page": page}
        if created_from is not None:
            query["date_from"] = created_from.isoformat()
        if created_to is not None:
            query["date_to"] = created_to.isoformat()
        answer, _ = await self._request("/get/order_returns", query)
        return Rows([]) if answer.is_not_found else _rows(answer, OrderReturn)

    async def _one(self, path: str, entity_id: str, model: type[Row]) -> FetchedRow[Row]:
        answer, requested_at = await self._request(f"{path}/{quote(entity_id, safe='')}", {})
        rows: Rows[Row] = Rows([]) if answer.is_not_found else _rows(answer, model)
        count = len(rows.read) + len(rows.unreadable)
        if count > 1:
            raise UnexpectedResponse(f"{count} rows where one was requested")
        if rows.unreadable:
            raise UnreadableRow(rows.unreadable[0])
        if rows.unreadable_fields:
            log.warning(
                "answer.unreadable_fields", call=path, fields=sorted(rows.unreadable_fields)[:MOST_NAMED]
            )
        row = rows.read[0] if rows.read else None
        if row is not None and row.entity_id != entity_id:
            raise UnexpectedResponse(f"{entity_id} was requested, and the answer is about another one")
        return FetchedRow(row, requested_at)

    async def _request(self, path: str, query: Mapping[str, str | int]) -> tuple[Answer, datetime]:
        """A read may be repeated. Never send a write through this method."""
        request_once = partial(self._request_once, path, query)
        return await repeated(request_once, path, self.pause_seconds, self.attempts)

    async def _request_once(self, path: str, query: Mapping[str, str | int]) -> tuple[Answer, datetime]:
        await self.rate_limiter.wait()
        request = self.http.build_request(
            "POST", f"{self.account.api_url}{path}", params=query, data=self.account.as_form()
        )
        requested_at = datetime.now(UTC)
        response, body = await fetch(self.http, request, self.within, LARGEST_ANSWER)
        return judged(response, body, self.account.is_in), requested_at


@asynccontextmanager
async def open_ovoko(settings: Settings) -> AsyncIterator[OvokoApi]:
    """The API with the account of the settings.

    Raises:
        BadSettings: A credential is missing.
    """
    account = account_of(settings)
    async with http_client(account.api_url) as http:
        rate_limiter = RateLimiter(settings.ovoko_calls_per_second)
        yield OvokoApi(account, http, rate_limiter, timedelta(seconds=settings.ovoko_timeout))


@asynccontextmanager
async def open_ovoko_for_actions(settings: Settings) -> AsyncIterator[OvokoApi]:
    """The API without repetitions: actions have their own retry delays.

    Raises:
        BadSettings: A credential is missing.
    """
    async with open_ovoko(settings) as api:
        yield replace(api, attempts=1)


def _rows(answer: Answer, model: type[Row]) -> Rows[Row]:
    try:
        return rows_of(answer, model)
    except InvalidAnswer as error:
        raise UnexpectedResponse(str(error)) from None
