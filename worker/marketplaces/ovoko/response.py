"""The meaning of an answer of Ovoko's API: `status_code` in its body decides, not the HTTP status."""

from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus

import httpx

from schemas.ovoko_api import Answer, InvalidAnswer, read_answer
from worker.marketplaces.http import (
    LONGEST_RETRY_AFTER,
    CallRefused,
    CredentialsRefused,
    Unavailable,
    UnexpectedResponse,
    is_worth_repeating,
    retry_after,
)
from worker.observability.inert_text import visible

LONGEST_MESSAGE = 120


def judged(response: httpx.Response, body: bytes, is_secret: Callable[[str], bool]) -> Answer:
    """A successful answer, or one for a missing entity. `is_secret` returns whether a text must not be shown.

    Raises:
        Unavailable
        CredentialsRefused
        CallRefused
        UnexpectedResponse
    """
    status = response.status_code
    if 300 <= status < 400:
        raise UnexpectedResponse(f"answered with a redirect ({status}), which is not followed")
    try:
        answer = read_answer(body)
    except InvalidAnswer as error:
        text = f"HTTP {status}"
        if is_worth_repeating(status):
            raise _later(text, response) from None
        raise UnexpectedResponse(f"{text}, {error}") from None
    if answer.is_success or answer.is_not_found:
        return answer
    text = _shown_text(answer.status_code, is_secret)
    if message := _shown_text(answer.msg, is_secret):
        text = f"{text} ({message})"
    if is_worth_repeating(status) or is_worth_repeating(_number(answer.status_code)):
        raise _later(text, response)
    if _number(answer.status_code) == HTTPStatus.UNAUTHORIZED:
        raise CredentialsRefused(status, text=text)
    raise CallRefused(status, text=text)


def _number(status_code: str) -> int:
    """R500 counts as HTTP's 500."""
    digits = status_code.removeprefix("R")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) == 3 else 0


def _later(text: str, response: httpx.Response) -> Unavailable:
    wait = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
    if wait is not None and wait > LONGEST_RETRY_AFTER:
        text = f"{text}, and requests a delay of {wait.total_seconds():.0f} s"
    return Unavailable(text, retry_after=wait)


def _shown_text(text: object, is_secret: Callable[[str], bool]) -> str:
    """A text of the answer that can be shown: printable, short, and without our secrets."""
    if not isinstance(text, str):
        return ""
    if is_secret(text):
        return "a text with our secrets in it"
    return visible(text.strip())[:LONGEST_MESSAGE]
