"""Who is told of changes over HTTP: what the settings may say, and how a message is signed."""

import json
from typing import Any

import pytest

from worker.change_feed.endpoint import signed_headers
from worker.config.settings import BadSettings, read_settings
from worker.config.subscribers import read_subscribers

SHOP = {
    "name": "shop",
    "url": "https://shop.example/hooks",
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


def test_a_message_is_signed_as_the_standard_shows() -> None:
    """Source: the example of the Standard Webhooks and Svix documents."""
    (subscriber,) = read_subscribers(json.dumps([SHOP]))
    headers = signed_headers(
        subscriber.key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )

    assert headers == [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Shop 1"}, "0.name"),
        ({"url": "ftp://shop.example"}, "must start with https://"),
        ({"url": "https://user:secret-canary@shop.example"}, "neither user nor fragment"),
        ({"url": "https://shop.example/#secret-canary"}, "neither user nor fragment"),
        ({"url": "https://shop.example:99999/secret-canary"}, "0.url: must have a port from 1 to 65535"),
        ({"url": "https://shop..example/secret-canary"}, "0.url: has a host that is neither"),
        ({"url": "https://[shop]/secret-canary"}, "0.url: cannot be parsed"),
        ({"url": "https://shop.example/\r\nsecret-canary"}, "0.url: has a blank or a control character"),
        ({"url": "https:///secret-canary"}, "0.url: must name a host"),
        ({"secret": "secret-canary"}, "whsec_ and the base64"),
        ({"secret": "whsec_c2VjcmV0LWNhbmFyeQ=="}, "24 to 64 bytes"),
        ({"types": []}, "0.types"),
        ({"typos": ["part.*"]}, "0.typos"),
    ],
)
def test_what_is_wrong_is_named_without_its_value(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="0") as refused:
        read_subscribers(json.dumps([{**SHOP, **change}]))

    assert words in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://bücher.example/hooks", "https://xn--bcher-kva.example/hooks"),
        (
            "https://shop.example/neue bestände/ö?a=ü b",
            "https://shop.example/neue%20best%C3%A4nde/%C3%B6?a=%C3%BC%20b",
        ),
        ("https://shop.example/a%20b?c=%C3%B6", "https://shop.example/a%20b?c=%C3%B6"),
        ("https://[2a00::1]:8443/hooks", "https://[2a00::1]:8443/hooks"),
    ],
)
def test_a_url_is_encoded_as_it_goes_over_the_wire(url: str, expected: str) -> None:
    (subscriber,) = read_subscribers(json.dumps([{**SHOP, "url": url}]))

    assert subscriber.url == expected


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        read_subscribers(json.dumps([SHOP, SHOP]))


def test_an_ipv6_address_cannot_be_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOOK_CHANGES_PROXY", "http://proxy:3128")
    monkeypatch.setenv("STOCKHOOK_CHANGES_WEBHOOKS", json.dumps([{**SHOP, "url": "https://[2a00::1]/hooks"}]))

    with pytest.raises(
        BadSettings, match=r"^STOCKHOOK_CHANGES_WEBHOOKS: shop: must have a host name, not an IPv6"
    ):
        read_settings()
