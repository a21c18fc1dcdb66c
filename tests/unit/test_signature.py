"""Signatures of gateways: recomputed vectors, what must be refused, and the grammar of schemes."""

import base64
import json
import string
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.support.signing import verify
from worker.config.gateway import (
    CUSTOM,
    PRESETS,
    GatewayKey,
    SignatureScheme,
    read_key,
    read_keys,
    read_scheme,
)
from worker.intake.signature import Refused, Rule, Verified, compact, sign

SECRET = "stockhook-test-secret-0123456789"
ORDER = b'{"event_id":"0d9e4f3c-1111-4222-8333-944455566677","event_type":"order.created"}'
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_AT = 1614265330
STANDARD_V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
STANDARD_V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
PUBLIC_KEY = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
PRIVATE_KEY = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
CONVOY_SECRET = "convoy-webhook-secret"
CONVOY_BODY = b'{"event":"charge.success","amount":1000,"currency":"NGN"}'
CONVOY_V1 = "v1=77b8b9269f25a199846a55a2bd25b3fba151c70fdae60bb1dcd87fbbc943c55c"
CONVOY_SIMPLE = '{"separator": null, "timestamp_key": null, "version_key": null, "signed": "{body}"}'
AT = 1700000000

WOOCOMMERCE = '{"header": "X-WC-Webhook-Signature", "encoding": "base64"}'
SLACK = json.dumps(
    {
        "header": "X-Slack-Signature",
        "prefix": "v0=",
        "signed": "v0:{timestamp}:{body}",
        "timestamp_header": "X-Slack-Request-Timestamp",
    }
)


def standard(signature: str, brand: str = "webhook", **others: str) -> dict[str, str]:
    return {
        f"{brand}-signature": signature,
        f"{brand}-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        f"{brand}-timestamp": str(STANDARD_AT),
        **others,
    }


def check(
    scheme: SignatureScheme, secret: str, headers: dict[str, str], body: bytes, at: int
) -> Verified | Refused:
    now = datetime.fromtimestamp(at, UTC)
    return verify(scheme, [read_key(scheme, secret)], headers, body, now)


