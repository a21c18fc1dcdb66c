"""Private members of a body are encrypted before anything else sees them."""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase
from unicodedata import normalize

from cryptography.fernet import InvalidToken, MultiFernet

from schemas.events import read_json
from worker.intake.json_bytes import (
    Replacement,
    members,
    string_values,
    with_replaced,
)
from worker.marketplaces.contract import PrivateMembers
from worker.observability.errors import StockhookError

# How an encrypted string begins: one that holds JSON with private members in it.
ENCRYPTED_STRING = "stockhook-sealed:"

# How every Fernet token begins: a body that was encrypted whole is one.
_ENCRYPTED_WHOLE = b"gAAAA"

# A lower bound of the length of JSON with a private member: a character may stand for several letters.
_SHORTEST_JSON = len('{"":1}')

_WHITE_SPACE = b" \t\n\r"

# Of ASCII.
_TO_LOWER_CASE = bytes.maketrans(ascii_uppercase.encode(), ascii_lowercase.encode())
_PUNCTUATION = bytes(code for code in range(128) if not chr(code).isalnum())


class NoUsableKey(StockhookError):
    """No key is set, or none of the keys decrypts the value."""


def encrypt_members(body: bytes, private: PrivateMembers, encryptor: MultiFernet) -> bytes:
    """A valid document with its private members encrypted; all else stays byte for byte.

    Encrypted are the values of members of these names, at any depth, in any case, with any white space,
    punctuation or escapes in the name; and strings that hold JSON with such a member. In the place of a
    value stands `{"sealed": <Fernet token>, …}` with its excerpt, in that of a string a string. A null stays
    null.
    """

    def encrypt(value: bytes) -> bytes:
        plain = value.strip(_WHITE_SPACE)
        if plain == b"null":
            return value
        encrypted = {"sealed": encryptor.encrypt(plain).decode(), **private.excerpt(read_json(plain))}
        return value.replace(plain, json.dumps(encrypted).encode())

    def encrypt_string(value: bytes) -> bytes:
        return f'"{ENCRYPTED_STRING}{encryptor.encrypt(value).decode()}"'.encode()

    names = private.names
    if not _may_hold(body, names):
        return body
    return with_replaced(
        body,
        (
            *(Replacement(start, end, encrypt) for start, end in _private_values(body, names)),
            *(Replacement(start, end, encrypt_string) for start, end in _private_strings(body, names)),
        ),
    )


def decrypt_members(body: bytes, private: PrivateMembers, encryptor: MultiFernet | None) -> bytes:
    """The body before its private members were encrypted, byte for byte.

    Raises:
        NoUsableKey
    """

    def decrypt(value: bytes) -> bytes:
        stripped = value.strip(_WHITE_SPACE)
        match read_json(stripped):
            case {"sealed": str() as token}:
                return value.replace(stripped, decrypted(token.encode(), encryptor))
            case _:
                return value

    def decrypt_string(value: bytes) -> bytes:
        return decrypted(value[len(ENCRYPTED_STRING) + 1 : -1], encryptor)

    names = private.names
    if not _may_hold(body, names):
        return body
    begins = f'"{ENCRYPTED_STRING}'.encode()
    return with_replaced(
        body,
        (
            *(Replacement(start, end, decrypt) for start, end in _private_values(body, names)),
            *(
                Replacement(start, end, decrypt_string)
                for start, end in string_values(body)
                if body.startswith(begins, start)
            ),
        ),
    )


def is_encrypted_whole(body: bytes) -> bool:
    return body.startswith(_ENCRYPTED_WHOLE)


def decrypted(token: bytes, encryptor: MultiFernet | None) -> bytes:
    """Raises: NoUsableKey."""
    if encryptor is None:
        raise NoUsableKey("it is encrypted: set STOCKHOOK_SEALING_KEYS")
    try:
        return encryptor.decrypt(token)
    except InvalidToken as error:
        raise NoUsableKey("none of STOCKHOOK_SEALING_KEYS decrypts it") from error


def _may_hold(body: bytes, names: frozenset[str]) -> bool:
    """False if a body contains neither such a member nor an encrypted string. Fast, and often right.

    The whole body is compared as a name is. Quotes separate a name from what is beside it, also in its normal
    form. Escapes can spell any name.
    """
    if b"\\" in body:
        return True
    if body.isascii():
        plain = body.translate(_TO_LOWER_CASE, _PUNCTUATION).decode()
    else:
        plain = _without_punctuation(body.decode(errors="replace"))
    return _ENCRYPTED_STRING_NAME in plain or any(name in plain for name in names)


def _private_values(body: bytes, names: frozenset[str]) -> Iterator[tuple[int, int]]:
    for member in members(body):
        if _plain_name(member.name) in names:
            yield member.value_start, member.end


def _private_strings(body: bytes, names: frozenset[str]) -> Iterator[tuple[int, int]]:
    if b"\\" not in body and ENCRYPTED_STRING.encode() not in body:
        return
    for start, end in string_values(body):
        piece = body[start:end]
        # JSON in a string has its quotes escaped.
        if len(piece) < _SHORTEST_JSON or (b"\\" not in piece and ENCRYPTED_STRING.encode() not in piece):
            continue
        text = json.loads(piece.decode())
        if text.startswith(ENCRYPTED_STRING) or _holds_private_members(text, names):
            yield start, end


def _holds_private_members(text: str, names: frozenset[str]) -> bool:
    """Whether a text contains JSON with such a member, also in its strings recursively."""
    if len(text) < _SHORTEST_JSON or '"' not in text:
        return False
    # Escapes of a lone surrogate may be in it: this is only looked at.
    body = text.encode(errors="surrogatepass")
    if not _may_hold(body, names):
        return False
    if any(_private_values(body, names)):
        return True
    for start, end in string_values(body):
        piece = body[start:end]
        if len(piece) < _SHORTEST_JSON or b"\\" not in piece:
            continue
        try:
            inner = json.loads(piece.decode(errors="surrogatepass"))
        except ValueError:
            continue
        if _holds_private_members(inner, names):
            return True
    return False


@lru_cache(maxsize=4096)
def _plain_name(name: str) -> str:
    """A member's name without case, white space and punctuation."""
    return _without_punctuation(name)


def _without_punctuation(text: str) -> str:
    return re.sub(r"[\W_]+", "", normalize("NFKC", text)).casefold()


_ENCRYPTED_STRING_NAME = _without_punctuation(ENCRYPTED_STRING)
