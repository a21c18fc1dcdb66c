"""A process that has imported all of `stockhook`, and forks for each process that tests start.

`python -m tests.support.fork_server N` serves the Unix socket that it inherits as descriptor N.
`tests.support.forking` is the other side. A request is a JSON object (arguments, environment, working
directory) with two descriptors, standard output and standard error. Answers are JSON objects too: the process
id of what was started, and later how it ended. Each is one packet.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
from typing import Any, NoReturn

import worker
from worker.cli.entry_point import main

LARGEST_BYTES = 200_000


def import_all() -> None:
    for module in pkgutil.walk_packages(worker.__path__, "worker."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def serve(requests: socket.socket) -> None:
    """Fork until the other side closes the socket. Returns in each child, which then runs its command."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    while True:
        readable, _, _ = select.select([requests, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            report_ends(requests)
        if requests in readable:
            message, descriptors, _, _ = socket.recv_fds(requests, LARGEST_BYTES, 2)
            if not message:
                sys.exit(0)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (woken, wake):
                    os.close(descriptor)
                requests.close()
                become(json.loads(message), descriptors)
                return
            for descriptor in descriptors:
                os.close(descriptor)
            answer(requests, {"started": pid})


def report_ends(requests: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            answer(requests, {"ended": ended[0], "code": os.waitstatus_to_exitcode(ended[1])})


def answer(requests: socket.socket, message: dict[str, int]) -> None:
    requests.send(json.dumps(message).encode())


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Set arguments, environment, folder and output, and start a session."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for target, source in enumerate(descriptors, start=1):
        os.dup2(source, target)
        os.close(source)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # for as long as the process lives
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["stockhook", *request["arguments"]]


def run() -> NoReturn:
    serve(socket.socket(fileno=int(sys.argv[1])))
    main()
    sys.exit(0)


if __name__ == "__main__":
    import_all()
    gc.freeze()
    run()
