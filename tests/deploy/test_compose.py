"""deploy/compose.yaml and its secrets."""

import shutil
import stat
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from deploy.local.services import CHECKOUT
from tests.deploy.tools import DEPLOY, documents, run, tool
from worker.cli.app import app
from worker.config.console_accounts import Role, read_accounts
from worker.config.settings import Settings, read_settings
from worker.console.server import check

COMPOSE = DEPLOY / "compose.yaml"
ONE_SHOT = {"migrate", "topology"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    (document,) = documents(COMPOSE)
    return document


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    made = run(DEPLOY / "compose-secrets", folder)
    assert made.returncode == 0, made.stderr
    return folder


def test_it_fits_the_schema_of_compose_files() -> None:
    result = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)

    assert result.returncode == 0, result.stdout


def test_compose_itself_reads_it() -> None:
    result = tool("docker-compose", "--file", COMPOSE, "config", "--quiet")

    assert (result.returncode, result.stderr) == (0, "")


def test_services_have_health_checks_and_one_off_jobs_are_awaited(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        health = service.get("healthcheck", {})
        assert ("test" in health) != (name in ONE_SHOT), name
        for other, condition in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
            assert condition == {"condition": wanted}, (name, other)


def test_its_commands_are_commands(compose: dict[str, Any]) -> None:
    own = [service for service in compose["services"].values() if "build" in service]

    assert {service["command"][0] for service in own} == {
        "ingest",
        "consume",
        "console",
        "migrate",
        "topology",
    }
    for service in own:
        assert service["command"][0] in app


def test_every_mounted_file_exists(compose: dict[str, Any]) -> None:
    mounts = [
        DEPLOY / mount.split(":")[0]
        for service in compose["services"].values()
        for mount in service.get("volumes", [])
        if mount.startswith(".")
    ]
    configs = [DEPLOY / config["file"] for config in compose["configs"].values()]

    assert len(mounts) >= 5
    assert [path for path in mounts + configs if not path.exists()] == []


def test_its_prometheus_looks_at_the_jobs_and_rules_that_the_alerts_go_by(compose: dict[str, Any]) -> None:
    def read(path: Path) -> tuple[set[str], set[str]]:
        (document,) = documents(path)
        return (
            {job["job_name"] for job in document["scrape_configs"]},
            {Path(name).name for name in document["rule_files"]},
        )

    assert read(DEPLOY / "compose/prometheus.yml") == read(DEPLOY / "prometheus/prometheus.yml")
    assert "./prometheus:/etc/prometheus/rules:ro" in compose["services"]["prometheus"]["volumes"]


def test_no_password_is_in_the_file(compose: dict[str, Any]) -> None:
    """Each password is in a file that the script creates."""
    for service in compose["services"].values():
        for name in service.get("environment", {}):
            assert "PASS" not in name or name.endswith("_FILE"), name
            assert name not in ("STOCKHOOK_AMQP_URL", "STOCKHOOK_DATABASE_URL")


def test_the_script_makes_every_secret_and_the_product_can_read_them(
    compose: dict[str, Any], secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**compose["x-environment"], "STOCKHOOK_SECRETS_DIR": str(secrets)}.items():
        monkeypatch.setenv(name, value)
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        assert (secrets / name).read_text().strip()
    settings = read_settings()

    password = (secrets / "rabbitmq_password").read_text().strip()
    assert settings.amqp_url.get_secret_value() == f"amqp://stockhook:{password}@rabbitmq:5672/stockhook"
    assert f"default_pass = {password}" in (secrets / "rabbitmq.conf").read_text()
    assert settings.encryptor is not None
    assert len(settings.ovoko_secrets) == len(settings.buyback_tokens) == 1


def test_the_console_starts_with_the_account_of_the_script(
    compose: dict[str, Any], secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = compose["services"]["console"]
    monkeypatch.setenv("STOCKHOOK_CONSOLE_HOST", "0.0.0.0")
    for name, value in {**console["environment"], "STOCKHOOK_SECRETS_DIR": str(secrets)}.items():
        monkeypatch.setenv(name, "" if value.startswith("${") else value)
    settings = read_settings()
    check(settings)
    (account,) = settings.console_accounts

    assert "STOCKHOOK_CONSOLE_HOST=0.0.0.0" in (DEPLOY / "Dockerfile").read_text()
    assert account.password.matches((secrets / "console_password").read_text().strip())
    assert (account.name, account.roles) == ("admin", {Role.READER, Role.OPERATOR})


def test_the_script_hashes_with_openssl_where_python_is_missing(tmp_path: Path) -> None:
    """And it says what is missing where there is neither."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("base64", "cat", "chmod", "dirname", "head", "mkdir", "mv", "od", "openssl", "sh", "tr"):
        program = shutil.which(name)
        assert program is not None, name
        (tools / name).symlink_to(program)

    def make() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["sh", DEPLOY / "compose-secrets", tmp_path / "secrets"],
            env={"PATH": str(tools)},
            capture_output=True,
            text=True,
            check=False,
        )

    (tools / "openssl").rename(tools / "elsewhere")
    without = make()
    (tools / "elsewhere").rename(tools / "openssl")
    made = make()
    (account,) = read_accounts(
        [SecretStr((tmp_path / "secrets/stockhook_console_users").read_text().strip())]
    )

    assert without.returncode == 1
    assert without.stderr.endswith("cannot be hashed: install python3 or OpenSSL 3\n")
    assert made.returncode == 0, made.stderr
    assert account.password.matches((tmp_path / "secrets/console_password").read_text().strip())


def test_only_this_machine_reaches_the_console_and_it_trusts_only_its_bridge(compose: dict[str, Any]) -> None:
    """A port on another address would send passwords in clear."""
    console = compose["services"]["console"]
    (network,) = compose["networks"]["console"]["ipam"]["config"]
    users = [name for name, one in compose["services"].items() if "console" in one.get("networks", ())]

    assert console["ports"] == ["127.0.0.1:${STOCKHOOK_CONSOLE_PORT:-8081}:8081"]
    assert console["environment"]["STOCKHOOK_CONSOLE_TRUSTED_PROXIES"] == network["gateway"]
    assert ip_address(network["gateway"]) in ip_network(network["subnet"])
    assert users == ["console"]


def test_the_console_reads_the_ops_ports_of_services_that_it_reaches(compose: dict[str, Any]) -> None:
    console = compose["services"]["console"]
    urls = [urlsplit(url) for url in console["environment"]["STOCKHOOK_CONSOLE_OPS_URLS"].split(",")]

    assert {url.hostname for url in urls} == {"ingest", "consumer"}
    assert {url.port for url in urls} == {Settings.model_fields["ops_port"].default}
    for url in urls:
        assert set(compose["services"][url.hostname]["networks"]) & set(console["networks"])


def test_a_second_run_of_the_script_changes_nothing(secrets: Path) -> None:
    def texts() -> dict[str, str]:
        return {path.name: path.read_text() for path in secrets.iterdir()}

    before = texts()
    (secrets / "grafana_password").unlink()
    again = run(DEPLOY / "compose-secrets", secrets)
    after = texts()
    changed = {name for name in before if before[name] != after[name]}

    assert again.returncode == 0
    assert changed == {"grafana_password"}


def test_secrets_are_closed_to_other_users_and_open_to_containers(secrets: Path) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()}

    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert modes == {0o644}


def test_secrets_are_excluded_from_commits_and_images() -> None:
    ignored = run("git", "check-ignore", "deploy/secrets/stockhook_sealing_keys")

    assert ignored.returncode == 0
    assert (CHECKOUT / ".dockerignore").read_text().splitlines()[1] == "*"
