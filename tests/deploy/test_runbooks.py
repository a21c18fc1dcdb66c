"""deploy/runbooks: one page per alert; its commands, settings and statements exist."""

import re
from pathlib import Path

import pytest
import yaml

from deploy.local.services import CHECKOUT
from tests.deploy.promql import known
from tests.support.stack import Stack
from worker.cli.app import app
from worker.config.settings import PREFIX, Settings

RUNBOOKS = CHECKOUT / "deploy/runbooks"
PAGES = sorted(RUNBOOKS.glob("*.md"))
SECTIONS = [
    "What it means",
    "What the customer notices",
    "First look",
    "Likely causes",
    "Fix",
    "Whom to wake, and when",
]
COMMAND = re.compile(r"(?:^|`)stockhook ([a-z]+)", re.MULTILINE)
COMMAND_OF_DEAD = re.compile(r"(?:^|`)stockhook dead ([a-z]+)", re.MULTILINE)
VARIABLE = re.compile(rf"{PREFIX}([A-Z_]+)")
METRIC = re.compile(r"`(stockhook_[a-z_]+)`")
PAGE = re.compile(r"\bStockhook[A-Z][A-Za-z]+")
STATEMENTS = re.compile(r"```sql\n(.*?)```", re.DOTALL)


def severities() -> dict[str, str]:
    groups = yaml.safe_load((CHECKOUT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["labels"]["severity"] for group in groups for rule in group["rules"]}


def test_each_alert_has_a_page_and_each_page_an_alert() -> None:
    assert {page.stem for page in PAGES} == set(severities())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_answers_the_questions_in_their_order(page: Path) -> None:
    text = page.read_text()

    assert text.startswith(f"# {page.stem}\n\nSeverity: {severities()[page.stem]}.\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_only_existing_things(page: Path) -> None:
    text = page.read_text()

    assert set(COMMAND.findall(text)) <= set(app)
    assert set(COMMAND_OF_DEAD.findall(text)) <= set(app["dead"])
    assert {name.lower() for name in VARIABLE.findall(text)} <= set(Settings.model_fields)
    assert set(METRIC.findall(text)) <= known()
    assert set(PAGE.findall(text)) <= set(severities())


async def test_the_statements_of_the_pages_run(stack: Stack) -> None:
    statements = [
        statement.strip()
        for page in PAGES
        for block in STATEMENTS.findall(page.read_text())
        for statement in block.splitlines()
    ]

    assert len(statements) > 5
    for statement in statements:
        await stack.fetch(statement.rstrip(";"))
