"""The steps of a subscriber's rotation, derived from the settings."""

import json
import re
import subprocess

import pytest

from tests.support.signing import OTHER_SECRET, PRIVATE_KEY, PUBLIC_KEY, SECRET
from worker.change_feed.rotation import NEW_PRIVATE_KEY, NEW_SECRET, rotation_steps
from worker.config.signing_keys import SigningKey
from worker.config.subscribers import Subscriber


def steps(*secrets: str, ed25519: bool = False) -> list[tuple[str, str | None]]:
    subscriber = Subscriber(name="shop", url="https://shop.example/hooks", secret=list(secrets))
    return [(step.text, step.command) for step in rotation_steps(subscriber, ed25519=ed25519)]


@pytest.mark.parametrize(
    ("secret", "ed25519", "command"),
    [
        (SECRET, False, NEW_SECRET),
        (SECRET, True, NEW_PRIVATE_KEY),
        (PRIVATE_KEY, False, NEW_PRIVATE_KEY),
        (PRIVATE_KEY, True, NEW_PRIVATE_KEY),
    ],
)
def test_a_rotation_begins_with_a_new_secret_of_the_kind(secret: str, ed25519: bool, command: str) -> None:
    (_, made), (listed, _), *_, (_, again) = steps(secret, ed25519=ed25519)

    assert made == command
    assert '"secret": ["NEW", "PRESENT"]' in listed
    assert again == "stockhook changes rotate shop"


def test_with_two_secrets_it_ends_with_only_the_newest() -> None:
    (first, _), (left, _), *_ = steps(OTHER_SECRET, SECRET)

    assert "verifies with the first secret of its list" in first
    assert '"secret": "FIRST"' in left


def test_the_public_key_that_the_subscriber_must_have_is_named() -> None:
    (first, _), *_ = steps(PRIVATE_KEY, SECRET)

    assert PUBLIC_KEY in first


def test_another_kind_must_wait_for_the_end_of_a_rotation() -> None:
    *_, (_, last) = steps(OTHER_SECRET, SECRET, ed25519=True)

    assert last == "stockhook changes rotate shop --ed25519"
    assert last not in [command for _, command in steps(PRIVATE_KEY, SECRET, ed25519=True)]


@pytest.mark.parametrize("secrets", [[SECRET], [PRIVATE_KEY], [PRIVATE_KEY, SECRET], [OTHER_SECRET, SECRET]])
def test_no_step_has_a_secret(secrets: list[str]) -> None:
    shown = json.dumps(steps(*secrets))

    for secret in secrets:
        assert secret.partition("_")[2][:20] not in shown


@pytest.mark.parametrize(
    ("command", "form", "version"),
    [(NEW_SECRET, r"whsec_[A-Za-z0-9+/]{43}=", "v1"), (NEW_PRIVATE_KEY, r"whsk_[A-Za-z0-9+/]{43}=", "v1a")],
)
def test_the_settings_accept_the_output_of_the_commands(command: str, form: str, version: str) -> None:
    made = [
        subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]

    assert all(re.fullmatch(form, text) for text in made)
    assert made[0] != made[1]
    assert SigningKey.read(made[0]).version == version
