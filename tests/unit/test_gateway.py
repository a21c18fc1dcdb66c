"""The ingest behind a gateway: required secrets, answers, and what is stored."""

import base64
import gzip
import json
import re
import threading
import zlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import EVIDENCE, LONGEST_EVIDENCE, Envelope
from schemas.trace_context import TRACE_HEADERS
from tests.unit.test_service import BODY, SECRET, TOKEN, Stored, answer, chunks, settings
from tests.unit.test_signature import (
    AT,
    CONVOY_SECRET,
    PRIVATE_KEY,
    PUBLIC_KEY,
    REFUSED,
    REFUSED_WITH_TIMESTAMP,
    STANDARD_AT,
    STANDARD_SECRET,
)
from worker.config.gateway import read_key, read_scheme
from worker.config.settings import BadSettings, Settings, read_settings
from worker.ingest import service
from worker.ingest.event_sink import NotStored
from worker.ingest.exchange import ABORT_MESSAGE, Request, Response
from worker.ingest.service import Ingest
from worker.intake.gateway import authenticate
from worker.intake.signature import Rule, sign
from worker.marketplaces.registry import MARKETPLACES
from worker.observability import metrics
from worker.processes.ingest_process import serve
from worker.tools.doctor.configuration import check_configuration

GATEWAY_SECRET = "gateway-secret-0123456789"
OLDER_SECRET = "older-gateway-secret-0123456789"
SVIX_SECRET = "whsec_" + base64.b64encode(bytes(range(100, 124))).decode()
BUYBACK = json.dumps({"type": "OrderCreatedEvent", "token": TOKEN, "result": {"id": "o1"}}).encode()


def behind(gateway: str = "hookdeck", **changes: object) -> Settings:
    return settings(gateway=gateway, **{"gateway_secrets": GATEWAY_SECRET, **changes})


def signed(
    body: bytes,
    gateway: str = "hookdeck",
    secret: str = GATEWAY_SECRET,
    sent_at: datetime | None = None,
    overrides: str | None = None,
) -> dict[str, str]:
    scheme = read_scheme(gateway, overrides)
    key = read_key(scheme, secret)
    return sign(scheme, [key], body, message_id="msg_1", sent_at=sent_at or datetime.now(UTC))


async def ask(
    configured: Settings,
    body: bytes | AsyncIterator[bytes] = BODY,
    headers: Mapping[str, str] | None = None,
    stored: Stored | None = None,
    path: str = "/webhooks/ovoko",
) -> Response:
    given_headers = {"transfer-encoding": "chunked", **(headers or {})}
    request = Request("POST", path, given_headers, chunks(body) if isinstance(body, bytes) else body)
    return await Ingest(configured, stored or Stored()).handle(request)


OWN = {"x-webhook-secret": SECRET}


def unsigned(reason: str) -> float:
    labels = {"provider": "ovoko", "reason": reason}
    return metrics.INGEST.get_sample_value("stockhook_gateway_unsigned_total", labels) or 0


def secret_used(position: str) -> float:
    labels = {"provider": "ovoko", "position": position}
    return metrics.INGEST.get_sample_value("stockhook_gateway_secret_used_total", labels) or 0


@pytest.mark.parametrize(
    ("require", "gateway", "own", "status"),
    [
        ("both", "right", "right", 200),
        ("both", "right", "wrong", 401),
        ("both", "right", "missing", 401),
        ("both", "missing", "right", 401),
        ("both", "wrong", "right", 401),
        ("gateway", "right", "right", 200),
        ("gateway", "right", "wrong", 200),
        ("gateway", "right", "missing", 200),
        ("gateway", "missing", "right", 401),
        ("gateway", "wrong", "right", 401),
        ("optional", "right", "right", 200),
        ("optional", "right", "wrong", 200),
        ("optional", "right", "missing", 200),
        ("optional", "missing", "right", 200),
        ("optional", "missing", "missing", 401),
        ("optional", "wrong", "right", 401),
    ],
)
@pytest.mark.parametrize("marketplace", ["ovoko", "buyback"])
async def test_whose_secret_a_request_must_have(
    marketplace: str, require: str, gateway: str, own: str, status: int
) -> None:
    body = BODY
    headers = {"right": OWN, "wrong": {"x-webhook-secret": "another"}, "missing": {}}[own]
    if marketplace == "buyback":
        document = json.loads(BUYBACK)
        document |= {"right": {}, "wrong": {"token": "another-token"}, "missing": {"token": None}}[own]
        body, headers = json.dumps(document).encode(), {}
    signature = {"right": signed(body), "wrong": signed(body + b" "), "missing": {}}[gateway]
    stored = Stored()

    response = await ask(
        behind(gateway_require=require), body, {**headers, **signature}, stored, f"/webhooks/{marketplace}"
    )

    assert response.status == status
    assert len(stored.messages) == (1 if status == 200 else 0)


