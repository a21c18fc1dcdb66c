"""A broker URL with several hosts: the choice of a host, and the treatment of failed ones."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from random import Random
from typing import TypeVar
from urllib.parse import quote, urlsplit

import pytest
from pamqp import commands, frame
from structlog.testing import capture_logs

from deploy.local.services import Services
from tests.support.authority import Authority
from tests.support.events import body, order_created
from tests.support.fault_proxy import FaultProxy
from tests.support.stack import Stack, free_port, until
from worker.amqp.connection import Broker
from worker.amqp.errors import BrokerRefused, BrokerUnavailable
from worker.amqp.management import Management, ManagementUnavailable
from worker.amqp.topology import topology

T = TypeVar("T")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class InOrder(Random):
    """A generator that does not shuffle."""

    def sample(self, population: Sequence[T], k: int, **_: object) -> list[T]:  # type: ignore[override]
        return list(population)[:k]


def broker(url: str) -> Broker:
    return Broker(url, "test", _rng=InOrder())


def at(stack: Stack, *hosts: str, user: str = "", vhost: str = "", scheme: str = "amqp") -> str:
    """The URL of the stack's broker with other hosts; {} is replaced by its own."""
    parts = urlsplit(stack.environment["STOCKHOOK_AMQP_URL"])
    credentials, _, own = parts.netloc.rpartition("@")
    listed = ",".join(hosts or ("{}",)).format(own)
    return f"{scheme}://{user or credentials}@{listed}/{vhost or parts.path.removeprefix('/')}"


@asynccontextmanager
async def listener(serve: Serve, host: str = "127.0.0.1", **options: object) -> AsyncIterator[str]:
    """A host that accepts connections and handles them with this function."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, host, 0, **options)  # type: ignore[arg-type]
    name = f"[{host}]" if ":" in host else host
    yield f"{name}:{server.sockets[0].getsockname()[1]}"
    server.close()


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(1024):
        pass


async def refuse_login(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse the login, as a reset node without our users does."""
    await reader.readexactly(8)
    start = commands.Connection.Start(mechanisms="PLAIN", locales="en_US")
    writer.write(frame.marshal(start, 0))
    await reader.read(4096)
    writer.write(frame.marshal(commands.Connection.Close(403, "ACCESS_REFUSED - Login was refused", 0, 0), 0))
    await reader.read(4096)


def relay_to(port: int) -> Serve:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, onward), copy(onward_reader, writer))

    return relay


def port_of(stack: Stack) -> int:
    port = urlsplit(stack.environment["STOCKHOOK_AMQP_URL"]).port
    assert port is not None
    return port


async def used(of: Broker, *, publishes: bool = False) -> str:
    async with of.connection(publishes=publishes) as connection:
        await connection.channel()
        return connection.host


@pytest.fixture
def proxies(stack: Stack) -> Iterator[list[FaultProxy]]:
    with ExitStack() as opened:
        yield [opened.enter_context(FaultProxy("127.0.0.1", port_of(stack))) for _ in range(3)]


async def test_hosts_that_do_not_answer_are_passed_over_and_tried_last_for_a_while(stack: Stack) -> None:
    dead = f"127.0.0.1:{free_port()}"
    accepted = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await silence(reader, writer)

    async with listener(count) as silent:
        several = broker(at(stack, dead, silent, "{}"))
        with capture_logs() as lines:
            hosts = [await used(several) for _ in range(3)]

    assert hosts == [f"127.0.0.1:{port_of(stack)}"] * 3
    assert [(line["event"], line["host"], line["reason"]) for line in lines] == [
        ("broker.host_failed", dead, "Connection refused"),
        ("broker.host_failed", silent, "no answer in time"),
    ]
    assert accepted == 1


