"""History of our metrics, from Prometheus' HTTP API (`/api/v1/query_range`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import httpx
from pydantic import BaseModel, Field, ValidationError

from schemas.events import read_model
from worker.config.http import tls_context
from worker.config.urls import split
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import UNAVAILABLE

TIMEOUT_SECONDS = 5.0

# Far more than all families have with the most points.
LONGEST_BYTES = 4_000_000
MOST_SERIES = 1_000


class PrometheusUnavailable(StockhookError):
    """It does not answer, refuses the query, or answers something else."""

    exit_code = UNAVAILABLE

    @property
    def sentence(self) -> str:
        return f"no history from Prometheus ({self}): see STOCKHOOK_PROMETHEUS_URL"


@dataclass(frozen=True, slots=True)
class Span:
    """Instants at which a query is evaluated: `points` of them, the last at `end`."""

    end: datetime
    step: timedelta
    points: int

    @property
    def start(self) -> datetime:
        return self.end - self.step * (self.points - 1)


class _Series(BaseModel):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _Result(BaseModel):
    result: Annotated[list[_Series], Field(max_length=MOST_SERIES)]


class _Answer(BaseModel):
    status: str
    data: _Result | None = None
    error: str = ""


async def query_range(url: str, query: str, span: Span, label: str) -> Mapping[str, list[float | None]]:
    """Of each value of the label, one number per point of the span; None where there is none.

    Raises:
        PrometheusUnavailable
    """
    form = {
        "query": query,
        "start": f"{span.start.timestamp():.3f}",
        "end": f"{span.end.timestamp():.3f}",
        "step": f"{span.step.total_seconds():g}",
        "timeout": f"{TIMEOUT_SECONDS:g}s",
    }
    answer = await _post(url, form)
    if answer.status != "success" or answer.data is None:
        raise PrometheusUnavailable(f"it refuses the query: {answer.error[:200]}")
    rows: dict[str, list[float | None]] = {}
    for series in answer.data.result:
        row = rows.setdefault(series.metric.get(label, ""), [None] * span.points)
        for at, text in series.values:
            place = round((at - span.start.timestamp()) / span.step.total_seconds())
            if 0 <= place < span.points:
                row[place] = _number(text)
    return rows


def _number(text: str) -> float | None:
    """None for NaN and the infinities, which no chart can show.

    Raises:
        PrometheusUnavailable
    """
    try:
        value = float(text)
    except ValueError:
        raise PrometheusUnavailable("it answers something else than numbers") from None
    return value if math.isfinite(value) else None


async def _post(url: str, form: Mapping[str, str]) -> _Answer:
    """Raises: PrometheusUnavailable."""
    try:
        # Not through the environment's proxies, which would read the password.
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False, verify=tls_context()) as client,
            client.stream("POST", f"{url.rstrip('/')}/api/v1/query_range", data=dict(form)) as response,
        ):
            body = b""
            async for part in response.aiter_bytes():
                body += part
                if len(body) > LONGEST_BYTES:
                    raise PrometheusUnavailable("its answer is too long")
    except httpx.TimeoutException:
        raise PrometheusUnavailable(f"no answer within {TIMEOUT_SECONDS:g} s") from None
    except httpx.HTTPError as error:
        raise PrometheusUnavailable(f"it cannot be reached: {type(error).__name__}") from None
    if response.status_code in (401, 403):
        raise PrometheusUnavailable(f"it refuses our user: HTTP {response.status_code}")
    try:
        return read_model(_Answer, body)
    except (ValidationError, ValueError):
        host = split(url).hostname
        raise PrometheusUnavailable(
            f"{host} answers something else than Prometheus: HTTP {response.status_code}"
        ) from None