async def test_an_empty_signature_header_is_as_good_as_none_while_it_is_optional() -> None:
    before = unsigned("absent")

    response = await ask(behind(gateway_require="optional"), BODY, {**OWN, "x-hookdeck-signature": ""})

    assert response.status == 200
    assert unsigned("absent") == before + 1


def at_now(headers: Mapping[str, str], signed_at: int) -> dict[str, str]:
    """The headers of a vector, as if it had been signed now."""

    def moved(text: re.Match[str]) -> str:
        distance = int(text[0]) - signed_at
        # A test that takes a second does not bring an expired timestamp back.
        return str(now + (distance if abs(distance) < 300 else 2 * distance))

    now = int(datetime.now(UTC).timestamp())
    return {name: re.sub("1[67][0-9]{8}", moved, value) for name, value in headers.items()}


@pytest.mark.parametrize(
    ("gateway", "headers", "rule"),
    [
        *[pytest.param("standard-webhooks", *case.values, id=case.id) for case in REFUSED],
        *[("convoy", {"x-convoy-signature": value}, rule) for value, rule in REFUSED_WITH_TIMESTAMP],
    ],
)
async def test_a_refusal_names_the_rule_and_never_the_value(
    gateway: str, headers: dict[str, str], rule: Rule
) -> None:
    secret, signed_at = {
        "standard-webhooks": (STANDARD_SECRET, STANDARD_AT),
        "convoy": (CONVOY_SECRET, AT),
    }[gateway]
    headers = at_now(headers, signed_at)
    stored = Stored()
    before = unsigned(rule)

    response = await ask(behind(gateway, gateway_secrets=secret), BODY, {**OWN, **headers}, stored)

    problem = json.loads(response.body)
    assert (response.status, response.content_type) == (401, "application/problem+json")
    assert f"is {rule} (header " in problem["detail"]
    assert not [value for value in headers.values() if len(value) > 3 and value in problem["detail"]]
    assert stored.messages == []
    assert unsigned(rule) == before + 1


async def test_a_public_key_of_the_gateway_is_enough() -> None:
    configured = behind("svix", gateway_secrets=PUBLIC_KEY, gateway_require="gateway", ovoko_secrets="")
    headers = signed(BODY, "svix", PRIVATE_KEY)
    stored = Stored()

    assert headers["svix-signature"].startswith("v1a,")
    assert (await ask(configured, BODY, headers, stored)).status == 200
    assert (await ask(configured, BODY + b" ", headers, stored)).status == 401
    assert (await ask(configured, BODY, signed(BODY, "svix", SVIX_SECRET), stored)).status == 401
    assert len(stored.messages) == 1


