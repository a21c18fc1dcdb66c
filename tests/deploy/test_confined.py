"""The product under the limits of container, pod and unit: no capability, and only its spool is writable."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import stack as stack_module
from tests.support.stack import Stack, until
from tests.unit.test_service import BODY

# All folders are read-only, except the spool's ($1) and one for temporary files ($2).
CONFINE = """
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
mount --bind "$2" "$2"
mount -o remount,bind,ro /
export TMPDIR="$2" STOCKHOOK_SPOOL_PATH="$1/spool.sqlite3"
shift 2
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""


@pytest.fixture
def confined(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """Its processes start like that."""
    folders = [tmp_path / "spool", tmp_path / "temporary"]
    for folder in folders:
        folder.mkdir()
    elsewhere = Path.home() / "stockhook-test-elsewhere"
    confine = ["unshare", "--mount", "sh", "-c", CONFINE, "sh", *map(str, folders)]
    if shutil.which("unshare") is None or subprocess.run([*confine, "true"], check=False).returncode:
        pytest.skip("needs the right to mount, which this machine does not give")
    written = subprocess.run([*confine, "touch", str(elsewhere)], check=False, capture_output=True)
    assert b"Read-only file system" in written.stderr
    stack.forks = False
    start = subprocess.Popen
    monkeypatch.setattr(
        stack_module.subprocess, "Popen", lambda command, **rest: start([*confine, *command], **rest)
    )
    return stack


async def test_they_work_with_a_read_only_file_system_and_no_capability(
    confined: Stack, tmp_path: Path
) -> None:
    ingest = await confined.started("ingest")
    consumer = await confined.started("consume")
    answer = await confined.post_ovoko(BODY)

    async def is_applied() -> bool:
        return await confined.count("event_log") == 1

    await until(is_applied, "the event is applied")
    codes = (ingest.stop(), consumer.stop())

    assert (answer.status_code, codes) == (200, (0, 0))
    assert (tmp_path / "spool/spool.sqlite3").exists()
    assert "spool.broken" not in ingest.lines()
