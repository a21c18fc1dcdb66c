"""The console behind nginx with deploy/gateways/nginx-console.conf: TLS at the proxy, and a base path."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import httpx
import pytest

from deploy.local.services import CHECKOUT
from tests.support.authority import Authority, make_authority
from tests.support.console import PASSWORD, browser, console, sign_in, token_in
from tests.support.nginx import running_nginx
from tests.support.stack import Stack, free_port, until

SHIPPED = CHECKOUT / "deploy/gateways/nginx-console.conf"
# The address from which nginx connects, so that the tests themselves are no trusted proxy.
PROXY = "127.0.0.2"
SETTINGS = {
    "STOCKHOOK_CONSOLE_HOSTS": "console.example.com",
    "STOCKHOOK_CONSOLE_BASE_PATH": "/stockhook",
    "STOCKHOOK_CONSOLE_TRUSTED_PROXIES": PROXY,
}
BY_PROXY = {
    "STOCKHOOK_CONSOLE_PROXY_USER_HEADER": "X-Forwarded-User",
    "STOCKHOOK_CONSOLE_PROXY_GROUPS_HEADER": "X-Forwarded-Groups",
}
FORGED = {"X-Forwarded-User": "mallory", "X-Forwarded-Groups": "stockhook-operator,stockhook-revealer"}
# What a proxy that authenticates its users adds.
AUTHENTICATED = {
    'X-Forwarded-User "";': "X-Forwarded-User anna@example.com;",
    'X-Forwarded-Groups "";': "X-Forwarded-Groups staff,stockhook-reader;",
}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "tls")


@asynccontextmanager
async def proxied(
    stack: Stack,
    folder: Path,
    authority: Authority,
    changes: Mapping[str, str] | None = None,
    **settings: str,
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A browser that reaches the console by its public name alone, and the console's own URL."""
    port = free_port()
    async with console(stack, **{**SETTINGS, **settings}) as (url, _):
        text = SHIPPED.read_text()
        replaced = {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/stockhook/tls/certificate.pem": str(authority.certificate),
            "/etc/stockhook/tls/key.pem": str(authority.key),
            "proxy_pass http://127.0.0.1:8081;": f"proxy_pass {url}; proxy_bind {PROXY};",
            **(changes or {}),
        }
        for old, new in replaced.items():
            assert old in text, old
            text = text.replace(old, new)
        host = f"console.example.com:{port}"
        with running_nginx(folder, text):
            async with browser(f"https://127.0.0.1:{port}", Host=host, Origin=f"https://{host}") as client:
                await until(lambda: _answers(client), "nginx answers")
                yield client, url


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/")).status_code == 404
    except httpx.TransportError:
        return False


async def _sign_in(client: httpx.AsyncClient) -> httpx.Response:
    form = {"name": "anna", "password": PASSWORD, "next": "/families/orders"}
    return await client.post("/stockhook/sign-in", data=form, headers={"Sec-Fetch-Site": "same-origin"})


async def test_signing_in_and_out_behind_tls_and_a_path(
    stack: Stack, tmp_path: Path, authority: Authority
) -> None:
    async with proxied(stack, tmp_path, authority) as (client, _):
        first = await client.get("/stockhook/overview?since=1h")
        form = await client.get(first.headers["location"])
        signed_in = await _sign_in(client)
        cookie = signed_in.headers["set-cookie"]
        client.headers["Cookie"] = cookie.partition(";")[0]
        page = await client.get(signed_in.headers["location"])
        signed_out = await client.post("/stockhook/sign-out", data={"token": token_in(page.text)})
        after = await client.get("/stockhook/overview")
        bare = await client.get("/stockhook")

    assert first.headers["location"] == "/stockhook/sign-in?next=%2Foverview%3Fsince%3D1h"
    assert form.status_code == 200
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/stockhook/families/orders")
    # The prefix __Host- requires the path / and no domain.
    assert re.fullmatch(r"__Host-stockhook_console=[^;]+; HttpOnly; Path=/; SameSite=lax; Secure", cookie), (
        cookie
    )
    assert page.status_code == 200
    assert (signed_out.status_code, signed_out.headers["location"]) == (303, "/stockhook/sign-in")
    assert after.headers["location"].startswith("/stockhook/sign-in?")
    assert bare.status_code == 301
    assert bare.headers["location"].endswith("/stockhook/")


