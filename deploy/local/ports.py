"""Free ports on the loopback address, the same ones as before if possible."""

import json
import random
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST = 10_000
# Number of ports to try.
ATTEMPTS = 500
# The file in which Linux has the range of ports for outgoing connections: `lowest highest`.
OF_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_LOWEST_OF_CONNECTIONS = 32_768


def candidates(setting: Path = OF_CONNECTIONS) -> range:
    """Ports outside the range of outgoing connections, so that a restarted service finds its port free.

    If too few are below that range, the usual range is assumed.
    """
    try:
        end = int(setting.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        end = USUAL_LOWEST_OF_CONNECTIONS
    return range(LOWEST, end if end >= LOWEST + 2 * ATTEMPTS else USUAL_LOWEST_OF_CONNECTIONS)


CANDIDATES = candidates()

# Not the generator that tests seed: two processes would choose the same ports.
_random = random.SystemRandom()

# Chosen by this process: a port that is not used yet would be chosen again.
_chosen: set[int] = set()


class NoFreePort(Exception):
    """None of a few hundred ports was free."""


def listen(port: int) -> socket.socket:
    """Holds a port; raises OSError if it is in use."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Like the services: a port with connections in TIME_WAIT counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def is_free(port: int) -> bool:
    try:
        listen(port).close()
    except OSError:
        return False
    return True


def choose_ports(
    names: Iterable[str], preferred: dict[str, int], *, taken: Iterable[int] = ()
) -> dict[str, int]:
    """A free port for each name: the preferred one if it is free, or one that was never chosen before."""
    chosen: dict[str, int] = {}
    refused = set(taken)
    with ExitStack() as held:
        for name in names:
            port, listener = hold_port(preferred.get(name), refused)
            held.enter_context(listener)
            refused.add(port)
            chosen[name] = port
    _chosen.update(chosen.values())
    return chosen


def hold_port(preferred: int | None, refused: set[int]) -> tuple[int, socket.socket]:
    wishes = [] if preferred is None else [preferred]
    others = [port for port in _random.sample(CANDIDATES, ATTEMPTS) if port not in _chosen]
    for port in [*wishes, *others]:
        if port in refused:
            continue
        try:
            return port, listen(port)
        except OSError:
            continue
    raise NoFreePort(f"no free port between {CANDIDATES.start} and {CANDIDATES.stop}")


def free_port_pair(preferred: int | None = None) -> int:
    """The first of two neighbouring free ports: the preferred one, or different from all earlier ones."""
    wishes = [] if preferred is None else [preferred]
    others = [port for port in _random.sample(CANDIDATES, ATTEMPTS) if not {port, port + 1} & _chosen]
    for port in [*wishes, *others]:
        if is_free(port) and is_free(port + 1):
            _chosen.update((port, port + 1))
            return port
    raise NoFreePort(f"no two neighbouring free ports between {CANDIDATES.start} and {CANDIDATES.stop}")


def remembered_ports(path: Path) -> dict[str, int]:
    try:
        ports: dict[str, int] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return ports


def choose_and_remember(path: Path, names: Iterable[str]) -> dict[str, int]:
    ports = choose_ports(names, remembered_ports(path))
    path.write_text(json.dumps(ports, indent=1))
    return ports
