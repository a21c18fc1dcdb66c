"""The commands in the documents name only commands, flags, targets and files that exist.

tests/e2e/test_guides.py runs those of the README, the quickstart and the guides, except blocks that need
more (`<!-- needs: kubernetes -->`).
"""

import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from tests.docs.markdown import (
    CHECKOUT,
    DOCUMENTS,
    RUNBOOKS,
    WITH_COMMANDS,
    blocks,
    code_spans,
    fences,
    name_of,
)
from tests.support.signing import OTHER_SECRET, PRIVATE_KEY, PUBLIC_KEY, SECRET
from worker.change_feed.endpoint import signed_headers
from worker.cli.app import app
from worker.config.gateway import read_scheme
from worker.config.settings import PREFIX, Settings
from worker.config.signing_keys import SigningKey

MARKER = re.compile(r"needs: .+|background|settings|file: [a-z0-9_]+\.(py|mjs)")
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
VARIABLE = re.compile(rf"\b{PREFIX}([A-Z_]+)\b")
ENDS_COMMAND = {"&&", "||", "|", ";", ">"}
# The last belongs to the example marketplace of a guide.
NO_SETTINGS = {"secrets_dir", "ingest_address", "test", "sample_secrets"}
"""Read before the settings, by Compose, and by the tests."""

# A block that needs a folder of the deployment names files in it.
FILE = re.compile(r"(?<![\w=:/@.-])(?:\.\./)?[\w-]+(?:/[\w.-]+)*\.(?:ya?ml|sql|lock|json|txt|env)\b")


