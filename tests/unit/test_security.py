"""Settings that a production deployment refuses, with sentences that quote no secret."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.examples import as_printed, documented
from schemas.registry import Provider
from worker.config.security import (
    PRINTED_TOKENS,
    other_machines,
    secret_weakness,
    weak_secrets,
)
from worker.config.settings import BadSettings, Settings, read_settings

STRONG = "u7Kd0-plenty-of-it"


@pytest.mark.parametrize(
    ("secret", "fault"),
    [
        ("", "is empty"),
        ("hunter2", "is shorter than 12 characters"),
        ("abababababababab", "repeats a few characters"),
        ("change-me-to-something-long", "is a placeholder"),
        ("FFBA2E99-4316-4860-a3a2-6d67ebb58d96", "is printed in the marketplace's documents"),
        (STRONG, None),
    ],
)
def test_the_weakness_of_a_secret_is_named(secret: str, fault: str | None) -> None:
    assert secret_weakness(secret) == fault


def test_a_weak_secret_is_named_only_by_its_number() -> None:
    assert list(weak_secrets((SecretStr(STRONG), SecretStr("hunter2")))) == [
        "secret 2 is shorter than 12 characters"
    ]


def test_every_token_that_the_documents_print_is_known() -> None:
    examples = [*documented(), *as_printed()]
    bodies = b"".join(example.body for example in examples if example.provider is Provider.BUYBACK)

    assert all(token.encode() in bodies for token in PRINTED_TOKENS)
    assert bodies.count(b'"token"') == sum(bodies.count(token.encode()) for token in PRINTED_TOKENS)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("amqp://localhost:5672/", []),
        ("amqp://a:b@127.0.0.2/", []),
        ("amqp://a:b@[::1]:5672/", []),
        ("amqp://a:b@rabbitmq/", ["rabbitmq"]),
        ("postgresql:///stockhook", []),
        ("postgresql://u:p@%2Fvar%2Frun/stockhook", []),
        ("postgresql:///stockhook?host=/var/run/postgresql", []),
        ("postgresql:///stockhook?host=elsewhere", ["elsewhere"]),
        ("postgresql://u:p@localhost:5432,10.0.0.2:5433/stockhook", ["10.0.0.2"]),
        ("postgresql://u:p@[fd00::1]:5432/stockhook", ["fd00::1"]),
    ],
)
def test_which_hosts_are_other_machines(url: str, hosts: list[str]) -> None:
    assert other_machines(url) == hosts


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AMQP_URL", f"amqp://us:{STRONG}@broker/", "to broker in clear: use amqps://"),
        ("AMQP_URL", f"amqps://guest:{STRONG}@broker/", "must name a user of its own, not guest, at broker"),
        ("AMQP_URL", "amqps://broker/", "must name a user of its own, not guest, at broker"),
        ("AMQP_URL", "amqps://us:hunter2@broker/", "the password is shorter than 12 characters"),
        ("AMQP_URL", "amqps://us@broker/", "the password is empty"),
        ("AMQP_URL", f"amqps://us:{STRONG}@broker/?no_verify_ssl=1", "must not have no_verify_ssl"),
        ("DATABASE_URL", f"postgresql://us:{STRONG}@db/x", "to db in clear: use sslmode=verify-full"),
        ("DATABASE_URL", f"postgresql://us:{STRONG}@db/x?sslmode=prefer", "to db in clear"),
        ("DATABASE_URL", "postgresql://us:hunter2@db/x?sslmode=require", "is shorter than 12"),
        ("MANAGEMENT_URL", f"http://us:{STRONG}@broker:15672", "to broker in clear: use https://"),
        ("AMQP_CA_FILE", "/nowhere/ca.pem", "does not name a file"),
    ],
)
def test_production_is_safe_by_default(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"STOCKHOOK_{name}", value)

    with pytest.raises(BadSettings) as raised:
        read_settings()

    assert str(raised.value).startswith(f"STOCKHOOK_{name}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert STRONG not in str(raised.value)


@pytest.mark.parametrize(
    "environment",
    [
        {"AMQP_URL": f"amqps://us:{STRONG}@broker/"},
        {"AMQP_URL": f"amqp://us:{STRONG}@broker/", "ALLOW_PLAINTEXT": "true"},
        {"AMQP_URL": "amqp://guest:guest@broker/", "ENVIRONMENT": "development"},
        {"AMQP_URL": "amqp://guest:guest@127.0.0.1/"},
        {"DATABASE_URL": f"postgresql://us:{STRONG}@db/x?sslmode=require"},
        {"DATABASE_URL": f"postgresql://us:{STRONG}@db/x", "ALLOW_PLAINTEXT": "true"},
        {"DATABASE_URL": "postgresql://us:x@localhost/x"},
        {"DATABASE_URL": "postgresql://us@db/x?sslmode=verify-full&passfile=/run/pass"},
        {"MANAGEMENT_URL": "http://guest:guest@localhost:15672"},
    ],
)
def test_safe_or_explicitly_allowed_settings_are_accepted(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"STOCKHOOK_{name}", value)

    settings = read_settings()

    for name, value in environment.items():
        setting = getattr(settings, name.lower())
        assert not isinstance(setting, SecretStr) or setting.get_secret_value() == value


def test_certificate_files_go_into_the_urls(tmp_path: Path) -> None:
    pem = tmp_path / "a file.pem"
    pem.touch()
    settings = Settings(
        amqp_url=SecretStr(f"amqps://us:{STRONG}@broker/v%2Fh?name=x"),
        amqp_ca_file=pem,
        amqp_certificate_file=pem,
        amqp_key_file=pem,
        database_url=SecretStr(f"postgresql://us:{STRONG}@db/x"),
        database_ca_file=pem,
    )
    path = str(pem).replace(" ", "%20")

    assert settings.amqp_url.get_secret_value() == (
        f"amqps://us:{STRONG}@broker/v%2Fh?name=x&cafile={path}&certfile={path}&keyfile={path}"
    )
    assert settings.database_url.get_secret_value() == (
        f"postgresql://us:{STRONG}@db/x?sslmode=verify-full&sslrootcert={path}"
    )


def test_a_ca_without_tls_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "ca.pem"
    pem.touch()
    monkeypatch.setenv("STOCKHOOK_AMQP_CA_FILE", str(pem))

    with pytest.raises(BadSettings, match=r"^STOCKHOOK_AMQP_URL: must start with amqps://"):
        read_settings()
