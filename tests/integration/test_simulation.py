"""The simulated marketplaces over real HTTP: each fault is one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import httpx
import pytest

from worker.observability.listening import CannotListen
from worker.simulator.faults import DESCRIPTIONS, OVERSIZED_BYTES, Kind
from worker.simulator.marketplace import Request, Response, as_json
from worker.simulator.router import Simulation
from worker.simulator.server import serving


class Mirror:
    """Echoes each request; answers DELETE with an empty body."""

    async def handle(self, request: Request) -> Response:
        if request.method == "DELETE":
            return Response(204)
        return as_json(200, {"method": request.method, "path": request.path, "bytes": len(request.body)})


@asynccontextmanager
async def mirror() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(Simulation({"mirror": Mirror()})) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield client


async def inject_fault(client: httpx.AsyncClient, **fault: object) -> None:
    (await client.post("/control/faults", json=fault)).raise_for_status()


async def test_a_marketplace_is_served_below_its_name() -> None:
    async with mirror() as client:
        response = await client.post("/mirror/a/b", content=b"12345")
        elsewhere = await client.get("/unknown/a")

    assert response.json() == {"method": "POST", "path": "/a/b", "bytes": 5}
    assert elsewhere.status_code == 404


@pytest.mark.parametrize(
    ("kind", "status"),
    [("unauthorized", 401), ("rate-limited", 429), ("error", 500), ("unavailable", 503), ("redirect", 302)],
)
async def test_a_fault_occurs_the_requested_number_of_times(kind: str, status: int) -> None:
    async with mirror() as client:
        await inject_fault(client, kind=kind, times=2)
        statuses = [(await client.get("/mirror/a")).status_code for _ in range(3)]

    assert statuses == [status, status, 200]


async def test_a_fault_applies_only_to_its_method_and_path() -> None:
    async with mirror() as client:
        await inject_fault(client, kind="error", method="post", path="order-7")
        others = [await client.get("/mirror/order-7"), await client.post("/mirror/order-8")]
        struck = await client.post("/mirror/order-7")

    assert [response.status_code for response in others] == [200, 200]
    assert struck.status_code == 500


async def test_an_id_triggers_its_fault() -> None:
    async with mirror() as client:
        response = await client.get("/mirror/orders/fault-error-3/x")

    assert response.status_code == 500


@pytest.mark.parametrize("order_id", ["fault-error-as-200", "fault-error-as-200-2"])
async def test_an_id_triggers_the_fault_with_the_longest_matching_name(order_id: str) -> None:
    async with mirror() as client:
        response = await client.get(f"/mirror/orders/{order_id}")

    assert (response.status_code, response.json()["status_code"]) == (200, "R500")


async def test_an_answer_without_a_body_breaks_too() -> None:
    async with mirror() as client:
        await inject_fault(client, kind="cut", times=1)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.delete("/mirror/a")
        await inject_fault(client, kind="wrong-types", times=1)
        wrong = await client.delete("/mirror/a")
        await inject_fault(client, kind="oversized", times=1)
        async with client.stream("DELETE", "/mirror/a") as response:
            received = [len(chunk) async for chunk in response.aiter_raw()]

    assert (wrong.status_code, wrong.json()) == (200, {})
    assert sum(received) == OVERSIZED_BYTES


async def test_retry_after_has_the_configured_duration() -> None:
    async with mirror() as client:
        await inject_fault(client, kind="rate-limited", seconds=2.5)
        response = await client.get("/mirror/a")

    assert response.headers["retry-after"] == "3"


async def test_a_slow_answer_is_late() -> None:
    async with mirror() as client:
        await inject_fault(client, kind="slow", seconds=0.3)
        began = monotonic()
        response = await client.get("/mirror/a")

    assert response.status_code == 200
    assert monotonic() - began >= 0.3


@pytest.mark.parametrize("kind", ["cut", "hang-up"])
async def test_a_connection_ends_too_soon(kind: str) -> None:
    async with mirror() as client:
        await inject_fault(client, kind=kind, times=1)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/mirror/a")
        again = await client.get("/mirror/a")

    assert again.status_code == 200


async def test_a_trickle_never_pauses_for_long() -> None:
    async with mirror() as client:
        await inject_fault(client, kind="trickle", seconds=0.01)
        began = monotonic()
        response = await client.get("/mirror/a")

    assert response.json()["path"] == "/a"
    assert monotonic() - began >= 0.01 * len(response.content)


@pytest.mark.parametrize(("kind", "is_declared"), [("oversized", False), ("declared", True)])
async def test_an_oversized_body_has_its_declared_length(kind: str, is_declared: bool) -> None:
    received = 0
    async with mirror() as client:
        await inject_fault(client, kind=kind)
        async with client.stream("GET", "/mirror/a") as response:
            async for chunk in response.aiter_raw():
                received += len(chunk)

    assert received == OVERSIZED_BYTES
    assert ("content-length" in response.headers) is is_declared


async def test_wrong_types_are_json_still() -> None:
    async with mirror() as client:
        await inject_fault(client, kind="wrong-types")
        response = await client.get("/mirror/a")

    assert response.json() == {"method": ["GET"], "path": ["/a"], "bytes": "seven"}


async def test_answered_requests_are_reported_without_headers_and_bodies() -> None:
    async with mirror() as client:
        await inject_fault(client, kind="error", times=1)
        await client.get("/mirror/a", headers={"authorization": "canary"})
        await client.post("/mirror/b", content=b"canary")
        response = await client.get("/control/requests")

    assert response.json() == [
        {"method": "GET", "path": "/mirror/a", "status": 500, "fault": "error"},
        {"method": "POST", "path": "/mirror/b", "status": 200, "fault": None},
    ]
    assert "canary" not in response.text


async def test_an_unknown_fault_is_refused_with_a_sentence() -> None:
    async with mirror() as client:
        response = await client.post("/control/faults", json={"kind": "boredom"})
        faults = await client.get("/control/faults")

    assert response.status_code == 400
    assert "slow" in response.json()["errors"][0]
    assert faults.json() == []


async def test_a_taken_port_is_a_sentence() -> None:
    async with serving(Simulation({})) as port:
        with pytest.raises(CannotListen, match=f"cannot listen on '127.0.0.1' port {port}"):
            async with serving(Simulation({}), port):
                pass


async def test_it_stops_while_an_answer_is_under_way() -> None:
    async with asyncio.timeout(30):
        async with mirror() as client:
            await inject_fault(client, kind="slow", seconds=60)
            waiting = asyncio.create_task(client.get("/mirror/a"))
            while not (await client.get("/control/requests")).json():
                await asyncio.sleep(0.01)
    with pytest.raises((httpx.HTTPError, RuntimeError)):
        await asyncio.wait_for(waiting, 30)


def test_each_fault_has_a_description() -> None:
    assert set(DESCRIPTIONS) == set(Kind)
