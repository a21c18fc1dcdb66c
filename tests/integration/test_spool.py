"""The spool on a real disk: killed, truncated, damaged, full, locked; no sequence number is used twice."""

import asyncio
import os
import random
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import worker.ingest.spool.file
from worker.amqp.channel import Message
from worker.ingest.spool.carving import PAGE
from worker.ingest.spool.spool import (
    Spool,
    SpoolBroken,
    Spooled,
    SpoolFull,
    SpoolTaken,
)

ROOMY = 1 << 30
NO_PATIENCE = timedelta(0)
DEADLINE = 60

ROOT = Path(__file__).resolve().parents[2]

as_root = pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="needs to mount file systems of its own: run as root",
)


def message(text: str = "hello", size: int = 0) -> Message:
    headers: dict[str, str | int] = {"x-event-id": text, "x-attempt": 1}
    return Message("exchange", "key", "type", headers, text.encode().ljust(size, b"."))


def text_of(entry: Spooled) -> str:
    text = entry.message.headers["x-event-id"]
    assert isinstance(text, str)
    return text


def number_of(entry: Spooled) -> tuple[object, object]:
    return entry.message.headers["x-stream"], entry.message.headers["x-place"]


async def filled(path: Path, texts: list[str], size: int = 0) -> int:
    """Fill and close a spool; return its source."""
    async with Spool(path, ROOMY) as spool:
        for text in texts:
            await spool.put(message(text, size), "orders")
        return spool.source


async def held(path: Path) -> list[Spooled]:
    """All entries of a spool after it is opened."""
    async with Spool(path, ROOMY) as spool:
        entries = await spool.oldest(1_000_000)

        assert spool.depth == len(entries)
        return entries


def crashed(path: Path, folder: Path) -> Path:
    """A copy of the files, as after a kill -9 at this moment."""
    folder.mkdir()
    for part in ("", "-wal"):
        shutil.copyfile(f"{path}{part}", f"{folder / path.name}{part}")
    return folder / path.name


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


