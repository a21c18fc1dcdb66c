"""`python -m tests.versions`: the tests on the versions of several Debian releases."""

import re
import shlex
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter, run

from tests.versions.suites import SUBSET, SUITES, Suite
from tests.versions.systems import (
    CHECKOUT,
    INSIDE,
    VERSIONS,
    CannotRun,
    System,
    copy_checkout,
    found_versions,
    require_root,
    system,
    tee,
    unexpected,
)

ALL = ",".join(suite.name for suite in SUITES)

UNAVAILABLE = 69
USAGE = 2
INTERRUPTED = 130
PYTEST_SUMMARY = re.compile(r"^=+ (?P<counts>.*\d+ (?:passed|failed|error).*) =+$", re.MULTILINE)

Flag = Annotated[bool, Parameter(negative=())]


@dataclass(frozen=True, slots=True)
class Result:
    suite: Suite
    versions: dict[str, str]
    commit: str
    seconds: float
    exit_code: int
    summary: str


def main(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    suites: str = ALL,
    subset: Flag = False,
    fresh: Flag = False,
    mirror: str | None = None,
) -> int:
    """Run the tests in Debian systems below .dev/versions, each with the versions of its release.

    Needs root. The systems are made with debootstrap from the mirror that this machine's apt uses, and kept
    for the next run. A copy of the checkout is tested there: the commit, and changes that are not committed.

    Parameters
    ----------
    command
        Run this in the copy of the checkout, after `--`, instead of `make test`; for example `-- make demo`.
    suites
        Which releases, separated by commas.
    subset
        Only the tests of broker, topology, grants, retry queues, TLS, migrations and the path of an event.
    fresh
        Remove the systems and make new ones, with the newest packages.
    mirror
        The address of a Debian archive, where apt's sources name none.
    """
    known = {suite.name: suite for suite in SUITES}
    chosen = [name.strip() for name in suites.split(",")]
    strange = [name for name in chosen if name not in known]
    if strange:
        print(f"--suites: {strange[0]!r} is none of {', '.join(known)}", file=sys.stderr)
        return USAGE
    results = []
    try:
        require_root()
        for name in chosen:
            with system(known[name], mirror=mirror, fresh=fresh, announce=say) as made:
                results.append(test(made, list(command) or test_command(subset)))
    except CannotRun as error:
        print(f"versions: {error}", file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    print(table(results))
    return 1 if any(result.exit_code != 0 for result in results) else 0


def say(line: str) -> None:
    print(f"versions: {line}", file=sys.stderr, flush=True)


def test_command(subset: bool) -> list[str]:
    arguments = ["--numprocesses", "2", "--dist", "loadfile", "--durations=5"]
    arguments += SUBSET if subset else ["-m", "not retry_delays and not long and not image and not upgrade"]
    return ["make", "--no-print-directory", "test", f"PYTEST_ARGS={shlex.join(arguments)}"]


def test(made: System, command: list[str]) -> Result:
    suite = made.suite
    commit = copy_checkout(CHECKOUT, made.folder / INSIDE.lstrip("/"))
    versions = found_versions(made)
    say(f"{suite.name}: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    for sentence in unexpected(suite, versions):
        say(sentence)
    say(f"{suite.name}: {shlex.join(command)} on {commit}")
    log = VERSIONS / f"{suite.name}.log"
    began = time.monotonic()
    process = made.run(*command, inside=INSIDE)
    assert process.stdout is not None
    printed = tee(process.stdout, log)
    exit_code = process.wait()
    seconds = time.monotonic() - began
    found = PYTEST_SUMMARY.findall(printed)
    summary = found[-1] if found else f"exit code {exit_code}"
    say(f"{suite.name}: {summary} after {seconds:.0f} s; see {log}")
    return Result(suite, versions, commit, seconds, exit_code, summary)


def table(results: list[Result]) -> str:
    """In Markdown, for the documents."""
    today = datetime.now(UTC).date().isoformat()
    lines = ["| suite | versions | result | commit | date |", "| --- | --- | --- | --- | --- |"]
    for result in results:
        versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        lines.append(f"| {result.suite.name} | {versions} | {result.summary} | {result.commit} | {today} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
