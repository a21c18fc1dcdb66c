"""What the console shows of the change feed and of actions: unknown is not 0, and foreign text is inert."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from schemas.changes import TEST, TYPES, event_for_test
from tests.support.console import application_with, browser, sign_in, token_in
from tests.support.stack import delays
from worker.amqp.channel import QueueDepth
from worker.amqp.queue_set import QueueSet
from worker.change_feed.backlog import ChangeCounts
from worker.change_feed.webhook_dispatcher import _CHANGE_ID, _note_answer
from worker.config.console_accounts import Role
from worker.console.access import Refused
from worker.console.contract import Console, Parameters, Screen
from worker.console.feed import FeedView, SubscriberState, SubscriberView, feed
from worker.console.form import LONGEST_REASON, optional_reason, required_reason
from worker.console.screens.actions import ActionScreen, ActionsScreen, Count
from worker.console.snapshot import SERIES, Snapshot, Stored
from worker.observability import metrics
from worker.outbox.actions import STATES
from worker.tools.ops_ports import NoAnswer, Process

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DELAYS = delays(7, 35)
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
HOSTILE = "<script>alert(1)</script>\"'`{{7*7}}\x00\x1b[31m\n\u202e"
SILENT = NoAnswer("host-b:9090", "it cannot be connected to")


def _depths(ready: int = 3, consumers: int = 1, name: str = "shop") -> dict[str, QueueDepth | None]:
    queues = QueueSet.of(f"webhook.{name}", DELAYS)
    return {
        queues.main: QueueDepth(ready, consumers),
        **{retry.name: QueueDepth(2, 0) for retry in queues.retries},
        queues.dead: QueueDepth(1, 0),
    }


def _process(
    answers: Mapping[str, tuple[float, float]], *, is_open: bool = False, address: str = "host-a:9090"
) -> Process:
    """A consumer with, per status, the number of answers and the time of the last one."""
    shop = ("subscriber", "shop")
    series: dict[tuple[str, frozenset[tuple[str, str]]], float] = {
        ("stockhook_webhook_circuit_open", frozenset({shop})): float(is_open)
    }
    for result in ("delivered", "failed", "dead"):
        series["stockhook_webhooks_total", frozenset({shop, ("result", result)})] = 0
    for status, (number, at) in answers.items():
        labels = frozenset({shop, ("status", status)})
        series["stockhook_webhook_answers_total", labels] = number
        series["stockhook_webhook_answered_timestamp_seconds", labels] = at
        result = "delivered" if status.startswith("2") else "failed"
        series["stockhook_webhooks_total", frozenset({shop, ("result", result)})] += number
    return Process(address, True, {}, series)


def _feed(*processes: Process | NoAnswer, **more: Any) -> FeedView:
    given = {
        "queues": _depths(),
        "stored": Stored(dead_letters={"webhook.shop": 4}, changes=(ChangeCounts("orders", 9, 5, 4, 2.5),)),
        "subscribers": ["shop"],
    }
    return feed(Snapshot(at=NOW, processes=processes, **given | more), DELAYS, [])


def _shop(*processes: Process | NoAnswer, **more: Any) -> SubscriberView:
    (shop,) = _feed(*processes, **more).subscribers
    return shop


def test_numbers_of_a_subscriber_are_those_of_queues_table_and_processes() -> None:
    shop = _shop(_process({"204": (5, 100.0), "503": (2, 200.0)}))

    assert (shop.queued, shop.retrying, shop.dead, shop.consumers) == (3, 4, 5, 1)
    assert shop.posts is not None
    assert (shop.posts.delivered, shop.posts.attempts) == (5, 7)
    assert [(one.status, one.answers) for one in shop.posts.answers] == [("204", 5), ("503", 2)]
    assert shop.posts.last is not None
    assert (shop.posts.last.status, shop.posts.last.last_at) == ("503", datetime.fromtimestamp(200, UTC))
    assert shop.state is SubscriberState.HEALTHY


def test_answers_of_several_processes_are_added() -> None:
    posts = _shop(_process({"204": (5, 100.0)}), _process({"204": (1, 300.0), "none": (1, 50.0)})).posts

    assert posts is not None
    assert [(one.status, one.answers) for one in posts.answers] == [("204", 6), ("none", 1)]
    assert posts.last is not None
    assert posts.last.last_at == datetime.fromtimestamp(300, UTC)


@pytest.mark.parametrize("is_open", [True, False])
def test_the_circuit_breaker_that_counts_is_that_of_the_newest_answer(is_open: bool) -> None:
    stand_by = _process({"500": (10, 100.0)}, is_open=not is_open)
    active = _process({"500": (10, 200.0)}, is_open=is_open)
    expected = SubscriberState.CIRCUIT_OPEN if is_open else SubscriberState.HEALTHY

    assert _shop(stand_by, active).state is _shop(active, stand_by).state is expected


def test_what_no_process_reports_is_unknown() -> None:
    view = _feed(SILENT)

    assert view.silent == ("host-b:9090",)
    assert view.subscribers[0].posts is None
    assert view.subscribers[0].state is SubscriberState.UNKNOWN


@pytest.mark.parametrize(
    ("queues", "state"),
    [
        (None, SubscriberState.UNKNOWN),
        ({}, SubscriberState.UNKNOWN),
        (dict.fromkeys(_depths()), SubscriberState.NO_QUEUE),
        (_depths(consumers=0), SubscriberState.NO_CONSUMERS),
    ],
)
def test_the_queue_of_a_subscriber_decides_its_state(
    queues: dict[str, QueueDepth | None] | None, state: SubscriberState
) -> None:
    shop = _shop(_process({}), queues=queues)

    assert shop.state is state
    assert (shop.queued is None) == (state is not SubscriberState.NO_CONSUMERS)


def test_a_subscriber_that_was_forgotten_is_not_shown() -> None:
    assert _feed(queues=dict.fromkeys(_depths())).subscribers == ()


def test_without_the_database_dead_letters_and_changes_are_unknown() -> None:
    view = _feed(stored=None)

    assert view.families is None
    assert view.subscribers[0].dead is None


def test_the_series_are_those_of_the_dispatcher() -> None:
    """A renamed metric must not make numbers unknown."""
    ours = {
        f"{metric._name}_total" if metric._type == "counter" else metric._name
        for metric in (
            metrics.WEBHOOKS,
            metrics.WEBHOOK_ANSWERS,
            metrics.WEBHOOK_ANSWERED_AT,
            metrics.WEBHOOK_CIRCUIT_OPEN,
        )
    }

    assert ours <= set(SERIES)


@pytest.mark.parametrize(
    ("status", "label"), [(204, "204"), (599, "599"), (999, "other"), (None, "none"), (99, "other")]
)
def test_answers_have_a_bounded_number_of_labels(status: int | None, label: str) -> None:
    subscriber = f"answering-{status}"
    _note_answer(subscriber, status)
    (family,) = metrics.WEBHOOK_ANSWERS.collect()

    counted = {
        one.labels["status"]: one.value
        for one in family.samples
        if one.labels["subscriber"] == subscriber and one.name.endswith("_total")
    }
    assert counted == {label: 1}


def test_a_test_event_is_a_cloud_event_without_a_sequence() -> None:
    event = event_for_test(UUID(int=1), NOW)
    body = orjson.loads(event.body)

    assert _CHANGE_ID.fullmatch(event.change_id), "the dispatcher posts it"
    assert (body["specversion"], body["id"], body["type"]) == ("1.0", event.change_id, "stockhook.test")
    assert body["data"]["is_test"] is True
    assert "sequence" not in body
    assert TEST not in {f"stockhook.{name}" for names in TYPES.values() for name in names}


@pytest.mark.parametrize("text", ["", " \t ", None])
def test_an_empty_reason_is_none(text: str | None) -> None:
    form = {} if text is None else {"reason": text}

    assert optional_reason(form) is None
    with pytest.raises(Refused, match="give a reason"):
        required_reason(form)


def test_a_reason_is_inert_and_bounded() -> None:
    assert required_reason({"reason": " a\x00b\u202e "}) == "a\\x00b\\u202e"
    with pytest.raises(Refused, match="500 characters"):
        optional_reason({"reason": "x" * (LONGEST_REASON + 1)})


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"state": "dune"}, "There is no state dune"),
        ({"state": HOSTILE}, "a character that no action has"),
        ({"state": "<script>alert(1)</script>"}, "There is no state"),
        ({"subject": "x" * 10_000}, "200 characters at most"),
        ({"kind": "a\0b"}, "a character that no action has"),
    ],
)
async def test_a_filter_that_cannot_be_read_is_explained(query: dict[str, str], sentence: str) -> None:
    async with browser(application_with()) as client:
        await sign_in(client)
        page = await client.get("/actions", params=query)
        data = await client.get("/actions.json", params=query)

    assert (page.status_code, data.status_code) == (400, 400)
    assert sentence in page.text
    assert "<script>alert" not in page.text


@pytest.mark.parametrize("action_id", ["x", "1", "%00", "x" * 5000, "<script>"])
async def test_an_action_id_that_is_none_is_not_there(action_id: str) -> None:
    async with browser(application_with()) as client:
        await sign_in(client)
        page = await client.get(f"/actions/{action_id}")
        token = token_in(page.text)
        answers = [
            await client.post(
                f"/actions/{action_id}/{change}",
                data={"token": token, "reason": "x", "back": "/actions"},
                headers=SAME_ORIGIN,
            )
            for change in ("retry", "close")
        ]

    assert page.status_code == 404
    assert [answer.status_code for answer in answers] == [404, 404]


ACTION = {
    "action_id": UUID(int=7),
    "kind": HOSTILE,
    "key": HOSTILE,
    "subject": HOSTILE,
    "state": "unknown",
    "attempts": 2,
    "event_id": None,
    "created_at": NOW,
    "published_at": NOW,
    "started_at": NOW - timedelta(hours=1),
    "finished_at": None,
    "outcome": {"reason": HOSTILE, HOSTILE: {"deep": [HOSTILE]}, "status": 409},
}


async def _page(template: str, view: Any, granted: str = "anna") -> str:
    async def make(_: Console, __: Parameters) -> Any:
        return view

    screens = (Screen("/overview", Role.READER, template, make, is_live=template == "changes.html"),)
    async with browser(application_with(screens=screens)) as client:
        await sign_in(client, granted)
        answer = await client.get("/overview")
    assert answer.status_code == 200, answer.text
    return answer.text


def _list(actions: list[dict[str, Any]], **more: Any) -> ActionsScreen:
    counts = tuple(Count(state, 1000, True, NOW) for state in STATES)
    given = {"state": "unknown", "kind": HOSTILE, "subject": HOSTILE}
    kinds = (HOSTILE,)
    return ActionsScreen(
        counts,
        kinds=kinds,
        actions=actions,
        first_path="/actions",
        next_path="/actions?after=1",
        searched_until=NOW,
        **given | more,
    )


SHOWN = {**ACTION, "is_encrypted": False, "request": {"name": HOSTILE}}


@pytest.mark.parametrize(
    ("template", "view"),
    [
        ("actions.html", _list([ACTION])),
        (
            "action.html",
            ActionScreen(
                SHOWN,
                '{\n  "name": "<script>"\n}',
                may_change=True,
                may_repeat=True,
                traces={"trace_id": HOSTILE},
            ),
        ),
        ("changes.html", replace(_feed(_process({HOSTILE: (1, 2.0)}), SILENT), troubles=(HOSTILE,))),
    ],
)
async def test_foreign_text_is_inert(template: str, view: Any) -> None:
    page = await _page(template, view)

    assert "<script>alert" not in page
    assert '<script>"' not in page
    assert not {"\x00", "\x1b", "\u202e"} & set(page)


async def test_an_encrypted_request_is_not_shown_and_another_one_keeps_its_lines() -> None:
    encrypted = ActionScreen({**SHOWN, "request": None}, None, may_change=True, may_repeat=False, traces={})
    plain = ActionScreen(SHOWN, '{\n  "a": 1\n}', may_change=True, may_repeat=False, traces={})

    assert "It is encrypted, and not shown." in await _page("action.html", encrypted)
    assert "{\n  &#34;a&#34;: 1\n}</pre>" in await _page("action.html", plain)


async def test_a_retry_with_an_unknown_outcome_has_a_warning() -> None:
    uncertain = ActionScreen(SHOWN, None, may_change=True, may_repeat=True, traces={})
    failed = ActionScreen({**SHOWN, "state": "failed"}, None, may_change=True, may_repeat=False, traces={})
    done = ActionScreen({**SHOWN, "state": "done"}, None, may_change=False, may_repeat=False, traces={})

    assert "it may be executed twice" in await _page("action.html", uncertain)
    assert "executed twice" not in await _page("action.html", failed)
    assert "/retry" not in await _page("action.html", done)


async def test_a_reader_reads_which_role_is_missing() -> None:
    retry = ActionScreen(SHOWN, None, may_change=True, may_repeat=True, traces={})
    pages = [await _page("action.html", retry, "rita"), await _page("changes.html", _feed(), "rita")]

    for page in pages:
        assert "This needs the role operator." in page
        assert "/retry" not in page
        assert "/test" not in page


async def test_a_process_that_does_not_answer_is_named_where_its_numbers_would_be() -> None:
    without = await _page("changes.html", _feed(SILENT))
    partly = await _page("changes.html", _feed(_process({"204": (5, 100.0)}), SILENT))
    unnamed = await _page("changes.html", _feed())

    assert "circuit breaker: no answer from host-b:9090" in without
    assert "What host-b:9090 counts is not included" in partly
    assert "204: 5" in partly
    assert "STOCKHOOK_CONSOLE_OPS_URLS" in unnamed
