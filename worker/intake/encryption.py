"""Bank details are encrypted before anything else sees them."""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from unicodedata import normalize

from cryptography.fernet import InvalidToken, MultiFernet

from schemas.events import read_json
from worker.intake.json_bytes import (
    Replacement,
    members,
    string_values,
    with_replaced,
)
from worker.observability.errors import StockhookError

# The members that hold bank details, wherever they stand, as `_plain_name` spells them.
SEALED_MEMBERS = frozenset({"customerpaymentdetails", "bankaccount"})

# How an encrypted string begins: one that holds JSON with bank details in it.
SEALED_STRING = "stockhook-sealed:"

# Of a shorter account number the last four characters would give away too much.
_SHORTEST_TO_SHOW = 5

# A body without any of these contains no bank details, and no string to encrypt. An ASCII name without
# escapes is spelled with these letters, and only white space and punctuation between them.
_SPELLED = tuple(r"[\W_]*+".join(name) for name in sorted(SEALED_MEMBERS))
_MAY_HOLD = re.compile(
    "|".join((*_SPELLED, SEALED_STRING, r"[\\\x80-\xff]")).encode(),
    re.IGNORECASE,
)

# A lower bound of the length of JSON with bank details: a character may stand for several letters.
_SHORTEST_JSON = len('{"":1}')

_WHITE_SPACE = b" \t\n\r"


def seal_payment_details(body: bytes, sealer: MultiFernet) -> bytes:
    """A valid document with its bank details encrypted; all else stays byte for byte.

    Encrypted are the values of members called `customerPaymentDetails` or `bankAccount`, at any depth, in any
    case, with any white space, punctuation or escapes in the name; and strings that hold JSON with such a
    member. In the place of a value stands `{"sealed": <Fernet token>, "accountNumberEnding": <last 4
    characters or null>}`, in that of a string a string. A null stays null.
    """

    def seal(value: bytes) -> bytes:
        details = value.strip(_WHITE_SPACE)
        if details == b"null":
            return value
        sealed = {
            "sealed": sealer.encrypt(details).decode(),
            "accountNumberEnding": _ending(read_json(details)),
        }
        return value.replace(details, json.dumps(sealed).encode())

    def seal_string(value: bytes) -> bytes:
        return f'"{SEALED_STRING}{sealer.encrypt(value).decode()}"'.encode()

    if not _MAY_HOLD.search(body):
        return body
    return with_replaced(
        body,
        (
            *(Replacement(start, end, seal) for start, end in _private_values(body)),
            *(Replacement(start, end, seal_string) for start, end in _private_strings(body)),
        ),
    )


class CannotUnseal(StockhookError):
    """None of the sealing keys opens what is sealed."""


def unsealed(body: bytes, sealer: MultiFernet | None) -> bytes:
    """The body before its bank details were encrypted, byte for byte.

    Raises:
        CannotUnseal
    """

    def open_(value: bytes) -> bytes:
        stripped = value.strip(_WHITE_SPACE)
        match read_json(stripped):
            case {"sealed": str() as token}:
                return value.replace(stripped, opened(token.encode(), sealer))
            case _:
                return value

    def open_string(value: bytes) -> bytes:
        return opened(value[len(SEALED_STRING) + 1 : -1], sealer)

    if not _MAY_HOLD.search(body):
        return body
    begins = f'"{SEALED_STRING}'.encode()
    return with_replaced(
        body,
        (
            *(Replacement(start, end, open_) for start, end in _private_values(body)),
            *(
                Replacement(start, end, open_string)
                for start, end in string_values(body)
                if body.startswith(begins, start)
            ),
        ),
    )


def opened(token: bytes, sealer: MultiFernet | None) -> bytes:
    """Raises: CannotUnseal."""
    if sealer is None:
        raise CannotUnseal("set STOCKHOOK_SEALING_KEYS: it is sealed")
    try:
        return sealer.decrypt(token)
    except InvalidToken as error:
        raise CannotUnseal("none of STOCKHOOK_SEALING_KEYS opens what is sealed in it") from error


def _private_values(body: bytes) -> Iterator[tuple[int, int]]:
    for member in members(body):
        if _plain_name(member.name) in SEALED_MEMBERS:
            yield member.value_start, member.end


def _private_strings(body: bytes) -> Iterator[tuple[int, int]]:
    for start, end in string_values(body):
        piece = body[start:end]
        # JSON in a string has its quotes escaped.
        if len(piece) < _SHORTEST_JSON or (b"\\" not in piece and SEALED_STRING.encode() not in piece):
            continue
        text = json.loads(piece.decode())
        if text.startswith(SEALED_STRING) or _holds_bank_details(text):
            yield start, end


def _holds_bank_details(text: str) -> bool:
    """Whether a text contains JSON with bank details in it, also in its strings recursively."""
    if len(text) < _SHORTEST_JSON or '"' not in text:
        return False
    # Escapes of a lone surrogate may be in it: this is only looked at.
    body = text.encode(errors="surrogatepass")
    if not _MAY_HOLD.search(body):
        return False
    if any(_private_values(body)):
        return True
    for start, end in string_values(body):
        piece = body[start:end]
        if len(piece) < _SHORTEST_JSON or b"\\" not in piece:
            continue
        try:
            inner = json.loads(piece.decode(errors="surrogatepass"))
        except ValueError:
            continue
        if _holds_bank_details(inner):
            return True
    return False


@lru_cache(maxsize=4096)
def _plain_name(name: str) -> str:
    """A member's name without case, white space and punctuation."""
    return re.sub(r"[\W_]+", "", normalize("NFKC", name)).casefold()


def _ending(details: Any) -> str | None:
    match details:
        case {"bankAccount": {"accountNumber": str() as number}} if len(number) >= _SHORTEST_TO_SHOW:
            return number[-4:]
        case {"accountNumber": str() as number} if len(number) >= _SHORTEST_TO_SHOW:
            return number[-4:]
        case _:
            return None
