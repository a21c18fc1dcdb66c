"""The page of refusals, with the real ingest."""

from tests.support.console import browser, console, sign_in
from tests.support.events import body, order_created, ovoko
from tests.support.stack import Stack, free_port, until


async def test_refusals_are_counted_per_marketplace_and_unhandled_types_are_listed(stack: Stack) -> None:
    stack.environment["STOCKHOOK_KEEP_DEAD_LETTERS"] = "true"
    ingest, consumers = await stack.started("ingest"), await stack.started("consume")
    nowhere = free_port()
    urls = ",".join(f"http://127.0.0.1:{port}" for port in (ingest.ops_port, consumers.ops_port, nowhere))
    async with console(stack, STOCKHOOK_CONSOLE_OPS_URLS=urls) as (url, _), browser(url) as client:
        await sign_in(client)
        await client.get("/refusals.json")
        await stack.post_ovoko(body(order_created(1)))
        await stack.post_ovoko(body(ovoko("order.painted", order_id="3")))
        for _ in range(2):
            await stack.post_ovoko(b"{}", secret="wrong-secret-of-a-test")

        async def is_known() -> bool:
            view = (await client.get("/refusals.json")).json()
            recent = [
                count["recent"]
                for one in view["refusals"]["marketplaces"] or ()
                for count in one["refusals"]
                if one["marketplace"] == "ovoko" and count["name"] == "401"
            ]
            return recent == [2] and bool(view["unhandled"])

        await until(is_known, "the refusals are in the history, and the unhandled event in the table", 90)
        view = (await client.get("/refusals.json")).json()
        page = (await client.get("/refusals")).text

    ovoko_view = next(one for one in view["refusals"]["marketplaces"] if one["marketplace"] == "ovoko")
    assert [(one["name"], one["total"]) for one in ovoko_view["refusals"]] == [("401", 2)]
    assert view["refusals"]["no_answer"] == [f"127.0.0.1:{nowhere}: it cannot be connected to"]
    assert [(one["type"], one["events"], one["family"]) for one in view["unhandled"]] == [
        ("order.painted", 1, None)
    ]
    assert f"No answer from 127.0.0.1:{nowhere}" in page
    assert "stockhook unhandled replay" in page


async def test_without_an_answer_refusals_are_unknown(stack: Stack) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with console(stack, STOCKHOOK_CONSOLE_OPS_URLS=nowhere) as (url, _), browser(url) as client:
        await sign_in(client)
        view = (await client.get("/refusals.json")).json()["refusals"]
        page = (await client.get("/refusals")).text

    assert (view["marketplaces"], view["door"]) == (None, None)
    assert 'id="no-ingest"' in page
    assert f"No answer from {nowhere.removeprefix('http://')}" in page
