"""`stockhook health`, as a container's health check calls it."""

from tests.support.stack import Stack, free_port


async def test_it_is_well_when_the_process_answers(stack: Stack) -> None:
    worker = await stack.started("consume", "orders")
    port = str(worker.ops_port)
    alive = stack.run("health", STOCKHOOK_OPS_PORT=port, STOCKHOOK_OPS_HOST="0.0.0.0")
    ready = stack.run("health", "--ready", "--port", port)

    assert (alive.returncode, alive.stdout) == (0, '{"status": "alive"}\n')
    assert ready.returncode == 0
    assert '"status":"ready"' in ready.stdout


async def test_a_process_without_its_broker_is_alive_but_not_ready(stack: Stack) -> None:
    worker = stack.start("consume", "orders", STOCKHOOK_AMQP_URL=f"amqp://127.0.0.1:{free_port()}/")
    port = str(worker.ops_port)
    while stack.run("health", "--port", port).returncode:
        assert worker.process.poll() is None, worker.lines()
    ready = stack.run("health", "--ready", "--port", port)

    assert ready.returncode == 1
    assert '"status":"not ready"' in ready.stderr


async def test_an_absent_process_is_one_sentence_and_exit_1(stack: Stack) -> None:
    port = free_port()
    health = stack.run("health", "--port", str(port))

    assert (health.returncode, health.stderr) == (
        1,
        f"no answer from 127.0.0.1:{port} (ConnectionRefusedError)\n",
    )
