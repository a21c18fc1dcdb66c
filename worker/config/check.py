"""The result of a check of the configuration or of a service."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    UNCHECKED = "unchecked"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`what` and `remedy` are messages for operators, without secrets."""

    level: Level
    subject: str
    what: str
    remedy: str = ""


def ok(subject: str, what: str) -> CheckResult:
    return CheckResult(Level.OK, subject, what)


def unchecked(subject: str, what: str, remedy: str) -> CheckResult:
    """This user or machine cannot check it. It may be in order."""
    return CheckResult(Level.UNCHECKED, subject, what, remedy)


def warning(subject: str, what: str, remedy: str) -> CheckResult:
    return CheckResult(Level.WARNING, subject, what, remedy)


def error(subject: str, what: str, remedy: str) -> CheckResult:
    return CheckResult(Level.ERROR, subject, what, remedy)


def clock_difference(whose: str, seconds: float) -> CheckResult:
    """Times of receipt and application are compared across machines."""
    difference = f"differs from ours by {abs(seconds):.1f} s"
    if abs(seconds) < 2:
        return ok("clock", f"{whose} {difference}")
    remedy = "synchronize the machines' clocks (NTP)"
    return (warning if abs(seconds) < 60 else error)("clock", f"{whose} {difference}", remedy)
