"""A standard error that is not read blocks nothing."""

import fcntl
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.observability.stderr import QUEUE_BYTES, QueuedStream

ROOT = Path(__file__).parents[2]
SMALLEST_PIPE = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe that is not read, so that it fills up soon."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    yield reading, writing
    os.close(reading)


def read_until(reading: int, end: bytes) -> bytes:
    data = b""
    while end not in data:
        assert select.select([reading], [], [], 60)[0], "nothing is written"
        piece = os.read(reading, 65_536)
        assert piece, "it was closed"
        data += piece
    return data


def test_lines_beyond_the_buffer_are_dropped_counted_and_reported_later(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    reported: list[int] = []
    is_reported = threading.Event()

    def report(lines: int) -> None:
        reported.append(lines)
        stream.write("reported\n")
        is_reported.set()

    os.write(writing, b"y" * SMALLEST_PIPE)
    stream = QueuedStream(writing, report)
    line = "x" * 1023 + "\n"
    written = 2 * QUEUE_BYTES // len(line)
    for _ in range(written):
        stream.write(line)
    got = read_until(reading, b"reported\n")

    assert is_reported.wait(10)
    assert 0 < reported[0] < written
    assert got.count(b"x\n") + sum(reported) == written


def test_lines_come_in_their_order_and_whole(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    stream = QueuedStream(writing, lambda lines: None)
    expected = "".join(f"line {number} \N{SNOWMAN}\n" for number in range(5_000))
    for line in expected.splitlines(keepends=True):
        stream.write(line)

    assert read_until(reading, b"line 4999 \xe2\x98\x83\n").decode() == expected


WRITER = """
import sys
from worker.observability.stderr import install
install(lambda lines: None)
for number in range(2_000):
    sys.stderr.write(sys.argv[1] * 300 + "\\n")
"""


def test_lines_of_processes_that_share_a_pipe_do_not_mix(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, letter], cwd=ROOT, stderr=writing) for letter in "ab"
    ]
    os.close(writing)
    got = b""
    while piece := os.read(reading, 4096):
        got += piece

    assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = got.splitlines()
    assert {line[:1] for line in lines} == {b"a", b"b"}
    assert all(line == line[:1] * 300 for line in lines)


def test_a_process_without_standard_error_logs_nothing_and_goes_on() -> None:
    code = (
        "from worker.observability.logging import configure; import structlog; "
        "configure('auto', 'info', 'test'); structlog.get_logger().info('x'); print('goes on')"
    )
    shell = [sys.executable, "-c", code]
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" 2>&-', *shell], cwd=ROOT, capture_output=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout) == (0, b"goes on\n")


def test_a_line_after_a_silence_is_written(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    stream = QueuedStream(writing, lambda lines: None)
    got = b""
    for number in range(3):
        stream.write(f"line {number}\n")
        got += read_until(reading, b"\n")
        # The thread finds the queue empty, and sleeps.
        stream.drain(10)
        time.sleep(0.05)

    assert got == b"line 0\nline 1\nline 2\n"


def test_a_line_that_is_written_in_the_middle_of_a_write_waits_for_nothing(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the garbage collector or the handler of a signal does."""
    reading, writing = pipe
    stream = QueuedStream(writing, lambda lines: None)
    start = QueuedStream._started

    def interrupted(stream: QueuedStream) -> threading.Thread | None:
        monkeypatch.setattr(QueuedStream, "_started", start)
        stream.write("inner\n")
        return start(stream)

    monkeypatch.setattr(QueuedStream, "_started", interrupted)
    writer = threading.Thread(target=stream.write, args=("outer\n",), daemon=True)
    writer.start()
    writer.join(10)

    assert not writer.is_alive()
    assert read_until(reading, b"inner\n") == b"outer\ninner\n"


FORKING = """
import os, sys
from worker.observability.stderr import drain, install
install(print)
sys.stderr.write("parent\\n")
drain()
child = os.fork()
sys.stderr.write("forked\\n")
drain()
if not child:
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_forked_process_writes_its_own_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, timeout=60, check=False, cwd=ROOT
    )

    assert done.stderr == b"parent\nforked\nforked\n"


PROGRAM = """
import sys
from worker.observability.logging import configure
import structlog
configure("json", "info", "test")
log = structlog.get_logger()
for number in range(5000):
    log.info("line.written", number=number)
print("went on", flush=True)
"""


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("sys.exit('a last word')", 1), ("raise ValueError('a traceback')", 1)]
)
def test_a_program_ends_although_its_log_is_not_read(pipe: tuple[int, int], end: str, code: int) -> None:
    reading, writing = pipe
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + end],
        stdout=subprocess.PIPE,
        stderr=writing,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    os.close(writing)

    assert (done.returncode, done.stdout) == (code, b"went on\n")
    assert b'"number":0' in os.read(reading, SMALLEST_PIPE)


def test_the_last_output_of_a_program_is_written_before_it_ends() -> None:
    program = PROGRAM + "raise ValueError('a traceback')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False, cwd=ROOT
    )

    lines = done.stderr.splitlines()
    assert b'"number":0' in lines[0]
    assert lines[-1] == b"ValueError: a traceback" or b"lines_dropped" in done.stderr


def test_the_log_shows_foreign_text_and_steers_no_terminal() -> None:
    said = "log.warning('it.said', words='\\x1b[2J\\u202e\\x9b', other='[/x]')"
    for log_format in ("json", "console"):
        program = PROGRAM.replace('"json"', repr(log_format)).replace("range(5000)", "range(0)") + said
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, timeout=60, check=False, cwd=ROOT
        )
        shown = done.stderr.decode()

        assert "[/x]" in shown
        assert "202e" in shown
        assert not [one for one in ("\x1b[2J", "\u202e", "\x9b") if one in shown]


HANGING = """
import asyncio, os, time
from worker.observability import signals
signals.HANG_SECONDS = signals.TRACEBACK_SECONDS = 1
os.set_blocking(2, False)
try:
    while True:
        os.write(2, b"x" * 512)
except BlockingIOError:
    os.set_blocking(2, True)
async def hang():
    async with signals.hang_watch():
        await asyncio.sleep(0)
        print("hangs", flush=True)
        time.sleep(600)
asyncio.run(hang())
"""


def test_a_process_that_hangs_ends_although_its_last_output_cannot_be_written(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    done = subprocess.run(
        [sys.executable, "-c", HANGING],
        stdout=subprocess.PIPE,
        stderr=writing,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    os.close(writing)

    assert done.stdout == b"hangs\n"
    assert done.returncode != 0
