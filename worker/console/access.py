"""Who requests something, and whether the user may: sessions, trusted proxies, roles, forged requests."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from time import monotonic
from urllib.parse import parse_qsl

import structlog
from starlette.requests import Request
from starlette.responses import Response

from worker.config.console_accounts import (
    BLOCK_SIZE,
    COST,
    HASH_BYTES,
    PASSES,
    SALT_BYTES,
    PasswordHash,
    Role,
)
from worker.config.settings import Settings
from worker.console.boundary import Caller
from worker.console.sessions import Session, Sessions, User
from worker.console.throttle import Throttle

log = structlog.get_logger(__name__)

COOKIE = "stockhook_console"

# A group of a proxy's user that gives a role.
GROUP_PREFIX = "stockhook-"

LONGEST_FORM_BYTES = 1_048_576
MOST_FIELDS = 1000

LONGEST_PASSWORD = 1024

# Passwords that wait to be checked. Each check takes 32 MB and a tenth of a second.
MOST_WAITING = 16


class Refused(Exception):
    """The text says what is refused and why, in a sentence for the user."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = dict(headers or {})


class SignInNeeded(Refused):
    def __init__(self) -> None:
        super().__init__(401, "Sign in first.")


class Access:
    """The accounts, their sessions, and the users of trusted proxies."""

    def __init__(self, settings: Settings) -> None:
        self._accounts = {account.name: account for account in settings.console_accounts}
        self._user_header = settings.console_proxy_user_header
        self._groups_header = settings.console_proxy_groups_header
        self._sessions = Sessions(timedelta(hours=settings.console_session_hours))
        self._throttle = Throttle()
        self._waiting = 0
        # For names that no account has, so that the answer takes as long.
        self._decoy = PasswordHash(COST, BLOCK_SIZE, PASSES, bytes(SALT_BYTES), bytes(HASH_BYTES))
        # One at a time: each takes memory.
        self._checking = ThreadPoolExecutor(1, "passwords")

    @property
    def has_accounts(self) -> bool:
        return bool(self._accounts)

    def session(self, request: Request) -> Session:
        """The session of a request.

        Raises:
            SignInNeeded
            Refused: The proxy's user has no role here.
        """
        caller: Caller = request.scope["caller"]
        user = self._proxied_user(request) if caller.is_trusted_proxy else None
        if user is not None:
            return self._sessions.of_proxy(user, datetime.now(UTC))
        session = self._sessions.get(request.cookies.get(_cookie_name(caller), ""), datetime.now(UTC))
        if session is None:
            raise SignInNeeded
        return session

    def is_alive(self, session: Session, request: Request) -> bool:
        """Whether a session that a long answer belongs to has not ended meanwhile."""
        try:
            return self.session(request) is session
        except Refused:
            return False

    async def sign_in(self, request: Request, name: str, password: str) -> str:
        """The secret for the cookie of a new session.

        Raises:
            Refused: The name or the password is wrong, or there were too many attempts.
        """
        caller: Caller = request.scope["caller"]
        # A name of any length needs bounded memory.
        keys = (f"address {caller.network}", f"name {name[:64]}")
        wait = max(self._throttle.wait_seconds(key, monotonic()) for key in keys)
        if wait > 0 or self._waiting >= MOST_WAITING:
            seconds = max(1, round(wait))
            log.warning("console.sign_in_throttled", user=name[:64], address=caller.address)
            raise Refused(429, f"Too many attempts: try again in {seconds} s.", {"Retry-After": str(seconds)})
        for key in keys:
            self._throttle.spend(key, monotonic())
        account = self._accounts.get(name)
        if not await self._matches(account.password if account else self._decoy, password) or not account:
            log.warning("console.sign_in_refused", user=name[:64], address=caller.address)
            raise Refused(401, "The name or the password is wrong.")
        for key in keys:
            self._throttle.forget(key)
        log.info("console.signed_in", user=name, address=caller.address)
        return self._sessions.begin(User(name, account.roles), datetime.now(UTC))

    def set_cookie(self, request: Request, response: Response, secret: str) -> None:
        caller: Caller = request.scope["caller"]
        response.set_cookie(
            _cookie_name(caller),
            secret,
            path="/",
            secure=caller.is_encrypted,
            httponly=True,
            samesite="lax",
        )

    def sign_out(self, request: Request, response: Response) -> None:
        """End the session of the cookie, on this side and in the browser."""
        caller: Caller = request.scope["caller"]
        self._sessions.end(request.cookies.get(_cookie_name(caller), ""))
        response.delete_cookie(
            _cookie_name(caller), path="/", secure=caller.is_encrypted, httponly=True, samesite="lax"
        )

    async def _matches(self, expected: PasswordHash, password: str) -> bool:
        if len(password) > LONGEST_PASSWORD:
            return False
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._checking, expected.matches, password)
        finally:
            self._waiting -= 1

    def _proxied_user(self, request: Request) -> User | None:
        """Raises: Refused."""
        if self._user_header is None:
            return None
        names = request.headers.getlist(self._user_header)
        if not names:
            return None
        if len(names) > 1 or not names[0].strip():
            raise Refused(403, f"The proxy sent no clear name in {self._user_header}.")
        roles = self._roles(request)
        if not roles:
            raise Refused(403, f"You are in no group of the console, such as {GROUP_PREFIX}{Role.READER}.")
        return User(names[0].strip()[:128], roles, "proxy")

    def _roles(self, request: Request) -> frozenset[Role]:
        if self._groups_header is None:
            return frozenset({Role.READER})
        listed = ",".join(request.headers.getlist(self._groups_header)).split(",")
        # Some identity providers write groups as paths.
        groups = {group.strip().removeprefix("/") for group in listed}
        roles = frozenset(role for role in Role if GROUP_PREFIX + role in groups)
        return roles | {Role.READER} if roles else roles


def require(session: Session, role: Role) -> None:
    """Raises: Refused."""
    if role not in session.user.roles:
        raise Refused(403, f"This needs the role {role}, which {session.user.name} does not have.")


def require_own_origin(request: Request) -> None:
    """A browser says where a form came from: it must be this console, under the name that was requested.

    Raises:
        Refused
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is None and origin is None:
        raise Refused(403, "The request does not say where it came from (Origin, Sec-Fetch-Site).")
    if site not in (None, "same-origin") or (
        origin is not None and origin.partition("://")[2] != request.headers.get("host")
    ):
        raise Refused(
            403,
            "The request came from a page of another host. A proxy in front of the console must pass the "
            "Host header on.",
        )


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. Of fields with the same name, the last one counts.

    Raises:
        Refused
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != (
        "application/x-www-form-urlencoded"
    ):
        raise Refused(415, "A form must be application/x-www-form-urlencoded.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM_BYTES:
            raise Refused(413, f"A form has {LONGEST_FORM_BYTES:,} bytes at most.")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        raise Refused(400, "The form cannot be read.") from None


def _cookie_name(caller: Caller) -> str:
    """Behind TLS, a name that no other site of the same domain can set."""
    return f"__Host-{COOKIE}" if caller.is_encrypted else COOKIE
