"""The generated parts of the reference pages are current and complete."""

from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest

from deploy.documents.metrics import exported, series_names
from deploy.documents.pages import FILES, PARTS, REFERENCE, TABLES, pages, parts_of, with_parts
from schemas.events import event_models
from schemas.registry import Provider
from worker.observability import exit_codes, metrics
from worker.processes import ingest_process


def read(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_a_page_has_the_generated_parts_that_the_code_makes(path: Path) -> None:
    without_database = {name: part for name, part in PARTS.items() if name != TABLES}
    text = path.read_text()

    assert text == with_parts(text, without_database), "run `make docs`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_generated_file_matches_the_code(path: Path) -> None:
    assert path.read_text() == FILES[path](), "run `make docs`"


def test_each_generated_part_is_in_one_page() -> None:
    names = [name for path in pages() for name in parts_of(path.read_text())]

    assert sorted(names) == sorted(PARTS)


def test_each_exported_metric_of_ours_is_on_the_page() -> None:
    text = b"".join(map(generate_latest, (REGISTRY, metrics.INGEST, metrics.CONSUMER))).decode()
    exposed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE stockhook_")}
    known = {name for metric, _ in exported() for name in (metric._name, *series_names(metric))}

    assert {name.removesuffix("_created") for name in exposed} <= known


def test_each_event_type_has_its_section() -> None:
    sections = {line for line in read("events").splitlines() if line.startswith("### ")}

    assert sections == {f"### `{name}`" for provider in Provider for name in event_models(provider)}


def test_each_exit_code_of_the_code_is_on_the_page() -> None:
    codes = {value for value in vars(exit_codes).values() if isinstance(value, int)}
    rows = {line.split("|")[1].strip() for line in read("exit-codes").splitlines() if line.startswith("| ")}

    assert {str(code) for code in codes | {0, ingest_process.FAILED}} == rows - {"code", "---", "128 + N"}
