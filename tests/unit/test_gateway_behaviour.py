"""How the simulated gateways retry: by status, by schedule, by our Retry-After."""

from datetime import timedelta

import pytest

from worker.config.gateway import CUSTOM, PRESETS
from worker.simulator.gateway_behaviour import BEHAVIOURS, ForwardedWebhook, id_headers

NO_ANSWER = None


def seconds(name: str, attempt: int, status: int | None, **headers: str) -> float | None:
    received = {key.replace("_", "-"): value for key, value in headers.items()}
    delay = BEHAVIOURS[name].delay_after(attempt, status, received)
    return None if delay is None else delay.total_seconds()


def test_each_preset_can_be_simulated() -> None:
    assert {*PRESETS, CUSTOM} <= BEHAVIOURS.keys()
    assert {behaviour.preset for behaviour in BEHAVIOURS.values()} == {*PRESETS, CUSTOM}


@pytest.mark.parametrize(
    ("name", "status", "is_retried"),
    [
        ("hookdeck", 401, True),
        ("hookdeck", 400, True),
        ("svix", 400, True),
        ("convoy", 413, True),
        ("outpost", 503, True),
        ("eventbridge", 400, False),
        ("eventbridge", 401, True),
        ("eventbridge", 413, False),
        ("eventbridge", 429, True),
        ("eventbridge", 503, True),
        ("eventbridge", NO_ANSWER, True),
        # Our 503 is lost there.
        ("svix-bridge", 503, False),
        ("svix-bridge", NO_ANSWER, False),
    ],
)
def test_a_gateway_retries_the_statuses_that_it_retries(
    name: str, status: int | None, is_retried: bool
) -> None:
    assert (seconds(name, 1, status) is not None) is is_retried


@pytest.mark.parametrize(
    ("name", "retry_after", "expected"),
    [
        ("hookdeck", "5", 5),
        ("hookdeck", "7200", 7200),
        # The second step is 5 minutes.
        ("svix", "5", 300),
        ("svix", "400", 400),
        ("svix", "7200", 600),
        ("convoy", "7200", 20),
        ("eventbridge", "1", 2),
        ("eventbridge", "7200", 7200),
        ("eventbridge", "-1", None),
        ("hookdeck", "Wed, 21 Oct 2026 07:28:00 GMT", 120),
        ("hookdeck", "", 120),
    ],
)
def test_retry_after_counts_as_each_gateway_says(name: str, retry_after: str, expected: float | None) -> None:
    assert seconds(name, 2, 503, retry_after=retry_after) == expected


@pytest.mark.parametrize("name", ["hookdeck", "svix", "convoy", "outpost", "eventbridge"])
def test_a_gateway_gives_up_at_last(name: str) -> None:
    delays = BEHAVIOURS[name].delays

    assert seconds(name, len(delays), 503) == delays[-1].total_seconds()
    assert seconds(name, len(delays) + 1, 503) is None


def test_eventbridge_gives_up_after_185_attempts_in_about_a_day() -> None:
    delays = BEHAVIOURS["eventbridge"].delays

    assert len(delays) == 184
    assert timedelta(hours=23) < sum(delays, timedelta(0)) < timedelta(hours=25)


def test_abort_ends_a_message_at_svix_alone() -> None:
    abort = {"webhook_delivery": "abort-message"}

    assert seconds("svix", 1, 400, **abort) is None
    assert seconds("hookdeck", 1, 400, **abort) is not None


def test_the_prefix_of_hookdecks_headers_is_that_of_its_signature() -> None:
    delivery = ForwardedWebhook("e", "r", "/webhooks/ovoko", 2, timedelta(minutes=2))
    headers = id_headers(BEHAVIOURS["hookdeck"], "x-acme-signature", delivery)

    assert all(name.startswith("x-acme-") for name in headers)
    assert headers["x-acme-attempt-count"] == "2"
    assert headers["x-acme-attempt-trigger"] == "AUTOMATIC"
    assert headers["x-acme-will-retry-after"] == "120"
    assert headers["x-acme-eventid"] == "evt_e"
