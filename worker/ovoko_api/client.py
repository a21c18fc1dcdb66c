"""The reads of Ovoko's API that Stockhook makes, at a measured pace, repeated where that may help."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TypeVar
from urllib.parse import quote

import httpx
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from schemas.ovoko_api import (
    MOST_PARTS_ON_A_PAGE,
    Answer,
    ApiModel,
    InvalidAnswer,
    ListedPart,
    OrderReturn,
    rows_of,
)
from worker.ovoko_api.exchange import Credentials, NotNow, exchange
from worker.ovoko_api.failure import OvokoAnsweredOddly, OvokoUnavailable
from worker.ovoko_api.pace import Pace
from worker.settings import BadSettings, Settings

ATTEMPTS = 4
LONGEST_WAIT = timedelta(seconds=60)

log = structlog.get_logger()
Row = TypeVar("Row", bound=ApiModel)


@dataclass(frozen=True, slots=True)
class PartsPage:
    """Some parts, and how many the marketplace counts in all."""

    parts: list[ListedPart]
    total_count: int


@dataclass(frozen=True, slots=True)
class OvokoApi:
    """Each method is one read. They raise OvokoUnavailable, OvokoRefused and OvokoAnsweredOddly."""

    client: httpx.AsyncClient
    credentials: Credentials
    pace: Pace
    timeout: timedelta
    first_wait: timedelta = timedelta(seconds=0.5)

    async def part(self, part_id: str) -> ListedPart | None:
        """None where Ovoko knows no such part."""
        found = await self._one(f"/get/part/{quote(part_id, safe='')}", ListedPart)
        if found is not None:
            _refuse_another(part_id, found.part_id, "part")
        return found

    async def parts(self, page: int, *, limit: int, changed_since: date | None = None) -> PartsPage:
        """A page of the list, from page 1; `limit` is 100 at most."""
        if not 1 <= limit <= MOST_PARTS_ON_A_PAGE:
            raise ValueError(f"limit must be between 1 and {MOST_PARTS_ON_A_PAGE}")
        query: dict[str, str | int] = {"page": page, "limit": limit}
        if changed_since is not None:
            query["date_from"] = changed_since.isoformat()
        path = "/v2/get/parts"
        answer = await self._ask(path, query)
        if answer.pagination is None:
            raise OvokoAnsweredOddly(f"{path}: pagination: missing")
        return PartsPage(_rows(answer, ListedPart, path), answer.pagination.total_count)

    async def order_return(self, return_id: str) -> OrderReturn | None:
        """None where Ovoko knows no such return."""
        found = await self._one(f"/get/order_return/{quote(return_id, safe='')}", OrderReturn)
        if found is not None:
            _refuse_another(return_id, found.return_id, "return")
        return found

    async def order_returns(
        self, page: int, *, created_from: date | None = None, created_to: date | None = None
    ) -> list[OrderReturn]:
        """A page of the returns, from page 1; empty after the last. The documents name no size."""
        query: dict[str, str | int] = {"page": page}
        if created_from is not None:
            query["date_from"] = created_from.isoformat()
        if created_to is not None:
            query["date_to"] = created_to.isoformat()
        path = "/get/order_returns"
        answer = await self._ask(path, query)
        return [] if answer.is_not_found else _rows(answer, OrderReturn, path)

    async def _one(self, path: str, model: type[Row]) -> Row | None:
        answer = await self._ask(path, {})
        if answer.is_not_found:
            return None
        rows = _rows(answer, model, path)
        if len(rows) > 1:
            raise OvokoAnsweredOddly(f"{path}: {len(rows)} rows where one was asked for")
        return rows[0] if rows else None

    async def _ask(self, path: str, query: Mapping[str, str | int]) -> Answer:
        """A read changes nothing, so it may be repeated. (What writes must never go through here.)"""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=self._wait,
            retry=retry_if_exception_type(NotNow),
            before_sleep=_say,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                await self.pace.wait()
                return await exchange(self.client, self.credentials, path, query, within=self.timeout)
        raise AssertionError("the last attempt returned or raised")

    def _wait(self, state: RetryCallState) -> float:
        """As long as the answer asks for, else a little longer each time, by chance.

        Raises:
            OvokoUnavailable: The answer asks for longer than anybody would wait.
        """
        failure = state.outcome and state.outcome.exception()
        assert isinstance(failure, NotNow)
        if failure.wait is None:
            return wait_random_exponential(self.first_wait.total_seconds(), LONGEST_WAIT)(state)
        if failure.wait > LONGEST_WAIT:
            raise OvokoUnavailable(f"{failure}: asks to wait for {failure.wait.total_seconds():.0f} s")
        return failure.wait.total_seconds()


@asynccontextmanager
async def open_ovoko(settings: Settings) -> AsyncIterator[OvokoApi]:
    """The API as the settings have it.

    Raises:
        BadSettings: A credential is missing.
    """
    credentials = _credentials(settings)
    async with httpx.AsyncClient(
        base_url=settings.ovoko_api_url.get_secret_value(),
        timeout=settings.ovoko_timeout,
        follow_redirects=False,
        headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "stockhook"},
    ) as client:
        yield OvokoApi(
            client,
            credentials,
            Pace(settings.ovoko_calls_per_second),
            timedelta(seconds=settings.ovoko_timeout),
        )


def _credentials(settings: Settings) -> Credentials:
    username, password, token = settings.ovoko_username, settings.ovoko_password, settings.ovoko_user_token
    given = {"USERNAME": username, "PASSWORD": password, "USER_TOKEN": token}
    missing = [f"STOCKHOOK_OVOKO_{name}" for name, value in given.items() if value is None]
    if username is None or password is None or token is None:
        verb = "is" if len(missing) == 1 else "are"
        raise BadSettings(f"{', '.join(missing)} {verb} not set: Ovoko's API asks for all three")
    return Credentials(username, password.get_secret_value(), token.get_secret_value())


def _rows(answer: Answer, model: type[Row], path: str) -> list[Row]:
    try:
        return rows_of(answer, model)
    except InvalidAnswer as error:
        raise OvokoAnsweredOddly(f"{path}: {error}") from None


def _refuse_another(asked: str, answered: str, what: str) -> None:
    if answered != asked:
        raise OvokoAnsweredOddly(f"asked for {what} {asked}, it answers about another one")


def _say(state: RetryCallState) -> None:
    failure = state.outcome and state.outcome.exception()
    log.warning("ovoko.asked_again", attempt=state.attempt_number, reason=str(failure))
