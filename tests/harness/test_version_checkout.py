"""The copy of the checkout that is tested on other Debian releases, and the need for root."""

import os
from pathlib import Path

import pytest

from tests.versions.__main__ import UNAVAILABLE, main
from tests.versions.systems import copy_checkout, git


def test_uncommitted_changes_are_tested_and_ignored_files_stay(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    git(source, "init", "--quiet")
    for name, text in ((".gitignore", "/.venv/\n"), ("kept", "1"), ("changed", "1"), ("deleted", "1")):
        (source / name).write_text(text)
    git(source, "add", ".")
    git(source, "-c", "user.name=one", "-c", "user.email=one@example.com", "commit", "--quiet", "-m", "one")
    commit = git(source, "rev-parse", "--short=10", "HEAD").strip()

    assert copy_checkout(source, target) == commit

    (target / ".venv").mkdir()
    (target / ".venv/python").touch()
    (target / "left by a test").touch()
    (source / ".venv").mkdir()
    (source / ".venv/other").touch()
    (source / "changed").write_text("2")
    (source / "deleted").unlink()
    (source / "added").write_text("2")
    (source / "staged").write_text("2")
    git(source, "add", "staged")

    assert copy_checkout(source, target) == f"{commit}+"
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith(".git/")} == {
        *(".gitignore", ".venv/python", "added", "changed", "kept", "staged")
    }
    assert (target / "changed").read_text() == "2"


def test_without_root_it_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert main(suites="forky") == UNAVAILABLE
    assert capsys.readouterr().err == (
        "versions: making and entering a Debian system needs root; run this as root\n"
    )
