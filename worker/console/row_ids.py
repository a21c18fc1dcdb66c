"""Ids of rows, as addresses and forms have them."""

import re

LARGEST = 2**63 - 1


def row_id(text: str) -> int | None:
    """The number; None if the text is none, or is larger than any row's."""
    text = text.strip()
    if not re.fullmatch(r"[0-9]{1,19}", text):
        return None
    number = int(text)
    return number if number <= LARGEST else None