VECTORS = [
    pytest.param(
        "standard-webhooks", None, STANDARD_SECRET, standard(STANDARD_V1), STANDARD_BODY, STANDARD_AT, id="v1"
    ),
    pytest.param(
        "standard-webhooks", None, PUBLIC_KEY, standard(STANDARD_V1A), STANDARD_BODY, STANDARD_AT, id="v1a"
    ),
    pytest.param(
        "svix", None, STANDARD_SECRET, standard(STANDARD_V1, "svix"), STANDARD_BODY, STANDARD_AT, id="svix"
    ),
    pytest.param(
        "svix", None, STANDARD_SECRET, standard(STANDARD_V1), STANDARD_BODY, STANDARD_AT, id="svix-unbranded"
    ),
    pytest.param(
        "svix",
        None,
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        {
            "svix-id": "msg_loFOjxBNrRLzqYUf",
            "svix-timestamp": "1731705121",
            "svix-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
        },
        b'{"event_type":"ping","data":{"success":true}}',
        1731705121,
        id="svix-ping",
    ),
    pytest.param(
        "hookdeck",
        None,
        "test_hookdeck_secret",
        {"x-hookdeck-signature": "dyma6vPbJiLuMCIpVaOYUJhWBTZ3tO04E50Bt5fHWOo="},
        b'{"type":"test"}',
        AT,
        id="hookdeck",
    ),
    pytest.param(
        "hookdeck",
        None,
        "whsec_test_secret",
        {"x-hookdeck-signature": "RTilfSisjfEz7c0AY84mq9Vcd+C659EfsuNqv+NNEQo="},
        b'{"type":"charge.succeeded","id":"evt_1"}',
        AT,
        id="hookdeck-text-that-looks-encoded",
    ),
    pytest.param(
        "convoy",
        CONVOY_SIMPLE,
        CONVOY_SECRET,
        {"x-convoy-signature": "244449b7f48cbc2709060c9dcdc2b3aa47a78f540430579015c579fb12defbb4"},
        CONVOY_BODY,
        AT,
        id="convoy-simple",
    ),
    pytest.param(
        "convoy",
        None,
        CONVOY_SECRET,
        {"x-convoy-signature": f"t={AT},{CONVOY_V1}"},
        CONVOY_BODY,
        AT,
        id="convoy-advanced",
    ),
    pytest.param(
        "convoy",
        None,
        CONVOY_SECRET,
        {"x-convoy-signature": f"t={AT},{CONVOY_V1}"},
        b'{ "event" : "charge.success",\n\t"amount": 1000, "currency": "NGN" }\r\n',
        AT,
        id="convoy-relayed-with-white-space",
    ),
    pytest.param(
        "github",
        None,
        "It's a Secret to Everybody",
        {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
        b"Hello, World!",
        AT,
        id="github",
    ),
    pytest.param(
        "shopify",
        None,
        SECRET,
        {"x-shopify-hmac-sha256": "6Vs2vfvVD3HxtWK3wst9OoeXKkAVPSmX0ISChrupcug="},
        ORDER,
        AT,
        id="shopify",
    ),
    pytest.param(
        CUSTOM,
        WOOCOMMERCE,
        SECRET,
        {"x-wc-webhook-signature": "6Vs2vfvVD3HxtWK3wst9OoeXKkAVPSmX0ISChrupcug="},
        ORDER,
        AT,
        id="woocommerce",
    ),
    pytest.param(
        "stripe",
        None,
        SECRET,
        {"stripe-signature": f"t={AT},v1=7f21846ee53460eb7e7d2df5dd176bea885fce992f84bafd7e1e6ac5a7003951"},
        ORDER,
        AT,
        id="stripe",
    ),
    pytest.param(
        CUSTOM,
        SLACK,
        SECRET,
        {
            "x-slack-signature": "v0=257bdc685fa630d59ca6488c02696c132e800e35d174e225b102ecde2a196348",
            "x-slack-request-timestamp": str(AT),
        },
        ORDER,
        AT,
        id="slack",
    ),
    pytest.param("header", None, SECRET, {"x-gateway-secret": SECRET}, ORDER, AT, id="header"),
    pytest.param(
        "header",
        '{"header": "Authorization", "prefix": "Bearer "}',
        SECRET,
        {"authorization": f"Bearer {SECRET}"},
        ORDER,
        AT,
        id="header-renamed",
    ),
]


@pytest.mark.parametrize(("name", "overrides", "secret", "headers", "body", "at"), VECTORS)
def test_a_vector_is_verified_and_a_changed_body_or_key_is_not(
    name: str, overrides: str | None, secret: str, headers: dict[str, str], body: bytes, at: int
) -> None:
    scheme = read_scheme(name, overrides)

    assert check(scheme, secret, headers, body, at) == Verified(0)
    if scheme.algorithm == "static":
        changed = {header: value[:-1] + "x" for header, value in headers.items()}
        assert check(scheme, secret, changed, body, at) == Refused(Rule.WRONG, scheme.header[0])
        return
    assert isinstance(check(scheme, secret, headers, body + b"!", at), Refused)
    other = PUBLIC_KEY.replace("1SiA", "2SiA") if secret == PUBLIC_KEY else secret[:-1] + "A"
    assert isinstance(check(scheme, other, headers, body, at), Refused)


@pytest.mark.parametrize(("name", "overrides", "secret", "headers", "body", "at"), VECTORS)
def test_a_signature_is_made_as_the_gateway_makes_it(
    name: str, overrides: str | None, secret: str, headers: dict[str, str], body: bytes, at: int
) -> None:
    scheme = read_scheme(name, overrides)
    key = read_key(scheme, PRIVATE_KEY if secret == PUBLIC_KEY else secret)
    message_id = headers.get("webhook-id") or headers.get("svix-id") or ""

    made = sign(scheme, [key], body, message_id=message_id, sent_at=datetime.fromtimestamp(at, UTC))

    brand = {header.replace("webhook-", "svix-"): value for header, value in headers.items()}
    assert made == headers or (name == "svix" and made == brand)


def test_the_forged_digest_of_the_first_vector_is_wrong() -> None:
    scheme = read_scheme("standard-webhooks")
    headers = standard(STANDARD_V1.replace("1OE=", "1OA="))

    assert check(scheme, STANDARD_SECRET, headers, STANDARD_BODY, STANDARD_AT) == Refused(
        Rule.WRONG, "webhook-signature"
    )


DIGEST = STANDARD_V1.removeprefix("v1,")

REFUSED = [
    pytest.param({}, Rule.MISSING, id="no-signature"),
    pytest.param({"webhook-signature": STANDARD_V1}, Rule.INCOMPLETE, id="no-id-and-no-timestamp"),
    pytest.param(standard(""), Rule.MISSING, id="empty-header"),
    pytest.param(standard(f"{STANDARD_V1}, {STANDARD_V1}"), Rule.DOUBLED, id="doubled"),
    pytest.param(
        standard(STANDARD_V1, **{"webhook-id": "msg_a, msg_p5jXN8AQM9LWM0D4loKWxJek"}),
        Rule.DOUBLED,
        id="doubled-id",
    ),
    pytest.param(
        standard(STANDARD_V1, **{"webhook-timestamp": f"{STANDARD_AT}, {STANDARD_AT}"}),
        Rule.DOUBLED,
        id="doubled-timestamp",
    ),
    pytest.param(standard(DIGEST), Rule.MALFORMED, id="entry-without-a-comma"),
    pytest.param(standard(f"{STANDARD_V1} {DIGEST}"), Rule.MALFORMED, id="second-entry-without-a-comma"),
    pytest.param(standard(f"{STANDARD_V1} "), Rule.MALFORMED, id="empty-entry-at-the-end"),
    pytest.param(standard(f" {STANDARD_V1}"), Rule.MALFORMED, id="empty-entry-at-the-start"),
    pytest.param(standard(f"{STANDARD_V1}  {STANDARD_V1}"), Rule.MALFORMED, id="empty-entry-between"),
    pytest.param(standard("v1,"), Rule.MALFORMED, id="empty-digest"),
    pytest.param(standard(","), Rule.MALFORMED, id="empty-key-and-digest"),
    pytest.param(standard(" ".join([STANDARD_V1] * 11)), Rule.TOO_MANY, id="eleven-entries"),
    pytest.param(standard(STANDARD_V1 + " v2," + "A" * 4096), Rule.TOO_LONG, id="over-4-KiB"),
    pytest.param(standard(STANDARD_V1 + "\udcff"), Rule.MALFORMED, id="bytes-that-are-no-UTF-8"),
    pytest.param(standard(STANDARD_V1 + "é"), Rule.MALFORMED, id="not-ASCII"),
    pytest.param(standard(STANDARD_V1[:-4]), Rule.MALFORMED, id="truncated"),
    pytest.param(standard("v1," + base64.b64decode(DIGEST).hex()), Rule.MALFORMED, id="hex-for-base64"),
    pytest.param(
        standard(STANDARD_V1.replace("/", "_").replace("+", "-")), Rule.MALFORMED, id="url-safe-base64"
    ),
    pytest.param(standard(STANDARD_V1.replace("OE=", "OF=")), Rule.MALFORMED, id="bits-to-spare"),
    pytest.param(standard(STANDARD_V1[:-1]), Rule.MALFORMED, id="without-padding"),
    pytest.param(standard(STANDARD_V1.replace("v1", "v2")), Rule.UNKNOWN_VERSION, id="unknown-version"),
    pytest.param(standard(STANDARD_V1A), Rule.WRONG, id="public-key-signature-for-a-shared-secret"),
    *[
        pytest.param(standard(STANDARD_V1, **{"webhook-timestamp": text}), rule, id=f"timestamp-{text}")
        for text, rule in {
            "Infinity": Rule.MALFORMED,
            "NaN": Rule.MALFORMED,
            f"+{STANDARD_AT}": Rule.MALFORMED,
            f"{STANDARD_AT}.5": Rule.MALFORMED,
            f"{STANDARD_AT}.0": Rule.MALFORMED,
            f" {STANDARD_AT}": Rule.MALFORMED,
            "1e9": Rule.MALFORMED,
            "\uff11614265330": Rule.MALFORMED,
            "9" * 400: Rule.MALFORMED,
            f"0{STANDARD_AT}": Rule.WRONG,
            str(STANDARD_AT - 301): Rule.EXPIRED,
            str(STANDARD_AT + 301): Rule.EXPIRED,
            str(STANDARD_AT + 1): Rule.WRONG,
        }.items()
    ],
    *[
        pytest.param(standard(STANDARD_V1, **{"webhook-id": text}), Rule.MALFORMED, id=f"id-{text[:20]}")
        for text in ("msg.p5jXN8AQM9LWM0D4loKWxJek", "msg p5", "m" * 257, "msg_\x7f")
    ],
    pytest.param(standard(STANDARD_V1, **{"webhook-id": "msg_another"}), Rule.WRONG, id="another-id"),
]


@pytest.mark.parametrize(("headers", "rule"), REFUSED)
def test_what_standard_webhooks_must_refuse(headers: dict[str, str], rule: Rule) -> None:
    scheme = read_scheme("standard-webhooks")

    outcome = check(scheme, STANDARD_SECRET, headers, STANDARD_BODY, STANDARD_AT)

    assert isinstance(outcome, Refused)
    assert outcome.rule == rule


REFUSED_WITH_TIMESTAMP = [
    ("", Rule.MISSING),
    (CONVOY_V1, Rule.MALFORMED),
    (f"{CONVOY_V1},t={AT}", Rule.MALFORMED),
    (f"t={AT}", Rule.MALFORMED),
    (f"t={AT},{CONVOY_V1},t={AT}", Rule.MALFORMED),
    (f"t={AT},{CONVOY_V1}, t={AT},{CONVOY_V1}", Rule.DOUBLED),
    (f"t=,{CONVOY_V1}", Rule.MALFORMED),
    (f"t,{CONVOY_V1}", Rule.MALFORMED),
    (f"t=Infinity,{CONVOY_V1}", Rule.MALFORMED),
    (f"t=+{AT},{CONVOY_V1}", Rule.MALFORMED),
    (f"t={AT}.5,{CONVOY_V1}", Rule.MALFORMED),
    (f"t={AT},", Rule.MALFORMED),
    (f"t={AT},{CONVOY_V1},", Rule.MALFORMED),
    (f"t={AT},{CONVOY_V1[3:]}", Rule.MALFORMED),
    (f"t={AT},{CONVOY_V1[:-2]}", Rule.MALFORMED),
    (f"t={AT}, {CONVOY_V1}", Rule.DOUBLED),
    (f"t={AT},{CONVOY_V1.replace('v1', 'v2')}", Rule.UNKNOWN_VERSION),
    (f"t={AT},v1={base64.b64encode(bytes.fromhex(CONVOY_V1[3:])).decode()}", Rule.MALFORMED),
    (f"t={AT - 301},{CONVOY_V1}", Rule.EXPIRED),
    (f"t={AT + 301},{CONVOY_V1}", Rule.EXPIRED),
    (f"t={AT + 1},{CONVOY_V1}", Rule.WRONG),
    (f"t={AT}," + ",".join([CONVOY_V1] * 10), Rule.TOO_MANY),
]


@pytest.mark.parametrize(("value", "rule"), REFUSED_WITH_TIMESTAMP)
def test_what_a_signature_with_its_timestamp_must_refuse(value: str, rule: Rule) -> None:
    scheme = read_scheme("convoy")

    outcome = check(scheme, CONVOY_SECRET, {"x-convoy-signature": value}, CONVOY_BODY, AT)

    assert outcome == Refused(rule, "x-convoy-signature")


def test_other_versions_beside_a_valid_signature_are_ignored() -> None:
    convoy = read_scheme("convoy")
    headers = {"x-convoy-signature": f"t={AT},v2=anything,{CONVOY_V1},v3=more"}

    assert check(convoy, CONVOY_SECRET, headers, CONVOY_BODY, AT) == Verified(0)


@pytest.mark.parametrize(
    ("encoding", "algorithm", "digest"),
    [
        ("base64", "hmac-sha256", "JERJt/SMvCcJBgydzcKzqkenj1QEMFeQFcV5+xLe+7Q="),
        (
            "base64",
            "hmac-sha512",
            "bMdy3IGUKuG1/6kcOmoHsNN+3I3GvYPjUYohnx8Z/3GuG3bWsyCUDUFMI2oarX95MLY+DxkolRlV0xIZVF4bZg==",
        ),
    ],
)
def test_convoy_with_another_hash_and_encoding(encoding: str, algorithm: str, digest: str) -> None:
    changed = {**json.loads(CONVOY_SIMPLE), "encoding": encoding, "algorithm": algorithm}
    scheme = read_scheme("convoy", json.dumps(changed))

    assert check(scheme, CONVOY_SECRET, {"x-convoy-signature": digest}, CONVOY_BODY, AT) == Verified(0)


ROTATED = {
    "hookdeck": (SECRET, "an-older-secret-0123456789"),
    "svix": (STANDARD_SECRET, "whsec_plJ3nmyCDGBKInavdOK15jsl"),
    "standard-webhooks": (STANDARD_SECRET, "whsec_plJ3nmyCDGBKInavdOK15jsl"),
    "convoy": (SECRET, "an-older-secret-0123456789"),
    "outpost": (SECRET, "an-older-secret-0123456789"),
    "stripe": (SECRET, "an-older-secret-0123456789"),
}


@pytest.mark.parametrize("name", ROTATED)
def test_while_a_gateway_rotates_either_of_its_secrets_is_enough(name: str) -> None:
    scheme = read_scheme(name)
    newest, older = (read_key(scheme, secret) for secret in ROTATED[name])
    now = datetime.now(UTC)
    headers = sign(scheme, [newest, older], ORDER, message_id="msg_1", sent_at=now)

    assert verify(scheme, [newest], headers, ORDER, now) == Verified(0)
    assert verify(scheme, [older], headers, ORDER, now) == Verified(0)
    only_older = sign(scheme, [older], ORDER, message_id="msg_1", sent_at=now)
    assert verify(scheme, [newest, older], only_older, ORDER, now) == Verified(1)


def test_hookdecks_second_header_is_enough() -> None:
    scheme = read_scheme("hookdeck")
    headers = {"x-hookdeck-signature-2": "dyma6vPbJiLuMCIpVaOYUJhWBTZ3tO04E50Bt5fHWOo="}

    assert check(scheme, "test_hookdeck_secret", headers, b'{"type":"test"}', AT) == Verified(0)


def test_headers_of_one_brand_are_not_mixed_with_those_of_another() -> None:
    """A signature goes with the id and the timestamp of its own brand."""
    scheme = read_scheme("svix")
    headers = {
        "svix-signature": STANDARD_V1,
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": str(STANDARD_AT),
    }

    assert check(scheme, STANDARD_SECRET, headers, STANDARD_BODY, STANDARD_AT) == Refused(
        Rule.INCOMPLETE, "svix-timestamp"
    )


@pytest.mark.parametrize("offset", [-300, 300])
def test_a_timestamp_at_the_edge_of_the_tolerance_is_accepted(offset: int) -> None:
    scheme = read_scheme("standard-webhooks")

    outcome = check(scheme, STANDARD_SECRET, standard(STANDARD_V1), STANDARD_BODY, STANDARD_AT + offset)

    assert outcome == Verified(0)


def test_the_bytes_of_a_body_that_is_no_text_are_verified() -> None:
    now = datetime.now(UTC)
    body = b"\xff\xfe\x00{"
    for name in PRESETS:
        scheme = read_scheme(name)
        key = read_key(scheme, STANDARD_SECRET)
        headers = sign(scheme, [key], body, message_id="msg_1", sent_at=now)

        assert verify(scheme, [key], headers, body, now) == Verified(0)


# The verifier for other requests than the vectors

_HEADER_TEXTS = st.text(
    st.characters() | st.sampled_from("\udc80\udcff") | st.sampled_from(string.digits + "tv1a=,. +/"),
    max_size=200,
)
_SCHEMES = [read_scheme(name) for name in PRESETS] + [read_scheme(CUSTOM, SLACK)]


@given(scheme=st.sampled_from(_SCHEMES), data=st.data(), body=st.binary(max_size=200))
def test_random_headers_are_never_verified_and_never_raise(
    scheme: SignatureScheme, data: st.DataObject, body: bytes
) -> None:
    names = (*scheme.header, *scheme.id_header, *scheme.timestamp_header)
    valid = st.sampled_from([STANDARD_V1, STANDARD_V1A, str(STANDARD_AT), f"t={STANDARD_AT},v1=", "msg_1"])
    parts = st.tuples(valid | _HEADER_TEXTS, _HEADER_TEXTS).map("".join)
    headers = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(names, parts)))
    keys = [read_key(scheme, STANDARD_SECRET)]
    if scheme.public_key_version:
        keys += [read_key(scheme, PUBLIC_KEY), GatewayKey("public", b"\xff" * 32)]

    outcome = verify(scheme, keys, headers, body, datetime.fromtimestamp(STANDARD_AT, UTC))

    assert isinstance(outcome, Refused)


