"""Folders for decrypted bodies: ours alone, in memory, and gone."""

import errno
import fcntl
import os
import stat
import tempfile
from pathlib import Path

import pytest

from worker.dead_letters import plaintext
from worker.dead_letters.plaintext import PREFIX, private_folder, remove_leftovers
from worker.dead_letters.refusal import CommandRefused


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only one for temporary files."""
    monkeypatch.setattr(plaintext, "_places", lambda: [tmp_path])
    return tmp_path


def left(place: Path) -> Path:
    """As a run leaves it that is killed."""
    folder = place / f"{PREFIX}killed"
    folder.mkdir(mode=0o700)
    (folder / ".event.json.swp").write_text("Jane")
    return folder


def test_a_folder_is_ours_alone_and_gone_with_all_that_an_editor_put_there(place: Path) -> None:
    with private_folder() as folder:
        mode = stat.S_IMODE(folder.stat().st_mode)
        (folder / ".event.json.swp").write_text("Jane")
        (folder / "backup").mkdir()
        (folder / "backup" / "event.json~").write_text("Jane")

    assert mode == 0o700
    assert list(place.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_uses_stays(place: Path) -> None:
    killed = left(place)
    with private_folder() as folder:
        (folder / "event.json").write_text("Jane")
        remove_leftovers()

        assert not killed.exists()
        assert (folder / "event.json").exists()


def test_no_symbolic_link_is_followed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").touch()
    (place / f"{PREFIX}link").symlink_to(elsewhere)
    (left(place) / "link").symlink_to(elsewhere)
    remove_leftovers()

    assert (elsewhere / "precious").exists()
    assert [one.name for one in place.iterdir()] == [f"{PREFIX}link"]


def test_folders_of_other_users_and_other_names_stay(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = left(place)
    (place / "stockhook-spool").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_leftovers()

    assert others.exists()
    assert (place / "stockhook-spool").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_one_sentence_and_keeps_no_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    attempts = 0

    def refuse(*_: object) -> None:
        nonlocal attempts
        attempts += 1
        assert attempts == 1, "it is repeated"
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CommandRefused, match=rf"{place}.*{os.strerror(number)}") as raised, private_folder():
        raise AssertionError("there is no such folder")

    assert "\n" not in str(raised.value)
    assert list(place.iterdir()) == []


def test_no_place_for_a_folder_is_one_sentence(place: Path) -> None:
    place.rmdir()

    with pytest.raises(CommandRefused, match="No such file or directory"), private_folder():
        raise AssertionError("there is no such folder")


@pytest.mark.parametrize("is_locked", [False, True], ids=["removed", "locked and removed"])
def test_a_folder_that_somebody_removes_meanwhile_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    lock, attempts = fcntl.flock, 0

    def come_between(descriptor: int, operation: int) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            next(place.iterdir()).rmdir()
            if is_locked:
                raise BlockingIOError(errno.EAGAIN, "locked")
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", come_between)
    with private_folder() as folder:
        assert list(place.iterdir()) == [folder]

    assert attempts == 2
    assert list(place.iterdir()) == []


def test_memory_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = plaintext._places()

    assert Path(tempfile.gettempdir()) in found
    if any(map(plaintext._is_in_memory, found)):
        assert plaintext._is_in_memory(found[0])
