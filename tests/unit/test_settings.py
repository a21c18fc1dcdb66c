"""A bad setting is reported with key, rule and value, but never with a secret."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from worker.config.settings import (
    PREFIX,
    BadSettings,
    Settings,
    read_settings,
)

NAMES = tuple(Settings.model_fields)
PORTS = tuple(name for name in NAMES if name.endswith("_port"))


def test_defaults_suit_a_machine_of_ones_own() -> None:
    settings = read_settings()

    assert settings.delays == tuple(timedelta(seconds=seconds) for seconds in (7, 35, 175))
    assert settings.ovoko_header == "X-Webhook-Secret"
    assert (settings.ingest_port, settings.ops_port) == (8080, 9090)


def test_trusted_proxies_are_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOOK_TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.7,fd00::/8")

    assert [str(network) for network in read_settings().trusted_proxies] == [
        "10.0.0.0/8",
        "192.0.2.7/32",
        "fd00::/8",
    ]


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
            "TRUSTED_PROXIES",
            "10.0.0.0/8, 10.0.0.1/8",
            "STOCKHOOK_TRUSTED_PROXIES: must be networks, comma-separated, such as 10.0.0.0/8,fd00::/8, "
            "which '10.0.0.1/8' is not (given: '10.0.0.0/8, 10.0.0.1/8')",
        ),
        (
            "TRUSTED_PROXIES",
            "0.0.0.0/0",
            "STOCKHOOK_TRUSTED_PROXIES: must not contain every address, as 0.0.0.0/0 does: anybody could "
            "name any client (given: '0.0.0.0/0')",
        ),
        (
            "TRUSTED_PROXIES",
            "::ffff:10.0.0.0/104",
            "STOCKHOOK_TRUSTED_PROXIES: must have IPv4 networks in their own form, not as "
            "::ffff:10.0.0.0/104 (given: '::ffff:10.0.0.0/104')",
        ),
        (
            "INGEST_KEY_FILE",
            "/etc/key.pem",
            "STOCKHOOK_INGEST_KEY_FILE: needs STOCKHOOK_INGEST_CERTIFICATE_FILE (given: '/etc/key.pem')",
        ),
        (
            "INGEST_CLIENT_CA_FILE",
            "/etc/ca.pem",
            "STOCKHOOK_INGEST_CLIENT_CA_FILE: needs STOCKHOOK_INGEST_CERTIFICATE_FILE (given: '/etc/ca.pem')",
        ),
        (
            "INGEST_CERTIFICATE_FILE",
            "/etc/certificate.pem",
            "STOCKHOOK_INGEST_KEY_FILE: is required with STOCKHOOK_INGEST_CERTIFICATE_FILE (given: None)",
        ),
        (
            "INGEST_PATH_PREFIX",
            "/stockhook/",
            "STOCKHOOK_INGEST_PATH_PREFIX: String should match pattern "
            "'^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$' (given: '/stockhook/')",
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
            "STOCKHOOK_DATABASE_URL: must start with postgresql:// or postgres://",
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
        (
            "RETRY_DELAYS",
            " , ",
            "STOCKHOOK_RETRY_DELAYS: must be seconds, comma-separated, or none for no retry schedule "
            "(given: ' , ')",
        ),
        (
            "AMQP_CA_FILE",
            "/nowhere",
            "STOCKHOOK_AMQP_CA_FILE: does not name a file (given: '/nowhere')",
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


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_is_set_but_empty_is_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"STOCKHOOK_{name.upper()}", "")

    assert read_settings() == Settings()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_file_of_the_secrets_folder_is_a_setting_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / f"stockhook_{name}").write_text("\n")
    expected = Settings()
    monkeypatch.setenv("STOCKHOOK_SECRETS_DIR", str(tmp_path))

    assert read_settings() == expected


def test_an_empty_name_of_the_secrets_folder_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOOK_SECRETS_DIR", "")

    assert read_settings() == Settings()


@pytest.mark.parametrize(
    ("variable", "file", "expected"),
    [("one", "two", "one"), ("", "two", "two"), ("one", "", "one"), ("", "", "127.0.0.1")],
)
def test_a_variable_counts_before_a_file_where_it_is_not_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, file: str, expected: str
) -> None:
    (tmp_path / "STOCKHOOK_OPS_HOST").write_text(file)
    monkeypatch.setenv("STOCKHOOK_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("STOCKHOOK_OPS_HOST", variable)

    assert read_settings().ops_host == expected


@pytest.mark.parametrize("value", ["none", "None", " none "])
def test_no_retry_schedule_is_configured_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("STOCKHOOK_RETRY_DELAYS", value)

    assert read_settings().delays == ()


@pytest.mark.parametrize("name", PORTS)
@pytest.mark.parametrize("value", ["tcp://10.96.12.7:80", "udp://[fd00::7]:80"])
def test_a_port_variable_of_a_kubernetes_service_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"STOCKHOOK_{name.upper()}", value)

    with pytest.raises(BadSettings) as raised:
        read_settings()

    assert str(raised.value) == (
        f"STOCKHOOK_{name.upper()}: must be a number; Kubernetes sets this for a Service of the same name: "
        f"set enableServiceLinks: false in the pod template (given: {value!r})"
    )


def a_folder(path: Path) -> None:
    path.mkdir()


def what_is_not_utf8(path: Path) -> None:
    path.write_bytes(b"se\xffret-canary")


def a_circular_symlink(path: Path) -> None:
    path.symlink_to(path)


def what_we_may_not_read(path: Path) -> None:
    path.write_text("secret-canary")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (a_folder, "does not name a file"),
        (a_circular_symlink, "does not name a file"),
        (what_is_not_utf8, "is not UTF-8"),
        (what_we_may_not_read, "cannot be read: Permission denied"),
    ],
)
def test_a_secrets_file_that_cannot_be_read_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], None], rule: str
) -> None:
    path = tmp_path / "stockhook_ovoko_secrets"
    make(path)
    monkeypatch.setenv("STOCKHOOK_SECRETS_DIR", str(tmp_path))

    with pytest.raises(BadSettings) as raised:
        read_settings()

    assert str(raised.value) == f"{PREFIX}OVOKO_SECRETS: {path} {rule}"


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


@pytest.mark.parametrize("value", ["1e999999999", "-1e-999999999", "inf", "nan", "9" * 4000, "9" * 50_000])
def test_a_number_beyond_all_bounds_is_refused_in_every_setting_that_is_one(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    numbers = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]
    for name in (*numbers, "retry_delays"):
        with monkeypatch.context() as patch:
            patch.setenv(f"STOCKHOOK_{name.upper()}", value)
            with pytest.raises(BadSettings, match=f"STOCKHOOK_{name.upper()}: "):
                read_settings()
