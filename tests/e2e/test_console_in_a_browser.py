"""A console that is killed while a page of it is open."""

import pytest
from playwright.async_api import expect

from tests.e2e.test_bulk_jobs import check_each_once, sold_parts
from tests.e2e.test_dead_letters import ARCHIVING
from tests.support.chromium import running_chromium, sign_in_page
from tests.support.console import console, users
from tests.support.stack import Stack, free_port

pytestmark = pytest.mark.browser

LETTERS = 40
SECONDS = 30_000


async def test_a_page_of_a_killed_console_says_so_and_the_next_console_ends_the_replay(stack: Stack) -> None:
    stack.environment |= ARCHIVING
    await stack.started("consume")
    await sold_parts(stack, LETTERS)
    settings = {
        "STOCKHOOK_CONSOLE_PORT": str(free_port()),
        "STOCKHOOK_CONSOLE_USERS": users(anna="operator"),
    }
    async with running_chromium() as browser:
        page = await (await browser.new_context()).new_page()
        dying = console(stack, **settings)
        url, worker = await dying.__aenter__()
        await sign_in_page(page, url)
        await page.goto(f"{url}/jobs/new?origin=inventory")
        await page.locator("summary", has_text="Replay").click()
        await page.get_by_label("Letters per second").fill("4")
        await page.locator("details[open]").get_by_label("Reason").fill("a test")
        await page.get_by_role("button", name="Start the replay").click()
        await page.wait_for_url("**/jobs/*")
        await page.get_by_text("Live", exact=True).wait_for()
        await expect(page.locator("label[for=progress]")).to_contain_text(f"of {LETTERS} letters")
        replayed = page.locator(".figure", has_text="Replayed").first.locator(".value")
        await expect(replayed).not_to_have_text("0", timeout=SECONDS)
        worker.kill()
        await expect(page.locator("[data-live-state]")).to_contain_text("No connection", timeout=SECONDS)
        rows = await stack.fetch("SELECT state FROM bulk_jobs")
        assert [row["state"] for row in rows] == ["running"]
        await stack.execute("UPDATE bulk_jobs SET rate = 1000")
        async with console(stack, **settings):
            # The sessions were in the memory of the console that was killed.
            await page.reload()
            await page.wait_for_url("**/sign-in?**")
            await page.get_by_label("Name").fill("anna")
            await page.get_by_label("Password").fill("correct-horse-battery")
            await page.get_by_role("button", name="Sign in").click()
            await page.wait_for_url("**/jobs/*")
            await expect(page.locator(".states .badge")).to_contain_text("done", timeout=SECONDS)
            await expect(replayed).to_have_text(str(LETTERS))
            await page.context.close()
    await check_each_once(stack, LETTERS)
