"""Checks of an upgrade in logs and tables: no spent attempts, failed deliveries or ended processes."""

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.upgrade.load import SQLSTATE

LISTED = 5

# The reasons of failures that the test causes: the trigger, the platform's 500, the endpoint's answers.
ALLOWED_REASONS = {
    "delivery.failed": (f"[{SQLSTATE}]",),
    "action.retried": ("500",),
    "action.failed": ("500",),
    # The test's endpoint is slow on a busy machine.
    "webhook.failed": ("it answered 503", "it answered 410", "no whole answer"),
}

# The keys that name the subject of a line about one delivery.
SUBJECTS = {"delivery.failed": "event_id", "action.retried": "action_id", "action.failed": "action_id"}

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attempts:
    """The failed attempts of an event or action, in order."""

    subject: str
    numbers: tuple[int, ...]

    @property
    def is_orderly(self) -> bool:
        """Whether attempts start at 1, and each is the successor of the previous one or equal to it.

        (Equal: a process ended before it had acknowledged the delivery.)
        """
        steps = zip((0, *self.numbers), self.numbers, strict=False)
        return self.numbers[:1] == (1,) and all(later - earlier in (0, 1) for earlier, later in steps)


@dataclass(slots=True)
class Logs:
    """The log lines in a folder's files. Each file is read once, up to its last complete line."""

    folder: Path
    _offsets: dict[Path, int] = field(default_factory=dict)
    _lines: list[Line] = field(default_factory=list)

    def lines(self) -> list[Line]:
        """Return all lines from before now, ordered by time.

        Later ones are excluded, because processes write to all files while they are read one by one.
        """
        now = datetime.now(UTC).isoformat()
        for log in self.folder.iterdir():
            self._lines += self._read(log)
        self._lines.sort(key=_timestamp)
        return self._lines[: bisect_right(self._lines, now, key=_timestamp)]

    def _read(self, log: Path) -> Iterator[Line]:
        with log.open("rb") as file:
            file.seek(self._offsets.get(log, 0))
            read = file.read()
        complete = read[: read.rfind(b"\n") + 1]
        self._offsets[log] = self._offsets.get(log, 0) + len(complete)
        for text in complete.decode(errors="replace").splitlines():
            try:
                yield json.loads(text)
            except ValueError:
                # Libraries print warnings.
                if text.startswith("Traceback"):
                    yield {"event": text, "level": "error", "timestamp": ""}


def _timestamp(line: Line) -> str:
    return str(line["timestamp"])


def unexpected_failures(lines: Iterable[Line]) -> list[str]:
    """Errors, and failures that the test did not cause."""
    problems = []
    for line in lines:
        event, reason = line["event"], str(line.get("reason"))
        allowed = ALLOWED_REASONS.get(event)
        if allowed is not None and not any(text in reason for text in allowed):
            problems.append(f"{line.get('process')}: {event}: {line.get('family', '')} {reason}")
        elif line["level"] in ("error", "critical"):
            problems.append(f"{line.get('process')}: {event}: {reason}")
    return listed("unexpected failures", problems)


def attempts(lines: Iterable[Line]) -> list[Attempts]:
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for line in lines:
        if (name := SUBJECTS.get(line["event"])) is not None:
            numbers[line[name]].append(line["attempt"])
    return [Attempts(subject, tuple(failed)) for subject, failed in numbers.items()]


def disorderly(failed: Iterable[Attempts]) -> list[str]:
    problems = [f"{one.subject} failed at attempts {one.numbers}" for one in failed if not one.is_orderly]
    return listed("with attempts out of order", problems)


def spent_attempts(
    failed: Iterable[Attempts], applied: Mapping[str, int], replayed: frozenset[str]
) -> list[str]:
    """Events whose applied attempt is not the successor of their last failed one.

    `applied` has the attempt of each event in the log. A replayed event restarts at attempt 1.
    """
    last = {attempts.subject: attempts.numbers[-1] for attempts in failed}
    wrong = []
    for event_id, attempt in applied.items():
        expected = 1 if event_id in replayed else last.get(event_id, 0) + 1
        if attempt != expected:
            wrong.append(f"{event_id} at attempt {attempt} instead of {expected}")
    return listed("applied at another attempt", wrong)


def listed(label: str, wrong: Sequence[str]) -> list[str]:
    """One line with the number and some examples."""
    return [f"{len(wrong)} {label}: {'; '.join(wrong[:LISTED])}"] if wrong else []
