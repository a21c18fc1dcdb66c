"""Subscribers of changes over HTTP: their settings, and the signatures of messages."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import standardwebhooks
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tests.support.signing import OTHER_SECRET, PRIVATE_KEY, PUBLIC_KEY, SECRET
from worker.change_feed.endpoint import Endpoint, signed_headers
from worker.config.check import Level
from worker.config.settings import BadSettings, read_settings
from worker.config.signing_keys import SigningKey
from worker.config.subscribers import read_subscribers
from worker.tools.doctor.changes import check_secrets

SHOP = {
    "name": "shop",
    "url": "https://shop.example/hooks",
    "secret": SECRET,
}


MESSAGE = ("msg_p5jXN8AQM9LWM0D4loKWxJek", datetime.fromtimestamp(1614265330, UTC), b'{"test": 2432232314}')
V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
# libsodium and Svix write a private key as its seed and its public key.
SEED = f"whsk_{base64.b64encode(base64.b64decode(PRIVATE_KEY.removeprefix('whsk_'))[:32]).decode()}"


def signature_for(secret: str | list[str], message: tuple[str, datetime, bytes] = MESSAGE) -> str:
    (subscriber,) = read_subscribers(json.dumps([{**SHOP, "secret": secret}]))
    return signed_headers(subscriber.keys, *message)["webhook-signature"]


def test_a_message_is_signed_as_the_standard_shows() -> None:
    """Source: the example of the Standard Webhooks and Svix documents."""
    (subscriber,) = read_subscribers(json.dumps([SHOP]))

    assert signed_headers(subscriber.keys, *MESSAGE) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": V1,
    }


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        ([SECRET], V1),
        (PRIVATE_KEY, V1A),
        (SEED, V1A),
        ([SECRET, PRIVATE_KEY], f"{V1} {V1A}"),
        ([PRIVATE_KEY, SECRET], f"{V1A} {V1}"),
    ],
)
def test_each_secret_signs_the_newest_first(secret: str | list[str], expected: str) -> None:
    assert signature_for(secret) == expected


@given(st.text(), st.lists(st.sampled_from([SECRET, OTHER_SECRET, PRIVATE_KEY]), unique=True, min_size=1))
def test_the_library_of_the_standard_accepts_it_with_each_secret(text: str, secrets: list[str]) -> None:
    """The library raises for a list that it cannot read, and skips `v1a`."""
    body, now = json.dumps(text).encode(), datetime.now(UTC)
    (subscriber,) = read_subscribers(json.dumps([{**SHOP, "secret": secrets}]))
    headers = signed_headers(subscriber.keys, "msg_1.0", now, body)

    for secret in {SECRET, OTHER_SECRET} & set(secrets):
        assert standardwebhooks.Webhook(secret).verify(body, headers) == text
    for secret in {SECRET, OTHER_SECRET} - set(secrets):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(secret).verify(body, headers)


@given(st.binary(), st.binary(min_size=32, max_size=32))
def test_the_public_key_suffices_to_verify(body: bytes, seed: bytes) -> None:
    secret = f"whsk_{base64.b64encode(seed).decode()}"
    (subscriber,) = read_subscribers(json.dumps([{**SHOP, "secret": secret}]))
    (key,) = subscriber.keys
    assert key.public_key is not None
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.public_key.removeprefix("whpk_")))
    version, _, signature = signature_for(secret, ("id", datetime.fromtimestamp(1, UTC), body)).partition(",")

    public.verify(base64.b64decode(signature), b"id.1." + body)
    assert version == "v1a"
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature), b"id.2." + body)


def test_the_public_key_of_a_private_one_is_that_of_the_documents() -> None:
    assert SigningKey.read(PRIVATE_KEY).public_key == SigningKey.read(SEED).public_key == PUBLIC_KEY


@pytest.mark.parametrize("secret", [SECRET, PRIVATE_KEY, [PRIVATE_KEY, SECRET]])
def test_a_secret_is_in_no_representation(monkeypatch: pytest.MonkeyPatch, secret: str | list[str]) -> None:
    monkeypatch.setenv("STOCKHOOK_CHANGES_WEBHOOKS", json.dumps([{**SHOP, "secret": secret}]))
    settings = read_settings()
    (subscriber,) = settings.subscribers
    target = Endpoint.of(subscriber.url, subscriber.keys, connections=1, allow_private=False)
    shown = " ".join(map(repr, (settings, settings.model_dump(), subscriber, subscriber.keys, target)))
    texts = [secret] if isinstance(secret, str) else secret

    for text in texts:
        _, _, encoded = text.partition("_")
        decoded = base64.b64decode(encoded)
        assert encoded[:20] not in shown
        assert repr(decoded)[2:20] not in shown
        assert decoded.hex() not in shown


@pytest.mark.parametrize(
    ("change", "message"),
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
        ({"secret": "whsec_secret-canary-ü"}, "24 to 64 bytes"),
        ({"secret": []}, "0.secret: must be a secret, or a list of 1 to 10"),
        ({"secret": [SECRET, "secret-canary"]}, "0.secret.1: must be whsec_ and the base64"),
        ({"secret": [SECRET, SECRET]}, "0.secret: must not list the same secret twice"),
        ({"secret": [f"whsec_{'A' * 31}{letter}" for letter in "ABCDEFGHIJK"]}, "a list of 1 to 10"),
        ({"secret": "whsk_c2VjcmV0LWNhbmFyeQ=="}, "(32 bytes, or 64 with the public key)"),
        ({"secret": f"{PRIVATE_KEY[:-8]}AAAAAA=="}, "not the public key of the first 32"),
        ({"secret": PUBLIC_KEY}, "must be whsec_ and the base64 of 24 to 64 bytes, or whsk_"),
        ({"secret": 13}, "0.secret"),
        ({"types": []}, "0.types"),
        ({"typos": ["part.*"]}, "0.typos"),
    ],
)
def test_an_invalid_setting_is_named_without_its_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="0") as refused:
        read_subscribers(json.dumps([{**SHOP, **change}]))

    assert message in str(refused.value)
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


def test_doctor_warns_of_a_secret_in_common_and_names_a_rotation() -> None:
    """A subscriber that knows the secret of another can forge its webhooks."""
    subscribers = read_subscribers(
        json.dumps(
            [
                {**SHOP, "secret": [PRIVATE_KEY, SECRET]},
                {**SHOP, "name": "desk", "secret": OTHER_SECRET},
                # The same key in its other form.
                {**SHOP, "name": "bay", "secret": SEED},
            ]
        )
    )

    assert [(finding.level, finding.what) for finding in check_secrets(subscribers)] == [
        (
            Level.OK,
            "shop: each change has several signatures (v1a, v1); `stockhook changes rotate shop` shows how "
            "to finish the rotation",
        ),
        (Level.WARNING, "shop and bay share a secret: each accepts changes for the other"),
    ]
