"""Changes over HTTP: signed, retried by the retry schedule, and no subscriber delays another."""

import base64
import hashlib
import hmac
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import standardwebhooks
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.e2e.test_changes import has_died, lives, post_all, status_change
from tests.support.endpoint import Endpoint, Request, endpoint, failing_first
from tests.support.stack import Stack, until
from tests.support.subscribers import KEY, SECRET, SUBSCRIBED, Subscribe, subscribing
from worker.change_feed.rotation import NEW_PRIVATE_KEY


@pytest.fixture
async def subscribe(stack: Stack) -> AsyncIterator[Subscribe]:
    """Configure subscribers by name and URL; their queues are deleted after the test."""
    async with subscribing(stack) as configure:
        yield configure


def event_of(request: Request) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(request.body)
    return event


def has_got(target: Endpoint, requests: int) -> Any:
    async def look() -> bool:
        return len(target.requests) >= requests

    return look


async def test_a_change_is_posted_signed(stack: Stack, subscribe: Subscribe) -> None:
    async with endpoint() as shop:
        subscribe(("shop", shop.url))
        worker = await stack.started("run")
        await stack.post_ovoko(status_change(1, "13", "sold"))
        await until(has_got(shop, 1), "it is received")
        counted = (await stack.ops(worker.ops_port, "/metrics")).text

    # A counter that starts with the first failure would show no increase.
    assert 'stockhook_webhooks_total{result="dead",subscriber="shop"} 0.0' in counted
    (request,) = shop.requests
    event, headers = event_of(request), request.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    assert event["type"] == "stockhook.part.sold"
    assert headers["webhook-id"] == event["id"]
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["content-type"] == "application/cloudevents+json"


class Rotating:
    """A subscriber that verifies with what it knows, at first the old secret, and refuses anything else."""

    def __init__(self) -> None:
        self.known = SECRET
        self.refused: list[Request] = []
        self.requests: list[Request] = []

    def answer(self, request: Request) -> int:
        self.requests.append(request)
        if is_authentic(request, self.known):
            return 204
        self.refused.append(request)
        return 401

    @property
    def versions(self) -> list[list[str]]:
        """Of the signatures of each request."""
        return [
            [signature.partition(",")[0] for signature in request.headers["webhook-signature"].split(" ")]
            for request in self.requests
        ]


async def test_a_rotation_by_the_printed_steps_causes_no_refusal(stack: Stack, subscribe: Subscribe) -> None:
    subscriber = Rotating()
    async with endpoint(lambda number: subscriber.answer(shop.requests[number])) as shop:
        subscribe(("shop", shop.url))
        private = run_shell(printed_commands(stack, "--ed25519")[0] or "")
        worker = await stack.started("run")
        await stack.post_ovoko(status_change(1, "13", "sold"))
        await until(has_got(shop, 1), "a change with the old signature arrives")
        assert worker.stop() == 0

        secrets_of(stack, "shop", [private, SECRET])
        worker = await stack.started("run")
        await stack.post_ovoko(status_change(2, "13", "returned"))
        await until(has_got(shop, 2), "a change with two signatures arrives")
        (_, subscriber.known) = stack.run("changes", "keys", "shop").stdout.split()
        await stack.post_ovoko(status_change(3, "13", "sold"))
        await until(has_got(shop, 3), "a change is verified with the public key")
        assert worker.stop() == 0

        secrets_of(stack, "shop", private)
        await stack.started("run")
        await stack.post_ovoko(status_change(4, "13", "returned"))
        await until(has_got(shop, 4), "a change with only the new signature arrives")

    assert subscriber.versions == [["v1"], ["v1a", "v1"], ["v1a", "v1"], ["v1a"]]
    assert subscriber.refused == []


async def test_during_a_rotation_its_remaining_steps_are_printed(stack: Stack, subscribe: Subscribe) -> None:
    subscribe(("shop", "http://127.0.0.1:9/"))
    first = printed_commands(stack, "--ed25519")
    secrets_of(stack, "shop", [run_shell(NEW_PRIVATE_KEY), SECRET])

    assert first[0] == NEW_PRIVATE_KEY
    assert printed_commands(stack)[1] is None


async def test_the_doctor_names_a_rotation_and_no_secret(stack: Stack, subscribe: Subscribe) -> None:
    subscribe(("shop", "http://127.0.0.1:9/"))
    private = run_shell(NEW_PRIVATE_KEY)
    secrets_of(stack, "shop", [private, SECRET])
    checks = stack.run("doctor", "--json").stdout

    assert "shop: each change has several signatures (v1a, v1)" in checks
    for secret in (private, SECRET):
        assert secret.partition("_")[2] not in checks


def printed_commands(stack: Stack, *options: str) -> list[str | None]:
    """Of each step of the rotation, in the present settings."""
    printed = json.loads(stack.run("changes", "rotate", "shop", "--json", *options).stdout)
    return [step["command"] for step in printed["steps"]]


