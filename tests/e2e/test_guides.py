"""The commands of the README, the quickstart and the guides, as they stand there, on the real stack.

The blocks of a page run as one script, in a folder that looks like a checkout in which `make run` is up.
Blocks that say what they need (`<!-- needs: … -->`) are left out; those for another terminal
(`<!-- background -->`) run until the end of the test.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.docs.markdown import CHECKOUT, WITH_COMMANDS, Block, blocks, name_of
from tests.support.signing import OTHER_SECRET, PRIVATE_KEY, SECRET
from tests.support.stack import Stack, free_port, until
from worker.change_feed.endpoint import signed_headers
from worker.config.signing_keys import SigningKey

# What a page's commands print, where its end is worth more than exit codes of 0.
PRINTED = {
    "README.md": ('"accepted"', "part.status.changed"),
    "docs/quickstart.md": ('"accepted"', "part.status.changed", '"ready"'),
    "docs/guides/dead-letters.md": (
        "not JSON",
        "1 applied",
        "replayed 1: applied 1, came back 0",
        "order.return.created",
    ),
    "docs/guides/reconcile-and-enrichment.md": ("77", "observed on the marketplace"),
    "docs/guides/seller-actions.md": ("is requested", "OrderCreatedEvent", "dropoff_request"),
}

# Ports in the guides; a test chooses free ones.
DOCUMENTED_PORTS = ("8090", "8099")

# What the guides' commands need a moment for (an event is still in flight) is tried again, as a person would.
STOCKHOOK = """#!/bin/bash
export PYTHONPATH={checkout}
case "$1" in
    simulate|changes) exec {python} -m worker "$@" ;;
esac
for _ in $(seq 20); do
    {python} -m worker "$@"
    code=$?
    [ $code -eq 0 ] && exit 0
    sleep 0.5
done
exit $code
"""
OTHER_GATEWAY_SECRETS = "another-secret-0123456789"

PYTHON = """#!/bin/bash
exec {python} "$@"
"""


def runs(block: Block) -> bool:
    return block.language == "sh" and not block.marker.startswith("needs:")


def blocks_of(page: Path) -> list[Block]:
    return blocks(page.read_text())


# Each of its sections has settings of its own.
GATEWAYS = CHECKOUT / "docs/guides/gateways.md"
RUNNABLE = [page for page in WITH_COMMANDS if page != GATEWAYS and any(map(runs, blocks_of(page)))]


def script(page: Path) -> str:
    """The page's commands; a background block writes into a file of its own."""
    parts = ["set -euo pipefail"]
    for number, block in enumerate(filter(runs, blocks_of(page))):
        if block.marker == "background":
            parts.append(f"(\n{block.text}) >background-{number}.log 2>&1 &")
        else:
            parts.append(block.text)
    return "\n".join(parts)