def set_aside(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.damaged-*Z"))


@contextmanager
def running(*arguments: str, mounting: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run this file as a separate process."""
    command = ["unshare", "--mount"] if mounting else []
    process = subprocess.Popen(
        [*command, sys.executable, "-m", "tests.integration.test_spool", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def said(*arguments: str, mounting: bool = False) -> list[str]:
    with running(*arguments, mounting=mounting) as process:
        output, _ = process.communicate(timeout=DEADLINE)

    assert process.returncode == 0
    return output.splitlines()


async def test_entries_come_back_in_order_with_their_numbers(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    async with Spool(tmp_path / "spool", ROOMY) as spool:
        await spool.put(message("one"), "orders")
        await spool.put(message("two"), "returns")
        await spool.put(message("three"), "orders")

        entries = await spool.oldest(10)
        assert [text_of(entry) for entry in entries] == ["one", "two", "three"]
        assert [number_of(entry) for entry in entries] == [
            (spool.source, 1),
            (spool.source, 1),
            (spool.source, 2),
        ]
        assert entries[0].message == Message(
            "exchange",
            "key",
            "type",
            {"x-event-id": "one", "x-attempt": 1, "x-stream": spool.source, "x-place": 1},
            b"one",
        )
        assert 0 < spool.source < 2**62
        assert spool.last_numbers == {"orders": 2, "returns": 1}
        assert spool.oldest_at == entries[0].spooled_at
        assert began <= entries[0].spooled_at <= datetime.now(UTC)


async def test_a_quarantined_message_has_no_sequence_number(tmp_path: Path) -> None:
    stamped = Message("exchange", "key", "type", {"x-stream": 1, "x-place": 7, "x-other": "kept"}, b"body")
    async with Spool(tmp_path / "spool", ROOMY) as spool:
        await spool.put(stamped, None)
        await spool.put(stamped, "orders")

        quarantined, placed = await spool.oldest(10)
        assert quarantined.message.headers == {"x-other": "kept"}
        assert placed.message.headers == {"x-other": "kept", "x-stream": spool.source, "x-place": 1}


async def test_removing_leaves_the_others_and_forgets_no_byte(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool", ROOMY) as spool:
        for text in ("one", "two", "three"):
            await spool.put(message(text), "orders")
        full = spool.size
        first, second, third = await spool.oldest(10)
        await spool.remove([first.number, third.number, first.number, 999])

        assert await spool.oldest(10) == [second]
        assert (spool.depth, spool.oldest_at) == (1, second.spooled_at)
        assert 0 < spool.size < full

        await spool.remove([second.number])
        assert (spool.depth, spool.size, spool.oldest_at) == (0, 0, None)


async def test_a_reopened_spool_continues_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool:
        await spool.put(message("one"), "orders")
        await spool.put(message("two"), "orders")
        await spool.remove([(await spool.oldest(1))[0].number])
        before = (spool.depth, spool.size, spool.oldest_at, spool.source, spool.last_numbers)
    async with Spool(path, ROOMY) as spool:
        assert (spool.depth, spool.size, spool.oldest_at, spool.source, spool.last_numbers) == before

        await spool.put(message("three"), "orders")
        entries = await spool.oldest(10)
        assert [text_of(entry) for entry in entries] == ["two", "three"]
        assert [number_of(entry) for entry in entries] == [(spool.source, 2), (spool.source, 3)]


async def test_a_number_is_never_used_again(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    await filled(path, ["one"])
    async with Spool(path, ROOMY) as spool:
        (first,) = await spool.oldest(1)
        await spool.remove([first.number])
        await spool.put(message("two"), "orders")
        await spool.remove([first.number])

        assert [text_of(entry) for entry in await spool.oldest(10)] == ["two"]


async def test_entries_of_any_size_come_back(tmp_path: Path) -> None:
    sizes = [0, 1, 3_900, 4_000, 4_061, 4_062, 4_100, 8_200, 70_000, 262_144]
    async with Spool(tmp_path / "spool", ROOMY) as spool:
        for size in sizes:
            await spool.put(Message("e", "k", "t", {}, os.urandom(size)), None)

        assert [len(entry.message.body) for entry in await spool.oldest(100)] == sizes


async def test_waiting_entries_are_written_in_one_transaction(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool", ROOMY) as spool:
        await asyncio.gather(*(spool.put(message(str(number)), "orders") for number in range(100)))

        assert spool.depth == 100
        assert spool.commits <= 2


async def test_a_task_that_waits_for_entries_is_woken(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool, asyncio.timeout(DEADLINE):
        waiting = asyncio.create_task(spool.wait_not_empty())
        await asyncio.sleep(0)
        assert not waiting.done()

        await spool.put(message(), "orders")
        await waiting
    async with Spool(path, ROOMY) as spool, asyncio.timeout(DEADLINE):
        await spool.wait_not_empty()


async def test_a_cancelled_caller_does_not_cancel_others(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool", ROOMY) as spool:
        callers = [asyncio.create_task(spool.put(message(str(number)), "orders")) for number in range(20)]
        await asyncio.sleep(0)
        for caller in callers[::2]:
            caller.cancel()
        done = await asyncio.gather(*callers, return_exceptions=True)
        await spool.put(message("last"), "orders")

        entries = await spool.oldest(100)
        assert [type(outcome).__name__ for outcome in done] == ["CancelledError", "NoneType"] * 10
        assert {str(number) for number in range(1, 20, 2)} <= {text_of(entry) for entry in entries}
        assert [number_of(entry)[1] for entry in entries] == list(range(1, len(entries) + 1))


async def test_closing_finishes_earlier_requests(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool:
        callers = [asyncio.create_task(spool.put(message(str(number)), "orders")) for number in range(500)]
        await asyncio.sleep(0)
    await asyncio.gather(*callers)

    assert len(await held(path)) == 500
    with pytest.raises(SpoolBroken):
        await spool.put(message(), "orders")


async def test_the_entries_have_no_more_bytes_than_allowed(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool", 10_000) as spool:
        puts = [spool.put(message(str(number), 1_000), "orders") for number in range(20)]
        refused = [outcome for outcome in await asyncio.gather(*puts, return_exceptions=True) if outcome]

        assert {type(outcome) for outcome in refused} == {SpoolFull}
        assert 20 - len(refused) == spool.depth == 9
        assert spool.size <= 10_000

        entries = await spool.oldest(100)
        await spool.remove([entries[0].number])
        await spool.put(message("late", 1_000), "orders")
        numbers = [number_of(entry)[1] for entry in await spool.oldest(100)]
        assert numbers == list(range(2, 11))


async def test_files_grow_no_further_while_as_much_goes_out_as_comes_in(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    wal = Path(f"{path}-wal")
    async with Spool(path, ROOMY) as spool:
        largest = 0
        for _ in range(100):
            await asyncio.gather(*(spool.put(message("x", 3_000), "orders") for _ in range(40)))
            await spool.remove([entry.number for entry in await spool.oldest(40)])
            largest = max(largest, path.stat().st_size + wal.stat().st_size)

        assert largest < 12 << 20
    assert path.stat().st_size < 100_000


async def test_an_acknowledged_entry_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    answered: set[str] = set()
    for round_ in range(5):
        with running("put", str(path), str(round_)) as process:
            assert process.stdout is not None
            for _ in range(200 + 37 * round_):
                answered.add(process.stdout.readline().strip())
            process.kill()
            answered.update(line.strip() for line in process.stdout if line.endswith("\n"))
    entries = await held(path)
    texts = Counter(map(text_of, entries))

    assert answered <= texts.keys()
    assert max(texts.values()) == 1
    assert {number_of(entry)[0] for entry in entries} == {number_of(entries[0])[0]}
    assert [number_of(entry)[1] for entry in entries] == list(range(1, len(entries) + 1))
    assert set_aside(path) == []


async def test_a_wal_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    texts = [str(number) for number in range(40)]
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool:
        for text in texts:
            await spool.put(message(text, 500), "orders")
        image = crashed(path, tmp_path / "crashed")
    length = Path(f"{image}-wal").stat().st_size
    depths = []
    for number, cut in enumerate(random.Random(1).sample(range(length), 25)):
        torn = crashed(image, tmp_path / f"torn-{number}")
        os.truncate(f"{torn}-wal", cut)
        depths.append(await _prefix(torn, texts))

    assert await _prefix(image, texts) == 40
    assert len(set(depths)) > 10


async def _prefix(path: Path, texts: list[str]) -> int:
    """The number of remaining entries, which must be the first ones without gaps."""
    entries = await held(path)

    assert [text_of(entry) for entry in entries] == texts[: len(entries)]
    assert set_aside(path) == []
    return len(entries)


async def test_a_flipped_bit_in_the_wal_costs_one_entry_at_most(tmp_path: Path) -> None:
    texts = {str(number) for number in range(60)}
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool:
        for text in sorted(texts, key=int):
            await spool.put(message(text, 9_000 if text.endswith("5") else 700), "orders")
        image = crashed(path, tmp_path / "crashed")
        source = spool.source
    length = Path(f"{image}-wal").stat().st_size
    repaired = 0
    # The headers of the WAL and of its first page, and random places.
    places = [*range(0, 56, 4), *random.Random(2).sample(range(length), 30)]
    for number, at in enumerate(places):
        damaged = crashed(image, tmp_path / f"damaged-{number}")
        flip(Path(f"{damaged}-wal"), at)
        async with Spool(damaged, ROOMY) as spool:
            entries = await spool.oldest(1_000)
            left = {text_of(entry) for entry in entries}
            aside = set_aside(damaged)
            repaired += len(aside)

            assert left <= texts
            assert len(left) == len(entries) == spool.depth
            assert len(left) >= 59
            # Possibly outdated counters are not continued.
            assert not aside or spool.source != source
            assert all(Path(f"{one}-wal").exists() for one in aside)

    assert repaired > 30


async def test_flipped_bytes_in_the_file_cost_only_the_entries_on_their_page(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool:
        for number, size in enumerate((200, 1_000, 3_000, 9_000) * 40):
            await spool.put(message(str(number), size), "orders")
        texts = {text_of(entry): entry.message for entry in await spool.oldest(1_000)}
    damaged = tmp_path / "damaged"
    # The first page is the most sensitive, so it is chosen more often.
    rng = random.Random(3)
    places = [rng.randrange(path.stat().st_size) for _ in range(40)] + list(range(0, 110, 3))
    set_aside_at = 0
    for at in places:
        shutil.copyfile(path, damaged)
        flip(damaged, at)
        entries = await held(damaged)
        left = {text_of(entry): entry.message for entry in entries}
        set_aside_at += bool(set_aside(damaged))
        for old in set_aside(damaged):
            old.unlink()

        assert len(left) == len(entries)
        assert left.items() <= texts.items()
        assert len(left) >= len(texts) - 6, at

    assert set_aside_at > 30


@pytest.mark.parametrize("pages", [1, 2, 3])
async def test_zeroed_first_pages_lose_only_their_own_entries(tmp_path: Path, pages: int) -> None:
    path = tmp_path / "spool"
    source = await filled(path, [str(number) for number in range(500)], size=1_000)
    with path.open("r+b") as file:
        file.write(bytes(PAGE * pages))
    with capture_logs() as logged:
        async with Spool(path, ROOMY) as spool:
            entries = await spool.oldest(1_000)
            await spool.put(message("next"), "orders")
            last = (await spool.oldest(1_000))[-1]

    assert len(entries) >= 490
    assert {number_of(entry)[0] for entry in entries} == {source}
    assert spool.source != source
    assert (text_of(last), number_of(last)) == ("next", (spool.source, 1))
    (aside,) = set_aside(path)
    assert logged == [
        {
            "event": "spool.damaged",
            "log_level": "error",
            "moved_to": str(aside),
            "entries_carried_over": len(entries),
            "entries_lost": "unknown",
        }
    ]


async def test_an_entry_that_no_longer_fits_its_checksum_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    source = await filled(path, ["one", "secret", "three"])
    flip(path, path.read_bytes().rindex(b"secret"))
    with capture_logs() as logged:
        async with Spool(path, ROOMY) as spool:
            entries = await spool.oldest(10)
            await spool.put(message("four"), "orders")

            assert [text_of(entry) for entry in entries] == ["one", "three"]
            assert [number_of(entry)[1] for entry in await spool.oldest(10)] == [1, 3, 4]
            assert (spool.source, spool.depth) == (source, 3)
    (aside,) = set_aside(path)
    assert stat.S_IMODE(aside.stat().st_mode) == stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [(line["entries_carried_over"], line["entries_lost"]) for line in logged] == [(2, 1)]
    assert "secret" not in str(logged)


async def test_a_damaged_name_of_a_column_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    await filled(path, ["one", "two"])
    flip(path, path.read_bytes().index(b"routing_key"))

    assert [text_of(entry) for entry in await held(path)] == ["one", "two"]


async def test_a_file_that_gets_damaged_while_in_use_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    # More than SQLite's cache.
    texts = [str(number) for number in range(5_000)]
    async with Spool(path, ROOMY) as spool:
        await asyncio.gather(*(spool.put(message(text, 1_000), "orders") for text in texts))
        source = spool.source
    async with Spool(path, ROOMY) as spool:
        with path.open("r+b") as file:
            file.seek(PAGE * 20)
            file.write(os.urandom(PAGE * 60))
        first = (await spool.oldest(1))[0].number
        entries = await spool.oldest(10_000)
        await spool.put(message("next"), "orders")
        await spool.remove([first])

        assert 4_700 <= len(entries) < 5_000
        assert {text_of(entry) for entry in entries} <= set(texts)
        assert (spool.source, spool.last_numbers["orders"]) == (source, 5_001)
        assert spool.depth == len(entries)


@pytest.mark.parametrize(
    "content", [b"", os.urandom(50_000), b"x", bytes(100_000), b"SQLite format 3\0"], ids=len
)
async def test_a_foreign_file_is_moved_aside_and_the_spool_starts(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spool"
    path.write_bytes(content)
    await filled(path, ["one"])

    assert [text_of(entry) for entry in await held(path)] == ["one"]
    assert [aside.read_bytes() for aside in set_aside(path)] == ([content] if content else [])


async def test_an_emptied_file_beside_a_full_wal_loses_nothing_of_the_wal(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool:
        for number in range(10):
            await spool.put(message(str(number)), "orders")
        image = crashed(path, tmp_path / "crashed")
    os.truncate(image, 0)

    assert [text_of(entry) for entry in await held(image)] == [str(number) for number in range(10)]


async def test_a_repair_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    await filled(tmp_path / "other", ["carried over"])
    (tmp_path / "other").replace(f"{path}.mended")
    path.write_bytes(b"damaged")
    Path(f"{path}-wal").write_bytes(b"damaged too")
    Path(f"{path}.mending").write_bytes(b"of an earlier attempt")

    assert [text_of(entry) for entry in await held(path)] == ["carried over"]
    (aside,) = set_aside(path)
    assert aside.read_bytes() == b"damaged"
    assert Path(f"{aside}-wal").read_bytes() == b"damaged too"


async def test_a_second_repair_replaces_the_files_of_an_earlier_attempt(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_bytes(b"damaged")
    Path(f"{path}.mending").write_bytes(b"of an earlier attempt")

    assert await held(path) == []


async def test_a_file_that_was_moved_away_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool:
        await spool.put(message("one"), "orders")
        (first,) = await spool.oldest(1)
        path.rename(tmp_path / "moved")
        await spool.put(message("two"), "orders")
        await spool.remove([first.number])

        assert spool.source != number_of(first)[0]
    assert [text_of(entry) for entry in await held(path)] == ["two"]


async def test_created_files_are_accessible_only_to_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "spool"
    async with Spool(path, ROOMY) as spool:
        await spool.put(message(), "orders")
        modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}

    assert modes == {"spool": 0o600, "spool-wal": 0o600, "spool-shm": 0o600, "spool.lock": 0o600}
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()

    for path in (tmp_path / "file" / "spool", tmp_path / "folder"):
        with pytest.raises(SpoolBroken, match=str(tmp_path)):
            await held(path)


async def test_two_processes_do_not_share_a_spool(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with running("put", str(path), "0") as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(SpoolTaken, match=str(path)):
            await Spool(path, ROOMY, NO_PATIENCE).__aenter__()


async def test_a_spool_is_taken_over_once_its_predecessor_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool:
        await spool.put(message("one"), "orders")
        successor = asyncio.create_task(held(path))
        await asyncio.sleep(0)
        await spool.put(message("two"), "orders")

    assert [text_of(entry) for entry in await successor] == ["one", "two"]


async def test_a_rollback_uses_no_sequence_number(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with Spool(path, ROOMY) as spool:
        await spool.put(message("one"), "orders")
        intruder = sqlite3.connect(path, isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        puts = [spool.put(message("refused"), "orders") for _ in range(5)]
        refused = await asyncio.gather(*puts, return_exceptions=True)
        intruder.close()
        await spool.put(message("two"), "orders")

        assert [str(outcome) for outcome in refused] == ["SQLITE_BUSY"] * 5
        assert [(text_of(entry), number_of(entry)[1]) for entry in await spool.oldest(9)] == [
            ("one", 1),
            ("two", 2),
        ]
        assert spool.depth == 2


@as_root
def test_a_full_disk_refuses_events_until_there_is_space(tmp_path: Path) -> None:
    said_so = said("full", str(tmp_path), mounting=True)

    assert said_so == ["SQLITE_FULL", "consistent", "goes on"]


@as_root
@pytest.mark.parametrize("size", [1_000, 3_000, 200_000])
def test_a_spool_that_filled_its_disk_can_be_drained(tmp_path: Path, size: int) -> None:
    said_so = said("drain-full", str(tmp_path), str(size), mounting=True)

    assert said_so == ["the disk has less than 4 MiB left", "drained"]


def test_a_limit_on_files_refuses_events_and_loses_none(tmp_path: Path) -> None:
    assert said("limit", str(tmp_path)) == ["SQLITE_IOERR_WRITE", "consistent", "goes on"]


@as_root
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    (line,) = said("read-only", str(tmp_path), mounting=True)

    assert line == f"Read-only file system ({tmp_path / 'spool.lock'})"


# The code of the separate processes.


async def put_for_ever(path: str, prefix: str) -> None:
    async with Spool(Path(path), ROOMY) as spool:

        async def put(caller: int) -> None:
            for number in range(1_000_000):
                text = f"{prefix}.{caller}.{number}"
                await spool.put(message(text, 300), "orders")
                print(text, flush=True)

        await asyncio.gather(*(put(caller) for caller in range(20)))


async def full(folder: str) -> None:
    mount(folder, "size=3m")
    ballast = Path(folder, "ballast")
    ballast.write_bytes(bytes(1 << 20))
    # As if another program used the space that the spool leaves free.
    worker.ingest.spool.file.HEADROOM = 0
    await overflow(Path(folder), ballast.unlink)


async def drain_full(folder: str, size: str) -> None:
    mount(folder, "size=16m")
    async with Spool(Path(folder, "spool"), ROOMY) as spool:
        puts = [
            spool.put(message(str(number), int(size)), "orders") for number in range((40 << 20) // int(size))
        ]
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        print(*{str(outcome) for outcome in outcomes if outcome})
        entries = await spool.oldest(50)
        while entries:
            await spool.remove([entry.number for entry in entries])
            entries = await spool.oldest(50)
        print("drained" if outcomes.count(None) > 30 and not spool.depth else "stuck")


def mount(folder: str, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)


async def limit(folder: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most))
    await overflow(Path(folder), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))


async def overflow(folder: Path, make_space: Callable[[], object]) -> None:
    """Put until the disk is full for a while; then free space and continue."""
    path = folder / "spool"
    answered: list[str] = []
    broken: list[str] = []
    async with Spool(path, ROOMY) as spool:

        async def put(text: str) -> None:
            try:
                await spool.put(message(text, 2_000), "orders")
                answered.append(text)
            except SpoolBroken as error:
                broken.append(str(error))

        while len(broken) < 50:
            count = len(answered) + len(broken)
            await asyncio.gather(*(put(str(count + number)) for number in range(7)))
        print(*sorted(set(broken)))
        print(await state(spool, answered))
        make_space()
        broken.clear()
        for number in range(100):
            await put(f"later {number}")
        await state(spool, answered)
    entries = await held(path)
    as_answered = {text_of(entry) for entry in entries} >= set(answered) and not broken
    gapless = [number_of(entry)[1] for entry in entries] == list(range(1, len(entries) + 1))
    print("goes on" if as_answered and gapless and not set_aside(path) else "does not go on")


async def state(spool: Spool, answered: list[str]) -> str:
    entries = await spool.oldest(1_000_000)
    sizes = sum(len(entry.message.body) for entry in entries)
    occurrences = Counter(map(text_of, entries))
    is_exact = spool.depth == len(entries) and sizes < spool.size < sizes + 100 * len(entries)
    is_exact = is_exact and set(answered) <= occurrences.keys() and max(occurrences.values()) == 1
    return "consistent" if is_exact else f"{spool.depth} / {len(entries)} / {len(answered)}"


async def read_only(folder: str) -> None:
    mount(folder, "ro")
    try:
        await held(Path(folder, "spool"))
    except SpoolBroken as error:
        print(error)


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    parts = {
        "put": put_for_ever,
        "full": full,
        "drain-full": drain_full,
        "limit": limit,
        "read-only": read_only,
    }
    with suppress(BrokenPipeError):
        asyncio.run(parts[name](*arguments))
