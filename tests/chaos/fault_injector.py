"""Injects the faults of the plan, and heals them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import asyncpg

from deploy.local.process import StartFailed
from deploy.local.rabbitmq import ControlFailed
from deploy.local.services import BrokerNode, Node
from tests.chaos.faults import Fault, Kind, Target
from tests.chaos.small_disk import SmallDisk
from tests.support.fault_proxy import FaultProxy, Flow, Way
from tests.support.fault_sql import REMOVE_FAULT, fail_writes
from tests.support.protocol_watch import Direction, Point
from tests.support.supervised import Supervised

# Throughput and latency of the slowest connection.
SLOWEST = timedelta(milliseconds=400)
SLOWEST_BYTES_PER_SECOND = 10_000

BREAK_WRITES = REMOVE_FAULT + fail_writes("returns", "orders")

HEALTHY_MEMORY = ("set_vm_memory_high_watermark", "absolute", "1GB")
HEALTHY_DISK = ("set_disk_free_limit", "200MB")

FAILURES = (TimeoutError, ControlFailed, StartFailed)

INJECT_SECONDS = 20
HEAL_SECONDS = 60


class NotInjected(Exception):
    """A fault could not be injected."""


class NotHealed(Exception):
    """An injected fault could not be healed, so that later measurements are invalid."""


@asynccontextmanager
async def carried_out(
    fault: Fault,
    seconds: float,
    failed: type[NotInjected | NotHealed],
    causes: tuple[type[Exception], ...] = FAILURES,
) -> AsyncIterator[None]:
    """Raises `failed` after `seconds`, or after one of `causes`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except causes as error:
        raise failed(f"{fault}: {str(error) or 'not within its time'}") from error


class FaultInjector(Protocol):
    """Injects and heals faults."""

    async def inject(self, fault: Fault, intensity: float) -> None:
        """Raises NotInjected."""
        ...

    async def heal(self, fault: Fault) -> None:
        """Return when the fault has ended; raises NotHealed."""
        ...

    async def settle(self) -> None:
        """Return when the effects of earlier strikes have ended; raises NotHealed."""
        ...

    async def heal_everything(self) -> None:
        """End all faults; raises NotHealed."""
        ...


@dataclass(slots=True)
class SingleNodeInjector:
    processes: Mapping[Target, Supervised]
    proxies: Mapping[Target, FaultProxy]
    broker: BrokerNode
    postgres: Node
    database_url: str
    disks: Mapping[Target, SmallDisk]

    async def inject(self, fault: Fault, intensity: float) -> None:
        """Raises NotInjected."""
        async with carried_out(fault, INJECT_SECONDS, NotInjected):
            await self._inject(fault, intensity)

    async def _inject(self, fault: Fault, intensity: float) -> None:
        match fault.target:
            case Target.INGEST | Target.FIRST_CONSUMER | Target.SECOND_CONSUMER:
                inject_into_process(self.processes[fault.target], fault.kind)
            case Target.BROKER | Target.POSTGRES if fault.kind in (Kind.KILLED, Kind.PAUSED):
                node = self._node(fault.target)
                await asyncio.to_thread(node.kill if fault.kind is Kind.KILLED else node.pause)
            case Target.BROKER:
                await self._alarm(fault.kind)
            case Target.POSTGRES if fault.kind is Kind.WRITES_FAIL:
                await self._execute(BREAK_WRITES)
            case Target.POSTGRES | Target.SPOOL:
                await asyncio.to_thread(self.disks[fault.target].fill)
            case Target.INGEST_TO_BROKER | Target.CONSUMERS_TO_BROKER | Target.CONSUMERS_TO_POSTGRES:
                proxy = self.proxies[fault.target]
                await asyncio.to_thread(_disturb, proxy, fault.kind, intensity)
            case _:
                raise AssertionError(f"not a fault of one node: {fault}")

    async def heal(self, fault: Fault) -> None:
        """Return when the fault has ended.

        Raises:
            NotHealed
        """
        async with carried_out(fault, HEAL_SECONDS, NotHealed):
            await self._heal(fault)

    async def _heal(self, fault: Fault) -> None:
        match fault.target:
            case Target.INGEST | Target.FIRST_CONSUMER | Target.SECOND_CONSUMER:
                self.processes[fault.target].resume()
            case Target.BROKER | Target.POSTGRES if fault.kind in (Kind.KILLED, Kind.PAUSED):
                node = self._node(fault.target)
                await asyncio.to_thread(node.start if fault.kind is Kind.KILLED else node.resume)
            case Target.BROKER:
                command = HEALTHY_DISK if fault.kind is Kind.DISK_ALARM else HEALTHY_MEMORY
                await asyncio.to_thread(self.broker.ctl, *command)
            case Target.POSTGRES if fault.kind is Kind.WRITES_FAIL:
                await self._execute(REMOVE_FAULT)
            case Target.POSTGRES | Target.SPOOL:
                await asyncio.to_thread(self.disks[fault.target].free)
            case Target.INGEST_TO_BROKER | Target.CONSUMERS_TO_BROKER | Target.CONSUMERS_TO_POSTGRES:
                await asyncio.to_thread(self.proxies[fault.target].heal)
            case _:
                raise AssertionError(f"not a fault of one node: {fault}")

    async def settle(self) -> None:
        """A single node needs no time after its start."""

    async def heal_everything(self) -> None:
        """End all faults; raises NotHealed."""
        for process in self.processes.values():
            process.resume()
        for proxy in self.proxies.values():
            await asyncio.to_thread(proxy.heal)
        for disk in self.disks.values():
            await asyncio.to_thread(disk.free)
        for target in (Target.BROKER, Target.POSTGRES):
            for kind in (Kind.PAUSED, Kind.KILLED):
                await self.heal(Fault(kind, target))
        for kind in (Kind.MEMORY_ALARM, Kind.DISK_ALARM):
            await self.heal(Fault(kind, Target.BROKER))
        await self.heal(Fault(Kind.WRITES_FAIL, Target.POSTGRES))

    def _node(self, target: Target) -> Node:
        return self.broker if target is Target.BROKER else self.postgres

    async def _alarm(self, kind: Kind) -> None:
        command = ("set_vm_memory_high_watermark", "0")
        if kind is Kind.DISK_ALARM:
            command = ("set_disk_free_limit", "100000GB")
        await asyncio.to_thread(self.broker.ctl, *command)

    async def _execute(self, statements: str) -> None:
        """Retry until it succeeds: the lock on a busy table may time out."""
        while True:
            with suppress(asyncpg.PostgresError, OSError, TimeoutError):
                connection = await asyncpg.connect(self.database_url, timeout=5)
                try:
                    await connection.execute(f"SET lock_timeout = '2s'; {statements}")
                    return
                finally:
                    connection.terminate()
            await asyncio.sleep(0.1)


