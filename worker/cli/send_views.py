"""What `stockhook send` shows: a line per answer, a bar while it plays, a summary at the end."""

from dataclasses import dataclass
from hashlib import sha256

import orjson
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from schemas.events import read_json
from worker.cli.terminal import assembled, console
from worker.intake.json_bytes import without_member
from worker.simulator.http_client import Answer
from worker.simulator.rate_sender import Tally
from worker.simulator.webhook import Webhook


@dataclass(frozen=True, slots=True)
class AnsweredExample:
    """A documented event's name, how it was answered, and after how many milliseconds."""

    name: str
    webhook: Webhook
    answer: Answer
    milliseconds: float

    def as_json(self) -> dict[str, object]:
        return {
            "provider": self.webhook.provider,
            "type": self.webhook.event_type,
            "name": self.name,
            "status": self.answer.status,
            "event_id": member(self.answer, "event_id"),
            "milliseconds": round(self.milliseconds, 1),
        }

    def as_text(self) -> RenderableType:
        """One line: the event id where it was accepted, else the problem's title."""
        success = self.answer.is_success
        summary = member(self.answer, "event_id" if success else "title") or "(no JSON)"
        return assembled(
            f"{self.webhook.provider:8} {self.name:48} ",
            (f"{self.answer.status}", "green" if success else "red"),
            f" {summary:36} {self.milliseconds:7.1f} ms",
        )


def accepted_line(webhook: Webhook, answer: Answer) -> bytes:
    """For --output; the hash is that of the body as the ingest stores it: without the token.

    (If it encrypts bank details, the stored body has another hash.)
    """
    return orjson.dumps(
        {
            "event_id": member(answer, "event_id"),
            "provider": webhook.provider,
            "type": webhook.event_type,
            "body_sha256": sha256(without_member(webhook.body, "token")).hexdigest(),
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def member(answer: Answer, name: str) -> str | None:
    """A string out of the answer's JSON, if it is there."""
    try:
        document = read_json(answer.body)
    except ValueError:
        return None
    value = document.get(name) if isinstance(document, dict) else None
    return value if isinstance(value, str) else None


def progress() -> Progress:
    """A bar on a terminal, nothing elsewhere. It is full when each event is accepted or given up."""
    bars = console(stderr=True)
    return Progress(
        TextColumn("{task.fields[status]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=bars,
        auto_refresh=False,
        transient=True,
        disable=not bars.is_terminal,
    )


def progress_text(tally: Tally) -> str:
    return (
        f"sent {tally.sent:,} · 2xx {tally.accepted:,} · "
        f"retried {tally.resent:,} · given up {tally.given_up:,}"
    )


def summary_as_json(tally: Tally, seconds: float) -> dict[str, object]:
    return {
        "events": tally.sent,
        "accepted": tally.accepted,
        "given_up": tally.given_up,
        "resent": tally.resent,
        "answers": dict(sorted(tally.answers.items())),
        "latency_ms": {
            name: None if latency is None else round(latency * 1000, 2)
            for name, latency in _latencies(tally).items()
        },
        "seconds": round(seconds, 3),
    }


def summary_as_table(tally: Tally, seconds: float) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, number in (
        ("events sent", tally.sent),
        ("accepted (2xx in the end)", tally.accepted),
        ("given up", tally.given_up),
        ("re-sent", tally.resent),
    ):
        table.add_row(label, f"{number:,}")
    for answer, number in sorted(tally.answers.items()):
        table.add_row(f"answered {answer}" if answer.isdecimal() else answer, f"{number:,}")
    for name, latency in _latencies(tally).items():
        label = "" if latency is None else f"{latency * 1000:,.1f} ms"
        table.add_row(f"latency {name}", label)
    table.add_row("took", f"{seconds:,.1f} s")
    return table


def _latencies(tally: Tally) -> dict[str, float | None]:
    return {"p50": tally.quantile(0.5), "p99": tally.quantile(0.99), "max": tally.quantile(1.0)}
