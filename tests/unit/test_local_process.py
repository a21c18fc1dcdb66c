"""Processes of the local services, identified by id and start time."""

import signal
import subprocess

import pytest

from deploy.local.process import Process


def test_one_that_ends_before_it_is_signalled_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["true"])
    process = Process.of(child.pid)
    assert process is not None
    child.wait()
    monkeypatch.setattr(Process, "lives", lambda _: True)

    process.signal(signal.SIGCONT)
