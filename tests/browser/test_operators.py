"""What operators do, by clicks and by keys alone."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import Open, Watched, watched_page
from tests.e2e.test_dead_commands import dead_message
from tests.e2e.test_dead_letters import put
from tests.support.busy_system import BusySystem
from tests.support.chromium import sign_in_page
from tests.support.console import console
from tests.support.events import sold
from tests.support.stack import until

pytestmark = pytest.mark.asyncio(loop_scope="package")

SECONDS = 20_000

# A comma too many.
BROKEN_RETURN = (
    b'{"event_type":"order.return.created","timestamp":"2026-03-01T12:00:00Z",'
    b'"event_data":{"return_id":"%d","order_id":"900211",}}'
)
RETURN = 77_900
REASON = "the sender repaired its template"

UUID = re.compile("^[0-9a-f]{8}-[0-9a-f-]{27}$")

NUMBERS = itertools.count(60_000)


@asynccontextmanager
async def page_of(
    chromium: Browser, system: BusySystem, name: str, url: str | None = None
) -> AsyncIterator[Watched]:
    async with watched_page(await chromium.new_context(), url or system.url) as watched:
        await sign_in_page(watched.page, watched.url, name)
        yield watched


async def number_of(system: BusySystem, rows: str) -> int:
    return int(str(await system.stack.count(rows)))


async def has_rows(system: BusySystem, rows: str, wanted: int) -> None:
    async def has() -> bool:
        return await number_of(system, rows) >= wanted

    await until(has, f"{wanted} rows of {rows}")


async def fill(page: Page, label: str, text: str) -> None:
    """The field of this name in the form that is open."""
    await page.locator("details[open]").get_by_label(label).fill(text)


async def test_a_broken_return_is_understood_repaired_replayed_and_explained(
    chromium: Browser, system: BusySystem
) -> None:
    quarantined = await number_of(system, "dead_letters WHERE origin = 'quarantine'")
    await system.stack.post_ovoko(BROKEN_RETURN % RETURN)
    await has_rows(system, "dead_letters WHERE origin = 'quarantine'", quarantined + 1)
    resumed = await asyncio.to_thread(system.stack.run, "resume", "returns")
    assert resumed.returncode == 0, resumed.stderr
    try:
        async with page_of(chromium, system, "anna") as watched:
            page = watched.page
            # The overview, its group of failures, and the letter.
            await expect(page.locator("#stage-dead .note")).to_have_text(
                f"{quarantined + 1} of them in quarantine", timeout=SECONDS
            )
            await page.locator("#stage-dead").get_by_role("link").click()
            await page.get_by_role("link", name="not JSON").click()
            await expect(page.locator("#matched")).to_contain_text(f"{quarantined + 1} dead letters match")
            await page.locator(".letters th a").last.click()
            await expect(page.locator("#letter-reason")).to_have_text("not JSON")
            await expect(page.locator("#letter-state")).to_contain_text("It waits")
            await expect(page.get_by_text("a comma is taken out")).to_be_visible()
            letter = page.url
            # The repair, what a replay would do, and the replay.
            await page.locator("summary", has_text="Repair").click()
            await page.get_by_role("button", name="Apply the proposed repair").click()
            await expect(page.get_by_role("status")).to_be_visible()
            await expect(page.locator("#history-title + ol")).to_contain_text("by anna")
            await page.get_by_role("link", name="Replay: dry run first").click()
            await expect(page.locator(".facts")).to_contain_text("applied")
            await page.locator("summary", has_text="Replay").click()
            await fill(page, "Reason", REASON)
            await page.get_by_role("button", name="Replay this dead letter").click()
            await page.wait_for_url(letter)
            await expect(page.locator("#letter-state")).to_contain_text(
                "its event is applied", timeout=SECONDS
            )
            # The entity, and the record of the replay.
            await page.locator("dd a", has_text=UUID).last.click()
            await page.wait_for_url("**/entities/returns/**")
            await expect(page.locator("h1")).to_have_text(f"return {RETURN}")
            await expect(page.locator(".step").first).to_contain_text("applied")
            await expect(page.get_by_text("The tables hold this state.")).to_be_visible()
            await page.get_by_role("link", name="Audit trail").click()
            replayed = page.locator("#trail tbody tr", has_text="dead_letter.replayed").first
            await expect(replayed).to_contain_text(REASON)
            await expect(replayed).to_contain_text("anna")
            await replayed.get_by_role("link", name="dead letter").click()
            await page.wait_for_url(letter)

            assert await watched.all_faults() == []
    finally:
        paused = await asyncio.to_thread(system.stack.run, "pause", "returns", "--reason", "a test ends")
        assert paused.returncode == 0, paused.stderr


async def failed_parts(system: BusySystem, number: int) -> list[int]:
    """Dead letters of a group of their own, whose events can be applied by now."""
    parts = [next(NUMBERS) for _ in range(number)]
    await put(system.stack, *(dead_message(sold(part, part), 7) for part in parts))
    await has_rows(system, f"dead_letters WHERE entity_id IN ({listed(parts)})", number)
    return parts


def listed(parts: list[int]) -> str:
    return ", ".join(f"'{part}'" for part in parts)


async def start_replay(page: Page, reason: str) -> None:
    """From the page that names the letters."""
    await page.locator("summary", has_text="Replay").click()
    await fill(page, "Reason", reason)
    # Slowly, so that the other one starts before it has ended.
    await fill(page, "Letters per second", "3")
    await page.get_by_role("button", name="Start the replay").click()
    await page.wait_for_url("**/jobs/*")


async def test_of_two_operators_who_replay_a_group_the_second_reads_that_nothing_is_left(
    chromium: Browser, system: BusySystem
) -> None:
    parts = await failed_parts(system, 9)
    group = "/dead-letters?origin=inventory&reason=Test&view=groups"
    async with page_of(chromium, system, "anna") as anna, page_of(chromium, system, "olaf") as olaf:
        for watched in (anna, olaf):
            await watched.open(group)
            await watched.page.get_by_role("link", name="Replay or discard the group").first.click()
            await watched.page.wait_for_url("**/jobs/new?**")
        letters = await anna.page.locator("h1").inner_text()
        await asyncio.gather(start_replay(anna.page, "anna repeats"), start_replay(olaf.page, "olaf repeats"))
        for watched in (anna, olaf):
            await expect(watched.page.locator(".states .badge")).to_contain_text("done", timeout=SECONDS)
        left = [await watched.page.locator("#nothing-left").count() for watched in (anna, olaf)]

        assert sorted(left) == [0, 1]
        second = anna if left[0] else olaf
        await expect(second.page.locator("#nothing-left")).to_contain_text(
            "had been handled by another job or user"
        )
        assert await anna.all_faults() == await olaf.all_faults() == []
    assert letters == "Replay or discard 9 dead letters"
    names = listed(parts)
    replays = await system.stack.fetch(
        "SELECT count(*)::int AS replays FROM dead_letter_audit JOIN dead_letters USING (dead_letter_id) "
        f"WHERE entity_id IN ({names}) AND action = 'replayed' GROUP BY dead_letter_id"
    )
    assert [row["replays"] for row in replays] == [1] * len(parts)
    await has_rows(system, f"parts WHERE part_id IN ({names})", len(parts))


async def press_until(page: Page, text: str) -> None:
    """Press Tab until the element with this text has the focus."""
    for _ in range(80):
        await page.keyboard.press("Tab")
        focused = await page.evaluate("document.activeElement.innerText ?? ''")
        if focused.strip().startswith(text):
            return
    raise AssertionError(f"Tab does not reach {text}")


async def test_a_family_is_paused_and_resumed_by_keys_alone(chromium: Browser, system: BusySystem) -> None:
    async with page_of(chromium, system, "olaf") as watched:
        page = watched.page
        badge = page.locator(".states .badge")
        await press_until(page, "orders")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/families/orders")
        await expect(badge).to_contain_text("healthy", timeout=SECONDS)
        await press_until(page, "Pause orders")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.type("the prices are checked")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_be_visible()
        await expect(badge).to_contain_text("paused", timeout=SECONDS)
        await expect(page.locator("main")).to_contain_text("the prices are checked")
        await press_until(page, "Resume orders")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(badge).to_contain_text("healthy", timeout=SECONDS)

        assert await watched.all_faults() == []


async def disabled(page: Page) -> Mapping[str, str]:
    """What a user cannot do, by the name of the button, and why."""
    pairs = await page.eval_on_selector_all(
        "main button:disabled",
        "all => all.map(one => [one.innerText, one.nextElementSibling?.innerText ?? ''])",
    )
    return dict(pairs)


OPERATOR, REVEALER = "This needs the role operator.", "This needs the role revealer."


async def test_a_reader_sees_which_role_a_button_needs(chromium: Browser, system: BusySystem) -> None:
    letter, action = system.ids.letters[0], system.ids.actions[0]
    async with page_of(chromium, system, "rita") as watched:
        seen: dict[str, str] = {}
        for address in (
            "/families/orders",
            f"/dead-letters/{letter}",
            "/jobs/new?origin=returns",
            "/changes",
            f"/actions/{action}",
        ):
            await watched.open(address)
            seen |= await disabled(watched.page)
            assert await watched.page.locator("main form[method=post] button:enabled").count() == 0

        assert {name: seen.get(name) for name in ("Edit", "Reveal")} == {"Edit": REVEALER, "Reveal": REVEALER}
        wanted = ("Pause orders", "Discard", "Start the dry run", "Test shop")
        assert {name: seen.get(name) for name in wanted} == dict.fromkeys(wanted, OPERATOR)
        assert await watched.all_faults() == []


async def test_a_read_only_console_says_so_on_every_button(chromium: Browser, system: BusySystem) -> None:
    async with (
        console(system.stack, **{**system.settings, "STOCKHOOK_CONSOLE_READ_ONLY": "true"}) as (url, _),
        page_of(chromium, system, "anna", url) as watched,
    ):
        await expect(watched.page.locator(".side")).to_contain_text("read-only")
        for address in ("/families/orders", f"/dead-letters/{system.ids.letters[0]}", "/jobs/new?all=1"):
            await watched.open(address)
            reasons = set((await disabled(watched.page)).values())
            assert "The console is read-only." in reasons
            assert not reasons & {OPERATOR}


async def test_the_trail_leads_to_what_was_done(system: BusySystem, signed_in_page: Open) -> None:
    async with signed_in_page() as watched:
        page = watched.page
        await watched.open("/audit-trail")
        paths = await page.eval_on_selector_all("#trail td a", "all => all.map(one => one.pathname)")
        for kind in ("/dead-letters/", "/families/", "/jobs/"):
            address = next(path for path in paths if path.startswith(kind))
            await watched.open(address)
        assert await watched.all_faults() == []