@given(
    body=st.text(max_size=50).map(str.encode),
    message_id=st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=30),
    seconds=st.integers(-400, 400),
    forgery=st.sampled_from(["", "body", "id", "signature"]),
    extra=st.sampled_from(["", f"{STANDARD_V1A} ", "v2,anything "]),
)
def test_standard_webhooks_own_library_agrees(
    body: bytes, message_id: str, seconds: int, forgery: str, extra: str
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    sent_at = now + timedelta(seconds=seconds)
    oracle = Webhook(STANDARD_SECRET)
    headers = {
        "webhook-id": message_id + ("x" if forgery == "id" else ""),
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": extra
        + oracle.sign(message_id, sent_at, body.decode() + (" " if forgery == "signature" else "")),
    }
    if forgery == "body":
        body += b" "
    if abs(abs(seconds) - 300) < 5:
        return  # the oracle has a clock of its own

    try:
        oracle.verify(body, headers, json_parse=False)
        expected = True
    except WebhookVerificationError:
        expected = False

    scheme = read_scheme("standard-webhooks")
    outcome = verify(scheme, [read_key(scheme, STANDARD_SECRET)], headers, body, now)
    assert isinstance(outcome, Verified) == expected


@given(
    name=st.sampled_from(sorted(PRESETS)),
    body=st.binary(max_size=100),
    message_id=st.text(string.ascii_letters + "_", min_size=1, max_size=30),
)
def test_what_is_signed_is_verified_by_the_same_key_alone(name: str, body: bytes, message_id: str) -> None:
    scheme = read_scheme(name)
    keys = [read_key(scheme, secret) for secret in (STANDARD_SECRET, "whsec_plJ3nmyCDGBKInavdOK15jsl")]
    now = datetime.now(UTC)
    headers = sign(scheme, keys[:1], body, message_id=message_id, sent_at=now)

    assert verify(scheme, keys[:1], headers, body, now) == Verified(0)
    assert verify(scheme, keys[1:], headers, body, now) == Refused(Rule.WRONG, scheme.header[0])
    assert verify(scheme, [], headers, body, now) == Refused(Rule.WRONG, scheme.header[0])


# The compact form

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3)
    ),
    max_leaves=12,
)


