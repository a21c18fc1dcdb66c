"""The ingest behind nginx with its default idle timeout, on a network with latency."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

import httpx

from tests.support.events import body, order_created
from tests.support.fault_proxy import FaultProxy, Way
from tests.support.nginx import running_nginx
from tests.support.stack import OVOKO_SECRET, Stack, free_port, until

LATENCY = timedelta(milliseconds=5)
CLIENTS = 60
# A server that closes idle connections after five seconds, which is common, would close one of these while
# the next request arrives.
FIRST_PAUSE_SECONDS = 4.95
PAUSES_APART_SECONDS = 0.002

# One upstream per client, so that each has its own connection.
UPSTREAM = """
    upstream client{number} {{
        server 127.0.0.1:{port};
        keepalive 1;
    }}
"""
SERVER = """
    server {{
        listen 127.0.0.1:{port};
        location ~ ^/([0-9]+)$ {{
            proxy_pass http://client$1/webhooks/ovoko;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
"""


async def test_requests_over_idle_connections_of_nginx_are_all_answered(stack: Stack, tmp_path: Path) -> None:
    await stack.started("ingest")
    port = free_port()
    with FaultProxy("127.0.0.1", int(stack.environment["STOCKHOOK_INGEST_PORT"])) as network:
        network.shape(Way(latency=LATENCY))
        upstreams = [UPSTREAM.format(number=number, port=network.port) for number in range(CLIENTS)]
        with running_nginx(tmp_path, "".join([*upstreams, SERVER.format(port=port)])):
            async with httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=None)) as client:
                statuses = await _post_with_pauses(client, port)
        connections = network.counts["connections"]

    assert statuses == Counter({200: 3 * CLIENTS})
    assert connections == CLIENTS, "each was used again"
    assert await stack.depths() == {"stockhook.orders": 3 * CLIENTS}


async def _post_with_pauses(client: httpx.AsyncClient, port: int) -> Counter[int]:
    async def post(number: int) -> int:
        answer = await client.post(
            f"http://127.0.0.1:{port}/{number % CLIENTS}",
            content=body(order_created(number)),
            headers={"X-Webhook-Secret": OVOKO_SECRET},
        )
        return answer.status_code

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    async def one(number: int) -> list[int]:
        statuses = [await post(number)]
        for time in (1, 2):
            await asyncio.sleep(FIRST_PAUSE_SECONDS + number * PAUSES_APART_SECONDS)
            statuses.append(await post(number + time * CLIENTS))
        return statuses

    await until(listens, "nginx listens")
    outcomes = await asyncio.gather(*map(one, range(CLIENTS)))
    return Counter(status for statuses in outcomes for status in statuses)
