"""What an answer of Ovoko's API means: `status_code` in its body decides, whatever the HTTP status."""

from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus

import httpx

from schemas.ovoko_api import Answer, InvalidAnswer, read_answer
from worker.marketplaces.http import (
    LONGEST_RETRY_AFTER,
    Refused,
    Unauthorized,
    Unavailable,
    UnexpectedResponse,
    is_worth_repeating,
    retry_after,
)
from worker.observability.inert_text import visible

LONGEST_MESSAGE = 120


def judged(response: httpx.Response, body: bytes, is_secret: Callable[[str], bool]) -> Answer:
    """A success, or the word that there is no such thing; `is_secret` says of a text whether to keep it back.

    Raises:
        Unavailable
        Unauthorized
        Refused
        UnexpectedResponse
    """
    status = response.status_code
    if 300 <= status < 400:
        raise UnexpectedResponse(f"answered with a redirect ({status}), which is not followed")
    try:
        answer = read_answer(body)
    except InvalidAnswer as error:
        words = f"HTTP {status}"
        if is_worth_repeating(status):
            raise _later(words, response) from None
        raise UnexpectedResponse(f"{words}, {error}") from None
    if answer.is_success or answer.is_not_found:
        return answer
    words = _said(answer.status_code, is_secret)
    if message := _said(answer.msg, is_secret):
        words = f"{words} ({message})"
    if is_worth_repeating(status) or is_worth_repeating(_number(answer.status_code)):
        raise _later(words, response)
    if _number(answer.status_code) == HTTPStatus.UNAUTHORIZED:
        raise Unauthorized(status, text=words)
    raise Refused(status, text=words)


def _number(status_code: str) -> int:
    """R500 counts as HTTP's 500."""
    digits = status_code.removeprefix("R")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) == 3 else 0


def _later(words: str, response: httpx.Response) -> Unavailable:
    wait = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
    if wait is not None and wait > LONGEST_RETRY_AFTER:
        words = f"{words}, and asks to wait for {wait.total_seconds():.0f} s"
    return Unavailable(words, retry_after=wait)


def _said(words: object, is_secret: Callable[[str], bool]) -> str:
    """What the other side wrote, fit for a line: printable, short, and without our secrets."""
    if not isinstance(words, str):
        return ""
    if is_secret(words):
        return "a text with our secrets in it"
    return visible(words.strip())[:LONGEST_MESSAGE]