@given(document=_JSON, indent=st.sampled_from([None, 1, "\t"]), ascii_only=st.booleans())
def test_the_compact_form_differs_in_white_space_alone(document: Any, indent: Any, ascii_only: bool) -> None:
    spaced = f"\n {json.dumps(document, indent=indent, ensure_ascii=ascii_only)}\r\n".encode()
    expected = json.dumps(document, separators=(",", ":"), ensure_ascii=ascii_only).encode()

    assert compact(spaced) == expected


@pytest.mark.parametrize("body", [b"[1 2]", b"[tru e]", b'{"a": "b \\" c"}'[:-4], b'["a" "b"]', b"", b"a b"])
def test_what_is_no_json_does_not_become_json(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json.loads(compact(body))


@given(body=st.binary(max_size=60) | st.text(' \n"\\{}[]:,1a', max_size=60).map(str.encode))
def test_compacting_takes_anything_and_is_done_after_once(body: bytes) -> None:
    assert compact(compact(body)) == compact(body)


# The grammar


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ("[]", "must be a JSON object"),
        ("{", "must be a JSON object"),
        ("{}", "header: Field required"),
        ('{"header": "x y"}', "header.0: String should match pattern"),
        ('{"header": "x", "algorithm": "md5"}', "algorithm: Input should be"),
        ('{"header": "x", "colour": "red"}', "colour: Extra inputs are not permitted"),
        ('{"header": "x", "signed": "{bdy}"}', "signed: knows {id}, {timestamp} and {body}, not {bdy}"),
        ('{"header": "x", "signed": "x"}', "signed: must contain {body} once"),
        ('{"header": "x", "signed": "{body}{body}"}', "signed: must contain {body} once"),
        ('{"header": "x", "signed": "{id}.{body}"}', "signed: must contain {id} if, and only if"),
        ('{"header": "x", "signed": "{id}{body}", "id_header": "y"}', "other characters after {id}"),
        (
            '{"header": "x", "signed": "{id}{timestamp}.{body}", "id_header": "y", "timestamp_header": "z"}',
            "other characters after {id}",
        ),
        ('{"header": "x", "signed": "{body}.{id}", "id_header": "y"}', "signed: must end with {body}"),
        (
            '{"header": "x", "signed": "{body}.{timestamp}", "timestamp_header": "y"}',
            "signed: must end with {body}",
        ),
        ('{"header": "x", "signed": "{body}."}', "signed: must end with {body}"),
        ('{"header": "x", "id_header": "y"}', "signed: must contain {id} if, and only if"),
        ('{"header": "x", "timestamp_header": "y"}', "signed: must contain {timestamp} if, and only if"),
        (
            '{"header": "x", "signed": "{timestamp}{body}"}',
            "signed: must contain {timestamp} if, and only if",
        ),
        (
            '{"header": "x", "signed": "{timestamp}{body}", "timestamp_header": "y", "timestamp_key": "t"}',
            "timestamp_key: the timestamp is in a header or in the signature",
        ),
        ('{"header": "x", "signed": "{timestamp}{body}", "timestamp_key": "t"}', "separator: is required"),
        (
            '{"header": ["a", "b", "c"], "signed": "{id}.{body}", "id_header": ["d", "e"]}',
            "id_header: must have one name, or one for each",
        ),
        (
            '{"header": "x", "separator": ",", "version_key": "v1", "version_mark": ","}',
            "separator: must differ from version_mark",
        ),
        ('{"header": "x", "public_key_version": "v1a", "secret": "whsec"}', "version_key: is required"),
        ('{"header": "x", "algorithm": "ed25519"}', "secret: must be base64 or whsec"),
        ('{"header": "x", "algorithm": "static", "secret": "whsec"}', "algorithm: static has neither"),
        ('{"header": "x", "tolerance": 0}', "tolerance: Input should be greater than"),
    ],
)
def test_a_scheme_that_breaks_a_rule_is_refused_in_one_sentence(members: str, rule: str) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        read_scheme(CUSTOM, members)

    assert rule in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_single_members_of_a_preset_are_replaced() -> None:
    scheme = read_scheme("hookdeck", '{"header": ["X-Acme-Signature", "X-Acme-Signature-2"]}', tolerance=60)

    assert scheme.header == ("x-acme-signature", "x-acme-signature-2")
    assert scheme.encoding == "base64"
    assert scheme.tolerance == 60


