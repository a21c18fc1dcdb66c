"""`python -m tests.screenshots`: pictures of the console in docs/images, light and dark, of a busy system.

A document shows one as

    <picture>
      <source media="(prefers-color-scheme: dark)" srcset="docs/images/overview-dark.webp">
      <img src="docs/images/overview-light.webp" alt="…" width="1280">
    </picture>
"""

import asyncio
import base64
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Browser, Page

from deploy.local.services import CHECKOUT, DEV, Services
from tests.support.busy_system import BusySystem, busy_system
from tests.support.chromium import running_chromium, sign_in_page
from tests.support.console_examples import Ids
from tests.support.stack import empty_stack
from worker.console.routes import SCREENS

IMAGES = CHECKOUT / "docs/images"
WIDTH, HIGHEST = 1280, 1000
SCHEMES = ("light", "dark")
MOST_BYTES = 100_000
QUALITY = 82

# The charts need some points.
SECONDS_OF_LOAD = 60.0

# Rates are of the last seconds, so that events arrive while the pictures are taken.
SECONDS_OF_RATES, SECONDS_OF_PICTURES = 12.0, 40.0


@dataclass(frozen=True, slots=True)
class Picture:
    """`screen` is the path of the route table; a picture is made once the screen is there."""

    name: str
    screen: str
    address: Callable[[Ids], str]

    @property
    def files(self) -> list[str]:
        return [f"{self.name}-{scheme}.webp" for scheme in SCHEMES]


def _letter(ids: Ids) -> str:
    """One of the quarantine, with a proposed repair; there is one per origin, in their order."""
    return f"/dead-letters/{ids.letters[2]}"


_ALL = (
    Picture("overview", "/overview", lambda _: "/overview"),
    Picture("family", "/families/{family}", lambda _: "/families/inventory"),
    Picture("dead-letters", "/dead-letters", lambda _: "/dead-letters"),
    Picture("dead-letter", "/dead-letters/{dead_letter_id}", _letter),
    Picture("entity", "/entities/{family}/{entity}", lambda ids: f"/entities/inventory/{ids.part}"),
    Picture("changes", "/changes", lambda _: "/changes"),
    Picture("job", "/jobs/{job_id}", lambda ids: f"/jobs/{ids.jobs[0]}"),
)
PICTURES = tuple(picture for picture in _ALL if picture.screen in {screen.path for screen in SCREENS})


async def take(browser: Browser, system: BusySystem, folder: Path) -> None:
    """Write every picture. Raises: ValueError: One is too large."""
    folder.mkdir(parents=True, exist_ok=True)
    first = await browser.new_context()
    await sign_in_page(await first.new_page(), system.url)
    state = await first.storage_state()
    await first.close()
    for scheme in SCHEMES:
        context = await browser.new_context(
            storage_state=state,
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": WIDTH, "height": HIGHEST},
            reduced_motion="reduce",
        )
        page = await context.new_page()
        for picture in PICTURES:
            await page.goto(system.url + picture.address(system.ids))
            if await page.locator("[data-live]").count():
                await page.get_by_text("Live", exact=True).wait_for()
            content = await _webp(page)
            if len(content) > MOST_BYTES:
                raise ValueError(f"{picture.name}-{scheme}.webp has {len(content):,} bytes")
            (folder / f"{picture.name}-{scheme}.webp").write_bytes(content)
        await context.close()


async def _webp(page: Page) -> bytes:
    """What the window shows, or less if the page is shorter."""
    needed: int = await page.evaluate(
        "Math.ceil(document.querySelector('main').lastElementChild.getBoundingClientRect().bottom) + 40"
    )
    protocol = await page.context.new_cdp_session(page)
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": min(HIGHEST, needed), "scale": 1}
    taken = await protocol.send(
        "Page.captureScreenshot", {"format": "webp", "quality": QUALITY, "clip": clip}
    )
    return base64.b64decode(taken["data"])


async def _run(services: Services, folder: Path) -> None:
    async with (
        running_chromium() as browser,
        empty_stack(services, folder) as stack,
        busy_system(stack, SECONDS_OF_LOAD) as system,
    ):
        load = ("--rate", "30", "--seconds", f"{SECONDS_OF_PICTURES:g}", "--seed", "9")
        sending = asyncio.create_task(asyncio.to_thread(stack.run, "send", *load))
        await asyncio.sleep(SECONDS_OF_RATES)
        await take(browser, system, IMAGES)
        await sending
    for file in sorted(IMAGES.glob("*.webp")):
        print(f"{file.relative_to(CHECKOUT)}  {file.stat().st_size / 1000:.0f} kB")


def main() -> None:
    from tests.conftest import services_with_queues

    DEV.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=DEV))
    # Postgres runs as another user if we are root.
    folder.chmod(0o711)
    state = folder / "services"
    state.mkdir(mode=0o755)
    try:
        with services_with_queues(state) as services:
            asyncio.run(_run(services, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
