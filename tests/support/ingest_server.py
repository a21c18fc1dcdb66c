"""The ingest's HTTP server in this process with a sink in memory, and a client for raw bytes."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.http_shapes import EVENT, head
from worker.amqp.channel import Message
from worker.config.settings import Settings
from worker.ingest.http_connection import Limits
from worker.ingest.http_server import serving
from worker.ingest.service import Ingest
from worker.ingest.tls import Certificates
from worker.ingest.trusted_proxies import TrustedProxies

SECRET = "ovoko-secret"


@dataclass
class Stored:
    messages: list[Message] = field(default_factory=list)
    may_store: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    async def store(self, message: Message, family: str | None) -> None:
        self.waiting += 1
        await self.may_store.wait()
        self.waiting -= 1
        self.messages.append(message)

    async def check(self) -> str | None:
        return None

    def details(self) -> dict[str, object]:
        return {}


@dataclass
class Server:
    port: int
    stored: Stored


@asynccontextmanager
async def server(
    limits: Limits | None = None,
    proxies: TrustedProxies | None = None,
    certificates: Certificates | None = None,
    **settings: object,
) -> AsyncIterator[Server]:
    stored = Stored()
    stored.may_store.set()
    configured = Settings(ovoko_secrets=SECRET, **settings)  # type: ignore[arg-type]  # as the environment has them
    handle = Ingest(configured, stored).handle
    limits = limits or Limits(75.0)
    proxies = proxies or TrustedProxies()
    async with serving(handle, "127.0.0.1", 0, limits, 5, proxies, certificates) as port:
        yield Server(port, stored)


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> bytes:
        """Read an answer up to the end of its body."""
        async with asyncio.timeout(20):
            answer = await self.reader.readuntil(b"\r\n\r\n")
            length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            return answer + await self.reader.readexactly(int(length or 0))

    async def status(self) -> int:
        return int((await self.answer())[9:12])

    async def is_served(self) -> bool:
        self.writer.write(WHOLE)
        return await self.status() == 200

    async def is_closed(self) -> bool:
        """Whether the server closed the connection without an answer."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def client(
    port: int, *, context: ssl.SSLContext | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[Client]:
    """Connect from one of the 16 million loopback addresses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(address, 0))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


WHOLE = head(SECRET, f"Content-Length: {len(EVENT)}") + EVENT
