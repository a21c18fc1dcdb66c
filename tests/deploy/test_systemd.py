"""deploy/systemd: systemd's checks of the units, and the relations between units."""

import re
import shutil
from pathlib import Path

import pytest

from consumers.registry import FAMILIES
from tests.deploy.tools import DEPLOY, system_tool
from worker.config.settings import Settings
from worker.observability.signals import HANG_SECONDS

SYSTEMD = DEPLOY / "systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))
# In tenths: 1.5 of 10, which is a service without any sandbox.
EXPOSURE = 15


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root folder with the units, the units that they depend on, and a command to start."""
    units = tmp_path / "etc/systemd/system"
    shutil.copytree(SYSTEMD, units)
    for folder in (Path("/usr/lib/systemd/system"), Path("/lib/systemd/system")):
        if folder.exists():
            shutil.copytree(folder, tmp_path / "usr/lib/systemd/system", symlinks=True)
            break
    command = tmp_path / "opt/stockhook/bin/stockhook"
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    return tmp_path


def verify(machine: Path) -> str:
    units = ["stockhook-ingest.service", "stockhook-migrate.service", "stockhook.target"]
    units += ["stockhook-console.service", "stockhook-retain.service", "stockhook-retain.timer"]
    units += [f"stockhook-consumer@{family}.service" for family in FAMILIES]
    return system_tool("systemd-analyze", "verify", "--man=no", f"--root={machine}", *units).stderr


def test_systemd_accepts_the_units(machine: Path) -> None:
    assert verify(machine) == ""


def test_systemd_rejects_a_broken_unit(machine: Path) -> None:
    unit = machine / "etc/systemd/system/stockhook-ingest.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSeconds="))

    assert "WatchdogSeconds" in verify(machine)


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_units_may_do_little(unit: Path) -> None:
    result = system_tool(
        "systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", unit
    )

    assert result.returncode == 0, result.stdout


def test_the_target_wants_every_family_and_each_has_a_port_of_its_own() -> None:
    wanted = re.findall(r"^Wants=stockhook-consumer@(\w+)\.service$", text("stockhook.target"), re.MULTILINE)
    ports = {number("STOCKHOOK_OPS_PORT", text(f"consumer-{family}.env")) for family in FAMILIES}

    assert wanted == list(FAMILIES)
    assert len(ports) == len(FAMILIES)


def test_the_console_reads_every_ops_port_and_waits_for_accounts() -> None:
    urls = re.findall(r"http://127\.0\.0\.1:(\d+)", text("console.env"))
    ports = {number("STOCKHOOK_OPS_PORT", text(f"consumer-{family}.env")) for family in FAMILIES}
    console = text("stockhook-console.service")

    assert {*map(int, urls)} == {Settings.model_fields["ops_port"].default} | ports
    assert "Wants=stockhook-console.service\n" in text("stockhook.target")
    assert "ConditionPathExists=/etc/stockhook/credentials/stockhook_console_users\n" in console
    assert re.search(r"^After=.* stockhook-migrate\.service$", console, re.MULTILINE)
    assert text("environment").count("\nSTOCKHOOK_CONSOLE_") == 0, "it listens on this machine alone"


@pytest.mark.parametrize(
    "name", ["stockhook-ingest.service", "stockhook-consumer@.service", "stockhook-console.service"]
)
def test_a_unit_waits_for_in_flight_deliveries_and_for_the_report_of_a_hung_loop(name: str) -> None:
    unit = text(name)

    assert number("TimeoutStopSec", unit) >= number("STOCKHOOK_SHUTDOWN_GRACE", unit) + 20
    assert number("WatchdogSec", unit) > HANG_SECONDS
    assert "Type=notify\n" in unit


def test_each_unit_gets_the_secrets_that_it_needs_and_no_others() -> None:
    def secrets(name: str) -> set[str]:
        return set(re.findall(r"^LoadCredential=stockhook_(\w+):", text(name), re.MULTILINE))

    assert secrets("stockhook-ingest.service") == {
        "amqp_url",
        "ovoko_secrets",
        "buyback_tokens",
        "sealing_keys",
    }
    assert secrets("stockhook-consumer@.service") == {"amqp_url", "database_url"}
    assert secrets("stockhook-console.service") == {
        "amqp_url",
        "database_url",
        "console_users",
        "sealing_keys",
    }
    assert secrets("stockhook-migrate.service") == {"database_url"}
    assert secrets("stockhook-retain.service") == {"database_url"}


def text(name: str) -> str:
    return (SYSTEMD / name).read_text()


def number(key: str, unit: str) -> int:
    match = re.search(rf"{key}=(\d+)", unit)
    assert match is not None, key
    return int(match[1])