@pytest.mark.parametrize(
    ("encoding", "secret", "is_in_thread"),
    [
        (None, SVIX_SECRET, False),
        ("", SVIX_SECRET, False),
        ("identity", SVIX_SECRET, False),
        ("UTF-8", SVIX_SECRET, False),
        ("gzip", SVIX_SECRET, True),
        ("identity, deflate", SVIX_SECRET, True),
        (None, PUBLIC_KEY, True),
        (None, f"{SVIX_SECRET},{PUBLIC_KEY}", True),
    ],
)
async def test_a_thread_verifies_what_takes_long(
    monkeypatch: pytest.MonkeyPatch, encoding: str | None, secret: str, is_in_thread: bool
) -> None:
    threads: list[threading.Thread] = []

    def noted(*arguments: object) -> object:
        threads.append(threading.current_thread())
        return authenticate(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(service, "authenticate", noted)
    headers = {**OWN, **signed(BODY, "svix", SVIX_SECRET)}
    if encoding is not None:
        headers["content-encoding"] = encoding
    await ask(behind("svix", gateway_secrets=secret), BODY, headers)

    assert [thread is not threading.current_thread() for thread in threads] == [is_in_thread]


async def test_a_secret_that_is_text_may_have_any_letters() -> None:
    secret = "clé-secrète-0123456789"

    assert (
        await ask(behind(gateway_secrets=secret), BODY, {**OWN, **signed(BODY, secret=secret)})
    ).status == 200


@pytest.mark.parametrize("marketplace", ["ovoko", "buyback"])
@pytest.mark.parametrize(("signature", "status"), [("right", 200), ("wrong", 401)])
async def test_with_both_a_sender_is_authenticated_once_its_signature_is_verified(
    marketplace: str, signature: str, status: int
) -> None:
    seen: list[str] = []
    body = BODY if marketplace == "ovoko" else BUYBACK

    async def read() -> AsyncIterator[bytes]:
        seen.append("body")
        yield body

    def used() -> float:
        labels = {"provider": marketplace, "position": "newest"}
        return metrics.INGEST.get_sample_value("stockhook_secret_used_total", labels) or 0

    before = used()
    headers = {"transfer-encoding": "chunked", **OWN, **signed(body if signature == "right" else b"{}")}
    request = Request(
        "POST",
        f"/webhooks/{marketplace}",
        headers,
        read(),
        authenticated=lambda: seen.append("authenticated"),
    )

    assert (await Ingest(behind(), Stored()).handle(request)).status == status
    assert seen == (["body", "authenticated"] if status == 200 else ["body"])
    assert used() == before + (status == 200)


@pytest.mark.parametrize(
    ("marketplace", "secret", "failure", "counted"),
    [
        ("ovoko", "right", None, 1),
        ("ovoko", "wrong", None, 0),
        ("buyback", "right", None, 1),
        ("buyback", "wrong", None, 0),
        ("ovoko", "right", NotStored("no room"), 0),
    ],
)
async def test_an_absent_signature_is_counted_if_the_request_is_let_through(
    marketplace: str, secret: str, failure: Exception | None, counted: int
) -> None:
    """The guide waits until this counter no longer grows: requests of scanners must not count."""

    def absent() -> float:
        labels = {"provider": marketplace, "reason": "absent"}
        return metrics.INGEST.get_sample_value("stockhook_gateway_unsigned_total", labels) or 0

    before = absent()
    headers = OWN if secret == "right" else {"x-webhook-secret": "another"}
    body = BODY
    if marketplace == "buyback":
        headers, body = {}, BUYBACK if secret == "right" else BUYBACK.replace(TOKEN.encode(), b"another")
    configured = behind(gateway_require="optional")
    await ask(configured, body, headers, Stored(failure), f"/webhooks/{marketplace}")

    assert absent() == before + counted


async def test_a_missing_signature_is_refused_before_the_body_is_read() -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    assert (await ask(behind(), unread(), OWN)).status == 401


async def test_an_older_secret_of_the_gateway_is_counted_apart() -> None:
    configured = behind(gateway_secrets=f"{GATEWAY_SECRET},{OLDER_SECRET}")
    before = secret_used("newest"), secret_used("older")

    assert (await ask(configured, BODY, {**OWN, **signed(BODY)})).status == 200
    assert (await ask(configured, BODY, {**OWN, **signed(BODY, secret=OLDER_SECRET)})).status == 200

    assert (secret_used("newest"), secret_used("older")) == (before[0] + 1, before[1] + 1)


async def test_a_bound_secret_is_valid_for_its_marketplace_alone() -> None:
    configured = behind(gateway_secrets=f"buyback={GATEWAY_SECRET},{OLDER_SECRET}")

    assert (await ask(configured, BODY, {**OWN, **signed(BODY)})).status == 401
    assert (await ask(configured, BODY, {**OWN, **signed(BODY, secret=OLDER_SECRET)})).status == 200
    for secret in (GATEWAY_SECRET, OLDER_SECRET):
        headers = signed(BUYBACK, secret=secret)
        assert (await ask(configured, BUYBACK, headers, path="/webhooks/buyback")).status == 200


async def test_a_marketplace_without_a_secret_of_the_gateway_is_disabled() -> None:
    configured = behind(gateway_secrets=f"buyback={GATEWAY_SECRET}")

    response = await ask(configured, BODY, {**OWN, **signed(BODY)})

    assert response.status == 404
    assert "STOCKHOOK_GATEWAY_SECRETS has no secret for ovoko" in json.loads(response.body)["detail"]


async def test_a_marketplace_that_is_not_behind_the_gateway_needs_no_signature() -> None:
    configured = behind(gateway_marketplaces="buyback", gateway_require="gateway")

    assert (await ask(configured, BODY, OWN)).status == 200
    assert (await ask(configured, BODY, signed(BODY))).status == 401
    assert (await ask(configured, BUYBACK, {}, path="/webhooks/buyback")).status == 401


async def test_behind_a_gateway_alone_the_marketplaces_own_secrets_need_not_be_set() -> None:
    configured = behind(gateway_require="gateway", ovoko_secrets="", buyback_tokens="")
    stored = Stored()

    assert (await ask(configured, BODY, signed(BODY), stored)).status == 200
    assert (await ask(configured, BUYBACK, signed(BUYBACK), stored, "/webhooks/buyback")).status == 200
    assert TOKEN.encode() not in stored.messages[1].body
    with_own = await ask(behind(), BUYBACK, signed(BUYBACK), stored, "/webhooks/buyback")
    assert with_own.status == 200
    own, without = stored.messages[2], stored.messages[1]
    assert (without.headers["x-event-id"], without.body) == (own.headers["x-event-id"], own.body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(BUYBACK.replace(b"}}", b'},"copy":"see %s"}' % TOKEN.encode()), id="copied"),
        pytest.param(b'{"detail":%s}' % BUYBACK, id="wrapped"),
        pytest.param(b"[%s]" % BUYBACK, id="listed"),
        pytest.param(BUYBACK[:-1], id="broken"),
        pytest.param(json.dumps({"detail": BUYBACK.decode()}).encode(), id="in-a-string"),
        pytest.param(
            json.dumps({"type": "OrderCreatedEvent", "detail": BUYBACK.decode()}).encode(),
            id="in-a-string-of-an-event",
        ),
        pytest.param(
            json.dumps([json.dumps({"detail": BUYBACK.decode()})]).encode(), id="in-a-string-in-a-string"
        ),
        pytest.param(json.dumps({"detail": BUYBACK.decode()[:-5]}).encode(), id="in-a-broken-string"),
        pytest.param(
            json.dumps({"detail": BUYBACK.decode()}).encode()[:-9], id="in-a-string-that-is-cut-off"
        ),
        pytest.param(json.dumps({"detail": {"token": [TOKEN]}}).encode(), id="in-a-list"),
        pytest.param(json.dumps({"detail": {"token": {"value": TOKEN}}}).encode(), id="in-an-object"),
    ],
)
async def test_no_token_is_stored_that_nothing_compared(body: bytes) -> None:
    key = Fernet.generate_key().decode()
    configured = behind(gateway_require="gateway", buyback_tokens="", sealing_keys=key)
    stored = Stored()

    assert (await ask(configured, body, signed(body), stored, "/webhooks/buyback")).status == 200

    stored_body = stored.messages[0].body
    assert TOKEN.encode() not in stored_body
    if not stored_body.startswith((b"{", b"[")):
        assert TOKEN.encode() not in Fernet(key).decrypt(stored_body)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("signs", ["as sent", "as inflated"])
