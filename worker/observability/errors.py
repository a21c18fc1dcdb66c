"""What may be reported of an exception outside the tables that store bodies.

Texts of exceptions quote values (a unique violation prints its key), so logs and headers get the
class, the SQLSTATE and the place in our code instead.
"""

import hashlib
import ssl
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from worker.observability.exit_codes import FAILED

_ROOT = Path(__file__).resolve().parents[2]
_OURS = ("worker", "consumers", "schemas")


class StockhookError(Exception):
    """An expected error. A command that ends with one prints its sentence and exits with its code.

    The text names what happened and where, without secrets and customer data. Exceptions of ours without this
    root are control flow: code of ours catches each of them, or a validation reports it.
    """

    exit_code: ClassVar[int] = FAILED

    @property
    def sentence(self) -> str:
        """What happened, where, and what to do next."""
        return str(self)


def reason_of(error: Exception) -> str:
    """The sentence of an expected error; of another one a summary, since its text may hold a value."""
    return error.sentence if isinstance(error, StockhookError) else safe_summary(error)


def safe_summary(error: BaseException) -> str:
    """Class, SQLSTATE if any, and where in our code it was raised; no value, 200 characters at most."""
    sqlstate = getattr(error, "sqlstate", None)
    parts = [type(error).__name__, f"[{sqlstate}]" if sqlstate else "", _place(error)]
    return " ".join(part for part in parts if part)[:200]


def refused_certificate(error: BaseException) -> str | None:
    """In words, if what lies behind an error is a certificate that we do not accept."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message.rstrip('.')}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it. One that several tasks raise again can be its own cause."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def fingerprint(error: BaseException) -> str:
    """Eight hex digits, the same for failures of one kind."""
    return hashlib.blake2b(safe_summary(error).encode(), digest_size=4).hexdigest()


def _place(error: BaseException) -> str:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS:
            return f"in {path.relative_to(_ROOT)}:{frame.name}"
    return ""
