"""The limit of open files, of which each connection is one."""

import resource
from contextlib import suppress

import structlog

log = structlog.get_logger(__name__)

# For the broker, the spool, the ops port, the standard streams.
OTHER_FILES = 128
FEWEST_CONNECTIONS = 16


def files_for_connections(connections: int, backlog: int) -> int:
    """Raise the limit of open files as far as these connections need and the system allows.

    Returns the number of connections for which it suffices. As many connections as the backlog holds may be
    accepted before the first of them can be closed.
    """
    needed = connections + backlog + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_less(soft, needed):
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        # A sandbox may forbid it.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if not _is_less(soft, needed):
        return connections
    possible = max(FEWEST_CONNECTIONS, min(connections, soft - OTHER_FILES))
    if possible < connections:
        log.warning("connections.limited", open_files=soft, connections=possible, wanted=connections)
    return possible


def _is_less(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
