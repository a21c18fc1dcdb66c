"""Tables of the change feed, for `stockhook status` and `audit`."""

from collections.abc import Sequence
from datetime import timedelta

from rich.table import Table

from worker.change_feed.backlog import ChangeCounts, Webhook, left_behind


def change_counts_as_table(families: Sequence[ChangeCounts]) -> Table:
    table = Table("changes of", "committed", "published", "waiting", "missing", "oldest")
    for column in table.columns[1:]:
        column.justify = "right"
    for counts in families:
        numbers = (counts.committed, counts.published, counts.waiting, counts.missing)
        age = "" if counts.oldest_seconds is None else str(timedelta(seconds=round(counts.oldest_seconds)))
        table.add_row(counts.family, *(f"{number:,}" for number in numbers), age)
    return table


def webhooks_as_table(webhooks: Sequence[Webhook]) -> Table:
    steps = list(webhooks[0].retry) if webhooks else []
    table = Table("webhook", "waiting", *steps, "dead", "kept", "consumers", "")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for webhook in webhooks:
        numbers = (webhook.queue, *webhook.retry.values(), webhook.dead)
        table.add_row(
            webhook.name,
            *("missing" if number is None else f"{number:,}" for number in numbers),
            f"{webhook.dead_kept:,}",
            str(webhook.consumers),
            left_behind(webhook.name) if webhook.is_left_behind else "",
        )
    return table
