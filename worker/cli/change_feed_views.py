"""Tables of the change feed, for `stockhook status` and `audit`."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from rich.table import Table

from worker.change_feed.backlog import ChangeCounts, Webhook, left_behind
from worker.cli.terminal import hours_minutes_seconds, table_of_numbers


def change_counts_as_table(families: Sequence[ChangeCounts]) -> Table:
    table = table_of_numbers("changes of", "committed", "published", "waiting", "missing", "oldest")
    for counts in families:
        numbers = (counts.committed, counts.published, counts.waiting, counts.missing)
        age = (
            ""
            if counts.oldest_seconds is None
            else hours_minutes_seconds(timedelta(seconds=counts.oldest_seconds))
        )
        table.add_row(counts.family, *(f"{number:,}" for number in numbers), age)
    return table


def webhooks_as_table(webhooks: Sequence[Webhook]) -> Table:
    steps = list(webhooks[0].retry) if webhooks else []
    table = table_of_numbers("webhook", "waiting", *steps, "dead", "kept", "consumers")
    for webhook in webhooks:
        numbers = (webhook.queue, *webhook.retry.values(), webhook.dead)
        table.add_row(
            webhook.name,
            *("missing" if number is None else f"{number:,}" for number in numbers),
            f"{webhook.dead_kept:,}",
            str(webhook.consumers),
        )
    return table


def left_behind_lines(webhooks: Sequence[Webhook]) -> Iterator[str]:
    for webhook in webhooks:
        if webhook.is_left_behind:
            yield f"webhook {webhook.name}: {left_behind(webhook.name)}"
