"""The documented shape of a body, and which of its values are harmless enough to be shown."""

import re
from collections.abc import Callable, Mapping

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_WORD = re.compile(r"[A-Za-z][A-Za-z_.]{0,63}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]{5,18}(Z|[+-]\d\d:?\d\d)?")
_AMOUNT = re.compile(r"-?\d{1,9}(\.\d{1,7})?")
_IBAN = re.compile(r"[A-Za-z]{2}\d{2}[A-Za-z0-9]{11,30}")

# An object's members by name, `[…]` for a list, and for a value that may be shown a check of its form.
# Everything else is hidden.
Shape = Mapping[str, "Shape"] | list["Shape"] | Callable[[object], bool]


def is_id(value: object) -> bool:
    looks_like_one = is_integer(value) or (isinstance(value, str) and bool(_ID.fullmatch(value)))
    return looks_like_one and not _may_be_an_account(str(value))


def _may_be_an_account(text: str) -> bool:
    """An IBAN, or a card's number (ISO 7812: its last digit is a checksum)."""
    bare = re.sub(r"[_.:-]", "", text)
    if _IBAN.fullmatch(bare):
        return True
    if not (bare.isdecimal() and 13 <= len(bare) <= 19):
        return False
    digits = [int(digit) for digit in reversed(bare)]
    return sum(digits[0::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0


def is_word(value: object) -> bool:
    return isinstance(value, str) and bool(_WORD.fullmatch(value))


def is_instant(value: object) -> bool:
    return isinstance(value, str) and bool(_INSTANT.fullmatch(value))


def is_amount(value: object) -> bool:
    return not isinstance(value, bool) and bool(_AMOUNT.fullmatch(str(value)))


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_boolean(value: object) -> bool:
    return isinstance(value, bool)
