"""deploy/compose.yaml and its secrets."""

import stat
from pathlib import Path
from typing import Any

import pytest

from deploy.local.services import CHECKOUT
from tests.deploy.tools import DEPLOY, documents, run, tool
from worker.cli.app import app
from worker.config.settings import read_settings

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

    assert {service["command"][0] for service in own} == {"ingest", "consume", "migrate", "topology"}
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