async def test_a_compressed_body_is_verified_as_sent_or_as_inflated(coding: str, signs: str) -> None:
    sent = gzip.compress(BODY) if coding == "gzip" else zlib.compress(BODY)
    headers = {**OWN, "content-encoding": coding, **signed(sent if signs == "as sent" else BODY)}
    stored = Stored()

    assert (await ask(behind(), sent, headers, stored)).status == 200
    assert stored.messages[0].body == BODY


async def test_nothing_is_inflated_beyond_the_limit_for_who_is_not_known() -> None:
    body = b"[" + b" " * 100_000 + b"]"
    headers = {**OWN, "content-encoding": "gzip", **signed(body)}

    assert (await ask(behind(), gzip.compress(body), headers)).status == 401


async def test_a_forged_body_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_: bytes) -> object:
        raise AssertionError("it was parsed")

    for module in ("worker.intake.intake", "worker.intake.content_encoding"):
        monkeypatch.setattr(f"{module}.read_json", parse)
    for coding in ("", "gzip", "br"):
        headers = {**OWN, "content-encoding": coding, **signed(b"another")}
        assert (await ask(behind(gateway_require="gateway"), b'{"a": 1}', headers)).status == 401


async def test_bytes_that_are_no_text_are_verified_and_quarantined() -> None:
    stored = Stored()
    body = b'{"event_type": "\xff"}'

    assert (await ask(behind(), body, {**OWN, **signed(body)}, stored)).status == 200
    assert stored.messages[0].routing_key.startswith("quarantine")


