"""Every screen of the console in Chromium: widths, colour schemes, accessibility, keyboard, no JavaScript."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.browser.conftest import Open, Watched, watched_page, widest
from tests.support.busy_system import BusySystem
from tests.support.chromium import sign_in_page
from tests.support.console import PASSWORD
from tests.support.console_examples import addresses
from worker.console.routes import SCREENS

pytestmark = pytest.mark.asyncio(loop_scope="package")

WIDTHS = (320, 768, 1280, 1920)
SCHEMES = ("light", "dark")
AXE = (Path(__file__).parent / "axe" / "axe-4.14.1.min.js").read_text()

every_screen = pytest.mark.parametrize("path", [screen.path for screen in SCREENS])
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)

# What the Tab key must reach, apart from what is hidden, disabled, or in closed details. An update of the
# live region may replace an element, so that it is known by what it is.
NAME = """const name = one => [one.tagName, one.id, one.getAttribute("href"), one.getAttribute("name"),
    one.closest("form")?.getAttribute("action")].join(" ")"""
REACHABLE = f"""() => {{
    {NAME};
    const all = document.querySelectorAll(
        "a[href], button, input, select, textarea, summary, [tabindex='0']"
    );
    return [...all].filter(
        one => !one.disabled && one.type !== "hidden" && one.checkVisibility({{visibilityProperty: true}})
    ).map(name);
}}"""
FOCUSED = f"""() => {{
    {NAME};
    const one = document.activeElement, style = getComputedStyle(one);
    const isShown = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
    return {{name: name(one), isShown, isOfPage: one !== document.body}};
}}"""


@every_screen
@each_scheme
async def test_a_screen_fits_each_width(
    path: str, scheme: str, system: BusySystem, signed_in_page: Open
) -> None:
    async with signed_in_page(color_scheme=scheme) as watched:
        for address in addresses(path, system.ids):
            await watched.open(address)
            wide = []
            for width in WIDTHS:
                await watched.page.set_viewport_size({"width": width, "height": 900})
                if await watched.is_wider_than_the_window():
                    wide.append(f"{address} at {width}: {await widest(watched.page)}")

            assert wide == []
            assert await watched.all_faults() == []


@every_screen
@each_scheme
async def test_axe_finds_no_violation(
    path: str, scheme: str, system: BusySystem, signed_in_page: Open
) -> None:
    async with signed_in_page(color_scheme=scheme) as watched:
        for address in addresses(path, system.ids):
            await watched.open(address)
            await open_all_details(watched.page)

            assert await violations(watched.page) == [], address


@each_scheme
async def test_axe_finds_no_violation_in_the_sign_in(
    scheme: str, chromium: Browser, system: BusySystem
) -> None:
    async with watched_page(await chromium.new_context(color_scheme=scheme), system.url) as watched:
        await watched.open("/sign-in")
        assert await violations(watched.page) == []
        await watched.page.get_by_label("Name").fill("anna")
        await watched.page.get_by_label("Password").fill("wrong")
        await watched.page.get_by_role("button", name="Sign in").click()
        await watched.page.wait_for_selector("#fault")
        assert await violations(watched.page) == []


async def open_all_details(page: Page) -> None:
    await page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


async def violations(page: Page) -> list[str]:
    await page.evaluate(AXE)
    # A region that is replaced while axe looks at it would stop it.
    result: dict[str, Any] = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['help']}: {json.dumps([node['html'][:200] for node in one['nodes']])}"
        for one in result["violations"]
    ]


@every_screen
async def test_the_keyboard_reaches_everything(path: str, system: BusySystem, signed_in_page: Open) -> None:
    async with signed_in_page() as watched:
        await watched.open(addresses(path, system.ids)[0])
        page = watched.page
        expected = await page.evaluate(REACHABLE)
        focused: list[dict[str, Any]] = []
        # A field for a date and a time has a stop per part.
        parts = 8 * await page.locator("input[type=datetime-local]").count()
        for _ in range(len(expected) + 1 + parts):
            await page.keyboard.press("Tab")
            focused.append(await page.evaluate(FOCUSED))
        reached = [one for one in focused if one["isOfPage"]]

        assert reached[0]["name"].startswith("A  #content")
        assert {one["name"] for one in reached} == set(expected)
        assert [one["name"] for one in reached if not one["isShown"]] == [], "the focus is visible"


@every_screen
async def test_the_keyboard_opens_and_closes_details(
    path: str, system: BusySystem, signed_in_page: Open
) -> None:
    async with signed_in_page() as watched:
        await watched.open(addresses(path, system.ids)[0])
        for summary in await watched.page.query_selector_all("summary"):
            was_open = await summary.evaluate("one => one.parentElement.open")
            await summary.focus()
            await watched.page.keyboard.press("Enter")
            assert await summary.evaluate("one => one.parentElement.open") is not was_open


async def test_the_content_is_one_key_away(system: BusySystem, signed_in_page: Open) -> None:
    async with signed_in_page() as watched:
        await watched.open("/overview")
        await watched.page.keyboard.press("Tab")
        await watched.page.keyboard.press("Enter")

        assert await watched.page.evaluate("document.activeElement.id") == "content"


async def test_a_user_signs_in_and_out_with_the_keyboard(chromium: Browser, system: BusySystem) -> None:
    async with watched_page(await chromium.new_context(), system.url) as watched:
        page = watched.page
        await watched.open("/sign-in?next=/families/orders")
        await page.keyboard.type("rita")
        await page.keyboard.press("Tab")
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/families/orders")
        await page.get_by_role("button", name="Sign out").focus()
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/sign-in")

        assert await watched.all_faults() == []


async def test_without_javascript_every_screen_works(chromium: Browser, system: BusySystem) -> None:
    context = await chromium.new_context(java_script_enabled=False)
    watched = Watched(await context.new_page(), system.url)
    try:
        await sign_in_page(watched.page, system.url)
        for screen in SCREENS:
            for address in addresses(screen.path, system.ids):
                await watched.open(address)
                assert await watched.page.locator("h1").inner_text() != ""
                assert await watched.page.locator("main button[data-live-switch]").count() in (0, 1)
                assert not await watched.page.locator("[data-theme-switch]").is_visible()
                if screen.is_live:
                    assert await watched.page.get_by_text("Not live").is_visible()
    finally:
        await context.close()


async def test_the_back_button_shows_the_screen_before(system: BusySystem, signed_in_page: Open) -> None:
    async with signed_in_page() as watched:
        page = watched.page
        await watched.open("/overview")
        await page.get_by_role("link", name="orders").first.click()
        await page.wait_for_url("**/families/orders")
        await page.go_back()
        await page.wait_for_url("**/overview")

        assert await page.locator("h1").inner_text() == "Overview"
        await page.get_by_text("Live", exact=True).wait_for()
        assert await watched.all_faults() == []


async def test_texts_are_copied_over_plain_http(
    chromium: Browser, system: BusySystem, signed_in_page: Open
) -> None:
    """On another machine the browser has no clipboard for pages over plain HTTP."""
    other = system.url.replace("127.0.0.1", "console.test")
    context = await chromium.new_context()
    async with watched_page(context, other) as watched:
        page = watched.page
        await sign_in_page(page, other)
        assert await page.evaluate("isSecureContext") is False
        copied = 0
        for screen in SCREENS:
            await watched.open(addresses(screen.path, system.ids)[0])
            button = page.locator("[data-copy]").first
            if not await button.count():
                continue
            copied += 1
            await page.eval_on_selector_all("main details", "all => all.forEach(one => { one.open = true; })")
            text = await button.evaluate("one => document.getElementById(one.dataset.copy).textContent")
            await button.click()
            await page.get_by_text("Copied").wait_for()
            await page.evaluate(
                """document.body.append(Object.assign(document.createElement("textarea"), {id: "paste"}))"""
            )
            await page.locator("#paste").focus()
            await page.keyboard.press("Control+V")
            assert await page.locator("#paste").input_value() == text
    assert copied >= 2, "a dead letter and an action have texts to copy"
