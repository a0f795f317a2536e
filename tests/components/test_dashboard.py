"""The page of a stack's runs: what is on it, from which metrics, and that none is of one run."""

import ast
import json
from itertools import pairwise

import pytest

PAGE = "pushtrain-dashboard-page"
RUN_ENDS = {"RunsSucceeded", "RunsFailed", "RunsCancelled", "RunSeconds", "CostUsd"}


@pytest.fixture(scope="module")
def shown(deploy):
    return deploy.whole({"metrics": True, "dashboard": True, "champion.metric": "val.f1"})


@pytest.fixture(scope="module")
def widgets(shown):
    return shown.document(PAGE, "dashboardBody")["widgets"]


def of_type(widgets, kind):
    return [widget["properties"] for widget in widgets if widget["type"] == kind]


def test_no_stack_has_one_unless_it_asks_for_it(dev):
    assert dev.of_type("aws:cloudwatch/dashboard:Dashboard") == []


def test_it_is_called_for_its_stack(shown, deploy):
    other = deploy.whole({"metrics": True, "dashboard": True}, stack="test")

    assert shown.inputs(PAGE)["dashboardName"] == "pushtrain-dev"
    assert other.inputs(PAGE)["dashboardName"] == "pushtrain-test"


def test_every_metric_is_the_stacks_and_one_that_somebody_writes(widgets, root):
    metrics = [each for found in of_type(widgets, "metric") for each in found["metrics"]]
    sources = [root / "handler/metrics.py", root / "trainer/history.py"]
    written = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert {(space, key, stack) for space, _, key, stack in metrics} == {
        ("pushtrain", "stack", "dev")
    }
    assert {name for _, name, *_ in metrics} - written == {"val.f1"}
    assert {name for _, name, *_ in metrics} > RUN_ENDS | {"AttemptsSpot", "AttemptsOnDemand"}


def test_runs_are_told_apart_by_the_log_which_is_no_metric(widgets):
    (table,) = of_type(widgets, "log")

    assert table["title"] == "val.f1 by run"
    assert table["query"].split(" | ") == [
        "SOURCE 'pushtrain-trigger-observe-logs-0a1b2c3'",
        "SOURCE 'pushtrain-trigger-reconcile-logs-0a1b2c3'",
        "fields @timestamp, run, image_tag, state, `val.f1`, RunSeconds, CostUsd",
        "filter ispresent(RunSeconds)",
        "sort @timestamp desc",
        "limit 50",
    ]


def test_widgets_lie_beside_and_below_each_other(widgets):
    for left, right in pairwise(widgets):
        assert (left["y"], left["x"]) < (right["y"], right["x"])
    assert all(each["x"] >= 0 and each["x"] + each["width"] <= 24 for each in widgets)
    assert {found["region"] for kind in ("log", "metric") for found in of_type(widgets, kind)} == {
        "us-east-1"
    }


def test_it_fits_into_what_cloudwatch_takes(shown):
    # 500 widgets, and what a PutDashboard request may hold.
    assert len(json.dumps(shown.inputs(PAGE))) < 20_000
