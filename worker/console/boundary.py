"""What every request must fulfil before a route sees it, and the headers that every answer has."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.config.settings import PREFIX, Settings
from worker.ingest.trusted_proxies import TrustedProxies, network_key, read_address, read_forwarded

ALIVE = "/livez"

# Names of this machine, which no other machine can give to one of its own.
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # The address of a page is sent to the console alone. Without it, forms would have no origin.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from. `network` is one client for limits; `is_encrypted` up to the browser."""

    address: str
    network: str
    is_trusted_proxy: bool
    is_this_machine: bool
    is_encrypted: bool


def caller_of(scope: Scope, proxies: TrustedProxies) -> Caller:
    """The client behind trusted proxies, or the peer itself."""
    peer = read_address(scope["client"][0]) if scope.get("client") else None
    headers = Headers(scope=scope)
    is_trusted = proxies.include(peer)
    address = proxies.client(peer, headers)
    forwarded = headers.get("x-forwarded-proto", "").strip().lower() if is_trusted else ""
    return Caller(
        address=address,
        network=network_key(read_forwarded(address)),
        is_trusted_proxy=is_trusted,
        is_this_machine=peer is not None and peer.is_loopback,
        is_encrypted="https" in (scope["scheme"], forwarded),
    )


class Boundary:
    """Answers `/livez`, removes the base path, refuses foreign hosts and plain HTTP from other machines."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._base_path = settings.console_base_path
        self._proxies = TrustedProxies(settings.console_trusted_proxies)
        own = settings.console_host.lower()
        self._hosts = {*LOOPBACK_HOSTS, *settings.console_hosts, f"[{own}]" if ":" in own else own}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if scope["path"] == ALIVE:
            # A probe knows the address of the process alone.
            refusal = PlainTextResponse("alive\n")
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        path: str = scope["path"]
        if self._base_path and f"{path}/".startswith(f"{self._base_path}/"):
            path = path.removeprefix(self._base_path) or "/"
        caller = caller_of(scope, self._proxies)
        await self._app(
            {**scope, "path": path, "raw_path": path.encode(), "caller": caller}, receive, _with_headers(send)
        )

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if _host_name(Headers(scope=scope).get("host", "")) not in self._hosts:
            return PlainTextResponse(f"set {PREFIX}CONSOLE_HOSTS to the names of the console\n", 421)
        caller = caller_of(scope, self._proxies)
        if not (caller.is_encrypted or caller.is_trusted_proxy or caller.is_this_machine):
            return PlainTextResponse("plain HTTP is for this machine and trusted proxies: use https\n", 403)
        return None


def _host_name(host: str) -> str:
    """The name in a Host header, without its port; an IPv6 address in brackets. Empty if unreadable."""
    try:
        netloc = urlsplit(f"//{host}").netloc
    except ValueError:
        return ""
    name = netloc.rpartition("]")[0] + "]" if netloc.startswith("[") else netloc.partition(":")[0]
    return name.lower().rstrip(".") if netloc == host else ""


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_with_headers
