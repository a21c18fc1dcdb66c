"""STOCKHOOK_PROMETHEUS_URL: what is accepted, and that its password is no text of ours."""

import pytest

from worker.config.settings import BadSettings, Settings, read_settings


def _read(monkeypatch: pytest.MonkeyPatch, **given: str) -> Settings:
    for name, value in given.items():
        monkeypatch.setenv(f"STOCKHOOK_{name}", value)
    return read_settings()


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("http://prometheus:9090/", "http://prometheus:9090"),
        ("https://user:long-password-1@host/prometheus/", "https://user:long-password-1@host/prometheus"),
        ("http://user:long-password-1@127.0.0.1:9090", "http://user:long-password-1@127.0.0.1:9090"),
    ],
)
def test_a_url_is_stored_without_its_last_slash(
    monkeypatch: pytest.MonkeyPatch, url: str, stored: str
) -> None:
    settings = _read(monkeypatch, PROMETHEUS_URL=url)

    assert settings.prometheus_url is not None
    assert settings.prometheus_url.get_secret_value() == stored
    assert "long-password-1" not in repr(settings)


def test_the_password_may_be_a_setting_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _read(monkeypatch, PROMETHEUS_URL="https://user@host", PROMETHEUS_PASSWORD="long-password-1")

    assert settings.prometheus_url is not None
    assert settings.prometheus_url.get_secret_value() == "https://user:long-password-1@host"


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("prometheus:9090", "STOCKHOOK_PROMETHEUS_URL"),
        ("ftp://prometheus", "STOCKHOOK_PROMETHEUS_URL"),
        ("https://host/?x=1", "must consist of scheme, user, password, host, port and path alone"),
        ("http://user:long-password-1@prometheus:9090", "would send a password to another machine in clear"),
    ],
)
def test_another_url_breaks_a_rule_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, url: str, rule: str
) -> None:
    with pytest.raises(BadSettings) as caught:
        _read(monkeypatch, PROMETHEUS_URL=url)

    assert rule in caught.value.sentence
    assert "long-password-1" not in caught.value.sentence
