"""A process whose parent was killed stops too, as if it had been asked to."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def stop_with_parent(parent: int) -> None:
    """Have the kernel send us SIGTERM when our parent ends; `parent` is its process id.

    Linux only; elsewhere it does nothing.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # It ended before the kernel knew.
        os.kill(os.getpid(), signal.SIGTERM)
