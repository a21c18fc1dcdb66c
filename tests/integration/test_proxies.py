"""Connections through a proxy of the environment or the settings, and connections without."""

import os
import subprocess
import sys
from base64 import b64encode

import pytest
from pydantic import SecretStr

from tests.integration.test_ovoko_api import settings as ovoko_settings
from tests.support.endpoint import endpoint
from tests.support.http_proxy import http_proxy
from worker.amqp.management import Management, ManagementUnavailable
from worker.change_feed.endpoint import Endpoint, NotDelivered
from worker.config.check import CheckResult, Level
from worker.config.settings import BadSettings, Settings
from worker.config.signing_keys import SigningKey
from worker.marketplaces.http import Unavailable
from worker.marketplaces.ovoko.client import open_ovoko
from worker.simulator.ovoko_api import Ovoko, Part
from worker.simulator.router import Simulation
from worker.simulator.server import serving
from worker.tools.doctor.changes import check_changes
from worker.tools.doctor.configuration import check_configuration

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
KEYS = [SigningKey.read("whsec_" + "A" * 32)]
UNUSABLE = "socks5://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def say_everywhere(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, proxy)


@pytest.mark.parametrize(
    ("exempt", "is_used"), [("", True), ("fd02::/112, 10.0.0.0/8", True), ("127.0.0.0/8", False)]
)
async def test_a_marketplace_is_reached_through_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, exempt: str, is_used: bool
) -> None:
    ovoko = Ovoko()
    ovoko.parts[13] = Part(id=13, status=2)
    async with serving(Simulation({"ovoko": ovoko})) as port, http_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://us:p%40ss@"))
        monkeypatch.setenv("NO_PROXY", exempt)
        url = f"http://127.0.0.1:{port}/ovoko"
        async with open_ovoko(ovoko_settings(url)) as api:
            part = (await api.part("13")).row

    assert part is not None
    assert proxy.lines == ([f"POST {url}/get/part/13 HTTP/1.1"] if is_used else [])
    for request in proxy.requests:
        assert b"basic " + b64encode(b"us:p@ss").lower() in request.lower()


async def test_a_proxy_that_refuses_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_proxy(b"HTTP/1.1 407 canary\r\ncontent-length: 0\r\n\r\n") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with open_ovoko(ovoko_settings("https://api.example")) as api:
            with pytest.raises(Unavailable) as refused:
                await api.part("13")

    assert str(refused.value) == "the proxy refuses to connect with status 407"
    assert set(proxy.lines) == {"CONNECT api.example:443 HTTP/1.1"}


async def test_the_management_api_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint(lambda _: 401) as management, http_proxy() as proxy:
        say_everywhere(monkeypatch, proxy.url)
        with pytest.raises(ManagementUnavailable, match="status 401"):
            await Management(f"http://us:canary@127.0.0.1:{management.port}", "amqp://localhost/").snapshot()

    assert len(management.requests) == 1
    assert proxy.requests == []


@pytest.mark.parametrize("unusable", [UNUSABLE, "http://proxy:notaport"])
async def test_the_management_api_does_not_care_for_a_proxy_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, unusable: str
) -> None:
    say_everywhere(monkeypatch, unusable)
    monkeypatch.setenv("NO_PROXY", "fd02::/112")
    async with endpoint(lambda _: 401) as management:
        with pytest.raises(ManagementUnavailable, match="status 401"):
            await Management(f"http://us:canary@127.0.0.1:{management.port}", "amqp://localhost/").snapshot()


async def test_webhooks_do_not_go_through_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint() as shop, http_proxy() as proxy:
        say_everywhere(monkeypatch, proxy.url)
        target = Endpoint.of(shop.url, KEYS, connections=1, allow_private=True)
        await target.post("id.1", b"{}")
        await target.close()

    assert len(shop.taken) == 1
    assert proxy.requests == []