async def test_a_host_that_is_silent_after_the_tls_handshake_is_abandoned(
    stack: Stack, authority: Authority
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.certificate, authority.key)

    async def hold(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with listener(hold, ssl=context) as silent:
        url = at(stack, silent, silent.replace("127.0.0.1", "localhost"), scheme="amqps")
        with pytest.raises(BrokerUnavailable) as unavailable:
            async with asyncio.timeout(20):
                await used(broker(f"{url}?cafile={authority.ca}"))

    assert f"{silent}: no answer in time; localhost:" in str(unavailable.value)


async def test_when_no_host_answers_each_is_named_with_its_reason(stack: Stack) -> None:
    dead = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    url = at(stack, *dead, "nowhere.invalid")

    with pytest.raises(BrokerUnavailable) as unavailable:
        await used(broker(url))
    ended = stack.run("topology", STOCKHOOK_AMQP_URL=url, STOCKHOOK_ENVIRONMENT="development")

    assert str(unavailable.value).startswith(
        f"{dead[0]}, {dead[1]}: Connection refused; nowhere.invalid:5672: "
    )
    (sentence,) = [line for line in ended.stderr.splitlines() if line.startswith("stockhook: ")]
    assert ended.returncode == 69
    assert sentence.startswith("stockhook: cannot reach the broker (")
    assert all(f"{host}" in sentence for host in (*dead, "nowhere.invalid:5672"))


async def test_a_host_that_refuses_us_is_passed_over_where_another_accepts(stack: Stack) -> None:
    async with listener(refuse_login) as reset:
        assert await used(broker(at(stack, reset, "{}"))) == f"127.0.0.1:{port_of(stack)}"


async def test_a_refusal_is_final_if_no_other_host_accepts(stack: Stack) -> None:
    own = f"127.0.0.1:{port_of(stack)}"
    other = f"localhost:{port_of(stack)}"
    dead = f"127.0.0.1:{free_port()}"
    with pytest.raises(BrokerRefused) as refused:
        await used(broker(at(stack, dead, own, other, user="stranger:hunter2")))

    assert f"{dead}: Connection refused; {own}, {other}: 403 ACCESS_REFUSED" in str(refused.value)
    assert "correct user or password in STOCKHOOK_AMQP_URL" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_an_ipv6_address_and_encoded_credentials_and_virtual_hosts(
    stack: Stack, services: Services
) -> None:
    if services.rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    user, password, vhost = "us:er@h,1", "p/w?#[,]", "v/h,ö"
    services.rabbitmq.ctl("add_user", user, password)
    services.rabbitmq.ctl("add_vhost", vhost)
    services.rabbitmq.ctl("set_permissions", "-p", vhost, user, ".*", ".*", ".*")
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
    try:
        async with listener(relay_to(port_of(stack)), "::1") as here:
            dead = f"127.0.0.1:{free_port()}"
            url = at(stack, dead, here, user=credentials, vhost=quote(vhost, safe=""))
            ended = await asyncio.to_thread(stack.run, "topology", STOCKHOOK_AMQP_URL=url)
            assert await used(broker(url)) == here
    finally:
        services.rabbitmq.ctl("delete_vhost", vhost)
        services.rabbitmq.ctl("delete_user", user)

    assert (ended.returncode, ended.stdout) == (0, "declared\n")


async def test_the_name_of_each_host_is_verified(stack: Stack, amqps_port: int, authority: Authority) -> None:
    misnamed, named = f"localhost:{amqps_port}", f"127.0.0.1:{amqps_port}"
    url = f"{at(stack, misnamed, named, scheme='amqps')}?cafile={authority.ca}"
    with capture_logs() as lines:
        host = await used(broker(url))

    assert host == named
    (line,) = lines
    assert line["host"] == misnamed
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in line["reason"]


async def test_the_publishers_and_the_consumers_of_a_process_use_different_hosts(
    stack: Stack, proxies: list[FaultProxy]
) -> None:
    names = [f"127.0.0.1:{proxy.port}" for proxy in proxies]
    several = Broker(at(stack, *names), "test")
    async with AsyncExitStack() as opened:
        publishers = {
            (await opened.enter_async_context(several.for_role("p").connection(publishes=True))).host
            for _ in range(2)
        }
        consumers = {(await opened.enter_async_context(several.connection())).host for _ in range(4)}

        assert len(publishers) == 1
        assert consumers == set(names) - publishers

    assert {(host.publishing, host.consuming) for host in several.hosts} == {(0, 0)}


async def test_a_host_whose_connection_was_lost_is_tried_last(
    stack: Stack, proxies: list[FaultProxy]
) -> None:
    lost, other, _ = proxies
    several = broker(at(stack, f"127.0.0.1:{lost.port}", f"127.0.0.1:{other.port}"))
    async with several.connection() as connection:
        channel = await connection.channel()
        lost.reset()
        await channel.wait_closed()

    assert await used(several) == f"127.0.0.1:{other.port}"
    assert await used(broker(several.url)) == f"127.0.0.1:{lost.port}"


@pytest.mark.parametrize("needed", ["a confirm", "a declaration"])
async def test_a_host_that_stops_responding_is_tried_last(
    stack: Stack, proxies: list[FaultProxy], monkeypatch: pytest.MonkeyPatch, needed: str
) -> None:
    monkeypatch.setattr("worker.amqp.connection.PROVIDE_SECONDS", 0.2)
    silent, other, _ = proxies
    several = broker(at(stack, f"127.0.0.1:{silent.port}", f"127.0.0.1:{other.port}"))
    async with several.connection() as connection:
        channel = await connection.channel()
        silent.half_open()
        if needed == "a confirm":
            assert not await channel.accepts_publishes(0.2)
        else:
            with pytest.raises(BrokerUnavailable, match="no answer in time to a declaration"):
                await connection.channel_with(topology(stack.settings.delays), declares=True)

    assert await used(several) == f"127.0.0.1:{other.port}"


async def test_the_management_api_of_the_first_responding_host_is_used(stack: Stack) -> None:
    url = stack.environment.get("STOCKHOOK_MANAGEMENT_URL")
    if url is None:
        pytest.skip("needs a RabbitMQ of our own")
    dead = f"127.0.0.1:{free_port()}"
    own = urlsplit(url).netloc.rpartition("@")[2]
    management = Management(url.replace(own, f"{dead},{own}"), at(stack))
    unreachable = Management(url.replace(own, f"{dead},{own}/nowhere"), at(stack))

    assert (await management.snapshot()).nodes
    with pytest.raises(ManagementUnavailable) as unavailable:
        await unreachable.snapshot()
    assert str(unavailable.value) == f"{dead}: ConnectError; {own}: status 404"


async def test_doctor_writes_only_json_to_standard_output_when_hosts_do_not_respond(stack: Stack) -> None:
    dead = [f"127.0.0.1:{free_port()}" for _ in range(3)]

    done = stack.run("doctor", "--json", STOCKHOOK_AMQP_URL=at(stack, *dead, "{}"))

    named = [finding["what"].split()[0] for finding in json.loads(done.stdout)["findings"]]
    assert set(dead) <= set(named)
    assert hosts_logged(done.stderr, "broker.host_failed")


def hosts_logged(lines: str, event: str) -> list[str]:
    return [entry["host"] for entry in map(json.loads, lines.splitlines()) if entry.get("event") == event]


async def test_events_pass_while_hosts_come_and_go(stack: Stack, proxies: list[FaultProxy]) -> None:
    names = {f"127.0.0.1:{proxy.port}": proxy for proxy in proxies}
    stack.environment["STOCKHOOK_AMQP_URL"] = at(stack, *names)
    running = stack.start("run")
    await stack.ready(running, 60)
    sent = 0

    async def post() -> None:
        nonlocal sent
        assert (await stack.post_ovoko(body(order_created(sent)))).status_code == 200
        sent += 1

    async def all_are_applied() -> bool:
        return await stack.count("orders") == sent

    for _ in range(2):
        publishing = hosts_logged(running.lines(), "publisher.connected")
        lost = names[publishing[-1]]
        lost.refuse()
        lost.reset()
        for _ in range(20):
            await post()

        async def has_moved(before: int = len(publishing)) -> bool:
            return len(hosts_logged(running.lines(), "publisher.connected")) > before

        await until(has_moved, "a publisher is on another host", 60)
        lost.heal()
    await until(all_are_applied, "all events are applied", 60)

    text = running.lines()
    assert set(hosts_logged(text, "consumer.started")) <= set(names)
    assert re.search(urlsplit(at(stack)).password or "x", text) is None
