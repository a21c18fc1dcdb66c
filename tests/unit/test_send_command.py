"""`stockhook send` reports wrong options in one sentence."""

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from consumers.registry import FAMILY_OF
from schemas.events import routing_key
from schemas.registry import Provider
from worker.cli import send_views as report
from worker.cli.send import Play, send
from worker.config.settings import BadSettings, Settings
from worker.config.urls import BadUrl
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import USAGE
from worker.simulator.http_client import Answer, Client
from worker.simulator.rate_sender import Tally
from worker.simulator.webhook import Credentials, Webhook

DELAYS = (timedelta(seconds=7),)


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOOK_OVOKO_SECRETS", "secret")
    monkeypatch.setenv("STOCKHOOK_BUYBACK_TOKENS", "token")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: send(), "nothing to send: give --documented, or --rate"),
        (lambda: send(seconds=3), "nothing to send: give --documented, or --rate"),
        (lambda: send(documented=True, rate=1), "--documented and --rate exclude each other"),
        (lambda: send(as_printed=True, rate=1), "--as-printed goes with --documented"),
        (lambda: send(rate=0), "--rate must be more than 0, at most 10000 (given: 0)"),
        (lambda: send(rate=float("nan")), "--rate must be more than 0, at most 10000 (given: nan)"),
        (lambda: send(rate=1, seconds=-1), "--seconds must be more than 0, at most 86400"),
        (lambda: send(rate=1, seed=-1), "--seed must be 0 or more (given: -1)"),
        (lambda: send(rate=1, duplicates=1.5), "--duplicates must be between 0 and 1"),
        (lambda: send(rate=0.1, seconds=1), "--rate times --seconds must be 1 event or more"),
        (lambda: send(rate=1, resend_after="7,x"), "--resend-after must be seconds"),
        (lambda: send(rate=1, resend_after="-7"), "--resend-after must be seconds"),
        (lambda: send(rate=1, url="localhost:8080"), "the URL of the ingest must start with http://"),
        (lambda: send(rate=1, output=Path("/dev/null/x")), "--output: cannot write /dev/null/x"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_two(call: Callable[[], None], message: str) -> None:
    with pytest.raises(StockhookError) as failure:
        call()

    assert failure.value.exit_code == USAGE
    assert message in failure.value.sentence
    assert "\n" not in failure.value.sentence


def test_a_missing_secret_is_a_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STOCKHOOK_OVOKO_SECRETS")

    with pytest.raises(BadSettings, match="STOCKHOOK_OVOKO_SECRETS is not set"):
        send(documented=True)


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://host:port", "http://[::1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadUrl):
        Client(url)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8081"),
        ("::", "http://[::1]:8081"),
        ("::1", "http://[::1]:8081"),
        ("10.1.2.3", "http://10.1.2.3:8081"),
    ],
)
def test_an_ingest_that_listens_everywhere_is_reached_on_this_machine(host: str, url: str) -> None:
    assert Settings(ingest_host=host, ingest_port=8081).ingest_url == url


def test_the_url_of_an_ingest_with_tls_and_a_prefix(tmp_path: Path) -> None:
    files = {"ingest_certificate_file": tmp_path / "certificate", "ingest_key_file": tmp_path / "key"}
    settings = Settings(ingest_path_prefix="/shop", **files)  # type: ignore[arg-type]  # as from the environment

    assert settings.ingest_url == "https://127.0.0.1:8080/shop"
    assert settings.ingest_readiness_urls == ("https://127.0.0.1:8080/shop/readyz",)


def test_an_ingest_that_requires_client_certificates_is_checked_on_its_ops_port(tmp_path: Path) -> None:
    files = {f"ingest_{name}_file": tmp_path / name for name in ("certificate", "key", "client_ca")}
    settings = Settings(ops_host="::", **files)  # type: ignore[arg-type]  # as from the environment

    assert settings.ingest_readiness_urls == ("http://[::1]:9090/readyz", "http://[::1]:9091/readyz")


def _credentials() -> Credentials:
    settings = Settings(ovoko_secrets=(SecretStr("s"),), buyback_tokens=(SecretStr("t"),))
    return Credentials.of(settings, Provider)


def test_a_play_sends_rate_times_seconds_requests_re_sends_among_them() -> None:
    play = Play(rate=50, seconds=4, seed=7, duplicates=0.5, shuffle=True, resend_after=DELAYS)

    sent = list(play.webhooks(_credentials(), tuple(Provider)))

    assert len(sent) == 200
    assert len({webhook.body for webhook in sent}) < 180
    assert sent == list(play.webhooks(_credentials(), tuple(Provider)))


def test_a_simulation_can_be_of_only_one_marketplace() -> None:
    play = Play(rate=50, seconds=1, seed=7, duplicates=0, shuffle=False, resend_after=DELAYS)

    sent = list(play.webhooks(_credentials(), (Provider.BUYBACK,)))

    assert {webhook.provider for webhook in sent} == {Provider.BUYBACK}
    assert len(sent) == 50


@pytest.mark.parametrize("providers", [tuple(Provider), (Provider.OVOKO,), (Provider.BUYBACK,)])
def test_a_share_of_a_play_is_of_types_that_no_family_takes(providers: tuple[Provider, ...]) -> None:
    play = Play(rate=100, seconds=10, seed=7, duplicates=0, shuffle=False, resend_after=DELAYS, unhandled=0.3)

    sent = list(play.webhooks(_credentials(), providers))
    unhandled = [one for one in sent if routing_key(one.provider, one.event_type) not in FAMILY_OF]

    assert 200 < len(unhandled) < 400
    assert {one.provider for one in unhandled} == set(providers)
    assert len({one.body for one in unhandled}) == len(unhandled)
    assert sent == list(play.webhooks(_credentials(), providers))


def test_an_accepted_event_is_recorded_without_its_token() -> None:
    webhook = Webhook(Provider.BUYBACK, "A", {}, b'{"type":"A","token":"t","result":{}}')

    line = report.accepted_line(webhook, Answer(200, b'{"event_id":"1"}'))

    assert line.endswith(b"\n")
    assert orjson.loads(line) == {
        "event_id": "1",
        "provider": "buyback",
        "type": "A",
        "body_sha256": sha256(b'{"type":"A","result":{}}').hexdigest(),
    }


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"event_id"', b'{"event_id": 5}'])
def test_an_answer_that_is_not_ours_has_no_event_id(body: bytes) -> None:
    assert report.member(Answer(200, body), "event_id") is None


def test_the_summary_counts_by_answer() -> None:
    tally = Tally(sent=3, accepted=2, resent=4, given_up=1)
    tally.answers.update({"503": 4, "200": 2, "no answer: timeout": 1})
    tally.latencies.extend([0.001, 0.002])

    assert report.summary_as_json(tally, 1.5) == {
        "events": 3,
        "accepted": 2,
        "given_up": 1,
        "resent": 4,
        "answers": {"200": 2, "503": 4, "no answer: timeout": 1},
        "latency_ms": {"p50": 2.0, "p99": 2.0, "max": 2.0},
        "seconds": 1.5,
    }
