"""What senders control is shown as text, on every screen that a link leads to.

Its name makes it the last file: the others share the system, and their screens stay as they are.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.async_api import Page

from schemas import examples
from schemas.registry import Provider
from tests.browser.conftest import Open, widest
from tests.support.busy_system import BusySystem
from tests.support.console_examples import all_addresses
from tests.support.events import body, ovoko
from tests.support.stack import BUYBACK_TOKEN, OVOKO_SECRET, until

pytestmark = pytest.mark.asyncio(loop_scope="package")

MOST_PAGES = 60

RUN = "window.wasRun=1"
VALUES = (
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"\"><svg onload={RUN}>'><style>*{{display:none}}</style>",
    f"</script></textarea></title></pre><iframe srcdoc='<script>parent.{RUN}</script>'>",
    f"javascript:{RUN}",
    "{{7*7}}{% raw %}${7*7}",
    "\x1b[31m\x07\x08\r\nSet-Cookie: a=b",
    "\u202egnp.exe\u2066\u200b\u200d\ufeff\u2028",
    "https://evil.example/?q=1#<b>",
    "W" * 200_000,
    "\U0001f6d2" * 500 + "\u0301" * 500,
)
# What a page must not contain as it is: it changes what a reader sees.
UNSEEN = (
    "[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f"
    "\\u200b\\u202a-\\u202e\\u2066-\\u2069\\ufeff]"
)

TOKEN = BUYBACK_TOKEN


def with_text(document: Any, text: str) -> Iterator[Any]:
    """The document with the text in the place of each string in turn, but of the token."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        if key == "token":
            continue
        if isinstance(value, dict | list):
            inner: Iterator[Any] = with_text(value, text)
        else:
            inner = iter([text])
        for changed in inner:
            if isinstance(document, dict):
                yield {**document, key: changed}
            else:
                yield [*document[:key], changed, *document[key + 1 :]]


def documents(text: str) -> Iterator[tuple[Provider, bytes]]:
    """Of each marketplace, in the shapes of its documents; one field after the other has the text."""
    short = text if len(text) < 1000 else text[:180]
    for event_type, data in (
        ("part.status.changed", {"part_id": "1", "status": "sold", "external_id": "e", "id_bridge": "b"}),
        ("order.created", {"order_id": "1"}),
        ("order.return.created", {"return_id": "1", "order_id": "1"}),
    ):
        document = ovoko(event_type, number=1, **data)
        for changed in with_text(document, text):
            yield Provider.OVOKO, body(changed)
        # All at once, short enough to be applied.
        yield Provider.OVOKO, body({**ovoko(event_type, **dict.fromkeys(data, short)), "event_id": short})
    example = next(one.body for one in examples.documented() if one.name == "CollectionItemPickupMissedEvent")
    document = {**json.loads(example), "token": TOKEN}
    for changed in with_text(document, text):
        yield Provider.BUYBACK, body(changed)
    yield Provider.OVOKO, f'{{"event_type": "{text}", not JSON'.encode()


async def send(system: BusySystem, text: str) -> None:
    """In each field of a body, and in the headers."""
    header = "".join(one for one in text if one.isascii() and one.isprintable())[:1000].strip()
    names = (
        "User-Agent",
        "X-Request-Id",
        "X-Forwarded-For",
        "Traceparent",
        "Webhook-Id",
        "X-Hookdeck-EventId",
    )
    async with httpx.AsyncClient(timeout=20, verify=False) as client:
        for provider, content in documents(text):
            headers = dict.fromkeys(names, header)
            if provider is Provider.OVOKO:
                headers["X-Webhook-Secret"] = OVOKO_SECRET
            answer = await client.post(
                f"{system.stack.url}/webhooks/{provider}", content=content, headers=headers
            )
            assert answer.status_code in (200, 400), answer.text
        refused = await client.post(
            f"{system.stack.url}/webhooks/ovoko", content=b"{}", headers={**headers, "X-Webhook-Secret": "no"}
        )
        assert refused.status_code == 401


async def links(page: Page) -> list[str]:
    """Addresses of the console that this page leads to."""
    addresses: list[str] = await page.eval_on_selector_all(
        "main a[href]:not([download])",
        "all => all.map(one => new URL(one.href)).map(one => one.pathname + one.search)",
    )
    return [address for address in addresses if ".json" not in address]


def shape(address: str) -> str:
    """Addresses that differ only in an id or a value are of one shape."""
    path, _, query = address.partition("?")
    names = sorted(pair.partition("=")[0] for pair in query.split("&"))
    return f"{'/'.join(path.split('/')[:2])}/{path.count('/')}?{names}"


async def test_text_of_senders_is_shown_and_never_run(system: BusySystem, signed_in_page: Open) -> None:
    await asyncio.gather(*(send(system, text) for text in VALUES))

    async def is_settled() -> bool:
        return not {
            queue: depth
            for queue, depth in (await system.stack.depths()).items()
            if queue
            in {"stockhook.inventory", "stockhook.orders", "stockhook.buybacks", "stockhook.quarantine"}
        }

    await until(is_settled, "all are applied or dead", 60)
    stored = await system.stack.fetch("SELECT dead_letter_id FROM dead_letters ORDER BY 1 DESC LIMIT 25")
    assert len(stored) == 25
    waiting = all_addresses(system.ids)
    if any(address.startswith("/dead-letters/") for address in waiting):
        waiting += [f"/dead-letters/{row['dead_letter_id']}" for row in stored]
    seen: dict[str, int] = {}
    faults = []
    opened = 0
    async with signed_in_page(viewport={"width": 320, "height": 900}) as watched:
        page = watched.page
        while waiting and opened < MOST_PAGES:
            opened += 1
            address = waiting.pop(0)
            answer = await page.goto(f"{system.url}{address}")
            assert answer is not None
            # A letter may have been handled, and an id may be of no entity any more.
            assert answer.status in (200, 404), f"{address} is answered {answer.status}"
            await page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            watched.faults = [fault for fault in watched.faults if "404 (Not Found)" not in fault]
            faults += [f"{address}: {fault}" for fault in await watched.all_faults()]
            watched.faults.clear()
            if await page.evaluate("window.wasRun ?? 0"):
                faults.append(f"{address}: a script was run")
            if await watched.is_wider_than_the_window():
                faults.append(f"{address}: is wider than the window: {await widest(page)}")
            if await page.evaluate(f"/{UNSEEN}/u.test(document.body.innerText)"):
                faults.append(f"{address}: shows a control character as it is")
            if not await page.locator("h1").is_visible():
                faults.append(f"{address}: is without its heading")
            for leading in await links(page):
                # Some of each shape, so that all shapes have their turn.
                if seen.setdefault(shape(leading), 0) < 4 and leading not in waiting:
                    seen[shape(leading)] += 1
                    waiting.append(leading)
    assert opened >= len(all_addresses(system.ids))
    assert "\n".join(faults) == ""
