"""The page of benchmarks has the figures of the saved runs."""

from deploy.documents.pages import parts_of, with_parts
from tests.bench.page import PAGE, parts, saved


def test_the_page_has_the_figures_of_the_saved_runs() -> None:
    text = PAGE.read_text()

    assert set(parts_of(text)) == {"results", "not-reached"}
    assert text == with_parts(text, parts(saved())), "run `make docs`"


def test_a_run_is_shown_with_its_conditions_and_verdicts() -> None:
    figure = {
        "measure": "drain",
        "unit": "events/s",
        "contestant": "stockhook",
        "median": 1250.0,
        "low": 1200.0,
        "high": 1300.0,
        "ratio": None,
        "target": None,
        "verdict": None,
    }
    ratio = {"median": 2.0, "low": 1.5, "high": 2.5}
    other = figure | {"contestant": "other", "ratio": ratio, "target": "≥ 2", "verdict": "not decided"}
    reached = other | {"contestant": "third", "verdict": "reached"}
    names = ("command", "date", "checkout", "machine", "software", "rounds", "cores used by other processes")
    run = {
        "conditions": [{"what": name, "how": f"the {name}"} for name in names],
        "problems": ["latency: Failed: lost"],
        "figures": [figure, other, reached],
    }
    made = {name: part() for name, part in parts({"main.json": run}).items()}

    for name in names:
        assert f"the {name}".lower() in made["results"].lower()
    assert "(benchmarks/main.json)" in made["results"]
    assert "**Failed: latency: Failed: lost**" in made["results"]
    assert "| drain (events/s) | stockhook | 1,250 (1,200 to 1,300) |  |  |  |" in made["results"]
    assert "|  | other | 1,250 (1,200 to 1,300) | 2 (1.5 to 2.5) | ≥ 2 | not decided |" in made["results"]
    assert made["not-reached"] == (
        "- **drain, other:** 1,250 (1,200 to 1,300) events/s, "
        "ratio 2 (1.5 to 2.5); target ≥ 2: not decided.\n"
    )


def test_a_page_without_misses_says_so() -> None:
    assert parts({})["not-reached"]() == "Each target of the runs above is reached.\n"
