"""The accounts of the console, as the settings name them: name, roles and a hash of the password."""

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import SecretStr

SCHEME = "scrypt"

# As OWASP recommends for scrypt: 32 MB, and three passes over them.
COST, BLOCK_SIZE, PASSES = 2**15, 8, 3
# What a hash may require: less is guessed too fast, more would take the memory of the process.
COSTS = range(2**14, 2**17 + 1)
MEMORY_BYTES = 160 * 2**20

SALT_BYTES = 16
HASH_BYTES = 32

# A name is part of the audit trail, and of a list with colons and commas.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

FORM = "must be NAME:ROLE:HASH, where the role may be several, as in operator+revealer"


class Role(StrEnum):
    """What a user of the console may do. Every user may read."""

    READER = "reader"
    OPERATOR = "operator"
    REVEALER = "revealer"


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A salted hash, with the parameters that made it. The text has no character that a shell changes."""

    cost: int
    block_size: int
    passes: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: str) -> Self:
        salt = os.urandom(SALT_BYTES)
        return cls(COST, BLOCK_SIZE, PASSES, salt, _digest(password, salt, COST, BLOCK_SIZE, PASSES))

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises: ValueError."""
        scheme, *numbers, salt, digest = text.split(".")
        cost, block_size, passes = map(int, numbers)
        # scrypt accepts powers of two.
        if scheme != SCHEME or cost not in COSTS or cost.bit_count() != 1:
            raise ValueError
        if not (block_size == BLOCK_SIZE and 1 <= passes <= 8):
            raise ValueError
        read = cls(cost, block_size, passes, _decoded(salt), _decoded(digest))
        if len(read.salt) < SALT_BYTES or len(read.digest) != HASH_BYTES:
            raise ValueError
        return read

    def __str__(self) -> str:
        parts = (SCHEME, self.cost, self.block_size, self.passes, _encoded(self.salt), _encoded(self.digest))
        return ".".join(map(str, parts))

    def matches(self, password: str) -> bool:
        """Takes a tenth of a second or more of a core, and releases the interpreter meanwhile."""
        digest = _digest(password, self.salt, self.cost, self.block_size, self.passes)
        return hmac.compare_digest(digest, self.digest)


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    roles: frozenset[Role]
    password: PasswordHash


def read_accounts(entries: Sequence[SecretStr]) -> tuple[Account, ...]:
    """Raises: ValueError, which names the rule and the entry's number, not its text."""
    accounts = tuple(_account(entry.get_secret_value(), number) for number, entry in enumerate(entries, 1))
    if len({account.name for account in accounts}) < len(accounts):
        raise ValueError("must name each user once")
    return accounts


def _account(entry: str, number: int) -> Account:
    name, _, rest = entry.partition(":")
    roles, _, text = rest.partition(":")
    if not _NAME.fullmatch(name) or not text:
        raise ValueError(f"entry {number} {FORM}")
    try:
        granted = frozenset(map(Role, roles.split("+")))
    except ValueError:
        raise ValueError(f"entry {number} has a role that is none of {', '.join(Role)}") from None
    try:
        password = PasswordHash.read(text)
    except ValueError:
        raise ValueError(
            f"entry {number} has no hash of a password: `stockhook console hash-password` makes one"
        ) from None
    return Account(name, granted | {Role.READER}, password)


def _digest(password: str, salt: bytes, cost: int, block_size: int, passes: int) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=cost,
        r=block_size,
        p=passes,
        maxmem=MEMORY_BYTES,
        dklen=HASH_BYTES,
    )


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    """Raises: ValueError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError from None
