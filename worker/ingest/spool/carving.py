"""Finds entries in the pages of a damaged spool without SQLite, including those of broken tables."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from worker.ingest.spool.entries import COLUMNS, Values, fits

PAGE = 4096

# SQLite's file formats: https://www.sqlite.org/fileformat2.html, and its section 4 on the WAL.

WAL_HEADER = 32
FRAME_HEADER = 24
FRAME = FRAME_HEADER + PAGE
# With this value the checksum uses big-endian words, with the one below it little-endian words.
WAL_MAGIC = 0x377F0683


def is_wal_damaged(path: Path) -> bool:
    """Whether the WAL has a commit after the frame at which SQLite stops reading it.

    SQLite treats the first invalid frame as the end, and drops all later ones. This is right for an
    interrupted write, but a flipped bit would lose every later entry. The last frame of a transaction is
    written last, so its presence proves that the earlier ones were written.
    """
    try:
        wal = Path(f"{path}-wal").read_bytes()
    except FileNotFoundError:
        return False
    if len(wal) < WAL_HEADER + FRAME:
        return False
    if path.stat().st_size == 0:
        return True  # SQLite would delete the WAL
    sums = _sums(wal[: WAL_HEADER - 8], wal, (0, 0))
    intact = wal[WAL_HEADER - 8 : WAL_HEADER] == struct.pack(">II", *sums)
    if not intact:
        return True
    for at in range(WAL_HEADER, len(wal) - FRAME + 1, FRAME):
        if wal[at + 8 : at + 16] != wal[16:24]:
            intact = False  # left over from before the WAL was restarted, or damaged
            continue
        if intact:
            sums = _sums(wal[at : at + 8] + wal[at + FRAME_HEADER : at + FRAME], wal, sums)
            intact = wal[at + 16 : at + FRAME_HEADER] == struct.pack(">II", *sums)
        if not intact and wal[at + 4 : at + 8] != bytes(4):
            return True
    return False


def _sums(data: bytes, wal: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """The WAL's running checksum, continued over some words."""
    order = ">" if wal[:4] == struct.pack(">I", WAL_MAGIC) else "<"
    first, second = sums
    numbers = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for one, other in zip(numbers, numbers, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


def carved(path: Path) -> Iterator[Values]:
    """Every entry with a valid checksum, in any page of the file or its WAL.

    It reads pages instead of tables, so that damage loses only the entries of its page, not those that the
    page refers to. A recently removed entry may reappear, which only repeats its event.
    """
    with _Pages(path) as pages:
        for page in pages.images():
            for cell in _cells(page):
                for read in (pages.newest, pages.checkpointed):
                    entry = cell.entry(read)
                    if entry is not None and fits(entry):
                        yield entry
                        break


class _Pages:
    """The readable pages of a file and its WAL."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file = os.open(self._path, os.O_RDONLY)
        try:
            self._wal = os.open(f"{self._path}-wal", os.O_RDONLY)
        except FileNotFoundError:
            self._wal = os.open(os.devnull, os.O_RDONLY)
        self._frames = dict(self._in_wal())
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        os.close(self._wal)

    def images(self) -> Iterator[bytes]:
        """Every page in every version, the WAL's first."""
        for _, at in self._in_wal():
            yield _read(self._wal, at, PAGE)
        for at in range(0, os.fstat(self._file).st_size, PAGE):
            yield _read(self._file, at, PAGE)

    def _in_wal(self) -> Iterator[tuple[int, int]]:
        """The number of each page in the WAL, and its offset; the newest version comes last."""
        # Frames with other salts than the header are older than the last complete checkpoint.
        # If the header is damaged, the first frame has the same salts.
        salts = {_read(self._wal, at, 8) for at in (16, WAL_HEADER + 8)}
        for at in range(WAL_HEADER, os.fstat(self._wal).st_size, FRAME):
            header = _read(self._wal, at, FRAME_HEADER)
            if header[8:16] in salts:
                yield int.from_bytes(header[:4]), at + FRAME_HEADER

    def newest(self, number: int) -> bytes:
        frame = self._frames.get(number)
        return self.checkpointed(number) if frame is None else _read(self._wal, frame, PAGE)

    def checkpointed(self, number: int) -> bytes:
        return _read(self._file, (number - 1) * PAGE, PAGE)


def _read(descriptor: int, at: int, size: int) -> bytes:
    """The bytes at this place; empty if the disk fails."""
    try:
        return os.pread(descriptor, size, at)
    except (OSError, OverflowError):
        return b""


# The maximum of an entry's payload on its page, and the minimum if the rest overflows.
LOCAL_MOST = PAGE - 35
LOCAL_LEAST = (PAGE - 12) * 32 // 255 - 23

_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


@dataclass(frozen=True, slots=True)
class _Cell:
    """A possible cell of an entry on a leaf page: the types of its columns, and the place of its bytes."""

    number: int
    types: tuple[int, ...]
    header: int
    length: int
    local: bytes
    overflow: int

    def entry(self, read: Callable[[int], bytes]) -> Values | None:
        payload = self._payload(read)
        if len(payload) < self.length:
            return None
        values: list[object] = []
        at = self.header
        for kind in self.types:
            size = _width(kind)
            values.append(_value(kind, payload[at : at + size]))
            at += size
        # The primary key is outside of the record.
        return [self.number, *values[1:]]

    def _payload(self, read: Callable[[int], bytes]) -> bytes:
        chunks = [self.local]
        missing = self.length - len(self.local)
        following = self.overflow
        while missing > 0 and following:
            page = read(following)
            if len(page) < PAGE:
                break
            chunks.append(page[4 : 4 + missing])
            missing -= len(chunks[-1])
            following = int.from_bytes(page[:4])
        return b"".join(chunks)


def _cells(page: bytes) -> Iterator[_Cell]:
    """All possible entries on a page, independent of the page's kind and count, which may be damaged."""
    for at in range(8, len(page) - 1, 2):
        pointer = int.from_bytes(page[at : at + 2])
        if pointer == 0:
            return
        if not at + 2 <= pointer < len(page):
            continue
        with suppress(IndexError):
            cell = _cell(page, pointer)
            if cell is not None:
                yield cell


def _cell(page: bytes, at: int) -> _Cell | None:
    """Raises: IndexError: The page ends before the cell does."""
    length, at = _varint(page, at)
    number, start = _varint(page, at)
    header, at = _varint(page, start)
    types: list[int] = []
    while at < start + header and len(types) < COLUMNS:
        kind, at = _varint(page, at)
        types.append(kind)
    # Follow only consistent cells to other pages.
    if len(types) != COLUMNS or at != start + header or header + sum(map(_width, types)) != length:
        return None
    local = _local(length)
    end = start + local
    overflow = 0 if local == length else int.from_bytes(page[end : end + 4])
    return _Cell(number, tuple(types), header, length, page[start:end], overflow)


def _local(length: int) -> int:
    if length <= LOCAL_MOST:
        return length
    local_size = LOCAL_LEAST + (length - LOCAL_LEAST) % (PAGE - 4)
    return local_size if local_size <= LOCAL_MOST else LOCAL_LEAST


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for position in range(at, at + 8):
        byte = data[position]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + 1
    return value << 8 | data[at + 8], at + 9


def _width(kind: int) -> int:
    """Bytes of a value of a serial type."""
    return (kind - 12) // 2 if kind >= 12 else _INTEGER_BYTES.get(kind, 0)


def _value(kind: int, data: bytes) -> object:
    match kind:
        case 0:
            return None
        case 8 | 9:
            return kind - 8
        case _ if kind < 12:
            return int.from_bytes(data, signed=True)
        case _ if kind % 2:
            return data.decode(errors="replace")
        case _:
            return data
