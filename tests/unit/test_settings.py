"""A bad setting is a sentence: key, rule, what was given; never a secret."""

from datetime import timedelta
from pathlib import Path

import pytest

from worker.settings import BadSettings, read_settings


def test_defaults_suit_a_machine_of_ones_own() -> None:
    settings = read_settings()

    assert settings.delays == tuple(timedelta(seconds=seconds) for seconds in (7, 35, 175))
    assert settings.ovoko_header == "X-Webhook-Secret"
    assert (settings.ingest_port, settings.ops_port) == (8080, 9090)


def test_several_secrets_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOOK_OVOKO_SECRETS", "new , old,")

    assert [secret.get_secret_value() for secret in read_settings().ovoko_secrets] == ["new", "old"]


def test_secrets_can_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stockhook_ovoko_secrets").write_text("from-a-file\n")
    monkeypatch.setenv("STOCKHOOK_SECRETS_DIR", str(tmp_path))

    assert [secret.get_secret_value() for secret in read_settings().ovoko_secrets] == ["from-a-file"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "INGEST_PORT",
            "http",
            "STOCKHOOK_INGEST_PORT: Input should be a valid integer, unable to parse string as an integer "
            "(given: 'http')",
        ),
        (
            "RETRY_DELAYS",
            "35,7",
            "STOCKHOOK_RETRY_DELAYS: must ascend: each delay names a queue of its own (given: '35,7')",
        ),
        (
            "RETRY_DELAYS",
            "7,0",
            "STOCKHOOK_RETRY_DELAYS: Input should be greater than or equal to 1 (given: '7,0')",
        ),
        ("AMQP_URL", "redis://user:hunter2@host", "STOCKHOOK_AMQP_URL: must start with amqp:// or amqps://"),
        (
            "DATABASE_URL",
            "mysql://user:hunter2@host",
            "STOCKHOOK_DATABASE_URL: must start with postgresql://",
        ),
        (
            "SEALING_KEYS",
            "hunter2",
            "STOCKHOOK_SEALING_KEYS: must be Fernet keys: 32 bytes in URL-safe base64",
        ),
        (
            "BUYBACK_REAL_IP",
            "here",
            "STOCKHOOK_BUYBACK_REAL_IP: value is not a valid IPv4 or IPv6 address (given: 'here')",
        ),
        ("SECRETS_DIR", "/nowhere", "STOCKHOOK_SECRETS_DIR: no such folder: /nowhere"),
    ],
)
def test_a_bad_setting_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(f"STOCKHOOK_{name}", value)

    with pytest.raises(BadSettings) as raised:
        read_settings()

    assert str(raised.value) == sentence
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://api.example",
        "https://",
        "https://user:password@api.example",
        "https://api.example?a=b",
        "http://api.example",
    ],
)
@pytest.mark.parametrize(
    "name", ["STOCKHOOK_OVOKO_API_URL", "STOCKHOOK_BUYBACK_API_URL", "STOCKHOOK_BUYBACK_STS_URL"]
)
def test_an_api_is_reached_by_https_and_has_no_credentials_in_its_address(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, url)

    with pytest.raises(BadSettings, match=f"{name}: must") as raised:
        read_settings()

    assert "password@" not in str(raised.value)


@pytest.mark.parametrize("url", ["https://api.example/v1/", "http://127.0.0.1:8090/ovoko"])
def test_an_api_on_this_machine_needs_no_encryption(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("STOCKHOOK_OVOKO_API_URL", url)

    assert read_settings().ovoko_api_url.get_secret_value() == url.rstrip("/")
