"""A simulated gateway process in front of both marketplaces, and rotations of its secrets under load."""

import re

from tests.support.simulated_gateway import Gateway, load
from tests.support.stack import Stack, Worker, until

OLD, NEW = "gateway-secret-old-0123456789", "gateway-secret-new-9876543210"


def printed(worker: Worker) -> dict[str, str]:
    return dict(re.findall(r"^export (\S+)=(\S+)$", worker.lines(), flags=re.MULTILINE))


async def restarted(stack: Stack, ingest: Worker, secrets: str) -> Worker:
    assert ingest.stop() == 0
    stack.environment["STOCKHOOK_GATEWAY_SECRETS"] = secrets
    return await stack.started("ingest")


async def is_applied(stack: Stack, events: int) -> None:
    async def are_logged() -> bool:
        return await stack.count("event_log") == events

    await until(are_logged, f"{events} events are in the event log", 60)


async def test_secrets_rotated_under_load_lose_nothing_and_nothing_is_refused(stack: Stack) -> None:
    stack.environment |= {"STOCKHOOK_GATEWAY": "hookdeck", "STOCKHOOK_GATEWAY_SECRETS": OLD}
    await stack.started("consume")
    ingest = await stack.started("ingest")
    gateway = await Gateway(stack, "hookdeck").ready()
    async with load(stack.settings, gateway.url, 60) as sent:
        await gateway.accepts(100)
        await gateway.control("rotate", {"secret": NEW})
        await gateway.accepts(100)
        ingest = await restarted(stack, ingest, f"{NEW},{OLD}")
        await gateway.accepts(100)
        await gateway.control("retire")
        await gateway.accepts(100)
        await restarted(stack, ingest, NEW)
        await gateway.accepts(100)
    state = await gateway.is_empty()
    await is_applied(stack, state["accepted"])
    audit = stack.run("audit", "--json")

    assert sent.sent == sent.accepted == state["accepted"] == state["delivered"]
    assert (state["given_up"], state["refused"], state["keys"]) == (0, 0, 1)
    # Connections fail while the ingest restarts. All its answers are 200.
    assert {answer for answer in state["answers"] if answer.isdigit()} == {"200"}
    assert audit.returncode == 0, audit.stdout
    providers = await stack.fetch("SELECT DISTINCT provider FROM event_log")
    assert len(providers) == 2


async def test_a_secret_that_the_ingest_does_not_know_yet_is_401_until_it_does(stack: Stack) -> None:
    """The gateway repeats requests that were answered 401, so that a missing secret can be added."""
    stack.environment |= {"STOCKHOOK_GATEWAY": "hookdeck", "STOCKHOOK_GATEWAY_SECRETS": OLD}
    await stack.started("consume")
    ingest = await stack.started("ingest")
    gateway = await Gateway(stack, "hookdeck").ready()
    secret = (await gateway.control("rotate"))["secret"]
    await gateway.control("retire")
    sending = stack.start("send", "--rate", "20", "--seconds", "1", "--url", gateway.url, "--json")
    assert sending.wait(60) == 0

    async def are_refused() -> bool:
        return (await gateway.state())["answers"].get("401", 0) >= 20

    await until(are_refused, "they are answered 401")
    assert await stack.count("event_log") == 0
    await restarted(stack, ingest, secret)
    state = await gateway.is_empty()
    await is_applied(stack, 20)

    assert (state["accepted"], state["delivered"], state["given_up"]) == (20, 20, 0)


async def test_the_printed_settings_accept_the_sent_requests(stack: Stack) -> None:
    """Without the marketplace's headers, and with a generated secret."""
    gateway = await Gateway(stack, "svix").ready()
    settings = printed(gateway.worker)
    stack.environment |= settings
    await stack.started("consume")
    await stack.started("ingest")
    sending = stack.start("send", "--rate", "20", "--seconds", "1", "--url", gateway.url, "--json")
    assert sending.wait(60) == 0
    state = await gateway.is_empty()
    await is_applied(stack, 20)

    assert settings["STOCKHOOK_GATEWAY"] == "svix"
    assert settings["STOCKHOOK_GATEWAY_REQUIRE"] == "gateway"
    assert {answer for answer in state["answers"] if answer.isdigit()} == {"200"}
    assert gateway.worker.stop() == 0
    assert "gateway.stopped" in gateway.worker.lines()


async def test_an_impossible_simulation_is_one_sentence(stack: Stack) -> None:
    simulate = ("simulate", "gateway", "--port", "0", "--forward-to")
    results = [
        stack.run(*simulate, stack.url),
        stack.run(*simulate, stack.url, "--scheme", "unknown"),
        stack.run(*simulate, stack.url, "--scheme", "svix", "--time-scale", "-1"),
        stack.run(*simulate, "elsewhere", "--scheme", "svix"),
        stack.run(*simulate, stack.url, "--scheme", "svix", "--secrets-file", "/nowhere"),
    ]

    assert [result.returncode for result in results] == [2, 2, 2, 2, 78]
    assert "hookdeck, standard-webhooks" in results[1].stderr
    assert "Traceback" not in "".join(result.stderr for result in results)
