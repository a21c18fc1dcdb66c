"""All checks of `stockhook doctor`, on the host of a process or from the console."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator

from worker.config.check import CheckResult, unchecked
from worker.config.settings import Settings
from worker.tools.doctor import broker, database
from worker.tools.doctor.certificates import check_certificates
from worker.tools.doctor.changes import check_changes
from worker.tools.doctor.configuration import check_configuration, check_exposure
from worker.tools.doctor.ingest import check_ingest
from worker.tools.doctor.ops_ports import check_ops_urls
from worker.tools.doctor.spool import check_spool
from worker.tools.doctor.traces import check_traces

ON_THE_HOSTS = "run `stockhook doctor` where the ingest and the consumers run"


async def examine(settings: Settings) -> tuple[list[CheckResult], bool]:
    """The results of all checks, and whether broker or database could be reached."""
    of_broker, broker_answers = await broker.check_reachable(settings)
    of_database, database_answers = await database.check_reachable(settings)
    results = [
        *of_broker,
        *of_database,
        *check_configuration(settings),
        *check_certificates(settings),
        *check_traces(settings, os.environ),
        *check_ingest(settings),
        *[finding async for finding in check_changes(settings)],
        *check_spool(settings.spool_path, settings.spool_max_bytes),
        # Without the setting, the console reads two ports of this machine, on which there may be nothing.
        *[finding async for finding in check_ops_urls(settings.console_ops_urls)],
    ]
    return results, broker_answers or database_answers


async def examine_from_console(settings: Settings, seconds: float) -> list[CheckResult]:
    """What can be checked from the console, all at the same time; what cannot is named.

    Of a part that takes longer than `seconds`, a finding says so.
    """
    # The console declares nothing, whatever ingest and consumers do.
    settings = settings.model_copy(update={"declare_topology": False})
    of_broker, of_database, of_changes, of_ports = await asyncio.gather(
        _within(seconds, "broker", _reachable(broker.check_reachable(settings, seconds))),
        _within(seconds, "database", _reachable(database.check_reachable(settings))),
        _within(seconds, "changes", _all(check_changes(settings))),
        _within(seconds, "ops ports", _all(check_ops_urls(settings.ops_urls))),
    )
    return [
        *of_broker,
        *of_database,
        *check_exposure(settings),
        *check_certificates(settings),
        *check_traces(settings, os.environ),
        *of_changes,
        *of_ports,
        *_only_there(settings),
    ]


async def _within(
    seconds: float, subject: str, checking: Coroutine[None, None, list[CheckResult]]
) -> list[CheckResult]:
    try:
        # A part has its own limits; this is for what none of them covers.
        async with asyncio.timeout(seconds + 1):
            return await checking
    except TimeoutError:
        what = f"not all of it could be checked within {seconds:g} s"
        return [unchecked(subject, what, "run `stockhook doctor`, which waits longer")]


async def _reachable(checking: Coroutine[None, None, tuple[list[CheckResult], bool]]) -> list[CheckResult]:
    results, _ = await checking
    return results


async def _all(findings: AsyncIterator[CheckResult]) -> list[CheckResult]:
    return [finding async for finding in findings]


def _only_there(settings: Settings) -> Iterator[CheckResult]:
    if not settings.subscribers:
        yield unchecked(
            "changes", "the addresses of subscribers: this process knows none of them", ON_THE_HOSTS
        )
    yield unchecked("secrets", "the secrets of marketplaces and gateways: the ingest has them", ON_THE_HOSTS)
    yield unchecked("ingest", "the ingest's address and certificate: they are on its host", ON_THE_HOSTS)
    yield unchecked("spool", "the spool's folder and disk: they are on the ingest's host", ON_THE_HOSTS)
