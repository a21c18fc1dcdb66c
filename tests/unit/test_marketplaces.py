"""What every marketplace in the registry must state."""

import re
from typing import get_args

import pytest

from consumers.registry import FAMILY_OF
from schemas.events import routing_key, webhook_models
from schemas.registry import SCHEMAS, Provider
from worker.config.settings import Secrets, Settings
from worker.marketplaces.contract import Marketplace
from worker.marketplaces.registry import MARKETPLACES

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