def checkout_like(folder: Path, page: Path, environment: dict[str, str], ports: dict[str, str]) -> None:
    """A folder in which the commands find what a checkout has, and the settings of the stack."""
    for path in CHECKOUT.iterdir():
        if not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".dev").mkdir()
    exports = (f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    (folder / ".dev/env").write_text("".join(exports))
    for name, text in (("stockhook", STOCKHOOK), ("python", PYTHON)):
        program = folder / ".venv/bin" / name
        program.write_text(text.format(checkout=CHECKOUT, python=sys.executable))
        program.chmod(0o755)
    for block in blocks_of(page):
        if block.marker.startswith("file: "):
            (folder / block.marker.removeprefix("file: ")).write_text(with_ports(block.text, ports))


def with_ports(text: str, ports: dict[str, str]) -> str:
    for documented, port in ports.items():
        text = text.replace(documented, port)
    return text


class Typed:
    """The script of a page as a process; it and its background blocks end with `close`."""

    def __init__(self, text: str, folder: Path) -> None:
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", "-c", text],
                cwd=folder,
                env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.process.wait, 180)

    def close(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
        except ProcessLookupError:
            return


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages use curl")
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
async def test_the_commands_of_a_page_work(stack: Stack, tmp_path: Path, page: Path) -> None:
    stack.environment["STOCKHOOK_KEEP_DEAD_LETTERS"] = "true"
    # With it, `topology --check` would see queues that other tests left.
    stack.environment.pop("STOCKHOOK_MANAGEMENT_URL", None)
    # The guide's first dead letter has the number 1.
    await stack.execute("TRUNCATE dead_letters, dead_letter_audit RESTART IDENTITY")
    await stack.started("run")
    folder = tmp_path / "checkout"
    folder.mkdir()
    ports = {documented: str(free_port()) for documented in DOCUMENTED_PORTS}
    checkout_like(folder, page, stack.environment, ports)
    typed = Typed(with_ports(script(page), ports), folder)
    try:
        code = await typed.exit_code()
        if name_of(page) == "docs/guides/change-feed.md":
            await shows_changes(stack, folder)
    finally:
        typed.close()
    output = typed.output.read_text()

    assert code == 0, output[-5000:]
    for text in PRINTED.get(name_of(page), ()):
        assert text in output


def sections(page: Path) -> dict[str, list[Block]]:
    """The blocks to run of each section that has any, after those that all sections need."""
    common, *others = re.split(r"^(?=## (?!For each))", page.read_text(), flags=re.MULTILINE)
    return {
        text.partition("\n")[0].removeprefix("## "): [
            *filter(runs, blocks(common)),
            *filter(runs, blocks(text)),
        ]
        for text in others
        if any(map(runs, blocks(text)))
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")
@pytest.mark.parametrize("section", sections(GATEWAYS))
async def test_a_gateway_of_the_guide_is_accepted_with_its_secret_alone(
    stack: Stack, tmp_path: Path, section: str
) -> None:
    found = sections(GATEWAYS)[section]
    settings = {
        name: "".join(shlex.split(value))
        for block in found
        if block.marker == "settings"
        for name, value in re.findall(r"^export (\S+?)=(.+)$", block.text, flags=re.MULTILINE)
    }
    text = "\n".join(["set -euo pipefail", *(block.text for block in found)])
    folder = tmp_path / "checkout"
    folder.mkdir()
    checkout_like(folder, GATEWAYS, stack.environment, {})
    ingest = await stack.started("ingest", **settings)
    accepted = Typed(text, folder)
    codes = [await accepted.exit_code()]
    first = accepted.output.read_text()
    assert ingest.stop() == 0
    other = {name: OTHER_GATEWAY_SECRETS for name in settings if name.endswith("_GATEWAY_SECRETS")}
    if any("whsec_" in value for value in settings.values()):
        other = dict.fromkeys(other, SECRET)
    await stack.started("ingest", **{**settings, **other})
    refused = Typed(text, folder)
    codes.append(await refused.exit_code())

    assert codes[0] == 0, first
    assert '"accepted"' in first
    if other:
        # What curl ends with after 401.
        assert codes[1] == 22
        assert '"accepted"' not in refused.output.read_text()


async def shows_changes(stack: Stack, folder: Path) -> None:
    """Each subscriber of the guide shows a change: the endpoint that of curl, the others one of ours."""
    logs = sorted(folder.glob("background-*.log"))
    numbers = count(1)

    async def all_show_one() -> bool:
        await sell_or_return(stack, next(numbers))
        return all("part.sold" in log.read_text() for log in logs)

    try:
        assert len(logs) == 3
        await until(all_show_one, f"a change is shown: {[log.read_text() for log in logs]}", 30)
    finally:
        await stack.delete_queue("shop.parts")


async def sell_or_return(stack: Stack, number: int) -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=number)
    document = {
        "event_id": f"00000000-0000-4000-8000-{number:012}",
        "event_type": "part.status.changed",
        "timestamp": at.isoformat(),
        "event_data": {"part_id": "13", "status": ("returned", "sold")[number % 2], "external_id": None},
    }
    await stack.post_ovoko(json.dumps(document).encode())


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
async def test_the_endpoint_in_node_accepts_what_stockhook_signs_and_nothing_else(tmp_path: Path) -> None:
    guide = CHECKOUT / "docs/guides/change-feed.md"
    (source,) = (block.text for block in blocks_of(guide) if block.marker == "file: endpoint.mjs")
    port = str(free_port())
    (tmp_path / "endpoint.mjs").write_text(source.replace("8099", port))
    keys = [SigningKey.read(text) for text in (PRIVATE_KEY, OTHER_SECRET, SECRET)]
    body = b'{"type": "stockhook.part.sold", "subject": "13"}'
    signed = signed_headers(keys, "id", datetime.now(UTC), body)
    late = signed_headers(keys, "id", datetime.now(UTC) - timedelta(hours=1), body)
    process = subprocess.Popen(
        ["node", "endpoint.mjs"], cwd=tmp_path, env={**os.environ, "ENDPOINT_SECRET": SECRET}
    )

    async def answer(headers: dict[str, str], sent: bytes) -> int:
        async with httpx.AsyncClient() as client:
            return (await client.post(f"http://127.0.0.1:{port}/", headers=headers, content=sent)).status_code

    async def listens() -> bool:
        try:
            return await answer(signed, body) == 204
        except httpx.TransportError:
            return False

    try:
        await until(listens, "it accepts a signed change")
        assert await answer(signed, body + b" ") == 401
        assert await answer(late, body) == 401
    finally:
        process.terminate()
        process.wait(10)


async def test_the_statements_of_the_pages_run(stack: Stack) -> None:
    statements = [
        statement
        for page in WITH_COMMANDS
        for block in blocks_of(page)
        if block.language == "sql"
        for statement in re.split(r";\s*\n", block.text.strip().rstrip(";"))
    ]

    assert statements
    for statement in statements:
        await stack.fetch(statement)