def run_shell(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.strip()


def secrets_of(stack: Stack, name: str, secret: str | list[str]) -> None:
    subscribers = json.loads(stack.environment[SUBSCRIBED])
    stack.environment[SUBSCRIBED] = json.dumps(
        [{**one, "secret": secret} if one["name"] == name else one for one in subscribers]
    )


def is_authentic(request: Request, known: str) -> bool:
    """Verify a shared secret with the library of the standard, and a public key with cryptography."""
    if known.startswith("whsec_"):
        try:
            standardwebhooks.Webhook(known).verify(request.body, request.headers)
        except standardwebhooks.WebhookVerificationError:
            return False
        return True
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(known.removeprefix("whpk_")))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode()
    for one in request.headers["webhook-signature"].split():
        version, _, signature = one.partition(",")
        with suppress(InvalidSignature):
            if version == "v1a":
                public.verify(base64.b64decode(signature), signed + request.body)
                return True
    return False


async def test_a_failed_webhook_is_retried_under_the_same_id(stack: Stack, subscribe: Subscribe) -> None:
    async with endpoint(failing_first(2)) as shop:
        subscribe(("shop", shop.url))
        await stack.started_apart()
        await stack.post_ovoko(status_change(1, "13", "sold"))
        await until(has_got(shop, 3), "it is taken at the third attempt")

    assert len({request.headers["webhook-id"] for request in shop.requests}) == 1
    assert len({request.body for request in shop.requests}) == 1


@pytest.mark.parametrize(
    ("status", "attempts", "reason"),
    [
        (500, 4, "it answered 500"),
        # A redirect, which is not followed.
        (302, 4, "it answered 302"),
        (410, 1, "it answered 410"),
    ],
)
async def test_an_undeliverable_webhook_is_a_dead_letter(
    stack: Stack, subscribe: Subscribe, status: int, attempts: int, reason: str
) -> None:
    async with endpoint(lambda _: status) as shop:
        subscribe(("shop", shop.url))
        await stack.started_apart()
        await stack.post_ovoko(status_change(1, "13", "sold"))
        await until(lambda: _is_dead(stack), "it is dead", 30)
    letter = await stack.get("stockhook.webhook.shop.dead")

    assert len(shop.requests) == attempts
    assert letter is not None
    assert letter.headers["x-reason"] == reason


async def _is_dead(stack: Stack) -> bool:
    async with stack.broker.connection() as connection:
        depth = await connection.depth("stockhook.webhook.shop.dead")
    return depth is not None and depth.ready == 1


async def test_a_slow_subscriber_delays_no_other(stack: Stack, subscribe: Subscribe) -> None:
    bodies = lives(parts=5, steps=6)
    async with endpoint(lambda _: None) as slow, endpoint() as quick:
        subscribe(("slow", slow.url), ("quick", quick.url))
        await stack.started_apart()
        await post_all(stack, bodies)
        await until(has_got(quick, len(bodies)), "the quick subscriber has all changes")
        assert len(slow.requests) < len(bodies)


async def test_a_private_address_is_not_called_unless_allowed(stack: Stack, subscribe: Subscribe) -> None:
    async with endpoint() as inside:
        subscribe(("shop", inside.url.replace("http://127.0.0.1", "https://localhost")), private=False)
        await stack.started_apart()
        await stack.post_ovoko(status_change(1, "13", "sold"))
        await until(lambda: _is_dead(stack), "it is dead", 30)
    letter = await stack.get("stockhook.webhook.shop.dead")

    assert inside.requests == []
    assert letter is not None
    assert letter.headers["x-reason"] == "its host has a private address"


async def test_queues_of_a_removed_subscriber_are_reported_and_deleted(
    stack: Stack, subscribe: Subscribe
) -> None:
    async with endpoint() as shop:
        subscribe(("shop", shop.url))
        worker = await stack.started("run")
        await stack.post_ovoko(status_change(1, "13", "sold"))
        await until(has_got(shop, 1), "it is received")
        during = json.loads(stack.run("status", "--json").stdout)["webhooks"]
        refused = stack.run("changes", "forget", "shop")
        assert worker.stop() == 0
    stack.environment[SUBSCRIBED] = "[]"
    await stack.started_apart()
    await stack.post_ovoko(status_change(2, "13", "returned"))

    async def is_left_behind() -> bool:
        webhooks = json.loads(stack.run("status", "--json").stdout)["webhooks"]
        return [(one["name"], one["configured"], one["queue"]) for one in webhooks] == [("shop", False, 1)]

    await until(is_left_behind, "its queue fills")
    doctor = json.loads(stack.run("doctor", "--json").stdout)["findings"]
    result = stack.run("changes", "forget", "shop")
    forgotten = stack.run("changes", "forget", "shop", "--yes", "--json")
    after = json.loads(stack.run("status", "--json").stdout)["webhooks"]

    assert [(one["name"], one["configured"], one["consumers"]) for one in during] == [("shop", True, 1)]
    assert refused.returncode == 1
    assert "remove it" in refused.stderr
    assert [one["what"] for one in doctor if "changes forget shop" in one["remedy"]] == ["1 wait for shop"]
    assert result.returncode == 1
    assert "1 changes wait there" in result.stderr
    assert forgotten.returncode == 0
    assert json.loads(forgotten.stdout)["thrown_away"] == 1
    assert after == []


