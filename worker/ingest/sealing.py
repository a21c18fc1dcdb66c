"""Bank details are encrypted before anything else sees them."""

import json
from typing import Any

from cryptography.fernet import MultiFernet

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


def _ending(details: Any) -> str | None:
    match details:
        case {"bankAccount": {"accountNumber": str() as number}} if len(number) >= _SHORTEST_TO_SHOW:
            return number[-4:]
        case _:
            return None
