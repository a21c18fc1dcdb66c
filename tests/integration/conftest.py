"""A certificate authority, and TLS of the broker by a certificate of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.services import Services
from tests.support.authority import Authority, make_authority
from tests.support.stack import free_port


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "right")


@pytest.fixture
def amqps_port(services: Services, authority: Authority) -> Iterator[int]:
    """RabbitMQ's own TLS listener, beside its others."""
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
