"""Exit codes of processes that the fork server started."""

import json
import socket
import threading

from tests.support.forking import ForkServer


def test_a_process_whose_id_was_used_before_has_not_ended() -> None:
    server, answers = fake_server()
    for answer in ({"started": 7}, {"ended": 7, "code": 3}, {"started": 7}, {"started": 8}):
        answers.send(json.dumps(answer).encode())
    answers.send(json.dumps({"ended": 8, "code": 0}).encode())

    assert server.code_of(8, 30) == 0
    assert server.code_of(7, 0) is None
    answers.close()


def fake_server() -> tuple[ForkServer, socket.socket]:
    """A fork server without a process, whose answers a test provides."""
    requests, answers = socket.socketpair(type=socket.SOCK_SEQPACKET)
    server = ForkServer.__new__(ForkServer)
    server._requests = requests
    server._changed = threading.Condition()
    server._started = []
    server._codes = {}
    server._has_ended = False

    def listen() -> None:
        with requests:
            server._listen()

    threading.Thread(target=listen, daemon=True).start()
    return server, answers
