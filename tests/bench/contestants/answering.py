"""The HTTP server of the product's ingest without the ingest: each request is answered 200 at once."""

from tests.bench.contestants.task import Task, stopped
from worker.config.settings import Settings
from worker.ingest.acceptor import BACKLOG
from worker.ingest.connection_limits import ConnectionLimits
from worker.ingest.exchange import Request, Response
from worker.ingest.http_connection import Limits
from worker.ingest.http_server import serving
from worker.ingest.trusted_proxies import TrustedProxies
from worker.observability.file_limit import files_for_connections
from worker.observability.resolver import run_loop

# As long as the ingest's answer.
ANSWER = Response(200, b'{"status":"accepted","event_id":"00000000-0000-4000-8000-000000000000"}')


async def handle(request: Request) -> Response:
    # The ingest's senders have presented their secret: the server then treats them as no strangers.
    request.authenticated()
    return ANSWER


async def main() -> None:
    task = Task.read()
    settings = Settings(ovoko_secrets=task.secret)  # type: ignore[arg-type]  # a string, as in the environment
    connections = ConnectionLimits(
        files_for_connections(settings.ingest_connections, BACKLOG), settings.ingest_connections_per_address
    )
    limits = Limits(settings.ingest_idle_timeout, connections=connections)
    proxies = TrustedProxies(settings.trusted_proxies)
    async with serving(handle, "127.0.0.1", task.port, limits, settings.shutdown_grace, proxies):
        await stopped()


if __name__ == "__main__":
    run_loop(main())
