"""The order of the batches of a session: applied one after the other, settled in the same order.

batch 1 | apply | flush, copies, ack |
batch 2         | apply | flush, wait for batch 1, copies, ack |
batch 3                 | apply | …
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Self

from worker.amqp.subscription import SESSION_ENDS, Session

# Batches that are applied and not settled yet. After a crash of the database, each may have to be applied
# again.
MOST_IN_FLIGHT = 8


class Turn:
    """The place of one batch."""

    def __init__(self, earlier: asyncio.Future[bool] | None) -> None:
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.is_next_free = asyncio.Event()
        self._earlier = earlier

    def let_next_begin(self) -> None:
        """From here on, this batch is only settled. Without this call, the next one begins after its end."""
        self.is_next_free.set()

    async def until_earlier_are_settled(self) -> None:
        """An ack includes every earlier delivery, so it must not overtake an earlier batch.

        Raises:
            CancelledError: An earlier batch was not settled.
        """
        if self._earlier is not None and not await asyncio.shield(self._earlier):
            raise asyncio.CancelledError
        self._earlier = None


class Turns:
    """The batches in flight of a session. When the context ends, none is under way any more.

    If one fails, the session ends. Earlier ones go on; later ones could not be settled, and are cancelled.
    """

    def __init__(self, session: Session[Any]) -> None:
        self._session = session
        self._running: list[asyncio.Task[None]] = []
        self._last: asyncio.Future[bool] | None = None
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the batches, or cancel them if there was an error; raise the first failure."""
        if kind is not None:
            _cancel(self._running)
        cancelled: asyncio.CancelledError | None = None
        while self._running:
            try:
                await asyncio.wait(self._running)
            except asyncio.CancelledError as error:
                cancelled = error
                _cancel(self._running)
        if cancelled is not None:
            raise cancelled
        if kind is None and self._failure is not None:
            raise self._failure

    async def begin(self, process: Callable[[Turn], Coroutine[Any, Any, None]]) -> None:
        """Start a batch; return when the next one may begin."""
        turn = Turn(self._last)
        self._last = turn.ended
        task = self._session.start(process(turn))
        self._running.append(task)
        task.add_done_callback(partial(self._note_end, turn))
        await turn.is_next_free.wait()
        while len(self._running) >= MOST_IN_FLIGHT:
            await asyncio.wait(self._running[:1])

    def _note_end(self, turn: Turn, task: asyncio.Task[None]) -> None:
        position = self._running.index(task)
        del self._running[position]
        turn.is_next_free.set()
        failure = None if task.cancelled() else task.exception()
        is_settled = not task.cancelled() and failure is None
        turn.ended.set_result(is_settled)
        if not is_settled:
            # An error that is not the usual end of a session must be seen.
            if self._failure is None or (failure is not None and isinstance(self._failure, SESSION_ENDS)):
                self._failure = failure
            self._session.end()
            _cancel(self._running[position:])


def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
