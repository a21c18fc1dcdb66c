"""Charts of more than the last hour, from a real Prometheus with a day of our metrics."""

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from deploy.local.packages import PROMETHEUS, DownloadFailed, apt_is_here, downloaded
from deploy.local.services import PACKAGES
from tests.support.console import browser, console, sign_in
from tests.support.stack import Stack, free_port, until

MINUTES = 24 * 60
# This many minutes ago, more events waited than at any other time.
PEAK = 600
PER_SECOND = 5


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of prometheus and promtool."""
    installed = shutil.which("prometheus")
    if installed is not None and shutil.which("promtool") is not None:
        return Path(installed).parent
    if not apt_is_here():
        pytest.skip("needs Prometheus; here there is none, nor apt")
    try:
        return downloaded(PROMETHEUS, PACKAGES, print) / "usr/bin"
    except DownloadFailed as error:
        pytest.skip(f"needs Prometheus: {error}")


def _day(now: int) -> str:
    """A day of the metrics of orders, one point per minute, as OpenMetrics."""
    minutes = [(now - 60 * ago, ago) for ago in range(MINUTES, 0, -1)]
    return "\n".join(
        [
            "# TYPE stockhook_applied counter",
            *(
                f'stockhook_applied_total{{family="orders"}} {(MINUTES - ago) * 60 * PER_SECOND} {at}'
                for at, ago in minutes
            ),
            "# TYPE stockhook_queue_messages gauge",
            *(
                f'stockhook_queue_messages{{family="orders",role="work"}} {100 if ago == PEAK else 7} {at}'
                for at, ago in minutes
            ),
            "# EOF\n",
        ]
    )


@asynccontextmanager
async def _prometheus(programs: Path, folder: Path) -> "AsyncIterator[tuple[str, subprocess.Popen[bytes]]]":
    day, data, config = folder / "day", folder / "data", folder / "prometheus.yml"
    day.write_text(_day(int(datetime.now(UTC).timestamp()) // 60 * 60))
    config.write_text("global:\n  scrape_interval: 15s\n")
    subprocess.run(
        [programs / "promtool", "tsdb", "create-blocks-from", "openmetrics", day, data],
        check=True,
        capture_output=True,
    )
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                programs / "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                "--storage.tsdb.retention.time=30d",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"

    async def is_ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{url}/-/ready")).status_code == 200
        except httpx.TransportError:
            return False

    try:
        await until(is_ready, "Prometheus is ready")
        yield url, process
    finally:
        process.terminate()
        process.wait(30)


async def test_longer_charts_come_from_prometheus(stack: Stack, programs: Path, tmp_path: Path) -> None:
    async with (
        _prometheus(programs, tmp_path) as (prometheus, process),
        console(stack, STOCKHOOK_PROMETHEUS_URL=prometheus) as (url, _),
        browser(url) as client,
    ):
        await sign_in(client)
        hour = (await client.get("/families/orders.json")).json()
        day = (await client.get("/families/orders.json?hours=24")).json()
        page = (await client.get("/families/orders?hours=24")).text
        overview = (await client.get("/overview.json?hours=24")).json()
        week = (await client.get("/families/orders.json?hours=168")).json()
        process.terminate()
        process.wait(30)
        again = (await client.get("/families/orders.json?hours=24")).json()
        away = await client.get("/families/orders?hours=6")

    points = day["waiting"]
    assert (hour["hours"], day["hours"], len(points), len(day["applied"])) == (1, 24, 120, 120)
    assert max(point for point in points if point is not None) == 100
    assert abs(points.index(100) - (120 - PEAK / 12)) <= 2, "the peak is where it was"
    assert points.count(100) <= 2
    assert {round(point) for point in day["applied"][5:-2]} == {PER_SECOND}
    assert max(point for point in overview["history"]["orders"] if point is not None) == 100
    assert overview["history"]["returns"] == []
    assert week["waiting"][:100] == [None] * 100, "Prometheus has nothing older than a day"
    assert "Waiting events, last 24 hours" in page
    assert 'href="/families/orders?hours=168"' in page
    assert again["waiting"] == points, "all viewers share an answer for a while"
    assert away.status_code == 200
    assert "No history from Prometheus (it cannot be reached: ConnectError)" in away.text


@pytest.mark.parametrize(
    ("hours", "sentence"),
    [
        ("24", "need STOCKHOOK_PROMETHEUS_URL"),
        ("2", "Charts have 1, 6, 24, 168 hours"),
        ("x" * 10_000, "Charts have 1, 6, 24, 168 hours"),
        ("%00", "Charts have 1, 6, 24, 168 hours"),
    ],
)
async def test_hours_that_cannot_be_shown_are_a_sentence(stack: Stack, hours: str, sentence: str) -> None:
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        pages = [await client.get(f"{path}?hours={hours}") for path in ("/families/orders", "/overview")]
        view = (await client.get(f"/families/orders.json?hours={hours}")).json()

    assert [page.status_code for page in pages] == [200, 200]
    assert all(sentence in page.text for page in pages)
    assert view["hours"] == 1
