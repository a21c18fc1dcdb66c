"""Name lookups that delay neither the end of a process nor its event loop.

A lookup (`getaddrinfo`) cannot be cancelled: while a name server does not answer, its thread is blocked for a
minute or longer. The event loop's own lookups run in threads that Python (or libuv) joins before a process
may end. Here they run in daemon threads, which nothing waits for.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_address
from time import monotonic
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")
Answer = list[tuple[Any, ...]]
Create = Callable[..., Coroutine[Any, Any, tuple[Any, Any]]]

# After this time another lookup of the same name is started: a name server may answer by then.
SHARED_SECONDS = 10.0

# So long an address of a name may take to accept a connection, before the next one is tried.
ADDRESS_SECONDS = 1.0

# Threads that may be blocked in lookups at the same time.
MOST_LOOKUPS = 32


@dataclass(slots=True)
class _Lookup:
    started_at: float
    waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[Answer]]] = field(default_factory=list)


class _Lookups:
    """The lookups in flight, by question. A lookup of the same question waits for the same answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._by_question: dict[tuple[object, ...], _Lookup] = {}

    async def look_up(self, *question: Any) -> Answer:
        """Raises: OSError."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()
        with self._lock:
            lookup = self._by_question.get(question)
            if lookup is None or monotonic() - lookup.started_at > SHARED_SECONDS:
                if self._running >= MOST_LOOKUPS:
                    raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
                lookup = _Lookup(monotonic())
                thread = threading.Thread(
                    target=self._run, args=(question, lookup), name="lookup", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    raise socket.gaierror(socket.EAI_AGAIN, "cannot start a thread for the lookup") from None
                # Counted once it runs; its end waits for the lock.
                self._by_question[question] = lookup
                self._running += 1
            lookup.waiting.append((loop, answered))
        return await answered

    def _run(self, question: tuple[Any, ...], lookup: _Lookup) -> None:
        answer: Answer | Exception
        try:
            answer = list(socket.getaddrinfo(*question))
        except Exception as error:
            answer = error
        with self._lock:
            self._running -= 1
            if self._by_question.get(question) is lookup:
                del self._by_question[question]
        for loop, answered in lookup.waiting:
            try:
                loop.call_soon_threadsafe(_settle, answered, answer)
            except RuntimeError:
                # That loop is closed, so nothing waits.
                continue


def _settle(answered: "asyncio.Future[Answer]", answer: Answer | Exception) -> None:
    if answered.done():
        return
    if isinstance(answer, Exception):
        answered.set_exception(answer)
    else:
        answered.set_result(answer)


_LOOKUPS = _Lookups()


async def look_up(
    host: str | None,
    port: int | str | None,
    *,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> Answer:
    """As `socket.getaddrinfo`.

    Raises:
        OSError: The name cannot be resolved.
    """
    return await _LOOKUPS.look_up(host, port, family, type, proto, flags)


async def connect(
    create: Create,
    protocol: Callable[[], Any],
    host: str,
    port: int,
    *,
    within: float | None = None,
    **options: Any,
) -> Any:
    """`create_connection` of a loop, to the first address of a host that can be connected to.

    Of `within` seconds, each address but the last has an equal share, `ADDRESS_SECONDS` at most.

    Raises:
        OSError: The name cannot be resolved, or no address accepts a connection.
    """
    if options.get("ssl") and options.get("server_hostname") is None:
        options["server_hostname"] = host
    entries = await look_up(
        host,
        port,
        family=options.pop("family", 0),
        type=socket.SOCK_STREAM,
        proto=options.pop("proto", 0),
        flags=options.pop("flags", 0),
    )
    *others, last = dict.fromkeys(entry[4][:2] for entry in entries)
    share = None if within is None else min(ADDRESS_SECONDS, within / (len(others) + 1))
    for address in others:
        try:
            async with asyncio.timeout(share):
                return await create(protocol, *address, **options)
        except OSError:
            # TimeoutError is one as well.
            continue
    return await create(protocol, *last, **options)


class Loop(uvloop.Loop):
    """uvloop with the lookups of this module."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return await look_up(host, port, **options)

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        if not isinstance(host, str) or is_address(host):
            return await super().create_connection(protocol_factory, host, port, **options)
        return await connect(super().create_connection, protocol_factory, host, port, **options)

    async def create_server(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        if isinstance(host, str) and host and not is_address(host):
            entries = await look_up(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            host = list(dict.fromkeys(entry[4][0] for entry in entries))
        return await super().create_server(protocol_factory, host, port, **options)


def is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on such a loop."""
    return uvloop.run(main, loop_factory=Loop)
