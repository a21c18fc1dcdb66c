"""deploy/grafana: dashboards query only existing metrics."""

import json
from typing import Any

import pytest
import yaml

from deploy.local.services import CHECKOUT
from schemas.trace_context import TraceContext
from tests.deploy.promql import known, queried_series
from worker.observability.tracing import exemplar_of

GRAFANA = CHECKOUT / "deploy/grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, dashboard in sorted(DASHBOARDS.items())
    for panel in dashboard["panels"]
]


def test_dashboards_have_distinct_ids() -> None:
    assert {dashboard["uid"] for dashboard in DASHBOARDS.values()} == set(DASHBOARDS)
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 4


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_lets_one_choose_the_prometheus(name: str) -> None:
    variables = {variable["name"]: variable for variable in DASHBOARDS[name]["templating"]["list"]}
    used = {variable for variable in ("family",) if f"${variable}" in json.dumps(DASHBOARDS[name]["panels"])}

    assert variables["datasource"]["query"] == "prometheus"
    assert used <= set(variables)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_panels_of_a_dashboard_do_not_overlap(name: str) -> None:
    cells = [
        (x, y)
        for panel in DASHBOARDS[name]["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_queries_existing_series(panel: dict[str, Any]) -> None:
    queried = {name for target in panel["targets"] for name in queried_series(target["expr"])}

    assert queried - known() == set()
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_annotations_query_existing_series(name: str) -> None:
    queried = {
        series
        for annotation in DASHBOARDS[name]["annotations"]["list"]
        for series in queried_series(annotation["expr"])
    }

    assert queried <= known()


def test_the_provisioning_is_yaml_of_version_1() -> None:
    files = sorted((GRAFANA / "provisioning").glob("*.yml"))

    assert [yaml.safe_load(file.read_text())["apiVersion"] for file in files] == [1, 1]


def test_exemplars_are_links_to_traces() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources.yml").read_text())["datasources"]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    shown = [target for panel in DASHBOARDS["stockhook-pipeline"]["panels"] for target in panel["targets"]]

    assert destination["name"] in (exemplar_of(TraceContext("1" * 32, "1" * 16, True)) or {})
    assert "${__value.raw}" in destination["url"]
    assert [queried_series(target["expr"]) for target in shown if target.get("exemplar")] == [
        {"messaging_process_duration_seconds_bucket"}
    ]
