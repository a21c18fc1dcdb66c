"""The choice of connections to close when there are too many."""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from worker.ingest.connection_limits import ConnectionLimits, Kind, OpenConnections, Reason

LIMITS = ConnectionLimits(total=8, per_address=2)


@dataclass(eq=False)
class Connection:
    is_answering: bool = False
    aborted: bool = False

    def is_unfinished(self) -> bool:
        return not self.is_answering

    def drain(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


@dataclass
class Server:
    """Connections of an ingest, and the refused ones."""

    limits: ConnectionLimits = LIMITS
    refused: list[tuple[Reason, str]] = field(default_factory=list)
    open: OpenConnections = field(init=False)

    def __post_init__(self) -> None:
        self.open = OpenConnections(
            self.limits, lambda reason, address: self.refused.append((reason, address))
        )

    def stranger(self, address: str, *, is_answering: bool = False) -> Connection:
        connection = Connection(is_answering)
        if not self.open.admit(connection, address, is_trusted=False):
            connection.abort()
        return connection

    def proxy(self, *, is_idle: bool = False) -> Connection:
        connection = Connection(is_answering=not is_idle)
        if not self.open.admit(connection, "10.0.0.1", is_trusted=True):
            connection.abort()
        elif is_idle:
            self.open.note_idle(connection)
        return connection

    def authenticated(self, address: str, *, is_idle: bool = True) -> Connection:
        connection = self.stranger(address)
        self.open.authenticate(connection)
        if is_idle:
            self.open.note_idle(connection)
        else:
            connection.is_answering = True
        return connection


def test_the_oldest_stranger_of_an_address_is_closed_for_the_next() -> None:
    server = Server()
    other = server.stranger("b")
    first, second, third = (server.stranger("a") for _ in range(3))

    assert [connection.aborted for connection in (other, first, second, third)] == [False, True, False, False]
    assert server.refused == [(Reason.ADDRESS, "a")]


def test_strangers_of_many_addresses_have_half_of_the_room() -> None:
    server = Server()
    strangers = [server.stranger(str(number)) for number in range(5)]
    proxies = [server.proxy() for _ in range(4)]

    assert [connection.aborted for connection in strangers] == [True, False, False, False, False]
    assert not any(proxy.aborted for proxy in proxies)
    assert server.refused == [(Reason.STRANGERS, "0")]


def test_an_authenticated_connection_no_longer_counts_as_a_stranger() -> None:
    server = Server()
    known = [server.authenticated("a") for _ in range(4)]
    strangers = [server.stranger("a") for _ in range(2)]

    assert not any(connection.aborted for connection in known + strangers)
    assert Counter(server.open.kind(connection) for connection in known + strangers) == {
        Kind.AUTHENTICATED: 4,
        Kind.STRANGER: 2,
    }


def test_a_connection_in_use_is_not_closed_and_the_new_one_is_refused() -> None:
    server = Server()
    answering = [server.stranger("a", is_answering=True) for _ in range(2)]
    newcomer = server.stranger("a")

    assert newcomer.aborted
    assert not any(connection.aborted for connection in answering)
    assert server.refused == [(Reason.ADDRESS, "a")]
    assert len(server.open) == 2


def test_a_trusted_proxy_finds_room_while_any_connection_is_idle() -> None:
    server = Server()
    stranger = server.stranger("a")
    known = server.authenticated("b")
    idle = server.proxy(is_idle=True)
    busy = [server.proxy() for _ in range(5)]

    newcomers = []
    for gone in (stranger, known, idle):
        newcomers.append(server.proxy())
        assert gone.aborted
    refused = server.proxy()

    assert refused.aborted
    assert not any(proxy.aborted for proxy in busy + newcomers)
    assert [reason for reason, _ in server.refused] == [Reason.TOTAL] * 4


def test_a_stranger_does_not_close_an_idle_connection_of_a_proxy() -> None:
    server = Server()
    proxies = [server.proxy(is_idle=True) for _ in range(8)]

    assert server.stranger("a").aborted
    assert not any(proxy.aborted for proxy in proxies)


def test_many_connections_of_one_proxy_are_not_too_many_of_one_address() -> None:
    server = Server()

    assert not any(server.proxy().aborted for _ in range(8))


def test_a_closed_connection_frees_its_slot() -> None:
    server = Server()
    for _ in range(20):
        server.open.remove(server.stranger("a"))
    gone = server.stranger("a")
    server.open.remove(gone)
    server.open.remove(gone)
    server.open.authenticate(gone)

    assert len(server.open) == 0
    assert server.refused == []


@given(st.lists(st.tuples(st.sampled_from("ipasrd"), st.integers(0, 9), st.sampled_from("abc")), max_size=80))
def test_the_limits_hold_for_any_sequence(steps: list[tuple[str, int, str]]) -> None:
    server = Server()
    connections: list[Connection] = []
    for step, number, address in steps:
        chosen = connections[number % len(connections)] if connections else None
        match step:
            case "s":
                connections.append(server.stranger(address))
            case "p":
                connections.append(server.proxy())
            case _ if chosen is None or chosen.aborted:
                continue
            case "a":
                server.open.authenticate(chosen)
            case "i":
                chosen.is_answering = False
                server.open.note_idle(chosen)
            case "r":
                server.open.remove(chosen)
                connections.remove(chosen)
            case "d":
                chosen.is_answering = True
                server.open.note_busy(chosen)
        living = [connection for connection in connections if not connection.aborted]
        kinds = Counter(server.open.kind(connection) for connection in living)
        assert len(server.open) == len(living) <= LIMITS.total
        assert kinds[Kind.STRANGER] <= LIMITS.strangers
