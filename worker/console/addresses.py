"""Addresses that hold foreign text."""

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote_to_bytes, urlencode

_ESCAPE = re.compile("~([0-9A-F]{2})")


def entity_path(family: str, entity_id: str) -> str:
    """The address of an entity: any id is one segment.

    `%2F` and `..` would not survive browsers and proxies, so each character but letters, digits, `-` and `_`
    is written as `~` and the hexadecimal digits of its UTF-8 bytes.
    """
    segment = quote(entity_id, safe="", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")
    return f"/entities/{quote(family, safe='')}/{segment.replace('%', '~')}"


def entity_in(segment: str) -> str:
    """The id in that segment; what is not written so stands for itself.

    Raises:
        ValueError: The bytes are no UTF-8.
    """
    percented = _ESCAPE.sub(r"%\1", segment.replace("%", "%25"))
    return unquote_to_bytes(percented).decode()


def with_query(path: str, parameters: Mapping[str, str | None]) -> str:
    """The address with those parameters that have a value."""
    query = urlencode({name: value for name, value in parameters.items() if value})
    return f"{path}?{query}" if query else path


def letter_path(dead_letter_id: int) -> str:
    return f"/dead-letters/{dead_letter_id}"