async def test_every_address_in_the_pages_has_the_base_path_and_answers(
    stack: Stack, tmp_path: Path, authority: Authority
) -> None:
    async with proxied(stack, tmp_path, authority) as (client, _):
        cookie = (await _sign_in(client)).headers["set-cookie"]
        client.headers["Cookie"] = cookie.partition(";")[0]
        pages = [(await client.get(f"/stockhook{path}")).text for path in ("/overview", "/families/orders")]
        form = (await client.get("/stockhook/sign-in")).text
        addresses = {
            address
            for page in (*pages, form)
            for address in re.findall(r'(?:href|src|action|formaction|hx-[a-z:-]+)="(/[^"]*)"', page)
        }
        read = {address for address in addresses if "live=1" not in address and "sign-out" not in address}
        answers = {address: await client.get(address.replace("&amp;", "&")) for address in sorted(read)}

    assert {address for address in addresses if not address.startswith("/stockhook/")} == set()
    # An action answers only to POST.
    assert {
        address: one.status_code for address, one in answers.items() if one.status_code not in (200, 405)
    } == {}
    assert any(address.endswith(".css") or ".css?" in address for address in addresses)
    assert any(".js" in address for address in addresses)
    assert any(".json" in address for address in addresses)


async def test_a_stream_arrives_as_it_is_sent(stack: Stack, tmp_path: Path, authority: Authority) -> None:
    """A proxy that buffers would send nothing before 8 kB, or before the end."""
    async with proxied(stack, tmp_path, authority) as (client, _):
        cookie = (await _sign_in(client)).headers["set-cookie"]
        headers = {"Cookie": cookie.partition(";")[0], "Accept-Encoding": "gzip"}
        arrived: list[float] = []
        async with asyncio.timeout(60):
            async with client.stream("GET", "/stockhook/families/orders?live=1", headers=headers) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert "content-encoding" not in answer.headers
                async for line in answer.aiter_lines():
                    if not line:
                        arrived.append(monotonic())
                    if len(arrived) == 4:
                        break

    # A viewer makes the poller take a snapshot at once, and then one every 2 s.
    assert arrived[2] - arrived[1] > 1
    assert arrived[3] - arrived[2] > 1


async def test_a_form_of_another_page_and_another_host_are_refused(
    stack: Stack, tmp_path: Path, authority: Authority
) -> None:
    async with proxied(stack, tmp_path, authority) as (client, url):
        form = {"name": "anna", "password": PASSWORD}
        foreign = await client.post(
            "/stockhook/sign-in", data=form, headers={"Origin": "https://elsewhere.example"}
        )
        host = await client.get("/stockhook/overview", headers={"Host": "elsewhere.example"})
        async with browser(url) as direct:
            past = await sign_in(direct, **{"X-Forwarded-Proto": "https"})

    assert foreign.status_code == 403
    assert host.status_code == 421
    # Only a trusted proxy may say that the browser uses TLS.
    assert past.headers["set-cookie"].startswith("stockhook_console=")


async def test_a_user_whom_a_browser_names_is_ignored(
    stack: Stack, tmp_path: Path, authority: Authority
) -> None:
    async with proxied(stack, tmp_path, authority, **BY_PROXY) as (client, url):
        through = await client.get("/stockhook/overview", headers=FORGED)
        async with browser(url) as direct:
            past = await direct.get("/overview", headers=FORGED)

    assert (through.status_code, past.status_code) == (303, 303)
    assert "/sign-in" in through.headers["location"]
    assert "/sign-in" in past.headers["location"]


@pytest.mark.parametrize("sent", [{}, FORGED], ids=["plain", "forged"])
async def test_the_user_whom_the_proxy_names_is_signed_in(
    stack: Stack, tmp_path: Path, authority: Authority, sent: dict[str, str]
) -> None:
    """Without accounts. What the browser says about itself is replaced."""
    settings = {**BY_PROXY, "STOCKHOOK_CONSOLE_USERS": ""}
    async with proxied(stack, tmp_path, authority, AUTHENTICATED, **settings) as (client, _):
        page = await client.get("/stockhook/overview", headers=sent)

    assert page.status_code == 200
    assert '<span class="user" title="reader">anna@example.com</span>' in page.text
    assert "mallory" not in page.text
