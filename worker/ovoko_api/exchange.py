"""One call of Ovoko's API: credentials in, at most so many bytes out, within its time."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from schemas.ovoko_api import Answer, InvalidAnswer, read_answer
from worker.failure import refused_certificate
from worker.ovoko_api.failure import OvokoAnsweredOddly, OvokoRefused, OvokoUnavailable

LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes. A page of 100 parts with their photos' addresses comes to some hundred thousand."""

LONGEST_MESSAGE = 120


@dataclass(frozen=True, slots=True)
class Credentials:
    """The three form fields that every call carries."""

    username: str
    password: str = field(repr=False)
    user_token: str = field(repr=False)

    def as_form(self) -> dict[str, str]:
        return {"username": self.username, "password": self.password, "user_token": self.user_token}

    def are_in(self, text: str) -> bool:
        """Whether one that is secret is."""
        return self.password in text or self.user_token in text


class NotNow(OvokoUnavailable):
    """A failure that is worth another attempt, after `wait` where the answer names one."""

    def __init__(self, words: str, wait: timedelta | None = None) -> None:
        super().__init__(words)
        self.wait = wait


async def exchange(
    client: httpx.AsyncClient,
    credentials: Credentials,
    path: str,
    query: Mapping[str, str | int],
    *,
    within: timedelta,
) -> Answer:
    """Post once and read the answer: a success, or one that says that there is no such thing.

    `status_code` in the body decides, whatever the HTTP status.

    Raises:
        NotNow
        OvokoRefused
        OvokoAnsweredOddly
    """
    try:
        async with (
            asyncio.timeout(within.total_seconds()),
            client.stream("POST", path, params=query, data=credentials.as_form()) as response,
        ):
            body = await _body(response, path)
    except TimeoutError:
        raise NotNow(f"{path}: no answer within {within.total_seconds():g} s") from None
    except httpx.HTTPError as error:
        why = refused_certificate(error) or type(error).__name__
        raise NotNow(f"{path}: {why}") from error
    return _judged(response, body, credentials, path)


async def _body(response: httpx.Response, path: str) -> bytes:
    if response.is_redirect or 300 <= response.status_code < 400:
        raise OvokoAnsweredOddly(f"{path}: sends us elsewhere (HTTP {response.status_code}): not followed")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise OvokoAnsweredOddly(f"{path}: the answer is compressed, which was not asked for")
    declared = response.headers.get("content-length", "")
    body = bytearray()
    if not (declared.isdecimal() and len(declared) < 20 and int(declared) > LARGEST_ANSWER):
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > LARGEST_ANSWER:
                break
        else:
            return bytes(body)
    raise OvokoAnsweredOddly(f"{path}: the answer is larger than {LARGEST_ANSWER:,} bytes")


def _judged(response: httpx.Response, body: bytes, credentials: Credentials, path: str) -> Answer:
    try:
        answer = read_answer(body)
    except InvalidAnswer as error:
        if is_worth_repeating(response.status_code):
            raise NotNow(f"{path}: HTTP {response.status_code}", _wait(response)) from None
        words = f"{path}: HTTP {response.status_code}, {error}"
        raise OvokoAnsweredOddly(words) from None
    if answer.is_success or answer.is_not_found:
        return answer
    words = f"{path}: {_said(answer.status_code, credentials)}"
    message = _said(answer.msg, credentials)
    words = f"{words} ({message})" if message else words
    if is_worth_repeating(response.status_code) or is_worth_repeating(_number(answer.status_code)):
        raise NotNow(words, _wait(response))
    raise OvokoRefused(words)


def is_worth_repeating(status: int) -> bool:
    """Too early, too many calls, or the server's own fault."""
    return status in (408, 425, 429) or 500 <= status < 600


def _number(status_code: str) -> int:
    """R500 counts as HTTP's 500."""
    digits = status_code.removeprefix("R")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) == 3 else 0


def _said(words: object, credentials: Credentials) -> str:
    """What the other side wrote, fit for a line: printable, short, and without our secrets."""
    if not isinstance(words, str):
        return ""
    if credentials.are_in(words):
        return "a text with our secrets in it"
    printable = "".join(character if character.isprintable() else " " for character in words)
    return printable[:LONGEST_MESSAGE].strip()


def _wait(response: httpx.Response) -> timedelta | None:
    """`Retry-After`, which is a number of seconds or a date; nothing where it is neither."""
    given = response.headers.get("retry-after", "").strip()
    if given.isascii() and given.isdecimal():
        return timedelta(seconds=min(int(given[:9]), 10**8))
    try:
        date = parsedate_to_datetime(given)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(date - datetime.now(UTC), timedelta(0))