async def test_the_ids_of_the_gateway_are_stored_and_make_no_other_event() -> None:
    stored = Stored()
    evidence = {
        "x-hookdeck-eventid": "evt_1",
        "x-hookdeck-attempt-count": "2",
        "x-hookdeck-requestid": "req_1",
        "x-hookdeck-event-url": "https://dashboard.hookdeck.com/events/evt_1",
        "x-request-id": "0f1e2d",
    }

    assert (await ask(behind(), BODY, {**OWN, **signed(BODY), **evidence}, stored)).status == 200
    assert (
        await ask(behind(), BODY, {**OWN, **signed(BODY), "x-hookdeck-eventid": "evt_2"}, stored)
    ).status == 200

    first, second = (Envelope.from_headers(message.headers) for message in stored.messages)
    assert first.evidence == {
        "gateway_event": "evt_1",
        "gateway_attempt": "2",
        "gateway_request": "req_1",
        "gateway_url": "https://dashboard.hookdeck.com/events/evt_1",
        "request_id": "0f1e2d",
    }
    assert second.evidence == {"gateway_event": "evt_2"}
    assert (first.event_id, first.content_id) == (second.event_id, second.content_id)


@pytest.mark.parametrize(
    ("sent", "evidence"),
    [
        ({"x-convoy-idempotency-key": "key_1"}, {"gateway_event": "key_1"}),
        (
            {
                "x-convoy-idempotency-key": "key_1",
                "x-convoy-event-id": "evt_1",
                "x-convoy-eventdelivery-id": "evd_1",
            },
            {"gateway_event": "evt_1", "gateway_request": "evd_1"},
        ),
    ],
)
async def test_the_ids_of_convoy_are_stored(sent: dict[str, str], evidence: dict[str, str]) -> None:
    stored = Stored()
    renamed = '{"header": "X-Acme-Signature"}'
    headers = {**OWN, **signed(BODY, "convoy", overrides=renamed), **sent}

    assert (await ask(behind("convoy", gateway_signature=renamed), BODY, headers, stored)).status == 200
    assert Envelope.from_headers(stored.messages[0].headers).evidence == evidence


async def test_with_another_prefix_only_the_headers_with_it_are_evidence() -> None:
    stored = Stored()
    overrides = '{"header": ["x-acme-signature", "x-acme-signature-2"]}'
    headers = {
        **OWN,
        **signed(BODY, overrides=overrides),
        "x-acme-eventid": "evt_1",
        "x-hookdeck-eventid": "evt_2",
        "x-hookdeck-requestid": "req_2",
    }

    assert (await ask(behind(gateway_signature=overrides), BODY, headers, stored)).status == 200
    assert Envelope.from_headers(stored.messages[0].headers).evidence == {"gateway_event": "evt_1"}


