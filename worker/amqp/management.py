"""RabbitMQ's management API, for what AMQP does not show. It may not be reachable."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import quote, unquote

import httpx

from schemas.events import read_json
from worker.amqp.hosts import Host, all_reasons, hosts_of_url
from worker.amqp.policies import hazards
from worker.amqp.topology import Binding, Topology
from worker.config.http import http_date, tls_context
from worker.config.urls import split
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import UNAVAILABLE

T = TypeVar("T")

PREFIX = "stockhook."

TIMEOUT = httpx.Timeout(10, connect=3)


class ManagementUnavailable(StockhookError):
    """The API does not answer, or refuses our user."""

    exit_code = UNAVAILABLE

    @property
    def sentence(self) -> str:
        return f"no answer from the management API ({self})"


def vhost_of(amqp_url: str) -> str:
    """The virtual host of a URL; `/` if it names none."""
    return unquote(split(amqp_url).path[1:]) or "/"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The API's answers. `ahead_seconds`: how far the broker's clock is ahead of ours, to a second."""

    queues: list[dict[str, object]]
    nodes: list[dict[str, object]]
    ahead_seconds: float | None


@dataclass(slots=True)
class Management:
    """`url` has user, password and one or several hosts; `amqp_url` names the vhost."""

    url: str
    amqp_url: str
    hosts: tuple[Host, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.hosts = hosts_of_url(self.url)

    async def snapshot(self) -> Snapshot:
        """Queues and nodes.

        Raises:
            ManagementUnavailable
        """

        async def get(client: httpx.AsyncClient) -> Snapshot:
            queues = await _get(client, f"/api/queues/{self._vhost}")
            response = await client.get("/api/nodes")
            response.raise_for_status()
            return Snapshot(queues, _list(response), _ahead(response.headers.get("date")))

        return await self._from_a_host(get)

    async def differences(self, expected: Topology) -> list[str]:
        """Missing bindings, unexpected items with our prefix, and policies that would lose events.

        Raises:
            ManagementUnavailable
        """

        async def get(client: httpx.AsyncClient) -> list[list[dict[str, object]]]:
            kinds = ("bindings", "queues", "exchanges")
            return [await _get(client, f"/api/{kind}/{self._vhost}") for kind in kinds]

        bindings, queues, exchanges = await self._from_a_host(get)
        return [
            *_binding_differences(bindings, expected.bindings),
            *_extra("queue", queues, (queue.name for queue in expected.queues)),
            *_extra("exchange", exchanges, (exchange.name for exchange in expected.exchanges)),
            *(
                f"{hazard}: override it with {hazard.remedy}"
                for hazard in hazards(queues, expected.queues, vhost_of(self.amqp_url))
            ),
        ]

    async def failing_hosts(self) -> dict[str, str]:
        """Query each host, and return why those that fail do not answer, by their names."""

        async def get(client: httpx.AsyncClient) -> None:
            (await client.get("/api/whoami")).raise_for_status()

        failures = await asyncio.gather(*(_query(host, get) for host in self.hosts))
        return {
            host.name: str(failure)
            for host, failure in zip(self.hosts, failures, strict=True)
            if isinstance(failure, ManagementUnavailable)
        }

    async def _from_a_host(self, get: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
        """The answer of the first host that answers.

        Raises:
            ManagementUnavailable: No host answers.
        """
        failures: dict[str, str] = {}
        for host in self.hosts:
            answer = await _query(host, get)
            if not isinstance(answer, ManagementUnavailable):
                return answer
            failures[host.name] = str(answer)
        raise ManagementUnavailable(all_reasons(failures))

    @property
    def _vhost(self) -> str:
        """The virtual host, encoded for a path."""
        return quote(vhost_of(self.amqp_url), safe="")


async def _query(host: Host, get: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T | ManagementUnavailable:
    """The answer of a host, or the reason why there is none."""
    try:
        # Not through the environment's proxies, which would read the password.
        async with httpx.AsyncClient(
            base_url=host.url, timeout=TIMEOUT, trust_env=False, verify=tls_context()
        ) as client:
            return await get(client)
    except httpx.HTTPStatusError as error:
        # Its text quotes the URL, password included.
        return ManagementUnavailable(f"status {error.response.status_code}")
    except (httpx.HTTPError, ValueError) as error:
        return ManagementUnavailable(type(error).__name__)


def _ahead(date: str | None) -> float | None:
    at = http_date(date)
    return None if at is None else (at - datetime.now(UTC)).total_seconds()


async def _get(client: httpx.AsyncClient, path: str) -> list[dict[str, object]]:
    response = await client.get(path)
    response.raise_for_status()
    return _list(response)


def _list(response: httpx.Response) -> list[dict[str, object]]:
    """Raises: ValueError."""
    items = read_json(response.content)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError("not a list of objects")
    return items


def _binding_differences(bindings: Iterable[dict[str, object]], expected: Iterable[Binding]) -> list[str]:
    live = {
        Binding(str(binding.get("source")), str(binding.get("destination")), str(binding.get("routing_key")))
        for binding in bindings
        if str(binding.get("source")).startswith(PREFIX)
    }
    expected_bindings = set(expected)
    return [
        *(f"{_described(binding)} is missing" for binding in sorted(expected_bindings - live, key=str)),
        *(f"{_described(binding)} is not ours" for binding in sorted(live - expected_bindings, key=str)),
    ]


def _described(binding: Binding) -> str:
    return f"binding {binding.exchange} --{binding.routing_key}--> {binding.queue}"


def _extra(kind: str, items: Iterable[dict[str, object]], expected: Iterable[str]) -> list[str]:
    names = {str(item.get("name")) for item in items if str(item.get("name")).startswith(PREFIX)}
    return [f"{kind} {name} is not ours" for name in sorted(names - set(expected))]
