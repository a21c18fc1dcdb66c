"""Rules for every file of deploy/."""

import re
from pathlib import Path

import pytest

from deploy.local.services import CHECKOUT
from tests.deploy.tools import DEPLOY, tool
from worker.config.settings import PREFIX, Settings

NAME = re.compile(r"STOCKHOOK_[A-Z0-9_]*[A-Z0-9]")
# Variables that are no settings of the product: the folder of secrets, and options of compose.yaml.
OTHERS = {
    "SECRETS_DIR",
    "VERSION",
    "INGEST_ADDRESS",
    "RABBITMQ_PORT",
    "PROMETHEUS_PORT",
    "GRAFANA_PORT",
}
FILES = sorted(
    path
    for part in (
        "Dockerfile",
        "compose.yaml",
        "compose-secrets",
        "kubernetes/*",
        "systemd/*",
        "gateways/*",
        "*.md",
    )
    for path in DEPLOY.glob(part)
)
SCRIPTS = [DEPLOY / "compose-secrets", DEPLOY / "local/bootstrap", CHECKOUT / ".ci/run"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_setting_that_a_file_names_exists(path: Path) -> None:
    text = path.read_text()
    named = {name.removeprefix(PREFIX) for name in NAME.findall(text)}
    known = {name.upper() for name in Settings.model_fields} | OTHERS

    assert named - known == set()


def test_the_yaml_is_well_formed() -> None:
    result = tool("yamllint", "--strict", "-c", CHECKOUT / "tests/deploy/yamllint.yaml", DEPLOY)

    assert result.returncode == 0, result.stdout


def test_shellcheck_accepts_the_scripts() -> None:
    result = tool("shellcheck", *SCRIPTS)

    assert result.returncode == 0, result.stdout
