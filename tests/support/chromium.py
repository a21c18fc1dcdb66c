"""Chromium, installed or unpacked from Debian's packages.

If neither is available, a test is skipped; with TESTS_NEED_CHROMIUM, as in .ci/run, it fails.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, Page, async_playwright

from deploy.local.packages import DownloadFailed, chromium
from deploy.local.services import DEV
from tests.support.console import PASSWORD


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    """A browser without a window."""
    try:
        installed = chromium(DEV / "packages", print)
    except DownloadFailed as error:
        if "TESTS_NEED_CHROMIUM" in os.environ:
            raise
        pytest.skip(f"needs Chromium: {error}")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=installed.program,
            # Its sandbox does not work for root.
            chromium_sandbox=os.geteuid() != 0,
            # Names of other machines, which are this one.
            args=["--host-resolver-rules=MAP *.test 127.0.0.1"],
            env={**os.environ, **installed.environment},
        )
        try:
            yield browser
        finally:
            await browser.close()


async def sign_in_page(page: Page, url: str, name: str = "anna", password: str = PASSWORD) -> None:
    """Sign in by the form, as a person does."""
    await page.goto(f"{url}/sign-in")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{url}/overview")