async def test_without_a_gateway_its_headers_are_no_evidence() -> None:
    stored = Stored()
    await ask(settings(), BODY, {**OWN, "x-hookdeck-eventid": "evt_1", "x-gateway-event": "evt_1"}, stored)

    assert Envelope.from_headers(stored.messages[0].headers).evidence == {}


@pytest.mark.parametrize("value", ["e" * 10_000, "é\x7f\u202e" * 300, "\udcff" * 20, "'\"\\"])
async def test_evidence_is_bounded_and_inert(value: str) -> None:
    stored = Stored()
    await ask(behind(), BODY, {**OWN, **signed(BODY), "x-hookdeck-eventid": value}, stored)

    event = Envelope.from_headers(stored.messages[0].headers).evidence["gateway_event"]
    assert event.isascii()
    assert event.isprintable()
    assert len(event) <= LONGEST_EVIDENCE


@given(value=st.integers() | st.text() | st.none() | st.booleans())
def test_foreign_evidence_makes_no_delivery_invalid(value: object) -> None:
    now = datetime.now(UTC).isoformat()
    ids = dict.fromkeys(("x-event-id", "x-content-id"), "0d9e4f3c-1111-4222-8333-944455566677")
    ours = {"x-event-type": "order.created", "x-provider": "ovoko", "x-received-at": now, **ids}
    fields = Envelope.model_fields
    names = [fields[name].alias or "" for name in EVIDENCE if name in fields] + list(TRACE_HEADERS)

    assert Envelope.from_headers({**ours, **dict.fromkeys(names, value)}).event_type == "order.created"


@pytest.mark.parametrize(
    ("path", "body", "status", "aborts"),
    [
        ("/webhooks/buyback", b"[]", 400, True),
        ("/webhooks/buyback", b"not json", 400, True),
        ("/webhooks/buyback", b'{"token": "wrong"}', 401, False),
        ("/webhooks/ovoko", b" " * 3000, 413, True),
    ],
)
async def test_a_message_is_aborted_only_if_the_same_bytes_would_get_the_same_answer(
    path: str, body: bytes, status: int, aborts: bool
) -> None:
    response = await ask(settings(), body, OWN, path=path)

    assert (response.status, ABORT_MESSAGE in response.headers) == (status, aborts)


async def test_a_body_that_was_cut_off_is_never_aborted() -> None:
    for path in ("/webhooks/ovoko", "/webhooks/buyback"):
        response = await answer(b'{"token"', path=path, content_length="100")

        assert response.status == 408
        assert ABORT_MESSAGE not in response.headers


_VALUES = st.text(st.characters() | st.sampled_from("\udc80\udcff,= v1t0"), max_size=80)


_INGESTS = {
    name: Ingest(behind(name, gateway_secrets=SVIX_SECRET), Stored())
    for name in ("hookdeck", "svix", "convoy", "stripe", "header", "outpost")
}


@given(data=st.data(), gateway=st.sampled_from(sorted(_INGESTS)))
async def test_no_header_is_answered_by_a_fault_of_ours(data: st.DataObject, gateway: str) -> None:
    scheme = read_scheme(gateway)
    names = (*scheme.header, *scheme.id_header, *scheme.timestamp_header, "content-encoding", "x-request-id")
    headers = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(names, _VALUES)))

    request = Request(
        "POST", "/webhooks/ovoko", {**OWN, "content-length": str(len(BODY)), **headers}, chunks(BODY)
    )
    response = await _INGESTS[gateway].handle(request)

    assert response.status == 401


@pytest.mark.parametrize(
    ("require", "expected"),
    [
        ("both", [{"gateway": [], "ovoko": []}]),
        ("gateway", [{"gateway": []}]),
        ("optional", [{"gateway": [], "ovoko": []}, {"ovoko": []}]),
    ],
)
async def test_the_openapi_document_says_what_must_come(require: str, expected: list[object]) -> None:
    configured = behind(gateway_require=require, gateway_marketplaces="ovoko")
    request = Request("GET", "/openapi.json", {}, chunks(b""))

    document = json.loads((await Ingest(configured, Stored()).handle(request)).body)

    assert document["paths"]["/webhooks/ovoko"]["post"]["security"] == expected
    assert "security" not in document["paths"]["/webhooks/buyback"]["post"]
    assert document["components"]["securitySchemes"]["gateway"]["name"] == "x-hookdeck-signature"


