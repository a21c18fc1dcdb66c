"""Tables of the change feed, for `stockhook status` and `audit`."""

from collections.abc import Sequence
from datetime import timedelta

from rich.table import Table

from worker.change_feed.backlog import Lane, Webhook, left_behind


def lanes_as_table(found: Sequence[Lane]) -> Table:
    table = Table("changes of", "committed", "published", "waiting", "missing", "oldest")
    for column in table.columns[1:]:
        column.justify = "right"
    for lane in found:
        counts = (lane.committed, lane.published, lane.waiting, lane.missing)
        age = "" if lane.oldest_seconds is None else str(timedelta(seconds=round(lane.oldest_seconds)))
        table.add_row(lane.family, *(f"{count:,}" for count in counts), age)
    return table


def webhooks_as_table(found: Sequence[Webhook]) -> Table:
    steps = list(found[0].retry) if found else []
    table = Table("webhook", "waiting", *steps, "dead", "kept", "consumers", "")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for webhook in found:
        numbers = (webhook.queue, *webhook.retry.values(), webhook.dead)
        table.add_row(
            webhook.name,
            *("missing" if number is None else f"{number:,}" for number in numbers),
            f"{webhook.dead_kept:,}",
            str(webhook.consumers),
            left_behind(webhook.name) if webhook.is_left_behind else "",
        )
    return table