# What else a scheme needs if this member has its default.
BESIDE_DEFAULT = {
    "encoding": ("hookdeck", {}),
    "algorithm": ("header", {}),
    "prefix": ("outpost", {}),
    "separator": ("stripe", {"timestamp_key": None, "version_key": None, "signed": None}),
    "version_key": ("svix", {"public_key_version": None}),
    "version_mark": ("svix", {}),
    "public_key_version": ("svix", {}),
    "signed": ("svix", {"id_header": None, "timestamp_header": None}),
    "id_header": ("svix", {"signed": "{timestamp}.{body}"}),
    "timestamp_header": ("svix", {"signed": "{id}.{body}"}),
    "timestamp_key": ("convoy", {"signed": "{body}"}),
    "tolerance": ("svix", {}),
    "secret": ("svix", {"public_key_version": None}),
    "compact_json": ("convoy", {}),
    "evidence": ("hookdeck", {}),
}


@pytest.mark.parametrize("member", SignatureScheme.model_fields)
def test_a_member_that_is_null_has_its_default(member: str) -> None:
    if member == "header":
        with pytest.raises(ValueError, match="header: Field required"):
            read_scheme("hookdeck", '{"header": null}')
        return
    preset, others = BESIDE_DEFAULT[member]
    scheme = read_scheme(preset, json.dumps({**others, member: None}))

    assert getattr(scheme, member) == SignatureScheme.model_fields[member].default
    if member != "tolerance":
        assert getattr(read_scheme(preset), member) != getattr(scheme, member)


