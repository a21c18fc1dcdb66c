"""A certificate authority, and TLS of the broker with its certificate."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from deploy.local.services import Services
from tests.support.authority import Authority, make_authority
from tests.support.stack import free_port
from worker.observability.resolver import Loop

# Modules whose server runs in the test process, on the product's event loop.
ON_THE_LOOP_OF_THE_PRODUCT = ("test_http_server.py", "test_ingest_limits.py", "test_ingest_tls.py")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"loop": Loop if item.path.name in ON_THE_LOOP_OF_THE_PRODUCT else asyncio.new_event_loop}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "right")


@pytest.fixture
def amqps_port(services: Services, authority: Authority) -> Iterator[int]:
    """An additional TLS listener of RabbitMQ."""
    if services.rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    port = free_port()
    options = f'[{{certfile, "{authority.certificate}"}}, {{keyfile, "{authority.key}"}}]'
    services.rabbitmq.ctl(
        "eval",
        "rabbit_networking:ensure_ssl(), "
        f'rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}}, {options}, 2).',
    )
    yield port
    services.rabbitmq.ctl("eval", f'rabbit_networking:stop_tcp_listener({{"127.0.0.1", {port}}}).')