async def test_a_type_that_is_no_longer_subscribed_is_unbound(stack: Stack, subscribe: Subscribe) -> None:
    async with endpoint() as shop:
        subscribe(("shop", shop.url))
        worker = await stack.started("run")
        assert worker.stop() == 0
        stack.environment[SUBSCRIBED] = stack.environment[SUBSCRIBED].replace("part.*", "part.returned")
        await stack.started_apart()
        await stack.post_ovoko(status_change(1, "13", "sold"))
        await stack.post_ovoko(status_change(2, "13", "returned"))
        await until(has_got(shop, 1), "it is received")

    assert [event_of(request)["type"] for request in shop.requests] == ["stockhook.part.returned"]


async def test_a_dead_webhook_is_stored_listed_and_replayed_under_its_id(
    stack: Stack, subscribe: Subscribe
) -> None:
    stack.environment["STOCKHOOK_KEEP_DEAD_LETTERS"] = "true"
    answers = [410, 410, 204]
    async with endpoint(lambda number: answers[number]) as shop:
        subscribe(("shop", shop.url))
        await stack.started_apart()
        await stack.post_ovoko(status_change(1, "13", "sold"))
        await until(lambda: _are_archived(stack, 1), "it is archived")
        [letter] = json.loads(stack.run("dead", "list", "--origin", "webhook.shop", "--json").stdout)
        predicted = json.loads(stack.run("dead", "replay", "--all", "--dry-run", "--json").stdout)
        first = stack.run("dead", "replay", "--origin", "webhook.shop", "--json")
        await until(lambda: _are_archived(stack, 2), "it came back")
        [again] = json.loads(stack.run("dead", "list", "--json").stdout)
        status = json.loads(stack.run("status", "--json").stdout)["webhooks"]
        stack.run("dead", "replay", "--origin", "webhook.shop")
        await until(has_got(shop, 3), "it is taken")
    shown = stack.run("dead", "show", str(letter["dead_letter_id"]))

    assert (letter["origin"], letter["type"], letter["entity_id"]) == (
        "webhook.shop",
        "stockhook.part.sold",
        "13",
    )
    assert (letter["reason"], letter["attempts"]) == ("it answered 410", 1)
    assert [one["would_be"] for one in predicted] == ["posted again"]
    assert first.returncode == 0
    assert json.loads(first.stdout)["handed_on"] == 1
    assert again["replay_of"] == letter["dead_letter_id"]
    assert [one["dead_kept"] for one in status] == [1]
    assert len({request.headers["webhook-id"] for request in shop.requests}) == 1
    assert shown.returncode == 0


async def _are_archived(stack: Stack, letters: int) -> bool:
    return await stack.count("dead_letters") == letters


async def test_a_dispatcher_killed_after_a_failure_and_its_copy_delivers_all(
    stack: Stack, subscribe: Subscribe
) -> None:
    bodies = lives(parts=3, steps=6)
    async with endpoint(failing_first(4)) as shop:
        subscribe(("shop", shop.url))
        await stack.started("ingest")
        dying = stack.start("consume", "inventory", STOCKHOOK_CRASH_AT="change_delivered")
        await post_all(stack, bodies)
        await until(lambda: has_died(dying), "it dies")
        await stack.started("consume", "inventory")

        async def has_all() -> bool:
            return len({request.headers["webhook-id"] for request in shop.taken}) == len(bodies)

        await until(has_all, "all is taken")

    assert len(shop.requests) > len(bodies)
    by_sequence = sorted(map(event_of, shop.taken), key=lambda event: str(event["sequence"]))
    last = {event["subject"]: event["data"]["after"]["status"] for event in by_sequence}
    rows = await stack.fetch("SELECT part_id, status FROM parts")
    assert last == {row["part_id"]: row["status"] for row in rows}


async def test_a_dispatcher_killed_after_an_answer_delivers_again_in_order(
    stack: Stack, subscribe: Subscribe
) -> None:
    bodies = lives(parts=3, steps=6)
    async with endpoint() as shop:
        subscribe(("shop", shop.url))
        await stack.started("ingest")
        dying = stack.start("consume", "inventory", STOCKHOOK_CRASH_AT="change_delivered:2")
        await post_all(stack, bodies)
        await until(lambda: has_died(dying), "it dies")
        await stack.started("consume", "inventory")

        async def has_all() -> bool:
            return len({request.headers["webhook-id"] for request in shop.requests}) == len(bodies)

        await until(has_all, "all changes are received")

    first: dict[str, Any] = {}
    for event in map(event_of, shop.requests):
        first.setdefault(event["id"], event)
    last: dict[str, Any] = {}
    for event in first.values():
        assert event["data"]["before"] == last.get(event["subject"])
        last[event["subject"]] = event["data"]["after"]
