"""Live updates in Chromium, behind a proxy as well."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from tests.browser.conftest import Open, Watched, watched_page
from tests.support.busy_system import BusySystem
from tests.support.chromium import sign_in_page
from tests.support.console import console
from tests.support.console_examples import all_addresses
from tests.support.events import body, return_updated
from tests.support.nginx import running_nginx
from tests.support.stack import free_port, until

pytestmark = pytest.mark.asyncio(loop_scope="package")

NUMBERS = itertools.count(50_000)

PROXY = """
    server {{
        listen 127.0.0.1:{port};
        location {base}/ {{
            proxy_pass http://127.0.0.1:{console};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
"""
# A field may have the name that a form's property has.
PATHS = """all => all.map(one => ["href", "action", "src"].map(name => one.getAttribute(name)))
    .map(given => new URL(given.find(one => one !== null), location).pathname)"""
HIDE = """isHidden => {
    Object.defineProperty(document, "hidden", {configurable: true, get: () => isHidden});
    Object.defineProperty(document, "visibilityState",
        {configurable: true, get: () => isHidden ? "hidden" : "visible"});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def queued(page: Page) -> Locator:
    """The number of waiting events of a family that is paused."""
    return page.locator("#family-returns td[data-label=Queue]")


async def send_one(system: BusySystem) -> str:
    """One more event of the paused family waits; the number that screens show then."""
    await system.stack.post_ovoko(body(return_updated(next(NUMBERS))))
    sent = (await system.stack.depths()).get("stockhook.returns", 0)
    return f"{sent:,}"


async def is_live(page: Page) -> None:
    await page.get_by_text("Live", exact=True).wait_for()


@asynccontextmanager
async def two_live_pages(
    system: BusySystem, signed_in_page: Open
) -> AsyncIterator[tuple[Watched, Watched, str]]:
    """Two pages that are live, and the number that both show."""
    async with signed_in_page() as one, signed_in_page() as other:
        for watched in (one, other):
            await watched.open("/overview")
            await is_live(watched.page)
        shown = await send_one(system)
        for watched in (one, other):
            await expect(queued(watched.page)).to_have_text(shown, timeout=15_000)
        yield one, other, shown


async def test_numbers_change_without_a_reload_or_a_jump(system: BusySystem, signed_in_page: Open) -> None:
    async with signed_in_page() as watched:
        await watched.open("/overview")
        await is_live(watched.page)
        await watched.page.evaluate("window.isSamePage = true; window.shift = 0")
        for _ in range(3):
            await expect(queued(watched.page)).to_have_text(await send_one(system), timeout=15_000)

        assert await watched.page.evaluate("window.isSamePage") is True
        # A row that jumps shifts by 0.01 or more, a number that gets another digit by less than 0.0001.
        assert await watched.page.evaluate("window.shift") < 0.001
        assert await watched.all_faults() == []


async def test_a_page_is_live_although_a_script_arrives_late(
    system: BusySystem, signed_in_page: Open
) -> None:
    async def late(route: Route) -> None:
        await asyncio.sleep(1)
        await route.continue_()

    async with signed_in_page() as watched:
        await watched.page.route("**/hx-sse*", late)
        await watched.open("/overview")
        await is_live(watched.page)

        assert await watched.all_faults() == []


async def test_the_pause_button_stops_and_continues_the_numbers(
    system: BusySystem, signed_in_page: Open
) -> None:
    async with two_live_pages(system, signed_in_page) as (paused, witness, first):
        await paused.page.get_by_role("button", name="Pause updates").click()
        await paused.page.get_by_text("Paused", exact=True).wait_for()
        # Two rounds: what was under way when the button was pressed has arrived after the first.
        for _ in range(2):
            latest = await send_one(system)
            await expect(queued(witness.page)).to_have_text(latest, timeout=15_000)

        assert await queued(paused.page).inner_text() == first
        await paused.page.get_by_role("button", name="Resume updates").click()
        await expect(queued(paused.page)).to_have_text(latest, timeout=15_000)
        assert await paused.all_faults() == []


async def test_a_hidden_page_receives_nothing_until_it_is_shown(
    system: BusySystem, signed_in_page: Open
) -> None:
    async with two_live_pages(system, signed_in_page) as (hidden, witness, before):
        await hidden.page.evaluate(HIDE, True)
        for _ in range(2):
            latest = await send_one(system)
            await expect(queued(witness.page)).to_have_text(latest, timeout=15_000)

        assert await queued(hidden.page).inner_text() == before
        await hidden.page.evaluate(HIDE, False)
        await expect(queued(hidden.page)).to_have_text(latest, timeout=15_000)


async def test_below_a_path_of_a_proxy_everything_works(
    chromium: Browser, system: BusySystem, tmp_path: Path
) -> None:
    base, port = "/tools/stockhook", free_port()
    settings = {
        **system.settings,
        "STOCKHOOK_CONSOLE_BASE_PATH": base,
        "STOCKHOOK_CONSOLE_TRUSTED_PROXIES": "127.0.0.1",
    }
    async with console(system.stack, **settings) as (direct, _):
        proxy = PROXY.format(port=port, base=base, console=direct.rpartition(":")[2])
        url = f"http://127.0.0.1:{port}{base}"
        with running_nginx(tmp_path, proxy):
            async with watched_page(await chromium.new_context(), url) as watched:

                async def signs_in() -> bool:
                    try:
                        await sign_in_page(watched.page, url)
                    except Exception:
                        return False
                    return True

                await until(signs_in, "nginx answers")
                await is_live(watched.page)
                await expect(queued(watched.page)).to_have_text(await send_one(system), timeout=15_000)
                watched.faults.clear()
                outside = []
                for address in all_addresses(system.ids):
                    await watched.open(address)
                    paths = await watched.page.eval_on_selector_all(
                        "a[href], form[action], link[href], script[src]",
                        PATHS,
                    )
                    outside += [path for path in paths if not path.startswith(f"{base}/")]

                assert outside == []
                assert await watched.all_faults() == []
