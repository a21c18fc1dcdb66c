"""A contestant's configuration, and its shutdown."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Self

import uvloop

PREFIX = "BENCH_"


@dataclass(frozen=True, slots=True)
class Task:
    """`prefetch` applies to the whole consumer; `pool` is the number of its connections to Postgres."""

    amqp_url: str
    database_url: str = ""
    queues: str = ""
    prefetch: int = 100
    pool: int = 10
    port: int = 0
    count: int = 0
    messages: str = ""
    """The file with the messages to publish."""
    secret: str = ""

    @classmethod
    def read(cls) -> Self:
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in os.environ.items()
            if name.startswith(PREFIX)
        }
        whole = {
            name: int(given.pop(name)) for name in ("prefetch", "pool", "port", "count") if name in given
        }
        return cls(**given, **whole)  # type: ignore[arg-type]  # the names are checked by the call

    @property
    def environment(self) -> dict[str, str]:
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in asdict(self).items()}

    @property
    def queue_names(self) -> list[str]:
        return self.queues.split(",")


async def stopped() -> None:
    """Return on SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()


def run(main: Coroutine[None, None, None]) -> None:
    uvloop.run(main)