async def test_webhooks_go_through_the_proxy_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint() as shop, http_proxy() as proxy:
        say_everywhere(monkeypatch, UNUSABLE)
        url = Settings(changes_proxy=SecretStr(proxy.url.replace("://", "://us:p%40ss@"))).changes_proxy
        assert url is not None
        target = Endpoint.of(shop.url, KEYS, connections=1, allow_private=False, proxy=url.get_secret_value())
        await target.post("id.1", b"{}")
        await target.close()

    assert [request.body for request in shop.taken] == [b"{}"]
    assert proxy.lines == [f"POST {shop.url} HTTP/1.1"]
    assert b"proxy-authorization: basic " + b64encode(b"us:p@ss").lower() in proxy.requests[0].lower()


async def test_an_encrypted_webhook_is_tunnelled_by_name_and_a_refusal_is_reported() -> None:
    async with http_proxy(b"HTTP/1.1 403 canary\r\ncontent-length: 0\r\n\r\n") as proxy:
        target = Endpoint.of(
            "https://shop.example/hooks", KEYS, connections=1, allow_private=False, proxy=proxy.url
        )
        with pytest.raises(NotDelivered, match="the proxy refuses to connect to it"):
            await target.post("id.1", b"{}")
        await target.close()

    assert proxy.lines == ["CONNECT shop.example:443 HTTP/1.1"]


SUBSCRIBERS = SecretStr(
    '[{"name": "shop", "url": "https://shop.example/hooks", "secret": "whsec_' + "A" * 32 + '"}]'
)


async def test_doctor_reports_that_a_proxy_must_check_addresses() -> None:
    settings = Settings(
        changes_webhooks=SUBSCRIBERS,
        changes_proxy=SecretStr("http://us:canary@proxy.example:3128"),
        amqp_url=SecretStr("amqp://127.0.0.1:1/"),
    )
    findings = [finding async for finding in check_changes(settings)]

    assert findings == [
        CheckResult(
            Level.OK,
            "changes",
            "shop (shop.example) is reached through the proxy proxy.example:3128, which must refuse private "
            "addresses itself",
        )
    ]


def test_doctor_names_the_proxy_of_an_api(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ovoko_settings("https://api.example")

    def of_proxies() -> list[CheckResult]:
        return [finding for finding in check_configuration(settings) if finding.subject == "proxy"]

    assert of_proxies() == []
    monkeypatch.setenv("HTTPS_PROXY", "http://us:canary@proxy.example:3128")
    assert of_proxies() == [
        CheckResult(Level.OK, "proxy", "api.example is reached through proxy.example:3128 (HTTPS_PROXY)")
    ]
    monkeypatch.setenv("HTTPS_PROXY", UNUSABLE)
    (finding,) = of_proxies()
    assert finding.level is Level.ERROR
    assert "HTTPS_PROXY: must start with http:// or https://" in finding.what


OVOKO = {
    "STOCKHOOK_OVOKO_API_URL": "https://api.example",
    "STOCKHOOK_OVOKO_USERNAME": "merchant",
    "STOCKHOOK_OVOKO_PASSWORD": "password",
    "STOCKHOOK_OVOKO_USER_TOKEN": "token",
}
BUYBACK = {
    "STOCKHOOK_BUYBACK_API_URL": "https://api.example",
    "STOCKHOOK_BUYBACK_STS_URL": "https://sts.example",
    "STOCKHOOK_BUYBACK_CLIENT_ID": "client",
    "STOCKHOOK_BUYBACK_CLIENT_SECRET": "secret",
    "STOCKHOOK_BUYBACK_SELLER_ID": "seller",
    "STOCKHOOK_BUYBACK_REAL_IP": "127.0.0.1",
}


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("reconcile", "ovoko", "parts"), OVOKO),
        (("buyback", "shipment-capabilities", "order-1"), BUYBACK),
        (("consume",), OVOKO),
        (("consume", "buybacks"), BUYBACK),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_a_proxy_that_cannot_be_used_ends_a_command_with_one_sentence(
    arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        env={**os.environ, **environment, "ALL_PROXY": UNUSABLE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 78, done.stderr
    assert done.stderr.startswith("stockhook: ALL_PROXY: must start with http:// or https://")
    assert done.stderr.count("\n") == 1


async def test_an_authority_file_that_cannot_be_read_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(BadSettings, match="SSL_CERT_FILE or SSL_CERT_DIR cannot be read: No such file"):
        async with open_ovoko(ovoko_settings("https://api.example")):
            pass