def shell_lines(path: Path) -> Iterator[str]:
    for block in blocks(path.read_text()):
        if block.language == "sh":
            yield from block.lines


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each `stockhook …` in a line of a script or in a code span."""
    for match in re.finditer(r"(?:^|[;&|(])\s*(?:\.venv/bin/)?stockhook ([a-z-].*)", text):
        try:
            arguments = shlex.split(match[1])
        except ValueError:
            arguments = match[1].split()
        ends = [at for at, word in enumerate(arguments) if word in ENDS_COMMAND]
        yield arguments[: min(ends, default=len(arguments))]


def problem_of(arguments: list[str]) -> str | None:
    """The part of a command that does not exist."""
    current: App = app
    rest = list(arguments)
    while rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]) and rest[0] in current:
        current = current[rest.pop(0)]
    if current is app and not (rest and rest[0].startswith("-")):
        return f"no command {arguments[0] if arguments else ''}"
    if current.default_command is None:
        named = [word for word in rest if not word.startswith("-")]
        return f"no command {named[0]} of {arguments[0]}" if named else None
    known = {name for argument in current.assemble_argument_collection() for name in argument.names}
    flags = {word.partition("=")[0].rstrip(",.") for word in rest if word.startswith("--")}
    unknown = flags - known - {"--help", "--version"}
    return f"no {sorted(unknown)} of {' '.join(arguments)}" if unknown else None


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_command_and_flag_exists(path: Path) -> None:
    text = path.read_text()
    shown = [*shell_lines(path), *(span for span in code_spans(text) if span.startswith("stockhook "))]
    problems = [
        problem for line in shown for arguments in commands(line) if (problem := problem_of(arguments))
    ]

    assert not problems


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_target_of_make_exists(path: Path) -> None:
    targets = set(TARGET.findall((CHECKOUT / "Makefile").read_text()))
    shown = [*shell_lines(path), *code_spans(path.read_text())]
    named = {match[1] for line in shown if (match := re.match(r"make ([a-z][a-z-]*)", line))}

    assert named <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_setting_exists(path: Path) -> None:
    named = {name.lower() for name in VARIABLE.findall(path.read_text())}

    assert named - NO_SETTINGS <= set(Settings.model_fields)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_file_in_a_command_exists(path: Path) -> None:
    missing = []
    for block in blocks(path.read_text()):
        folders = [CHECKOUT, *(CHECKOUT / line.split()[1] for line in block.lines if line.startswith("cd "))]
        names = (
            [name for line in block.lines for name in FILE.findall(line)] if block.language == "sh" else []
        )
        missing += [name for name in names if not any((folder / name).exists() for folder in folders)]

    assert not missing


@pytest.mark.parametrize("path", [*WITH_COMMANDS, *RUNBOOKS], ids=name_of)
def test_a_block_runs_in_a_test_or_has_a_need(path: Path) -> None:
    """A misspelt marker would keep a block out of the test, or run what cannot run there."""
    markers = {block.marker for block in blocks(path.read_text()) if block.marker}

    assert {marker for marker in markers if not MARKER.fullmatch(marker)} == set()


@pytest.mark.parametrize("path", sorted({*DOCUMENTS} - {*WITH_COMMANDS}), ids=name_of)
def test_commands_that_run_in_no_test_say_what_they_need(path: Path) -> None:
    unmarked = [
        block.text
        for block in blocks(path.read_text())
        if block.language == "sh" and not block.marker.startswith("needs: ")
    ]

    assert not unmarked


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_block_is_read_and_names_its_language(path: Path) -> None:
    """The tests of commands would not see the others."""
    text = path.read_text()
    read = [line for block in blocks(text) for line in (block.language, "")]

    assert fences(text) == read
    assert "" not in read[::2]


@pytest.mark.parametrize(
    ("file", "known", "signing"),
    [
        ("verify.py", SECRET, [SECRET]),
        ("verify.py", SECRET, [PRIVATE_KEY, OTHER_SECRET, SECRET]),
        ("verify.py", OTHER_SECRET, [PRIVATE_KEY, OTHER_SECRET, SECRET]),
        ("verify_ed25519.py", PUBLIC_KEY, [PRIVATE_KEY]),
        ("verify_ed25519.py", PUBLIC_KEY, [SECRET, PRIVATE_KEY]),
    ],
)
def test_the_documented_verification_accepts_only_stockhooks_signatures(
    file: str, known: str, signing: list[str]
) -> None:
    guide = CHECKOUT / "docs/guides/change-feed.md"
    (source,) = (block.text for block in blocks(guide.read_text()) if block.marker == f"file: {file}")
    written: dict[str, Any] = {}
    exec(source, written)
    now, body = datetime.now(UTC), b"{}"

    def is_authentic(body: bytes, sent_at: datetime, secrets: list[str]) -> bool:
        keys = [SigningKey.read(secret) for secret in secrets]
        accepted: bool = written["is_authentic"](signed_headers(keys, "id", sent_at, b"{}"), body, known)
        return accepted

    assert is_authentic(body, now, signing)
    assert not is_authentic(b"[]", now, signing)
    assert not is_authentic(body, now - timedelta(hours=1), signing)
    assert not is_authentic(body, now, [f"whsec_{'A' * 32}", f"whsk_{'A' * 43}="])


def test_the_documented_vectors_match_stockhooks_signatures() -> None:
    guide = (CHECKOUT / "docs/guides/change-feed.md").read_text()
    vectors = re.findall(r"^\| `(whs[^`]+)` \| (?:`(whpk_[^`]+)`)? ?\| `(v1[^`]+)` \|$", guide, re.MULTILINE)

    sent_at = datetime.fromtimestamp(1614265330, UTC)

    assert len(vectors) == 2
    for secret, public_key, signature in vectors:
        key = SigningKey.read(secret)
        headers = signed_headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", sent_at, b'{"test": 2432232314}')
        assert headers["webhook-signature"] == signature
        assert (key.public_key or "") == public_key


def test_the_documented_members_of_signatures_fit_their_presets() -> None:
    guide = (CHECKOUT / "docs/guides/gateways.md").read_text()
    sections = {
        name.lower(): text for name, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", guide, re.M | re.S)
    }
    shown = [
        (name, members)
        for name in ("hookdeck", "convoy")
        for span in code_spans(sections[name])
        for members in re.findall(r"\{\".*\}", span)
    ]

    assert len(shown) == 4
    for name, members in shown:
        read_scheme(name, members)
