"""The commands in the documents name only commands, flags, targets and files that exist.

tests/e2e/test_guides.py runs those of the README, the quickstart and the guides, except blocks that say what
else they need (`<!-- needs: kubernetes -->`).
"""

import base64
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from tests.docs.markdown import CHECKOUT, DOCUMENTS, WITH_COMMANDS, blocks, code_spans, name_of
from worker.change_feed.endpoint import signed_headers
from worker.cli.app import app
from worker.config.settings import PREFIX, Settings

MARKER = re.compile(r"needs: .+|background|file: [a-z]+\.(py|mjs)")
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
VARIABLE = re.compile(rf"\b{PREFIX}([A-Z_]+)\b")
ENDS_COMMAND = {"&&", "||", "|", ";", ">"}
# The last belongs to the marketplace that a guide adds as its example.
NO_SETTINGS = {"secrets_dir", "ingest_address", "test", "sample_secrets"}
"""Read before the settings, by Compose, and by the tests."""

# A block that needs a folder of the deployment names files in it.
FILE = re.compile(r"(?<![\w=:/@.-])(?:\.\./)?[\w-]+(?:/[\w.-]+)*\.(?:ya?ml|sql|lock|json|txt|env)\b")


def shell_lines(path: Path) -> Iterator[str]:
    for block in blocks(path.read_text()):
        if block.language == "sh":
            yield from block.lines


def commands(text: str) -> Iterator[list[str]]:
    """Each `stockhook …` in a line of a script or in a code span, as its words after that."""
    for match in re.finditer(r"(?:^|[;&|(])\s*(?:\.venv/bin/)?stockhook ([a-z-].*)", text):
        try:
            words = shlex.split(match[1])
        except ValueError:
            words = match[1].split()
        ends = [at for at, word in enumerate(words) if word in ENDS_COMMAND]
        yield words[: min(ends, default=len(words))]


def problem_of(words: list[str]) -> str | None:
    """What of a command does not exist."""
    current: App = app
    rest = list(words)
    while rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]) and rest[0] in current:
        current = current[rest.pop(0)]
    if current is app and not (rest and rest[0].startswith("-")):
        return f"no command {words[0] if words else ''}"
    if current.default_command is None:
        named = [word for word in rest if not word.startswith("-")]
        return f"no command {named[0]} of {words[0]}" if named else None
    known = {name for argument in current.assemble_argument_collection() for name in argument.names}
    flags = {word.partition("=")[0].rstrip(",.") for word in rest if word.startswith("--")}
    unknown = flags - known - {"--help", "--version"}
    return f"no {sorted(unknown)} of {' '.join(words)}" if unknown else None


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_command_and_flag_exists(path: Path) -> None:
    text = path.read_text()
    shown = [*shell_lines(path), *(span for span in code_spans(text) if span.startswith("stockhook "))]
    problems = [problem for line in shown for words in commands(line) if (problem := problem_of(words))]

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


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=name_of)
def test_a_block_runs_in_a_test_or_says_what_it_needs(path: Path) -> None:
    """A misspelt marker would keep a block out of the test, or run what cannot run there."""
    markers = {block.marker for block in blocks(path.read_text()) if block.marker}

    assert {marker for marker in markers if not MARKER.fullmatch(marker)} == set()


def test_the_documented_verification_accepts_what_stockhook_signs_and_nothing_else() -> None:
    guide = CHECKOUT / "docs/guides/change-feed.md"
    (source,) = (block.text for block in blocks(guide.read_text()) if block.marker == "file: verify.py")
    written: dict[str, Any] = {}
    exec(source, written)
    key, body = bytes(range(32)), b"{}"
    secret = f"whsec_{base64.b64encode(key).decode()}"
    now = int(time.time())

    def is_authentic(body: bytes, sent_at: int) -> bool:
        headers = dict(signed_headers(key, "id", sent_at, b"{}"))
        accepted: bool = written["is_authentic"](headers, body, secret)
        return accepted

    assert is_authentic(body, now)
    assert not is_authentic(b"[]", now)
    assert not is_authentic(body, now - 3600)