# Settings and doctor


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"GATEWAY": "hookdek"}, "STOCKHOOK_GATEWAY: must be one of hookdeck, standard-webhooks, svix"),
        ({"GATEWAY": "custom"}, "STOCKHOOK_GATEWAY_SIGNATURE: is required with STOCKHOOK_GATEWAY=custom"),
        (
            {"GATEWAY": "hookdeck", "GATEWAY_SIGNATURE": '{"colour": 1}'},
            "STOCKHOOK_GATEWAY_SIGNATURE: colour: Extra inputs are not permitted",
        ),
        (
            {"GATEWAY": "svix", "GATEWAY_SECRETS": f"{SVIX_SECRET},plain-text-secret"},
            "STOCKHOOK_GATEWAY_SECRETS: secret 2 must begin with whsec_",
        ),
        (
            {"GATEWAY": "svix", "GATEWAY_SECRETS": f"ovko={SVIX_SECRET}"},
            "STOCKHOOK_GATEWAY_SECRETS: secret 1 names no marketplace",
        ),
        (
            {"GATEWAY": "hookdeck", "GATEWAY_SECRETS": f"Ovoko={GATEWAY_SECRET}"},
            "STOCKHOOK_GATEWAY_SECRETS: secret 1 names no marketplace",
        ),
        (
            {"GATEWAY": "hookdeck", "GATEWAY_SECRETS": f"ovoko ={GATEWAY_SECRET}"},
            "STOCKHOOK_GATEWAY_SECRETS: secret 1 names no marketplace",
        ),
        (
            {"GATEWAY": "svix", "GATEWAY_SECRETS": "whsk_" + base64.b64encode(bytes(64)).decode()},
            "STOCKHOOK_GATEWAY_SECRETS: secret 1 is a private key",
        ),
        (
            {
                "GATEWAY": "hookdeck",
                "GATEWAY_SECRETS": "whpk_AAAA",
                "GATEWAY_SIGNATURE": '{"secret": "base64"}',
            },
            "STOCKHOOK_GATEWAY_SECRETS: secret 1 is an ed25519 key, which this scheme does not use",
        ),
        ({"GATEWAY_MARKETPLACES": "ovko"}, "STOCKHOOK_GATEWAY_MARKETPLACES: must be of ovoko, buyback"),
        (
            {"GATEWAY_REQUIRE": "maybe"},
            "STOCKHOOK_GATEWAY_REQUIRE: Input should be 'both', 'gateway'",
        ),
        (
            {"GATEWAY_TOLERANCE": "0"},
            "STOCKHOOK_GATEWAY_TOLERANCE: Input should be greater than",
        ),
    ],
)
def test_a_bad_setting_of_the_gateway_is_one_sentence_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], sentence: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"STOCKHOOK_{name}", value)

    with pytest.raises(BadSettings) as refusal:
        read_settings()

    text = str(refusal.value)
    assert text.startswith(sentence)
    assert "\n" not in text
    assert not [
        secret for secret in values.get("GATEWAY_SECRETS", "").split(",") if secret and secret in text
    ]


def test_the_tolerance_is_that_of_the_setting_unless_the_scheme_has_one() -> None:
    def tolerance(**changes: object) -> int:
        gateway = behind("svix", gateway_secrets=SVIX_SECRET, **changes).gateway_of("ovoko")
        assert gateway is not None
        return gateway.scheme.tolerance

    assert tolerance() == 300
    assert tolerance(gateway_tolerance=60) == 60
    assert tolerance(gateway_tolerance=60, gateway_signature='{"tolerance": 10}') == 10


async def test_a_timestamp_outside_of_the_tolerance_is_refused() -> None:
    configured = behind("svix", gateway_secrets=SVIX_SECRET, gateway_tolerance=60)
    for age, status in ((-40, 200), (40, 200), (-80, 401), (80, 401)):
        sent_at = datetime.now(UTC) + timedelta(seconds=age)
        headers = {**OWN, **signed(BODY, "svix", SVIX_SECRET, sent_at)}
        assert (await ask(configured, BODY, headers)).status == status


