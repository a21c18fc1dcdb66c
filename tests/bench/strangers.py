"""`python -m tests.bench.strangers PORT PAUSE`: connections without a secret, in a separate process.

Half of them are silent, the others send a body byte by byte. A closed one is opened again after the pause.
Each line on standard output has the number of open connections and of all that were opened.
"""

import asyncio
import socket
import sys
from contextlib import suppress

import uvloop

CONNECTIONS = 600
# Loopback has 16 million addresses; the strangers use several.
ADDRESSES = 12
PAUSE_SECONDS = 1.0
TRICKLE_SECONDS = 0.5
REPORT_SECONDS = 0.25

HEAD = b"POST /webhooks/buyback HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n{"


class Strangers:
    def __init__(self, port: int, pause: float) -> None:
        self._port = port
        self._pause = pause
        self._open = 0
        self._opened = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(CONNECTIONS):
                tasks.create_task(self._stay(number))
            tasks.create_task(self._report())

    async def _report(self) -> None:
        while True:
            print(self._open, self._opened, flush=True)
            await asyncio.sleep(REPORT_SECONDS)

    async def _stay(self, number: int) -> None:
        address = f"127.9.0.{number % ADDRESSES + 1}"
        while True:
            with suppress(OSError):
                await self._connect(address, trickles=number % 2 == 0)
            await asyncio.sleep(self._pause)

    async def _connect(self, address: str, *, trickles: bool) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setblocking(False)
            connection.bind((address, 0))
            await loop.sock_connect(connection, ("127.0.0.1", self._port))
            self._open += 1
            self._opened += 1
            trickling = asyncio.create_task(self._trickle(connection)) if trickles else None
            try:
                while await loop.sock_recv(connection, 65_536):
                    pass
            finally:
                self._open -= 1
                if trickling is not None:
                    trickling.cancel()
                    with suppress(asyncio.CancelledError, OSError):
                        await trickling

    async def _trickle(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        data = HEAD
        while True:
            await loop.sock_sendall(connection, data)
            data = b" "
            await asyncio.sleep(TRICKLE_SECONDS)


if __name__ == "__main__":
    uvloop.run(Strangers(int(sys.argv[1]), float(sys.argv[2])).run())
