"""`stockhook health`: checks the process on this machine, for a container's health check."""

import http.client
import sys

from worker.cli.context import Flag
from worker.cli.terminal import say
from worker.config.settings import read_settings
from worker.observability.exit_codes import FAILED

TIMEOUT_SECONDS = 5
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def health(
    *,
    ready: Flag = False,
    port: int | None = None,
) -> None:
    """Request /livez from the ops port; exit code 0 if the process is healthy, otherwise 1.

    Parameters
    ----------
    ready
        Request /readyz instead, which also fails while broker or database are unavailable.
    port
        The port, if not STOCKHOOK_OPS_PORT: under `stockhook run`, the ingest uses the next port.
    """
    settings = read_settings()
    host = ANYWHERE.get(settings.ops_host, settings.ops_host)
    status, body = _get(host, port or settings.ops_port, "/readyz" if ready else "/livez")
    say(body, file=sys.stdout if status == 200 else sys.stderr)
    sys.exit(0 if status == 200 else FAILED)


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    """Status and body; status 0 and the reason if there is no answer."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        return 0, f"no answer from {host}:{port} ({type(error).__name__})"
    finally:
        connection.close()