def test_a_tolerance_that_is_null_is_that_of_the_setting() -> None:
    assert read_scheme("svix", '{"tolerance": null}', tolerance=60).tolerance == 60


@pytest.mark.parametrize(
    ("name", "overrides", "evidence"),
    [
        (
            "hookdeck",
            {"header": ["X-Acme-Signature", "X-Acme-Signature-2"]},
            {
                "event": ("x-acme-eventid",),
                "attempt": ("x-acme-attempt-count",),
                "request": ("x-acme-requestid",),
                "url": ("x-acme-event-url",),
            },
        ),
        ("outpost", {"header": "X-Acme-Signature"}, {"event": ("x-acme-event-id",)}),
        (
            "standard-webhooks",
            {"header": "acme-signature", "id_header": "acme-id", "timestamp_header": "acme-timestamp"},
            {"event": ("acme-id",)},
        ),
        (
            "svix",
            {"header": "acme-signature", "id_header": "acme-id", "timestamp_header": "acme-timestamp"},
            {"event": ("acme-id",)},
        ),
        ("hookdeck", {"header": "x-acme-signature", "evidence": {"event": "x-id"}}, {"event": ("x-id",)}),
        ("hookdeck", {"header": "x-acme-signature", "evidence": None}, {}),
        ("svix", {"evidence": None}, {}),
        # Convoy's users rename the signature's header alone.
        (
            "convoy",
            {"header": "X-Acme-Signature"},
            {
                "event": ("x-convoy-event-id", "x-convoy-idempotency-key"),
                "request": ("x-convoy-eventdelivery-id",),
            },
        ),
    ],
)
def test_evidence_is_in_the_headers_that_go_with_the_signature(
    name: str, overrides: dict[str, object], evidence: dict[str, tuple[str, ...]]
) -> None:
    assert read_scheme(name, json.dumps(overrides)).evidence == evidence


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_evidence_of_a_preset_is_as_the_documents_show_it(name: str) -> None:
    shown = SignatureScheme.model_validate(PRESETS[name])

    assert read_scheme(name) == shown