def inject_into_process(process: Supervised, kind: Kind) -> None:
    match kind:
        case Kind.KILLED:
            process.kill()
        case Kind.PAUSED:
            process.pause()
        case _:
            raise AssertionError(f"not a fault of a process: {kind}")


def _disturb(proxy: FaultProxy, kind: Kind, intensity: float) -> None:
    match kind:
        case Kind.SLOW:
            proxy.shape(Way(latency=SLOWEST * intensity / 2, jitter=SLOWEST * intensity / 2))
        case Kind.THROTTLED:
            proxy.shape(Way(bytes_per_second=int(SLOWEST_BYTES_PER_SECOND / intensity)))
        case Kind.RESET:
            proxy.reset()
        case Kind.AWAY:
            proxy.refuse()
            proxy.reset()
        case Kind.HALF_OPEN:
            proxy.half_open()
        case Kind.HELD:
            proxy.shape(Way(Flow.HELD))
        case Kind.HELD_TO_SERVER:
            proxy.shape(Way(Flow.HELD), Direction.TO_SERVER)
        case Kind.HELD_TO_CLIENT:
            proxy.shape(Way(Flow.HELD), Direction.TO_CLIENT)
        case Kind.DROPPED:
            proxy.shape(Way(Flow.DROPPED))
        case Kind.DROPPED_TO_SERVER:
            proxy.shape(Way(Flow.DROPPED), Direction.TO_SERVER)
        case Kind.DROPPED_TO_CLIENT:
            proxy.shape(Way(Flow.DROPPED), Direction.TO_CLIENT)
        case Kind.CUT_BEFORE_COMMIT:
            proxy.cut_randomly(Point.COMMIT, intensity)
        case Kind.CUT_AFTER_COMMIT:
            proxy.cut_randomly(Point.COMMITTED, intensity)
        case Kind.CUT_BEFORE_FLUSH:
            proxy.cut_randomly(Point.FLUSH, intensity)
        case Kind.CUT_BEFORE_PUBLISH:
            proxy.cut_randomly(Point.PUBLISH, intensity)
        case Kind.CUT_BEFORE_CONFIRM:
            proxy.cut_randomly(Point.CONFIRM, intensity)
        case _:
            raise AssertionError(f"not a fault of a network: {kind}")
