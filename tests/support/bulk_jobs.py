"""Bulk jobs of the console, started as its pages do."""

from re import search
from typing import Any

import httpx

from tests.support.stack import until

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
ENDED = ("done", "cancelled", "stopped", "failed")


def hidden(page: str, name: str) -> str:
    match = search(rf'name="{name}" value="([^"]*)"', page)
    assert match, page
    return match[1].replace("&amp;", "&")


async def start(client: httpx.AsyncClient, kind: str, query: str, **form: str) -> int:
    """Confirm what the query selects, and start a job as the page's forms do; its id."""
    page = await client.get(f"/jobs/new?{query}")
    assert page.status_code == 200, page.text
    fields = {name: hidden(page.text, name) for name in ("token", "selection", "last_id")}
    given = {"reason": "a test", "rate": "1000", **fields, **form}
    answer = await client.post(f"/jobs/{kind}", data=given, headers=SAME_ORIGIN)
    assert answer.status_code == 303, answer.text
    match = search(r"/jobs/(\d+)$", answer.headers["location"])
    assert match, (await client.get(answer.headers["location"])).text
    return int(match[1])


async def job(client: httpx.AsyncClient, job_id: int) -> Any:
    answer = await client.get(f"/jobs/{job_id}.json")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ended(client: httpx.AsyncClient, job_id: int, seconds: float = 40) -> Any:
    async def view() -> Any:
        shown = await job(client, job_id)
        return shown if shown["line"]["state"] in ENDED else None

    return await until(view, f"job {job_id} ends", seconds)
