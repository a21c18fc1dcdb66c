"""Which connections stay open when there are too many: strangers are closed first, trusted proxies last.

    trusted         from a network of STOCKHOOK_TRUSTED_PROXIES
    authenticated   sent a request with a valid secret, or showed a client certificate
    stranger        every other one: at most half of all connections, with a limit per address

A new connection replaces the stranger that has been open for longest. So a sender that shares its address
with a flood is served as well. A connection is only closed in this way if no whole request waits for its
answer. If an answer that is still being sent is lost, the sender repeats the request, and the event log
recognizes the event.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from worker.observability import metrics


class Kind(StrEnum):
    TRUSTED = "trusted"
    AUTHENTICATED = "authenticated"
    STRANGER = "stranger"


_OPEN = {kind: metrics.CONNECTIONS.labels(kind) for kind in Kind}


class Reason(StrEnum):
    """Why a connection was closed, or not admitted."""

    ADDRESS = "address"
    STRANGERS = "strangers"
    TOTAL = "total"
    HANDSHAKE = "handshake"


class Limited(Protocol):
    """A connection, as its limits know it."""

    def is_unfinished(self) -> bool:
        """Whether no request that arrived whole is still to be answered."""

    def drain(self) -> None:
        """Close it now if it is idle, or after the answers that are due."""

    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`per_address` applies to strangers; `network_key` defines what one address is."""

    total: int = 1024
    per_address: int = 128

    @property
    def strangers(self) -> int:
        return max(1, self.total // 2)


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: Kind
    address: str


Ordered = dict["Limited", None]


@dataclass(slots=True)
class OpenConnections:
    """Every open connection, by kind; the oldest come first.

    `on_refused` gets the reason and the address of each connection that was closed or not admitted.
    """

    limits: ConnectionLimits
    on_refused: Callable[[Reason, str], None]
    _entries: dict[Limited, _Entry] = field(default_factory=dict)
    _strangers: Ordered = field(default_factory=dict)
    _strangers_by_address: dict[str, Ordered] = field(default_factory=dict)
    # The idle ones of the other kinds, in the order in which they became so.
    _idle: dict[Kind, Ordered] = field(
        default_factory=lambda: {kind: {} for kind in Kind if kind is not Kind.STRANGER}
    )

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, connection: Limited) -> bool:
        return connection in self._entries

    def __iter__(self) -> Iterator[Limited]:
        return iter(list(self._entries))

    def kind(self, connection: Limited) -> Kind:
        """STRANGER for a closed connection, whose kind no longer matters."""
        entry = self._entries.get(connection)
        return Kind.STRANGER if entry is None else entry.kind

    def admit(self, connection: Limited, address: str, *, is_trusted: bool) -> bool:
        """Make room for a connection, and add it; False if no other could be closed for it."""
        kind = Kind.TRUSTED if is_trusted else Kind.STRANGER
        reason = self._why_refused(kind, address)
        if reason is not None:
            self.on_refused(reason, address)
            return False
        self._add(connection, _Entry(kind, address))
        return True

    def authenticate(self, connection: Limited) -> None:
        """It sent a valid secret, or showed a client certificate: it is no longer a stranger."""
        entry = self._entries.get(connection)
        if entry is not None and entry.kind is Kind.STRANGER:
            self.remove(connection)
            self._add(connection, _Entry(Kind.AUTHENTICATED, entry.address))

    def note_idle(self, connection: Limited) -> None:
        """It waits for a request, or for its end."""
        kind = self.kind(connection)
        if kind is not Kind.STRANGER:
            self._idle[kind][connection] = None

    def note_busy(self, connection: Limited) -> None:
        kind = self.kind(connection)
        if kind is not Kind.STRANGER:
            self._idle[kind].pop(connection, None)

    def remove(self, connection: Limited) -> None:
        """Does nothing for a connection that was not added."""
        self.note_busy(connection)
        entry = self._entries.pop(connection, None)
        if entry is None:
            return
        _OPEN[entry.kind].dec()
        if entry.kind is Kind.STRANGER:
            del self._strangers[connection]
            of_address = self._strangers_by_address[entry.address]
            del of_address[connection]
            if not of_address:
                del self._strangers_by_address[entry.address]

    def _add(self, connection: Limited, entry: _Entry) -> None:
        self._entries[connection] = entry
        _OPEN[entry.kind].inc()
        if entry.kind is Kind.STRANGER:
            self._strangers[connection] = None
            self._strangers_by_address.setdefault(entry.address, {})[connection] = None

    def _why_refused(self, kind: Kind, address: str) -> Reason | None:
        if kind is Kind.STRANGER:
            of_address = self._strangers_by_address.get(address, {})
            if len(of_address) >= self.limits.per_address and not self._close(of_address, Reason.ADDRESS):
                return Reason.ADDRESS
            are_too_many = len(self._strangers) >= self.limits.strangers
            if are_too_many and not self._close(self._strangers, Reason.STRANGERS):
                return Reason.STRANGERS
        if len(self._entries) < self.limits.total:
            return None
        makes_room = [self._strangers, self._idle[Kind.AUTHENTICATED]]
        if kind is Kind.TRUSTED:
            makes_room.append(self._idle[Kind.TRUSTED])
        return None if any(self._close(some, Reason.TOTAL) for some in makes_room) else Reason.TOTAL

    def _close(self, candidates: Ordered, reason: Reason) -> bool:
        """Close the first that may be closed; False if there is none."""
        connection = next((candidate for candidate in candidates if candidate.is_unfinished()), None)
        if connection is None:
            return False
        self.on_refused(reason, self._entries[connection].address)
        self.remove(connection)
        connection.abort()
        return True
