"""RabbitMQ's management API, where it is reachable: what AMQP itself cannot be asked."""

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
    """The API does not answer, or not to us."""

    exit_code = UNAVAILABLE

    @property
    def sentence(self) -> str:
        return f"no answer from the management API ({self})"


def vhost_of(amqp_url: str) -> str:
    """A URL that names none means `/`."""
    return unquote(split(amqp_url).path[1:]) or "/"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """As the API gives it; `ahead_seconds` is how far the broker's clock is before ours, to a second."""

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
        """Bindings that are missing, what of our name is too many, and policies that would lose events.

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
        """Why hosts do not answer, or not to us, by their names; each is asked."""

        async def get(client: httpx.AsyncClient) -> None:
            (await client.get("/api/whoami")).raise_for_status()

        failures = await asyncio.gather(*(_ask(host, get) for host in self.hosts))
        return {
            host.name: str(failure)
            for host, failure in zip(self.hosts, failures, strict=True)
            if isinstance(failure, ManagementUnavailable)
        }

    async def _from_a_host(self, get: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
        """What the first host has to say that answers.

        Raises:
            ManagementUnavailable: None does.
        """
        failures: dict[str, str] = {}
        for host in self.hosts:
            answer = await _ask(host, get)
            if not isinstance(answer, ManagementUnavailable):
                return answer
            failures[host.name] = str(answer)
        raise ManagementUnavailable(all_reasons(failures))

    @property
    def _vhost(self) -> str:
        """As a part of a path."""
        return quote(vhost_of(self.amqp_url), safe="")


async def _ask(host: Host, get: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T | ManagementUnavailable:
    """What a host answers, or why it does not."""
    try:
        # The environment's proxies are not for it: they would read its password.
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
    found = read_json(response.content)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError("not a list of objects")
    return found


def _binding_differences(found: Iterable[dict[str, object]], expected: Iterable[Binding]) -> list[str]:
    live = {
        Binding(str(one.get("source")), str(one.get("destination")), str(one.get("routing_key")))
        for one in found
        if str(one.get("source")).startswith(PREFIX)
    }
    wanted = set(expected)
    return [
        *(f"{_words(one)} is missing" for one in sorted(wanted - live, key=str)),
        *(f"{_words(one)} is not ours" for one in sorted(live - wanted, key=str)),
    ]


def _words(binding: Binding) -> str:
    return f"binding {binding.exchange} --{binding.routing_key}--> {binding.queue}"


def _extra(kind: str, found: Iterable[dict[str, object]], expected: Iterable[str]) -> list[str]:
    names = {str(one.get("name")) for one in found if str(one.get("name")).startswith(PREFIX)}
    return [f"{kind} {name} is not ours" for name in sorted(names - set(expected))]
