"""The generated pages are not stale, and leave nothing out."""

from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest

from deploy.documents.metrics import exported, series_names
from deploy.documents.pages import PAGES
from schemas.events import event_models
from schemas.registry import Provider
from worker.observability import metrics


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_generated_page_is_what_the_code_says(path: Path) -> None:
    assert path.read_text() == PAGES[path](), "type `make docs`"


def test_each_exported_metric_of_ours_is_on_the_page() -> None:
    text = b"".join(map(generate_latest, (REGISTRY, metrics.INGEST, metrics.CONSUMER))).decode()
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE stockhook_")}
    known = {name for metric, _ in exported() for name in (metric._name, *series_names(metric))}

    assert {name.removesuffix("_created") for name in told} <= known


def test_each_event_type_has_its_section() -> None:
    page = next(path for path in PAGES if path.name == "EVENTS.md").read_text()
    sections = {line for line in page.splitlines() if line.startswith("### ")}

    assert sections == {f"### `{name}`" for provider in Provider for name in event_models(provider)}