def test_the_schemes_own_tolerance_takes_precedence() -> None:
    assert read_scheme("stripe", '{"tolerance": 10}', tolerance=60).tolerance == 10


@pytest.mark.parametrize(
    ("name", "secret", "rule"),
    [
        ("svix", "plain-text-secret", "must begin with whsec_"),
        ("svix", "whsec_not base64", "must be base64"),
        ("svix", "whsec_", "must be base64"),
        ("svix", "whpk_AAAA", "must be whpk_ and the base64 of 32 bytes"),
        ("svix", "whsk_AAAA", "must be whsk_ and the base64 of 32 or 64 bytes"),
        ("header", "s\u00e9cret-0123456789", "must be visible ASCII"),
        ("header", "secret\n0123456789", "must be visible ASCII"),
        ("hookdeck", "secret\n0123456789", "must not contain control characters"),
        ("hookdeck", "s\udce9cret-0123456789", "must be UTF-8"),
    ],
)
def test_a_secret_of_the_wrong_form_is_refused_without_its_text(name: str, secret: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as refusal:
        read_key(read_scheme(name), secret)

    assert secret not in str(refusal.value)


def test_the_key_of_a_secret_that_is_text_is_its_utf_8() -> None:
    """The digest is that of `openssl dgst -sha256 -hmac`."""
    headers = {"x-hookdeck-signature": "8BW5COI9um4JkKgjh8NG+Sg2o3vVwZdblTWdbyiaPtM="}

    assert check(read_scheme("hookdeck"), "clé-secrète-0123456789", headers, ORDER, AT) == Verified(0)


def test_bytes_that_move_between_a_timestamp_and_the_body_are_refused() -> None:
    scheme = read_scheme(
        CUSTOM, '{"header": "x", "signed": "{timestamp}{body}", "timestamp_header": "t", "tolerance": 86400}'
    )
    key = read_key(scheme, SECRET)
    headers = sign(scheme, [key], b"12", sent_at=datetime.fromtimestamp(AT, UTC))

    assert check(scheme, SECRET, headers, b"12", AT) == Verified(0)
    for timestamp, body in ((f"{AT}1", b"2"), (str(AT)[:-1], b"012")):
        assert check(scheme, SECRET, {**headers, "t": timestamp}, body, AT) == Refused(Rule.EXPIRED, "t")


@pytest.mark.parametrize(
    ("text", "marketplace", "data"),
    [
        ("ovoko=secret-0123456789", "ovoko", b"secret-0123456789"),
        ("ovoko= secret-0123456789", "ovoko", b"secret-0123456789"),
        ("secret-0123456789", None, b"secret-0123456789"),
        ("c2VjcmV0LTAxMjM0NTY3ODk=", None, b"c2VjcmV0LTAxMjM0NTY3ODk="),
        ("c2VjcmV0LTAxMjM0NTY3OA==", None, b"c2VjcmV0LTAxMjM0NTY3OA=="),
    ],
)
def test_a_secret_is_bound_to_the_marketplace_before_it(
    text: str, marketplace: str | None, data: bytes
) -> None:
    keys = read_keys(read_scheme("hookdeck"), [SecretStr(text)], ["ovoko", "buyback"])

    assert keys == (GatewayKey("shared", data, marketplace),)


@pytest.mark.parametrize("name", ["Ovoko", "OVOKO", "ovoko ", "ovko", "Ovoko "])
def test_a_secret_that_was_meant_for_a_marketplace_is_not_taken_for_all(name: str) -> None:
    with pytest.raises(
        ValueError, match="secret 1 names no marketplace: before = must be one of buyback, ov"
    ):
        read_keys(read_scheme("hookdeck"), [SecretStr(f"{name}=secret-0123456789")], ["ovoko", "buyback"])


def test_a_public_key_alone_verifies_a_custom_scheme() -> None:
    scheme = read_scheme(
        CUSTOM,
        '{"header": "x-signature-ed25519", "algorithm": "ed25519", "secret": "base64", '
        '"signed": "{timestamp}{body}", "timestamp_header": "x-signature-timestamp"}',
    )
    now = datetime.now(UTC)
    headers = sign(scheme, [read_key(scheme, PRIVATE_KEY)], ORDER, sent_at=now)

    assert verify(
        scheme, [read_key(scheme, PUBLIC_KEY.removeprefix("whpk_"))], headers, ORDER, now
    ) == Verified(0)
    assert verify(scheme, [read_key(scheme, PUBLIC_KEY)], headers, ORDER + b" ", now) == Refused(
        Rule.WRONG, "x-signature-ed25519"
    )


def test_a_key_shows_nothing_of_itself() -> None:
    assert "secret" not in repr(GatewayKey("shared", b"secret"))
