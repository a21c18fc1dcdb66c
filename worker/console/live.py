"""Streams of the live regions of screens, as Server-Sent Events."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from worker.config.console_accounts import Role
from worker.console.access import Access, Refused
from worker.console.contract import Console, NotThere, Parameters, Screen
from worker.console.poller import NoSnapshot
from worker.console.rendering import Renderer
from worker.console.sessions import Session
from worker.observability.errors import StockhookError
from worker.postgres.errors import PostgresError

# Streams that are open at the same time. Browsers close those of hidden pages.
MOST_STREAMS = 200

_UNBUFFERED = {"X-Accel-Buffering": "no"}


@dataclass(slots=True)
class _Region:
    """The live region of one screen, for all viewers with the same roles."""

    number: int
    event: "asyncio.Task[bytes]"


@dataclass(slots=True)
class LiveRegions:
    console: Console
    access: Access
    renderer: Renderer
    stopping: asyncio.Event
    _regions: dict[object, _Region] = field(default_factory=dict)
    _streams: int = 0

    def stream(self, screen: Screen, parameters: Parameters, request: Request, session: Session) -> Response:
        """Raises: Refused."""
        if self._streams >= MOST_STREAMS:
            raise Refused(503, "Too many pages are open: this one does not update itself.")
        return StreamingResponse(
            self._events(screen, parameters, request, session),
            media_type="text/event-stream",
            headers=_UNBUFFERED,
        )

    async def _events(
        self, screen: Screen, parameters: Parameters, request: Request, session: Session
    ) -> AsyncIterator[bytes]:
        """The live region after each snapshot, while the session lasts."""
        poller = self.console.poller
        self._streams += 1
        try:
            async with poller.watching():
                number, shown = 0, b""
                while True:
                    number = await poller.next(number)
                    if self.stopping.is_set() or not self.access.is_alive(session, request):
                        return
                    try:
                        event = await self._region(screen, parameters, session.user.roles, number)
                    except NotThere:
                        return
                    except (NoSnapshot, StockhookError, PostgresError):
                        event = shown
                    # A comment shows that the connection works.
                    yield event if event != shown else b": unchanged\n\n"
                    shown = event
        finally:
            self._streams -= 1

    async def _region(
        self, screen: Screen, parameters: Parameters, roles: frozenset[Role], number: int
    ) -> bytes:
        """Rendered once per snapshot for all viewers of the same address with the same roles."""
        key = (screen.path, frozenset(parameters.items()), roles)
        region = self._regions.get(key)
        if region is None or region.number != number:
            self._regions = {other: one for other, one in self._regions.items() if one.number == number}
            region = _Region(number, asyncio.create_task(self._rendered(screen, parameters, roles)))
            self._regions[key] = region
        # A viewer that leaves must not cancel what others wait for.
        return await asyncio.shield(region.event)

    async def _rendered(self, screen: Screen, parameters: Parameters, roles: frozenset[Role]) -> bytes:
        view = await screen.view(self.console, parameters)
        return _event(self.renderer.region(screen.template, {"view": view, "roles": roles}))


def _event(text: str) -> bytes:
    """As Server-Sent Events have it: each line of the text is one of the message."""
    return ("".join(f"data: {part}\n" for part in text.split("\n")) + "\n").encode()
