"""`stockhook send`: play documented events at an ingest."""

import sys
from time import perf_counter
from typing import Annotated, NoReturn

import httpx
import orjson
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from schemas.events import Provider
from schemas.examples import as_printed
from schemas.examples import documented as documented_examples
from worker.send.webhook import webhook
from worker.settings import Settings, read_settings

USAGE = 2
UNAVAILABLE = 69


def send(
    *,
    documented: bool = False,
    with_printed: Annotated[bool, Parameter(name="--as-printed", negative=())] = False,
    provider: Provider | None = None,
    url: str | None = None,
    json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Play documented events at an ingest.

    Parameters
    ----------
    documented
        Send every event that the marketplaces' documents print, once.
    with_printed
        With --documented: also the four that are no JSON, as printed.
    provider
        Only this one's events.
    url
        The ingest; by default where STOCKHOOK_INGEST_HOST and STOCKHOOK_INGEST_PORT say it is.
    json
        Print a JSON object a line.
    """
    if not documented:
        _fail(USAGE, "nothing to send: give --documented")
    settings = read_settings()
    base = url or default_url(settings)
    examples = documented_examples() + (as_printed() if with_printed else ())
    answers = []
    with httpx.Client(base_url=base, timeout=20) as client:
        for example in examples:
            if provider not in (None, example.provider):
                continue
            request = webhook(example.provider, example.event_type, example.body, settings)
            began = perf_counter()
            try:
                answer = client.post(request.path, headers=request.headers, content=request.body)
            except httpx.TransportError as error:
                _fail(UNAVAILABLE, f"no answer from the ingest at {base} ({type(error).__name__})")
            took = (perf_counter() - began) * 1000
            event_id = answer.json().get("event_id")
            answers.append((example, answer.status_code, event_id, took))
    if json:
        for example, status, event_id, took in answers:
            line = {
                "provider": example.provider,
                "name": example.name,
                "status": status,
                "event_id": event_id,
                "milliseconds": round(took, 1),
            }
            print(orjson.dumps(line).decode())
    else:
        table = Table("event", "answer", "event id", "ms", box=None)
        for example, status, event_id, took in answers:
            table.add_row(example.name, str(status), event_id or "", f"{took:.1f}")
        Console().print(table)
    sys.exit(0 if all(200 <= status < 300 for _, status, _, _ in answers) else 1)


def default_url(settings: Settings) -> str:
    """Where an ingest with these settings listens, as seen from the same machine."""
    host = "127.0.0.1" if settings.ingest_host in ("0.0.0.0", "::") else settings.ingest_host
    return f"http://{host}:{settings.ingest_port}"


def _fail(code: int, words: str) -> NoReturn:
    print(f"stockhook: {words}", file=sys.stderr)
    sys.exit(code)
