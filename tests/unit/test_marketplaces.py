"""The entries of marketplaces in the registry, and their use by the intake."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest
from cryptography.fernet import Fernet, MultiFernet
from pydantic import SecretStr

from consumers.registry import FAMILY_OF
from schemas.envelope import UNHANDLED
from schemas.events import routing_key, webhook_models
from schemas.registry import SCHEMAS, Provider
from worker.config.settings import Secrets, Settings
from worker.intake.intake import ENCRYPTED_WHOLE, NOT_JSON, Unauthorized, accept, accept_again
from worker.marketplaces.buyback.marketplace import BANK_DETAILS
from worker.marketplaces.contract import Marketplace
from worker.marketplaces.registry import MARKETPLACES

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ENCRYPTOR = MultiFernet([Fernet(Fernet.generate_key())])
ACCOUNT = "PT50002700000001234567833"
TOKEN = "the-token-0123456789"

EACH = pytest.mark.parametrize("marketplace", MARKETPLACES.values(), ids=list(MARKETPLACES))


def test_each_name_has_a_schema_and_an_entry() -> None:
    assert list(SCHEMAS) == list(MARKETPLACES) == list(Provider)


@EACH
def test_its_secrets_are_a_setting(marketplace: Marketplace) -> None:
    setting = Settings.model_fields[marketplace.secrets_setting]

    assert setting.annotation == get_args(Secrets)[0]
    assert setting.default == ()
    assert marketplace.disabled_reason(Settings()) == f"{marketplace.secrets_variable} is not set."


@EACH
def test_private_names_are_spelled_as_they_are_compared(marketplace: Marketplace) -> None:
    names = marketplace.private.names if marketplace.private else ()

    assert all(re.fullmatch(r"[a-z]+", name) for name in names)


@EACH
def test_a_family_takes_each_of_its_event_types(marketplace: Marketplace) -> None:
    types = [routing_key(marketplace.name, name) for name in webhook_models(marketplace.name)]

    assert set(types) <= FAMILY_OF.keys()


def test_a_secret_in_a_header_goes_together_with_private_members(monkeypatch: pytest.MonkeyPatch) -> None:
    private = replace(MARKETPLACES[Provider.OVOKO], private=BANK_DETAILS)
    monkeypatch.setitem(MARKETPLACES, Provider.OVOKO, private)
    known = {"event_type": "order.created", "event_data": {"bankAccount": ACCOUNT}}
    bodies = {
        "known": json.dumps(known).encode(),
        "unknown": json.dumps({**known, "event_type": "order.moved"}).encode(),
        "broken": json.dumps(known).encode()[:-1],
    }
    accepted = {name: accept(Provider.OVOKO, body, NOW, (), ENCRYPTOR) for name, body in bodies.items()}
    again = accept_again(Provider.OVOKO, accepted["known"].message.body, NOW, ENCRYPTOR)

    assert not [name for name, one in accepted.items() if ACCOUNT.encode() in one.message.body]
    assert {name: one.reason for name, one in accepted.items()} == {
        "known": None,
        "unknown": UNHANDLED,
        "broken": ENCRYPTED_WHOLE,
    }
    assert ENCRYPTOR.decrypt(accepted["unknown"].message.body) == bodies["unknown"]
    assert ENCRYPTOR.decrypt(accepted["broken"].message.body) == bodies["broken"]
    assert (again.event_id, again.content_id) == (accepted["known"].event_id, accepted["known"].content_id)


def test_a_secret_in_the_body_is_never_stored_even_without_private_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    public = replace(MARKETPLACES[Provider.BUYBACK], private=None)
    monkeypatch.setitem(MARKETPLACES, Provider.BUYBACK, public)
    event = {"type": "OrderCreatedEvent", "token": TOKEN, "result": {"id": 1, "note": TOKEN}}
    bodies = {
        "known": json.dumps(event).encode(),
        "unknown": json.dumps({**event, "type": "OrderMovedEvent"}).encode(),
        "broken": json.dumps(event).encode()[:-1],
    }
    secrets = (SecretStr(TOKEN),)
    accepted = {name: accept(Provider.BUYBACK, body, NOW, secrets) for name, body in bodies.items()}

    assert {name: one.reason for name, one in accepted.items()} == {
        "known": None,
        "unknown": UNHANDLED,
        "broken": NOT_JSON,
    }
    assert TOKEN not in repr(accepted)
    assert accept(Provider.BUYBACK, bodies["known"], NOW, (SecretStr("another-secret"),)) == Unauthorized()
