"""The intake of a body: authentication, routing or quarantine, and removal of secrets."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from schemas.envelope import UNHANDLED, Envelope, Provenance, headers_of_new
from schemas.event_schema import EventIds
from schemas.events import parse
from schemas.registry import Provider
from tests.support import events
from tests.support.counted import Counted
from worker.intake import intake
from worker.intake.encryption import encrypt_members
from worker.intake.intake import (
    RESERVED_TYPE,
    Accepted,
    Unauthorized,
    Unreadable,
    accept,
    accept_again,
    accept_observed,
    accept_unhandled,
)
from worker.marketplaces.buyback.marketplace import BANK_DETAILS

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NEPAL = timezone(timedelta(hours=5, minutes=45))
TOKEN = "the-token-0123456789"
TOKENS = (SecretStr("the-old-token-012345"), SecretStr(TOKEN))
ENCRYPTOR = MultiFernet([Fernet(Fernet.generate_key())])
IBAN = "PT50002700000001234567833"

SOLD = events.part_changed("13", at="2023-01-12T14:17:20+02:00", number=1)
CUSTOMER = {"firstName": "A", "customerPaymentDetails": {"bankAccount": {"accountNumber": IBAN}}}
PAID: dict[str, Any] = {
    "type": "OrderCustomerPaymentDetailsCreatedEvent",
    "token": TOKEN,
    **events.buyback(
        "OrderCustomerPaymentDetailsCreatedEvent",
        at="2024-02-02T14:36:04.8929014Z",
        order={"id": "o1", "customerInformation": CUSTOMER},
    ),
}


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.sampled_from([UTC, NEPAL])),
    st.sampled_from(Provenance),
    st.none() | st.just(UNHANDLED),
)
def test_the_headers_of_a_new_event_are_those_that_its_envelope_writes(
    received_at: datetime, provenance: Provenance, reason: str | None
) -> None:
    ids = EventIds(UUID(int=1), UUID(int=2))
    headers = headers_of_new(Provider.OVOKO, "order.created", ids, received_at, provenance, reason)
    envelope = Envelope.from_headers(headers)

    assert (envelope.event_id, envelope.content_id) == (ids.event_id, ids.content_id)
    assert (envelope.received_at, envelope.provenance, envelope.reason) == (received_at, provenance, reason)
    assert list(headers.items()) == list(envelope.to_headers().items())


def ovoko(document: object) -> Accepted:
    accepted = accept(Provider.OVOKO, json.dumps(document).encode(), NOW)
    assert isinstance(accepted, Accepted)
    return accepted


def buyback(body: bytes) -> Accepted:
    taken = accept(Provider.BUYBACK, body, NOW, TOKENS, ENCRYPTOR)
    assert isinstance(taken, Accepted)
    return taken


def test_an_event_of_ovokos_keeps_its_id_and_its_bytes() -> None:
    taken = ovoko(SOLD)

    assert str(taken.event_id) == SOLD["event_id"]
    assert taken.reason is None
    assert taken.message.routing_key == "ovoko.part.status.changed"
    assert taken.message.body == json.dumps(SOLD).encode()


def test_flat_and_wrapped_are_the_same_event() -> None:
    flat, wrapped = ovoko(SOLD), ovoko({"event": SOLD})

    assert (wrapped.event_id, wrapped.message.routing_key) == (flat.event_id, flat.message.routing_key)
    assert wrapped.message.headers["x-content-id"] == flat.message.headers["x-content-id"]


def test_an_event_without_an_id_gets_one_from_its_content() -> None:
    without = {name: value for name, value in SOLD.items() if name != "event_id"}
    reordered = dict(reversed(without.items()))
    other = {**without, "timestamp": "2023-01-12T14:17:21+02:00"}

    assert ovoko(without).event_id == ovoko(reordered).event_id != ovoko(other).event_id


def test_an_id_is_the_same_as_a_number_and_as_text() -> None:
    ids = {ovoko({**SOLD, "event_id": spelled}).event_id for spelled in (5, 5.0, "5", " 5 ")}

    assert len(ids) == 1
    assert ovoko({**SOLD, "event_id": f" {SOLD['event_id']} "}).event_id == ovoko(SOLD).event_id


@pytest.mark.parametrize("unusable", [None, "", " ", True, [], {}, ["5"]])
def test_an_unusable_event_id_counts_as_none(unusable: object) -> None:
    without = {name: value for name, value in SOLD.items() if name != "event_id"}

    assert ovoko({**SOLD, "event_id": unusable}).event_id == ovoko(without).event_id


def test_an_id_that_is_no_uuid_becomes_one() -> None:
    assert ovoko({**SOLD, "event_id": "evt_1"}).event_id == ovoko({**SOLD, "event_id": "evt_1"}).event_id
    assert ovoko({**SOLD, "event_id": "evt_1"}).event_id != ovoko({**SOLD, "event_id": "evt_2"}).event_id


def test_the_same_id_with_other_content_is_distinguishable() -> None:
    other = {**SOLD, "event_type": "order.created", "event_data": {"order_id": "1"}}

    assert ovoko(SOLD).event_id == ovoko(other).event_id
    assert ovoko(SOLD).message.headers["x-content-id"] != ovoko(other).message.headers["x-content-id"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"not json", "not JSON"),
        (b'{"event_type": NaN}', "not JSON"),
        (b'\xef\xbb\xbf{"event_type": "order.created"}', "not JSON"),
        (b'{"event_type": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"event_type": "order.created", "x": ' + b"1" * 5000 + b"}", "not JSON"),
        (b'{"event_type": "order.created", "x": ' + b"1" * 101 + b"}", "not JSON"),
        (b'{"event_type": "order.created", "x": 1e999999999}', "not JSON"),
        (b'{"event_type": "order.created", "x": [-1E-999999999]}', "not JSON"),
        (b'{"event_type": "order.created", "x": 0e99999999999999999999}', "not JSON"),
        (b"[]", "no event type"),
        (b'"text"', "no event type"),
        (b'{"event_type": 5}', "no event type"),
        (b'{"event": []}', "no event type"),
        (b'{"event_type": " "}', "no event type"),
        (b'{"event_type": "stockhook.observed.part"}', RESERVED_TYPE),
        (b'{"event_type": "stockhook.anything"}', RESERVED_TYPE),
    ],
)
def test_an_authentic_but_malformed_body_is_quarantined_unchanged(body: bytes, reason: str) -> None:
    taken = accept(Provider.OVOKO, body, NOW)

    assert (taken.reason, taken.message.body) == (reason, body)
    assert taken.message.routing_key == "quarantine.ovoko"
    assert taken.message.headers["x-reason"] == reason


@pytest.mark.parametrize(
    "body",
    [b'{"event_type": "order.created", "x": 1e99}', b'{"event_type": "order.created", "x": "\\u0000"}'],
)
def test_an_event_with_unreadable_values_reaches_its_family(body: bytes) -> None:
    assert accept(Provider.OVOKO, body, NOW).reason is None


def test_observations_are_accepted_only_from_stockhook_itself() -> None:
    body = json.dumps({**SOLD, "event_type": "stockhook.observed.part"}).encode()
    observed = accept_observed(Provider.OVOKO, body, NOW)
    replayed = accept_again(Provider.OVOKO, body, NOW, None, Provenance.OBSERVATION)

    assert observed == replayed
    assert (observed.family, observed.message.routing_key) == ("inventory", "ovoko.stockhook.observed.part")
    assert accept(Provider.OVOKO, body, NOW).reason == RESERVED_TYPE
    assert accept_again(Provider.OVOKO, body, NOW, None).reason == RESERVED_TYPE


def test_every_message_names_the_marketplace_of_its_endpoint_not_of_its_body() -> None:
    claimed = {"x-provenance": "observation", "provenance": "observation"}

    assert ovoko({**SOLD, **claimed}).message.headers["x-provenance"] == "webhook"
    assert ovoko({"event_type": "stockhook.x", **claimed}).message.headers["x-provenance"] == "webhook"
    assert buyback(json.dumps({**PAID, **claimed}).encode()).message.headers["x-provenance"] == "webhook"
    observed = json.dumps({**SOLD, "event_type": "stockhook.observed.part"}).encode()
    assert accept_observed(Provider.OVOKO, observed, NOW).message.headers["x-provenance"] == "observation"


def test_the_token_is_cut_out_and_bank_details_are_encrypted() -> None:
    taken = buyback(json.dumps(PAID).encode())
    everything = repr(taken)
    details = json.loads(taken.message.body)["result"]["order"]["customerInformation"][
        "customerPaymentDetails"
    ]

    assert TOKEN not in everything
    assert IBAN not in everything
    assert details["accountNumberEnding"] == IBAN[-4:]
    assert json.loads(ENCRYPTOR.decrypt(details["sealed"])) == {"bankAccount": {"accountNumber": IBAN}}
    parse(Provider.BUYBACK, taken.message.body)


def test_encryption_does_not_change_the_event_id() -> None:
    body = json.dumps(PAID).encode()

    assert buyback(body).event_id == buyback(body).event_id
    assert buyback(body).message.body != buyback(body).message.body


def test_the_token_does_not_change_the_event() -> None:
    old = {**PAID, "token": TOKENS[0].get_secret_value()}

    assert buyback(json.dumps(old).encode()).event_id == buyback(json.dumps(PAID).encode()).event_id


def test_a_token_elsewhere_in_the_body_is_removed() -> None:
    document = {**PAID, "note": f"sent with {TOKEN}", "result": {**PAID["result"], "token": TOKEN}}

    assert TOKEN not in repr(buyback(json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": None}, "no event type"),
        ({"type": ""}, "no event type"),
        ({"result": None}, "no result"),
        ({"result": []}, "no result"),
    ],
)
def test_malformed_buyback_events_are_quarantined_without_secrets(
    change: dict[str, Any], reason: str
) -> None:
    taken = buyback(json.dumps({**PAID, **change}).encode())

    assert taken.reason == reason
    assert TOKEN not in repr(taken)
    assert IBAN not in repr(taken)


def test_a_well_formed_event_of_a_type_that_no_family_takes_is_unhandled_not_broken() -> None:
    taken = ovoko({**SOLD, "event_type": "part.moved"})
    envelope = Envelope.from_headers(taken.message.headers)

    assert (taken.family, taken.reason, taken.unhandled) == (None, UNHANDLED, "ovoko.part.moved")
    assert taken.message.routing_key == "quarantine.ovoko"
    assert (envelope.reason, envelope.event_type) == (UNHANDLED, "part.moved")
    assert str(taken.event_id) == str(envelope.event_id) == SOLD["event_id"]
    assert json.loads(taken.message.body) == {**SOLD, "event_type": "part.moved"}


def test_an_unhandled_buyback_event_is_fully_encrypted_without_its_token() -> None:
    """The places of personal data in it are unknown."""
    document = {**PAID, "type": "SubmissionCreatedEvent", "email": "jane@example.org"}
    taken = buyback(json.dumps(document).encode())
    plain = ENCRYPTOR.decrypt(taken.message.body)

    assert (taken.family, taken.unhandled) == (None, "buyback.SubmissionCreatedEvent")
    assert not [canary for canary in (TOKEN, IBAN, "jane@example.org") if canary in repr(taken)]
    assert TOKEN.encode() not in plain
    assert json.loads(plain) == {name: value for name, value in document.items() if name != "token"}


def test_an_unhandled_event_that_is_sent_again_is_the_same_and_any_other_is_not() -> None:
    def ids(**changes: object) -> tuple[object, object]:
        document = {"type": "OfferCreatedEvent", "token": TOKEN, "result": {"id": 1}, **changes}
        headers = buyback(json.dumps(document).encode()).message.headers
        return headers["x-event-id"], headers["x-content-id"]

    assert ids() == ids() == ids(token=TOKENS[0].get_secret_value())
    assert ids() != ids(result={"id": 2})
    # Its event id will be derived from its result; until a family handles it, from its whole content.
    assert ids()[0] == ids(offer=2)[0]
    assert len({ids()[1], ids(offer=2)[1], ids(result=[])[1], ids(result=None)[1]}) == 4


@pytest.mark.parametrize(
    "event_type", ["x" * 200_000, "ä" * 200_000, "a\0\x1b[2J\u202e\x9b\r\nb", "\U0001f697" * 300]
)
def test_the_name_of_an_unhandled_type_is_bounded_and_cannot_command_a_terminal(event_type: str) -> None:
    taken = ovoko({**SOLD, "event_type": event_type})
    name = str(taken.message.headers["x-event-type"])

    assert taken.unhandled == f"ovoko.{name}"
    assert len(name) <= 200
    assert name.isprintable()
    assert json.loads(taken.message.body)["event_type"] == event_type


def test_an_unhandled_event_is_replayed_as_if_it_were_sent_now() -> None:
    """Only the time of reception differs."""
    sold, paid = json.dumps(SOLD).encode(), json.dumps(PAID).encode()
    stored = ENCRYPTOR.encrypt(paid.replace(f', "token": "{TOKEN}"'.encode(), b""))
    replayed = accept_unhandled(Provider.BUYBACK, stored, NOW, ENCRYPTOR)

    assert accept_unhandled(Provider.OVOKO, sold, NOW, None) == accept(Provider.OVOKO, sold, NOW)
    assert (replayed.event_id, replayed.family) == (buyback(paid).event_id, "buybacks")
    assert replayed.message.headers == buyback(paid).message.headers
    assert IBAN.encode() not in replayed.message.body
    parse(Provider.BUYBACK, replayed.message.body)


def test_an_unhandled_event_of_a_type_that_still_no_family_takes_stays_unhandled() -> None:
    body = json.dumps({"type": "OfferCreatedEvent", "token": TOKEN, "result": {}}).encode()
    stored = buyback(body).message.body

    assert accept_unhandled(Provider.BUYBACK, stored, NOW, ENCRYPTOR).unhandled == "buyback.OfferCreatedEvent"


def test_a_letter_of_an_older_release_becomes_an_unhandled_event_encrypted_whole() -> None:
    """Such a release stored it like known types: only bank details were encrypted."""
    older = encrypt_members(
        json.dumps({**PAID, "type": "OfferCreatedEvent", "token": ""}).encode(), BANK_DETAILS, ENCRYPTOR
    )
    taken = accept_again(Provider.BUYBACK, older, NOW, ENCRYPTOR)

    assert taken.unhandled == "buyback.OfferCreatedEvent"
    assert IBAN.encode() in ENCRYPTOR.decrypt(taken.message.body)


def test_a_broken_body_with_a_token_is_stored_encrypted_as_a_whole() -> None:
    broken = json.dumps(PAID).encode().replace(b'"firstName": "A",', b'"firstName": "A"')
    taken = buyback(broken)

    assert taken.reason == "not JSON (encrypted as a whole)"
    assert ENCRYPTOR.decrypt(taken.message.body) == broken.replace(f' "token": "{TOKEN}",'.encode(), b"")
    assert IBAN.encode() not in taken.message.body


@pytest.mark.parametrize("token", ["wrong", "", None, 5, TOKEN + "x", TOKEN[:-1], "ü", "\ud800", chr(0xDCFF)])
def test_a_body_without_an_active_token_is_refused(token: object) -> None:
    body = json.dumps({**PAID, "token": token}).encode()

    assert accept(Provider.BUYBACK, body, NOW, TOKENS, ENCRYPTOR) == Unauthorized()


@pytest.mark.parametrize("body", [b"", b"not json", b"{", b"\xff\xfe{\x00", b"[" * 100_000, b'"text"', b"5"])
def test_a_body_in_which_no_token_can_be_read_is_unreadable(body: bytes) -> None:
    assert accept(Provider.BUYBACK, body, NOW, TOKENS, ENCRYPTOR) == Unreadable()


@pytest.mark.parametrize(
    "body",
    [b'{"token": "wrong", oops', b'{"token": "\\ud800", oops', b'{"token": "wrong", "x": 1e999999999}'],
)
def test_a_broken_body_with_a_wrong_token_is_refused(body: bytes) -> None:
    assert accept(Provider.BUYBACK, body, NOW, TOKENS, ENCRYPTOR) == Unauthorized()


def test_a_broken_body_that_is_sent_again_has_the_same_id() -> None:
    broken = json.dumps(PAID).encode().replace(b'"firstName": "A",', b'"firstName": "A"')

    assert buyback(broken).event_id == buyback(broken).event_id
    assert buyback(broken).event_id != buyback(broken + b" ").event_id


def test_an_authentic_body_with_a_number_beyond_bounds_is_stored() -> None:
    body = json.dumps(PAID).encode().replace(b'"firstName": "A"', b'"firstName": "A", "x": 1e999999999')
    taken = buyback(body)

    assert taken.reason == "not JSON (encrypted as a whole)"
    assert b"1e999999999" in ENCRYPTOR.decrypt(taken.message.body)


@pytest.mark.parametrize("change", [{}, {"type": "OrderTeleportedEvent"}, {"result": None}])
def test_ids_are_derived_from_the_plaintext_not_from_the_ciphertext(change: dict[str, Any]) -> None:
    document = {**PAID, "BankAccount ": IBAN, **change}
    body = json.dumps(document).encode()
    once, twice = buyback(body), buyback(body)
    accept_stored = accept_again if once.unhandled is None else accept_unhandled
    again = accept_stored(Provider.BUYBACK, once.message.body, NOW, ENCRYPTOR)

    assert once.message.body != twice.message.body
    assert once.event_id == twice.event_id == again.event_id
    assert once.content_id == twice.content_id == again.content_id
    assert IBAN not in repr(once)


def test_a_copy_of_the_token_in_an_event_leaves_its_id_the_same_when_it_is_taken_again() -> None:
    escaped = "".join(f"\\u{ord(one):04x}" for one in TOKEN)
    body = json.dumps(PAID).encode().replace(b'"result": {', b'"result": {"note": "%s", ' % escaped.encode())
    taken = buyback(body)
    again = accept_again(Provider.BUYBACK, taken.message.body, NOW, ENCRYPTOR)

    assert escaped.encode() not in taken.message.body
    assert json.loads(taken.message.body)["result"]["note"] == "***"
    assert taken.event_id == again.event_id


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"",' + b'"",' * 1000, Unreadable()),
        (b"[" + b"," * 1000, Unreadable()),
        (b"{" * 1000, Unreadable()),
        (b'{"token":' * 1000, Unreadable()),
        (b'{"token":"wrong",' + b"{" * 1000, Unauthorized()),
        (b'{"token":"\\u0041",' + b'"\\u0041",' * 1000, Unauthorized()),
        (b'{"token":"\xff",' + b"," * 1000, Unauthorized()),
        (b'{"token":"wrong",' * 1000, Unauthorized()),
    ],
)
def test_a_broken_body_without_an_active_token_is_not_scanned(
    body: bytes, answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = Counted(intake.top_level_string)
    monkeypatch.setattr(intake, "top_level_string", scan)

    assert accept(Provider.BUYBACK, body, NOW, TOKENS, ENCRYPTOR) == answer
    assert scan.calls == 0


def test_a_token_in_escapes_is_removed_from_a_broken_body() -> None:
    escaped = "".join(f"\\u{ord(one):04x}" for one in TOKEN)
    taken = buyback(b'{"t\\u006Fken" : "%s", oops' % escaped.encode())

    assert (taken.reason, taken.secret) == ("not JSON (encrypted as a whole)", 1)
