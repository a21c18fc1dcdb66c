"""One browser and one busy system for all tests, and pages that record what must not happen."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Request

from deploy.local.services import Services
from tests.support.busy_system import BusySystem, busy_system
from tests.support.chromium import running_chromium, sign_in_page
from tests.support.stack import empty_stack

# The name of the console as another machine would have it; the browser resolves it to this one.
OTHER_HOST = "console.test"

WATCH = """
addEventListener("securitypolicyviolation", event => {
    (window.violations ??= []).push(`${event.violatedDirective}: ${event.blockedURI}`);
});
window.shift = 0;
new PerformanceObserver(list => {
    for (const entry of list.getEntries()) window.shift += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.add_marker(pytest.mark.browser)


@dataclass
class Watched:
    """A page, and what it did that no page of the console may do."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)

    async def open(self, address: str) -> None:
        answer = await self.page.goto(f"{self.url}{address}")
        assert answer is not None
        assert answer.status == 200, f"{address} is answered {answer.status}"

    async def all_faults(self) -> list[str]:
        """Also of content security; they end with the page."""
        return self.faults + list(await self.page.evaluate("window.violations ?? []"))

    async def is_wider_than_the_window(self) -> bool:
        script = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        return bool(await self.page.evaluate(script))


def watch(page: Page, url: str) -> Watched:
    watched = Watched(page, url)
    host = urlsplit(url).netloc

    def on_request(request: Request) -> None:
        if urlsplit(request.url).netloc != host:
            watched.faults.append(f"requests {request.url}")

    async def on_dialog(dialog: Any) -> None:
        watched.faults.append(f"shows a dialog: {dialog.message}")
        await dialog.dismiss()

    page.on("request", on_request)
    page.on("dialog", on_dialog)
    page.on("pageerror", lambda error: watched.faults.append(f"error in a script: {error}"))
    page.on(
        "console",
        lambda said: watched.faults.append(said.text) if said.type in ("error", "warning") else None,
    )
    return watched


Open = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def chromium() -> AsyncIterator[Browser]:
    async with running_chromium() as browser:
        yield browser


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def system(
    services: Services, chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BusySystem]:
    folder = tmp_path_factory.mktemp("busy")
    async with (
        empty_stack(services, folder) as stack,
        busy_system(stack, STOCKHOOK_CONSOLE_HOSTS=OTHER_HOST) as busy,
    ):
        yield busy


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def signed_in(chromium: Browser, system: BusySystem) -> Any:
    """The cookie of anna's session."""
    context = await chromium.new_context()
    await sign_in_page(await context.new_page(), system.url)
    state = await context.storage_state()
    await context.close()
    return state


@pytest.fixture
def signed_in_page(chromium: Browser, system: BusySystem, signed_in: Any) -> Open:
    """A page of a user who has signed in, with options of a browser context."""

    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Watched]:
        context = await chromium.new_context(storage_state=signed_in, **options)
        async with watched_page(context, system.url) as watched:
            yield watched

    return opened


@asynccontextmanager
async def watched_page(context: BrowserContext, url: str) -> AsyncIterator[Watched]:
    await context.add_init_script(WATCH)
    try:
        yield watch(await context.new_page(), url)
    finally:
        await context.close()


async def widest(page: Page) -> str:
    """The element that sticks out the most."""
    script = """() => [...document.querySelectorAll("body *")].sort((one, other) =>
        other.getBoundingClientRect().right - one.getBoundingClientRect().right)[0].outerHTML.slice(0, 200)"""
    return str(await page.evaluate(script))
