"""Bank details are encrypted at any place, and decrypt to the same bytes."""

import json
from itertools import zip_longest
from typing import Any

import pytest
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import given
from hypothesis import strategies as st

from tests.support.counted import Counted
from worker.intake import encryption
from worker.intake.encryption import (
    ENCRYPTED_STRING,
    NoUsableKey,
    decrypt_members,
    encrypt_members,
)
from worker.marketplaces.buyback.marketplace import BANK_DETAILS

ENCRYPTOR = MultiFernet([Fernet(Fernet.generate_key())])
ACCOUNT = "PT50000201231234567890154"
DETAILS = {"bankAccount": {"accountNumber": ACCOUNT}, "firstName": "Jane"}

NAMES = [
    "customerPaymentDetails",
    "CustomerPaymentDetails",
    "CUSTOMERPAYMENTDETAILS",
    " customerPaymentDetails ",
    "customerPaymentDetails\u00a0",
    "customer_payment_details",
    "customer-payment-details",
    "customer payment details\t",
    "bankAccount",
    "BankAccount",
    "bank_account",
    "\uff42ank\u200bAccount",
]
names = st.sampled_from([*NAMES, "a", "token", ENCRYPTED_STRING])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
in_strings = st.builds(
    lambda value, times: nested(value, times),
    st.sampled_from([DETAILS, {"a": [{"BankAccount ": ACCOUNT}]}, [1], "a"]),
    st.integers(1, 3),
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | in_strings | st.just(f"{ENCRYPTED_STRING}gAAAA"),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(names | texts, children, max_size=3),
    max_leaves=10,
)
spacings = st.sampled_from([None, (",", ":"), (" ,\n", "\t: ")])


def encrypt(body: bytes) -> bytes:
    return encrypt_members(body, BANK_DETAILS, ENCRYPTOR)


def decrypt(body: bytes) -> bytes:
    return decrypt_members(body, BANK_DETAILS, ENCRYPTOR)


def nested(value: object, times: int) -> str:
    text = json.dumps(value)
    for _ in range(times - 1):
        text = json.dumps(text)
    return text


def full_width(letter: str) -> str:
    """Its form in the width of a Chinese character, which is the same letter to us."""
    return chr(ord(letter) + 0xFEE0)


@pytest.mark.parametrize("name", NAMES)
def test_bank_details_are_encrypted_in_any_spelling_of_their_member(name: str) -> None:
    for ascii_only in (True, False):
        document = {"a": [{name: DETAILS, "stays": 1.50}], name: ACCOUNT}
        encrypted = encrypt(json.dumps(document, ensure_ascii=ascii_only).encode())

        assert ACCOUNT.encode() not in encrypted
        assert b'"stays": 1.5' in encrypted


def test_escapes_in_the_name_hide_nothing() -> None:
    escaped = "".join(f"\\u{ord(one):04X}" for one in "bankAccount")
    encrypted = encrypt(f'{{"{escaped}": "{ACCOUNT}"}}'.encode())

    assert ACCOUNT.encode() not in encrypted


@pytest.mark.parametrize("times", [1, 2, 3])
def test_bank_details_in_json_in_a_string_are_encrypted_with_the_string(times: int) -> None:
    for text in (nested(DETAILS, times), f"they wrote {nested(DETAILS, times)} to us"):
        document = {"metadata": {"note": text, "list": [text]}, "stays": "[1]"}
        encrypted = encrypt(json.dumps(document).encode())
        decoded = json.loads(encrypted)

        assert ACCOUNT.encode() not in encrypted
        assert decoded["metadata"]["note"].startswith(ENCRYPTED_STRING)
        assert decoded["stays"] == "[1]"


@given(document=documents, separators=spacings, ascii_only=st.booleans())
def test_an_encrypted_body_is_json_and_decrypts_to_the_same_bytes(
    document: Any, separators: tuple[str, str] | None, ascii_only: bool
) -> None:
    body = json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()
    encrypted = encrypt(body)

    json.loads(encrypted)
    assert ACCOUNT.encode() not in encrypted
    assert decrypt(encrypted) == body


def test_the_last_characters_of_the_account_stay_readable() -> None:
    for value in (DETAILS, DETAILS["bankAccount"]):
        encrypted = json.loads(encrypt(json.dumps({"bankAccount": value}).encode()))

        assert encrypted["bankAccount"]["accountNumberEnding"] == ACCOUNT[-4:]


def test_a_senders_imitation_of_a_ciphertext_is_not_decrypted_and_stops_nothing() -> None:
    body = json.dumps({"bankAccount": {"sealed": "gAAAA"}, "note": f"{ENCRYPTED_STRING}gAAAA"}).encode()
    encrypted = encrypt(body)

    assert decrypt(encrypted) == body
    with pytest.raises(NoUsableKey):
        decrypt(body)


def test_a_document_without_bank_details_stays_byte_for_byte() -> None:
    body = b'{ "result" : {"note":"by bank transfer","bank":1, "customerPaymentDetails": null}, "b":"[]" }'

    assert encrypt(body) == body


@given(
    letters=st.sampled_from(sorted(BANK_DETAILS.names)).flatmap(
        lambda name: st.tuples(*(st.sampled_from([one, one.upper(), full_width(one)]) for one in name))
    ),
    between=st.lists(
        st.text(st.sampled_from(" _-.,:;/'[]{}()@\x7f\t\u00a0\u200b\u0360"), max_size=2), max_size=30
    ),
    in_string=st.booleans(),
    ascii_only=st.booleans(),
)
def test_no_white_space_or_punctuation_in_a_name_hides_bank_details(
    letters: tuple[str, ...], between: list[str], in_string: bool, ascii_only: bool
) -> None:
    name = "".join(a + b for a, b in zip_longest(between[: len(letters) + 1], letters, fillvalue=""))
    document: object = {name: ACCOUNT}
    if in_string:
        document = {"note": json.dumps(document)}
    encrypted = encrypt(json.dumps(document, ensure_ascii=ascii_only).encode())

    assert ACCOUNT.encode() not in encrypted


@pytest.mark.parametrize("item", ["\n", '"', '"\n', '"plain": "text"\n', '{"plain": 1}'])
def test_a_string_that_can_hold_no_bank_details_is_not_scanned(
    item: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"mark": "\n", "many": [item] * 1000}).encode()
    scan = Counted(encryption.members)
    monkeypatch.setattr(encryption, "members", scan)

    assert encrypt(body) == body
    assert scan.calls == 1


def test_hostile_names_take_time_in_proportion_to_their_size() -> None:
    for unit in (" _", "b", "b ", "b a n ", "customer payment detail "):
        body = json.dumps({f"b{unit * (250_000 // len(unit))}": 1}).encode()

        assert encrypt(body) == body
