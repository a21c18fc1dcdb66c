"""The output of dead letters: on a terminal, and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from worker.cli.terminal import on_one_line, table_of_texts
from worker.dead_letters.store import StoredLetter


def as_json(letter: StoredLetter) -> dict[str, Any]:
    """A letter without its body."""
    return {
        "dead_letter_id": letter.dead_letter_id,
        "state": letter.state,
        "origin": letter.origin,
        "provider": letter.provider,
        "type": letter.type or None,
        "event_id": letter.event_id,
        "entity_id": letter.entity_id,
        "provenance": letter.provenance,
        "evidence": None if letter.evidence is None else dict(letter.evidence),
        "reason": letter.reason,
        "exception": letter.exception,
        "fingerprint": letter.fingerprint,
        "attempts": letter.attempts,
        "received_at": letter.received_at,
        "first_failed_at": letter.first_failed_at,
        "last_failed_at": letter.last_failed_at,
        "arrived_at": letter.arrived_at,
        "bytes": len(letter.body),
        "is_changed": letter.original_body is not None,
        "replayed_as": letter.replayed_as,
        "replay_of": letter.replay_of,
        "headers": dict(letter.headers),
    }


def as_lines(letter: StoredLetter) -> Iterator[str]:
    for name, value in as_json(letter).items():
        if value is not None:
            yield f"{name:<16} {on_one_line(value)}"


def action_as_line(action: Mapping[str, Any]) -> str:
    reason = f": {action['reason']}" if action["reason"] else ""
    return f"{action['action']:<16} {short(action['at'])} by {action['who']}{reason}"


def letters_as_table(letters: Sequence[StoredLetter]) -> Table:
    return table_of_texts(
        "id",
        "dead letter",
        (
            (
                str(letter.dead_letter_id),
                f"{letter.type or '?'} {letter.entity_id or ''}",
                f"{letter.origin}, attempt {letter.attempts}, arrived {short(letter.arrived_at)}",
                f"fingerprint {letter.fingerprint}",
                letter.reason + (f" (came back from {letter.replay_of})" if letter.replay_of else ""),
            )
            for letter in letters
        ),
    )


def groups_as_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    return table_of_texts(
        "fingerprint",
        "dead letters",
        (
            (
                group["fingerprint"],
                f"{group['letters']:,} of {group['origin']}: {', '.join(group['types'])}",
                f"{short(group['first_at'])} to {short(group['last_at'])}",
                group["reason"],
            )
            for group in groups
        ),
    )


def short(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
