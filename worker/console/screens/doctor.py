"""Doctor: each finding of `stockhook doctor` that can be checked from here, with its remedy."""

from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from worker.config.check import CheckResult, Level
from worker.config.settings import Settings
from worker.console.contract import Console, Parameters
from worker.tools.doctor.examination import examine_from_console

log = structlog.get_logger(__name__)

# How long a report is shown to all viewers.
FRESH_SECONDS = 60.0

# Of each part of the checks.
PART_SECONDS = 15.0

# The most urgent first.
ORDER = (Level.ERROR, Level.WARNING, Level.UNCHECKED, Level.OK)


@dataclass(frozen=True, slots=True)
class Doctor:
    """`counts` has the number of findings of each level; the most urgent are first."""

    at: datetime
    seconds: float
    fresh_seconds: float
    counts: dict[str, int]
    findings: tuple[CheckResult, ...]


async def view(console: Console, _: Parameters) -> Doctor:
    """Waits for the checks if the newest report is too old."""
    return await console.shared.get("doctor", FRESH_SECONDS, lambda: _examined(console.settings))


async def _examined(settings: Settings) -> Doctor:
    began_at = datetime.now(UTC)
    results = await examine_from_console(settings, PART_SECONDS)
    at = datetime.now(UTC)
    findings = sorted(results, key=lambda finding: ORDER.index(finding.level))
    report = Doctor(
        at=at,
        seconds=(at - began_at).total_seconds(),
        fresh_seconds=FRESH_SECONDS,
        counts={level.value: sum(one.level is level for one in findings) for level in ORDER},
        findings=tuple(findings),
    )
    log.info("doctor.examined", seconds=report.seconds, **report.counts)
    return report
