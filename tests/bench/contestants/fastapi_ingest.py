"""FastAPI on uvicorn: check the secret, read the event's type and id, publish with FastStream, answer."""

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange

from schemas.events import routing_key
from schemas.ovoko import unwrapped
from schemas.registry import Provider
from tests.bench.contestants.task import Task
from worker.amqp.topology import EVENTS

TASK = Task.read()
EXCHANGE = RabbitExchange(EVENTS, type=ExchangeType.TOPIC, declare=False)

broker = RabbitBroker(
    TASK.amqp_url, default_channel=Channel(on_return_raises=True), apply_types=False, logger=None
)


@asynccontextmanager
async def connected(_: FastAPI) -> AsyncIterator[None]:
    await broker.start()
    yield
    await broker.stop()


app = FastAPI(lifespan=connected)


@app.get("/readyz")
async def ready() -> Response:
    return Response()


@app.post("/webhooks/ovoko")
async def take_in(request: Request) -> Response:
    body = await request.body()
    secret = request.headers.get("x-webhook-secret", "")
    if not hmac.compare_digest(secret.encode(), TASK.secret.encode()):
        return Response(status_code=401)
    event = unwrapped(orjson.loads(body))
    key = routing_key(Provider.OVOKO, event["event_type"])
    # On a quorum queue, persistent, confirmed, returned when unroutable: as in the product.
    await broker.publish(
        body,
        exchange=EXCHANGE,
        routing_key=key,
        mandatory=True,
        persist=True,
        content_type="application/json",
        message_type=key,
        headers={
            "x-provider": Provider.OVOKO.value,
            "x-event-type": event["event_type"],
            "x-event-id": event["event_id"],
            "x-received-at": datetime.now(UTC).isoformat(),
        },
    )
    answer = orjson.dumps({"status": "accepted", "event_id": event["event_id"]})
    return Response(answer, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=TASK.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