@pytest.mark.parametrize("secrets", ["short", "changeme-changeme", f"{GATEWAY_SECRET},aaaaaaaaaaaaaaaa"])
def test_the_ingest_does_not_start_with_a_weak_secret_of_the_gateway(secrets: str) -> None:
    configured = settings(
        gateway="hookdeck",
        gateway_secrets=secrets,
        ovoko_secrets="d41d8cd98f00b204e980",
        buyback_tokens="9800998ecf8427e41d8c",
    )

    with pytest.raises(BadSettings, match=r"STOCKHOOK_GATEWAY_SECRETS: secret \d (is|repeats)"):
        serve(configured)


def test_the_ingest_does_not_start_behind_a_gateway_that_is_not_named() -> None:
    with pytest.raises(BadSettings, match="STOCKHOOK_GATEWAY_REQUIRE is gateway: set STOCKHOOK_GATEWAY"):
        serve(settings(gateway_require="gateway"))


def doctors_findings(configured: Settings) -> list[tuple[str, str]]:
    return [(each.level, each.what) for each in check_configuration(configured) if each.subject == "gateway"]


def test_the_doctor_knows_the_gateway() -> None:
    assert doctors_findings(settings()) == []
    [(level, what)] = doctors_findings(behind(gateway_secrets=f"{GATEWAY_SECRET},{OLDER_SECRET}"))
    assert (level, what) == ("ok", "the signature of hookdeck is required: 2 active secrets")
    [(level, what)] = doctors_findings(behind(gateway_require="optional"))
    assert (level, "without the gateway's signature" in what) == ("warning", True)
    [(level, what)] = doctors_findings(settings(gateway_require="gateway"))
    assert (level, "no gateway is named" in what) == ("error", True)
    [(level, what)] = doctors_findings(settings(gateway_secrets=GATEWAY_SECRET))
    assert (level, "no signature is verified" in what) == ("warning", True)
    [(level, what)] = doctors_findings(behind("svix", gateway_secrets="whsec_AAECAwQ="))
    assert (level, what) == ("error", "STOCKHOOK_GATEWAY_SECRETS: secret 1 is shorter than 16 bytes")
    [(level, what), _] = doctors_findings(behind(publish_timeout=4.5))
    assert (level, "an answer takes 4.5 s" in what) == ("warning", True)
    assert [level for level, _ in doctors_findings(behind(publish_timeout=4))] == ["ok"]
    assert doctors_findings(settings(publish_timeout=60)) == []


@pytest.mark.parametrize("require", ["both", "gateway", "optional"])
@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"gateway_secrets": ""}, "ovoko, buyback"),
        ({"gateway_secrets": f"buyback={GATEWAY_SECRET}"}, "ovoko"),
        ({"gateway_secrets": "", "gateway_marketplaces": "buyback"}, "buyback"),
    ],
)
def test_for_the_doctor_a_marketplace_behind_a_gateway_without_a_secret_is_an_error(
    require: str, changes: dict[str, str], lacking: str
) -> None:
    findings = doctors_findings(behind(gateway_require=require, **changes))

    assert [what for level, what in findings if level == "error"] == [
        f"STOCKHOOK_GATEWAY_SECRETS has no secret for {lacking}: every webhook is refused"
    ]
    assert "ok" not in [level for level, _ in findings]
    bound = {"gateway_secrets": f"buyback={GATEWAY_SECRET}", "gateway_marketplaces": "buyback"}
    assert "error" not in [level for level, _ in doctors_findings(behind(gateway_require=require, **bound))]


def test_a_gateway_without_a_secret_disables_every_endpoint() -> None:
    reasons = {
        marketplace.disabled_reason(behind(gateway_secrets="")) for marketplace in MARKETPLACES.values()
    }

    assert reasons == {f"STOCKHOOK_GATEWAY_SECRETS has no secret for {name}." for name in MARKETPLACES}
