"""Signed-in users. Sessions are in the memory of this process: its end, and so a new password, ends them."""

import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from worker.config.console_accounts import Role

# The session that began first ends when there are more.
MOST_SESSIONS = 1000

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class User:
    """Who requests something. `how` is how the console knows: a password, or a trusted proxy."""

    name: str
    roles: frozenset[Role]
    how: str = "password"


@dataclass(frozen=True, slots=True)
class Notice:
    """What an action did, or why it was refused."""

    sentence: str
    is_refusal: bool = False


@dataclass(slots=True)
class Session:
    """`token` proves that a form came from a page of this session; `notice` is shown on the next page."""

    user: User
    ends_at: datetime
    token: bytes = field(default_factory=lambda: secrets.token_bytes(TOKEN_BYTES))
    notice: Notice | None = None

    def form_token(self) -> str:
        """The token, different each time, so that a compressed page does not reveal it bit by bit."""
        mask = secrets.token_bytes(TOKEN_BYTES)
        return (mask + _xor(mask, self.token)).hex()

    def accepts(self, form_token: str) -> bool:
        """Whether a form's token is one of this session."""
        try:
            data = bytes.fromhex(form_token)
        except ValueError:
            return False
        mask, masked = data[:TOKEN_BYTES], data[TOKEN_BYTES:]
        return len(data) == 2 * TOKEN_BYTES and hmac.compare_digest(_xor(mask, masked), self.token)

    def take_notice(self) -> Notice | None:
        notice, self.notice = self.notice, None
        return notice


class Sessions:
    """By the secret in the cookie, or by the name of a user whom a proxy has authenticated."""

    def __init__(self, lifetime: timedelta) -> None:
        self._lifetime = lifetime
        # The key says what it is: no cookie has the key of a proxy's user.
        self._sessions: OrderedDict[tuple[str, str], Session] = OrderedDict()

    def begin(self, user: User, now: datetime) -> str:
        """A new session; the secret for its cookie."""
        secret = secrets.token_urlsafe(TOKEN_BYTES)
        self._add(("cookie", secret), user, now)
        return secret

    def get(self, secret: str, now: datetime) -> Session | None:
        """None if it never began, has ended, or is too old."""
        return self._get(("cookie", secret), now)

    def of_proxy(self, user: User, now: datetime) -> Session:
        """The session of a user whom a trusted proxy names. Other roles than before begin another one."""
        key = ("proxy", user.name)
        session = self._get(key, now)
        if session is None or session.user != user:
            session = self._add(key, user, now)
        return session

    def end(self, secret: str) -> None:
        self._sessions.pop(("cookie", secret), None)

    def _get(self, key: tuple[str, str], now: datetime) -> Session | None:
        session = self._sessions.get(key)
        if session is not None and session.ends_at <= now:
            del self._sessions[key]
            return None
        return session

    def _add(self, key: tuple[str, str], user: User, now: datetime) -> Session:
        session = Session(user, now + self._lifetime)
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session


def _xor(first: bytes, second: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(first, second, strict=False))
