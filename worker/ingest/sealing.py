"""Bank details are encrypted before anything else sees them."""

import json
from typing import Any

from cryptography.fernet import InvalidToken, MultiFernet

from schemas.events import read_json
from worker.ingest.body import with_replaced

SEALED_MEMBER = "customerPaymentDetails"

# Of a shorter account number the last four characters would give away too much.
_SHORTEST_TO_SHOW = 5


def seal_payment_details(body: bytes, sealer: MultiFernet) -> bytes:
    """Replace each `customerPaymentDetails` of a valid document by its ciphertext.

    What is left is `{"sealed": <Fernet token>, "accountNumberEnding": <last 4 characters or null>}`;
    a null stays null.
    """

    def seal(value: bytes) -> bytes:
        details = value.strip()
        if details == b"null":
            return value
        sealed = {
            "sealed": sealer.encrypt(details).decode(),
            "accountNumberEnding": _ending(read_json(details)),
        }
        return json.dumps(sealed).encode()

    return with_replaced(body, SEALED_MEMBER, seal)


class CannotUnseal(Exception):
    """None of the sealing keys opens what is sealed."""


def unsealed(body: bytes, sealer: MultiFernet | None) -> bytes:
    """The body before its bank details were sealed.

    Raises:
        CannotUnseal
    """

    def open_(value: bytes) -> bytes:
        match read_json(value.strip()):
            case {"sealed": str() as token}:
                return opened(token.encode(), sealer)
            case _:
                return value

    return with_replaced(body, SEALED_MEMBER, open_)


def opened(token: bytes, sealer: MultiFernet | None) -> bytes:
    """Raises: CannotUnseal."""
    if sealer is None:
        raise CannotUnseal("set STOCKHOOK_SEALING_KEYS: it is sealed")
    try:
        return sealer.decrypt(token)
    except InvalidToken as error:
        raise CannotUnseal("none of STOCKHOOK_SEALING_KEYS opens what is sealed in it") from error


def _ending(details: Any) -> str | None:
    match details:
        case {"bankAccount": {"accountNumber": str() as number}} if len(number) >= _SHORTEST_TO_SHOW:
            return number[-4:]
        case _:
            return None
