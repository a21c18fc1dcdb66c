"""`stockhook changes keys` and `rotate`: the keys of subscribers over HTTP, and their rotation."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.signing import OTHER_SECRET, PRIVATE_KEY, PUBLIC_KEY, SECRET

SHOP = {"name": "shop", "url": "https://shop.example/hooks", "secret": [PRIVATE_KEY, SECRET]}
DESK = {"name": "desk", "url": "https://desk.example/hooks", "secret": OTHER_SECRET}


def stockhook(*arguments: str, subscribers: object = (SHOP, DESK)) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "worker", "changes", *arguments],
        env={**os.environ, "STOCKHOOK_CHANGES_WEBHOOKS": json.dumps(subscribers)},
        capture_output=True,
        text=True,
    )
    for secret in (PRIVATE_KEY, SECRET, OTHER_SECRET):
        assert secret.partition("_")[2][:20] not in result.stdout + result.stderr
    return result


def test_the_public_keys_are_printed() -> None:
    printed = stockhook("keys")
    keys = stockhook("keys", "shop", "--json")

    assert (printed.returncode, printed.stdout) == (0, f"shop {PUBLIC_KEY}\n")
    assert json.loads(keys.stdout) == [{"name": "shop", "public_keys": [PUBLIC_KEY]}]


@pytest.mark.parametrize("arguments", [["keys", "desk"], ["keys", "desk", "--json"], ["keys", "unknown"]])
def test_a_key_that_does_not_exist_is_a_failure(arguments: list[str]) -> None:
    assert stockhook(*arguments).returncode == 1


def test_the_rotation_reports_its_state() -> None:
    under_way = json.loads(stockhook("rotate", "shop", "--json").stdout)
    not_started = json.loads(stockhook("rotate", "desk", "--json").stdout)
    printed = stockhook("rotate", "shop")

    assert under_way["under_way"] is True
    assert under_way["signatures"] == [
        {"version": "v1a", "public_key": PUBLIC_KEY},
        {"version": "v1", "public_key": None},
    ]
    assert not_started["under_way"] is False
    assert printed.returncode == 0
    assert [step["text"] in printed.stdout for step in under_way["steps"]] == [True] * 5


def test_an_unknown_subscriber_is_named_beside_those_that_exist() -> None:
    result = stockhook("rotate", "shopp")

    assert result.returncode == 1
    assert "shopp is not in STOCKHOOK_CHANGES_WEBHOOKS, which names shop, desk" in result.stderr


def test_settings_that_cannot_be_read_are_a_misconfiguration() -> None:
    result = stockhook("rotate", "shop", subscribers=[{**SHOP, "secret": [f"{PRIVATE_KEY}x"]}])

    assert result.returncode == 78
    assert "STOCKHOOK_CHANGES_WEBHOOKS: 0.secret.0: " in result.stderr
