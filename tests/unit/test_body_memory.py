"""Bodies in memory stay under a limit; the largest unauthenticated one is refused first."""

from contextlib import ExitStack

import pytest

from worker.ingest.body_memory import LEAST_BYTES, BodyMemory, Held, NoRoom


class Bodies:
    """Concurrent bodies with a common limit of 100 bytes."""

    def __init__(self, context: ExitStack) -> None:
        self.memory = BodyMemory(100)
        self.broken_off: list[Held] = []
        self._context = context

    def arrives(self, size: int, *, is_known: bool = False) -> Held:
        held = self._context.enter_context(self.memory.holding())
        if not is_known:
            held.break_off = lambda: self.broken_off.append(held)
        self.memory.resize(held, size)
        return held


def test_the_largest_unauthenticated_body_is_refused_first() -> None:
    with ExitStack() as context:
        bodies = Bodies(context)
        small, large = bodies.arrives(10), bodies.arrives(60)
        known = bodies.arrives(30, is_known=True)
        bodies.memory.resize(small, 11)

        assert bodies.broken_off == [large]
        assert large.was_broken_off
        bodies.memory.resize(known, 80)
        assert bodies.broken_off == [large]


def test_a_body_that_is_itself_the_largest_is_refused() -> None:
    with ExitStack() as context:
        bodies = Bodies(context)
        other = bodies.arrives(40)
        with pytest.raises(NoRoom):
            bodies.arrives(61)
        assert bodies.broken_off == []
        with pytest.raises(NoRoom):
            bodies.arrives(61, is_known=True)
        assert not other.was_broken_off


def test_a_whole_body_is_never_broken_off() -> None:
    with ExitStack() as context:
        bodies = Bodies(context)
        whole = bodies.arrives(90)
        whole.break_off = None
        with pytest.raises(NoRoom):
            bodies.arrives(11)
        assert bodies.broken_off == []


def test_an_answered_request_frees_its_memory() -> None:
    with ExitStack() as context:
        bodies = Bodies(context)
        for _ in range(5):
            with bodies.memory.holding() as held:
                bodies.memory.resize(held, 90)
        with pytest.raises(NoRoom), bodies.memory.holding() as refused:
            bodies.memory.resize(refused, 101)
        assert not bodies.arrives(100).was_broken_off


def test_one_that_was_broken_off_counts_once() -> None:
    with ExitStack() as context:
        bodies = Bodies(context)
        bodies.arrives(90)
        with ExitStack() as inner:
            inner.enter_context(bodies.memory.holding())
        bodies.arrives(50)
        bodies.arrives(50)

        assert len(bodies.broken_off) == 1


def test_there_is_room_for_several_bodies_of_any_limit() -> None:
    assert BodyMemory.for_bodies_of(1024).limit == LEAST_BYTES
    assert BodyMemory.for_bodies_of(8 * 1024 * 1024).limit == 16 * 8 * 1024 * 1024
