"""Checks of STOCKHOOK_CONSOLE_OPS_URLS: whether a process of ours answers at each address."""

from collections.abc import AsyncIterator, Sequence

from worker.config.check import CheckResult, error, ok
from worker.tools.ops_ports import UNRESOLVED, NoAnswer, Process, read_processes

SETTING = "STOCKHOOK_CONSOLE_OPS_URLS"

# Every process exports it.
OURS = "stockhook_build_info"


async def check_ops_urls(urls: Sequence[str]) -> AsyncIterator[CheckResult]:
    """Whether each name resolves, and each of its addresses answers with our metrics."""
    for answer in await read_processes(urls, (OURS,)):
        yield _check(answer)


def _check(answer: Process | NoAnswer) -> CheckResult:
    match answer:
        case NoAnswer(reason=reason) if reason == UNRESOLVED:
            return error("ops ports", f"{answer.address}: {answer.reason}", f"correct the name in {SETTING}")
        case NoAnswer():
            return error(
                "ops ports",
                f"{answer.address}: {answer.reason}",
                f"start the process, let this machine reach its STOCKHOOK_OPS_PORT, or correct {SETTING}",
            )
        case Process() if answer.total(OURS) is None:
            return error(
                "ops ports",
                f"{answer.address}: it answers without the metrics of a process of Stockhook",
                f"name the ops port of an ingest or a consumer in {SETTING}",
            )
        case Process():
            return ok("ops ports", f"{answer.address} answers with our metrics")
