"""A connection that only looks, for what goes through a family's `load` without being its consumer."""

import re
from typing import Any

from consumers.family import Connection

# How a family's LOAD statements end: whoever only looks locks nothing, and need not be allowed to.
_LOCKING = re.compile(r"FOR UPDATE(?: OF \w+)?\s*\Z")


class Reading:
    """A connection over which a family's `load` locks no rows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, query: str, *args: object) -> list[Any]:
        return await self._connection.fetch(_LOCKING.sub("", query), *args)

    async def execute(self, query: str, *args: object) -> str:
        raise AssertionError("loading writes nothing")
