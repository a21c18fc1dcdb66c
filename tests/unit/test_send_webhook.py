"""Events are sent with the first secret of their marketplace, in its header or body."""

import orjson
import pytest
from pydantic import SecretStr

from schemas.examples import Example, as_printed, documented
from schemas.registry import Provider
from worker.config.settings import BadSettings, Settings
from worker.intake.authentication import position
from worker.intake.json_bytes import top_level_string, without_member
from worker.simulator.webhook import Credentials

TOKEN = 'a "quoted" \\token'
SETTINGS = Settings(
    ovoko_header="X-Ovoko",
    ovoko_secrets=(SecretStr("first"), SecretStr("second")),
    buyback_tokens=(SecretStr(TOKEN), SecretStr("another")),
)
CREDENTIALS = Credentials.of(SETTINGS, Provider)


def _examples(provider: Provider) -> list[Example]:
    return [example for example in documented() + as_printed() if example.provider is provider]


@pytest.mark.parametrize("example", _examples(Provider.OVOKO), ids=lambda example: example.name)
def test_ovokos_secret_goes_into_the_header_and_the_body_is_untouched(example: Example) -> None:
    webhook = CREDENTIALS.webhook(example.provider, example.event_type, example.body)

    assert webhook.path == "/webhooks/ovoko"
    assert webhook.headers["X-Ovoko"] == "first"
    assert webhook.body == example.body


@pytest.mark.parametrize("example", _examples(Provider.BUYBACK), ids=lambda example: example.name)
def test_the_token_of_an_example_is_replaced_and_nothing_else(example: Example) -> None:
    webhook = CREDENTIALS.webhook(example.provider, example.event_type, example.body)
    token = top_level_string(webhook.body, "token")

    assert webhook.path == "/webhooks/buyback"
    assert token == TOKEN
    assert position(token, SETTINGS.buyback_tokens) is not None
    assert without_member(webhook.body, "token") == without_member(example.body, "token")
    assert "X-Ovoko" not in webhook.headers


def test_only_the_first_token_is_replaced() -> None:
    body = b'{"type":"A","token":"","result":{"token":"kept"}}'

    sent = orjson.loads(CREDENTIALS.webhook(Provider.BUYBACK, "A", body).body)

    assert sent == {"type": "A", "token": TOKEN, "result": {"token": "kept"}}


def test_a_missing_secret_is_reported_with_an_alternative() -> None:
    settings = Settings(ovoko_secrets=(SecretStr("first"),), buyback_tokens=())

    assert Credentials.of(settings, [Provider.OVOKO]).secrets == {Provider.OVOKO: "first"}
    with pytest.raises(BadSettings, match=r"^STOCKHOOK_BUYBACK_TOKENS is not set.*--provider ovoko$"):
        Credentials.of(settings, Provider)


def test_no_secret_is_shown_by_printing_a_request() -> None:
    webhook = CREDENTIALS.webhook(Provider.BUYBACK, "A", b'{"token":""}')

    assert TOKEN not in repr(webhook)
    assert "first" not in repr(CREDENTIALS)
