"""A real HTTP proxy on this machine: it forwards plain requests, tunnels CONNECT, and records requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Proxy:
    port: int = 0
    # If set, the answer to all requests.
    refusal: bytes = b""
    requests: list[bytes] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        """The request lines."""
        return [head.split(b"\r\n", 1)[0].decode() for head in self.requests]

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.ensure_future(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one request; later bytes are forwarded unchanged in both directions."""
        with suppress(OSError, asyncio.IncompleteReadError), closing(writer.transport):
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            if self.refusal:
                writer.write(self.refusal)
                await writer.drain()
                return
            method, target, _ = head.split(b" ", 2)
            parts = urlsplit(b"//" + target if method == b"CONNECT" else target)
            onward_reader, onward = await asyncio.open_connection(parts.hostname, parts.port)
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 x\r\n\r\n")
            else:
                onward.write(head.replace(target, target.partition(parts.netloc)[2], 1))
            with closing(onward.transport):
                await asyncio.gather(copy(reader, onward), copy(onward_reader, writer))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def http_proxy(refusal: bytes = b"") -> AsyncIterator[Proxy]:
    proxy = Proxy(refusal=refusal)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in proxy.tasks:
            task.cancel()
        await asyncio.gather(*proxy.tasks, return_exceptions=True)
