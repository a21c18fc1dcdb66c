"""Doctor says who reaches the ingest, and what is wrong with its certificate."""

import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.authority import make_authority
from worker.config.check import CheckResult, Level
from worker.config.settings import Settings
from worker.ingest.tls import Loaded
from worker.tools.doctor.ingest import check_ingest, check_validity

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def checks(**settings: object) -> list[CheckResult]:
    return list(check_ingest(Settings(**settings)))  # type: ignore[arg-type]  # as the environment has them


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_an_ingest_on_this_machine_alone_needs_nothing(host: str) -> None:
    (result,) = checks(ingest_host=host)

    assert result.level is Level.OK


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "ingest.example"])
def test_an_ingest_that_others_reach_needs_tls_a_trusted_proxy_or_a_gateway(host: str) -> None:
    (exposed,) = checks(ingest_host=host)
    (behind_proxy,) = checks(ingest_host=host, trusted_proxies="10.0.0.0/8")
    (behind_gateway,) = checks(ingest_host=host, gateway="hookdeck")

    assert (exposed.level, exposed.subject) == (Level.WARNING, "ingest")
    assert "STOCKHOOK_TRUSTED_PROXIES" in exposed.remedy
    assert behind_proxy.level is Level.OK
    assert (behind_gateway.level, "a gateway configured" in behind_gateway.what) == (Level.OK, True)


def test_a_certificate_is_read_as_the_ingest_reads_it(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "authority")
    other = make_authority(tmp_path / "other")
    files = {"ingest_certificate_file": authority.certificate, "ingest_key_file": authority.key}

    exposure, certificate = checks(ingest_host="0.0.0.0", **files)
    assert exposure.level is Level.OK
    # Those of tests are valid for a day.
    assert (certificate.level, certificate.subject) == (Level.WARNING, "ingest certificate")
    assert "expires at" in certificate.what

    _, mismatch = checks(**{**files, "ingest_key_file": other.key})
    assert mismatch.level is Level.ERROR
    assert "STOCKHOOK_INGEST_KEY_FILE" in mismatch.what


def test_a_key_that_every_user_may_read_is_a_warning(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "authority")
    key = tmp_path / "key.pem"
    shutil.copy(authority.key, key)
    key.chmod(0o644)

    *_, result = checks(ingest_certificate_file=authority.certificate, ingest_key_file=key)
    assert result.level is Level.WARNING
    assert result.remedy == f"chmod o= {key}"


@pytest.mark.parametrize(
    ("begins", "expires", "level"),
    [
        (-30, 60, Level.OK),
        (-30, 13, Level.WARNING),
        (-30, 0, Level.ERROR),
        (-30, -1, Level.ERROR),
        (1, 60, Level.ERROR),
    ],
)
def test_a_certificate_is_valid_for_a_time(begins: int, expires: int, level: Level) -> None:
    loaded = Loaded(
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        NOW + timedelta(days=begins),
        NOW + timedelta(days=expires),
        ("hooks.example",),
    )

    assert check_validity(loaded, NOW).level is level
