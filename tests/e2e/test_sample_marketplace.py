"""A third marketplace with one family is added in a copy of the checkout, and an event of it runs end to end.

`tests/sample_marketplace` has the added files under their final paths, and `edits.py`. The guide
`docs/guides/adding-a-marketplace.md` names the same files.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import httpx
import pytest

from tests.sample_marketplace.edits import EDITS
from tests.support.checkout import CHECKOUT, copy_checkout
from tests.support.samples import scrape, value
from tests.support.stack import Stack, until

MOST_FILES = 20

SAMPLE = CHECKOUT / "tests" / "sample_marketplace"
GUIDE = CHECKOUT / "docs" / "guides" / "adding-a-marketplace.md"
ADDED = ("schemas", "consumers", "worker")

# Those that go through every marketplace, family, rule or example.
GENERAL_TESTS = (
    "tests/docs/test_generated.py",
    "tests/unit/test_changes.py",
    "tests/unit/test_convergence.py",
    "tests/unit/test_examples.py",
    "tests/unit/test_marketplace_names.py",
    "tests/unit/test_marketplaces.py",
    "tests/unit/test_dead_letter_redaction.py",
    "tests/unit/test_rules.py",
    "tests/unit/test_send_marketplace.py",
    "tests/unit/test_topology.py",
)

SECRET = "sample-secret-0123456789"
BROKEN = b'{"kind":"offer.published","id":"evt-9","at":"Jane Canary","offer":{"offer_id":"O9"}}'


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with the sample marketplace."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_checkout(folder)
    for package in ADDED:
        copytree(
            SAMPLE / package, folder / package, dirs_exist_ok=True, ignore=ignore_patterns("__pycache__")
        )
    for edit in EDITS:
        path = folder / edit.file
        text = path.read_text()
        assert text.count(edit.anchor) == 1, f"{edit.file} has this once: {edit.anchor!r}"
        parts = (edit.added, edit.anchor) if edit.before else (edit.anchor, edit.added)
        path.write_text(text.replace(edit.anchor, "".join(parts)))
    return folder


@pytest.fixture(scope="module")
def by_hand(checkout: Path) -> set[str]:
    """The files that differ before anything is generated."""
    return changed_files(checkout)


@pytest.fixture(scope="module")
def generated(checkout: Path, by_hand: set[str]) -> set[str]:
    """The further files that differ after `make docs`."""
    programs = checkout / ".venv/bin"
    programs.mkdir(parents=True)
    for name, command in (("python", ""), ("stockhook", " -m worker")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{command} "$@"\n')
        (programs / name).chmod(0o755)
    run_in(checkout, "make", "--old-file=bootstrap", "docs")
    return changed_files(checkout) - by_hand


def run_in(checkout: Path, *command: str) -> None:
    # Without the cache a later test sees a changed file, even within the same second.
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command,
        cwd=checkout,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def changed_files(checkout: Path) -> set[str]:
    """New and changed files of a copy."""
    files = (path.relative_to(checkout) for path in checkout.rglob("*") if path.is_file())
    names = (name for name in files if not {".dev", ".venv", "__pycache__"} & {*name.parts})
    return {
        str(name)
        for name in names
        if not (CHECKOUT / name).exists() or (CHECKOUT / name).read_bytes() != (checkout / name).read_bytes()
    }


@pytest.fixture
async def sample(stack: Stack, checkout: Path, fresh_database: str) -> AsyncIterator[Stack]:
    """The product of the copy, with a private database."""
    stack.environment |= {
        "PYTHONPATH": str(checkout),
        # Otherwise the working directory, which is the original, has priority.
        "PYTHONSAFEPATH": "1",
        "STOCKHOOK_DATABASE_URL": fresh_database,
        "STOCKHOOK_SAMPLE_SECRETS": SECRET,
        "STOCKHOOK_KEEP_DEAD_LETTERS": "true",
    }
    migrated = stack.run("migrate")
    assert migrated.returncode == 0, migrated.stderr
    yield stack
    stack.close()
    for queue in ("", ".retry.1s", ".retry.2s", ".retry.3s", ".dead"):
        await stack.delete_queue(f"stockhook.offers{queue}")


async def post(stack: Stack, body: bytes, secret: str = SECRET) -> httpx.Response:
    async with httpx.AsyncClient(timeout=20) as client:
        url = f"{stack.url}/webhooks/sample"
        return await client.post(url, content=body, headers={"X-Sample-Secret": secret})


def example(name: str) -> bytes:
    return (SAMPLE / "schemas" / "examples" / "sample" / f"{name}.json").read_bytes()


def as_json(stack: Stack, *arguments: str) -> Any:
    result = stack.run(*arguments, "--json")
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def test_a_marketplace_takes_few_files_by_hand_and_the_guide_names_them(by_hand: set[str]) -> None:
    named = set(re.findall(r"^\| `([^`]+)` \|", GUIDE.read_text(), re.MULTILINE))

    assert named == by_hand
    assert f"takes {len(by_hand)} files by hand" in GUIDE.read_text()
    assert len(by_hand) <= MOST_FILES


def test_the_guide_names_the_files_that_make_docs_writes(generated: set[str]) -> None:
    named = set(re.findall(r"^- `([^`]+)`$", GUIDE.read_text(), re.MULTILINE))

    assert named == generated


def test_the_tests_of_every_marketplace_family_and_rule_pass(checkout: Path, generated: set[str]) -> None:
    run_in(checkout, sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *GENERAL_TESTS)


async def test_an_event_runs_end_to_end(sample: Stack) -> None:
    ingest = await sample.started("ingest")
    consumer = await sample.started("consume", "offers")

    answers = [await post(sample, example(name)) for name in ("offer.withdrawn", "offer.published")]
    refused = await post(sample, example("offer.published"), secret="wrong")
    dead = await post(sample, BROKEN)

    assert [answer.status_code for answer in (*answers, refused, dead)] == [200, 200, 401, 200]

    async def is_applied() -> bool:
        return await sample.count("event_log") == 2 and await sample.count("dead_letters") == 1

    await until(is_applied, "two events are applied, and one is a dead letter")

    rows = await sample.fetch("SELECT offer_id, is_for_sale, price FROM offers")
    assert rows == [{"offer_id": "O1", "is_for_sale": False, "price": None}]

    explained = as_json(sample, "explain", "offer", "O1")
    assert [step["type"] for step in explained["events"]] == ["offer.published", "offer.withdrawn"]
    assert explained["agrees_with_tables"] is True

    [letter] = as_json(sample, "dead", "list")
    assert (letter["provider"], letter["type"]) == ("sample", "offer.published")
    shown = sample.run("dead", "show", str(letter["dead_letter_id"])).stdout
    assert '"offer_id": "O9"' in shown
    assert "Jane" not in shown

    rebuilt = as_json(sample, "rebuild", "offers")
    assert (rebuilt["events"], rebuilt["differences"]) == (2, [])

    received = await scrape(sample, ingest.ops_port)
    applied = await scrape(sample, consumer.ops_port)
    assert value(received, "stockhook_received_total", provider="sample", result="accepted") == 3
    assert value(received, "stockhook_received_total", provider="sample", result="401") == 1
    assert value(applied, "stockhook_applied_total", family="offers") == 2
    assert value(applied, "stockhook_dead_total", family="offers") == 1


async def test_general_code_supports_the_marketplace(sample: Stack) -> None:
    await sample.started("ingest")

    sent = sample.run("send", "--documented", "--provider", "sample")
    document = (await sample.look("/openapi.json")).json()
    checks = as_json(sample, "doctor")

    assert sent.returncode == 0, sent.stderr
    assert document["paths"]["/webhooks/sample"]["post"]["security"] == [{"sample": []}]
    assert document["components"]["securitySchemes"]["sample"]["name"] == "X-Sample-Secret"
    assert any("STOCKHOOK_SAMPLE_SECRETS: 1 active" in check["what"] for check in checks["findings"])
