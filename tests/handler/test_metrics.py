"""Lines of the log that become metrics, if the stack has them; a run ends with or without."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import metrics, runs
from handler.events import rfc3339
from handler.wiring import load_wiring
from tests import emf
from tests.handler.test_crashes import CANCEL, RUN, publish

NOW = datetime(2026, 1, 2, 4, tzinfo=UTC)
WIRING = "/pushtrain/dev/wiring"
ENDS = {"RunsSucceeded", "RunsFailed", "RunsCancelled"}


def metered(account, **changes):
    """Let the account's stack have metrics."""
    wiring = json.loads(account.parameters[WIRING])
    account.parameters[WIRING] = json.dumps(wiring | {"metrics": True} | changes)
    return account


def with_metrics(wires) -> Any:
    return {**wires, "metrics": True}


@pytest.fixture
def watched(aws):
    return metered(aws)


@pytest.fixture
def lines(capsys):
    """Return a function that gives the metric lines written since it was asked last."""

    def read():
        return [line for line in capsys.readouterr().out.splitlines() if emf.is_one(line)]

    return read


def stop(aws, event, name):
    last = aws.record(RUN)["attempts"][-1]
    told = {"taskArn": last["task_arn"], "startedBy": last["request"]["startedBy"]}
    aws.stop(aws.end(event(name, detail=told)))


def end_of(lines):
    (line,) = lines()
    return emf.metrics_of(line), emf.read(line)


def record(wires, *, state: Any = "SUCCEEDED", providers=(), **changes) -> Any:
    """A run that took 90 minutes, with attempts on these."""
    run = runs.claimed(
        image={"repository": "r", "uri": "u", "digest": "sha256:" + "a" * 64, "tags": ["g-1"]},
        parameters={},
        wiring=with_metrics(wires),
        data=None,
    )
    told: Any = {"cause": "exit", "summary": "", "detail": "", "action": ""}
    run = runs.ended(run, state, told)
    attempts = [
        {"request": {"capacityProviderStrategy": [{"capacityProvider": each, "weight": 1}]}}
        for each in providers
    ]
    times = {"created_at": "2026-01-02T01:00:00.000Z", "ended_at": "2026-01-02T02:30:00.000Z"}
    return {**run, **times, "attempts": attempts, **changes}


def test_a_success_is_told_with_exactly_these(watched, event, lines):
    watched.push(event("push-oci"))
    publish(watched)
    assert lines() == []

    stop(watched, event, "task-succeeded")

    found, document = end_of(lines)
    told = watched.record(RUN)
    took = datetime.fromisoformat(told["ended_at"]) - datetime.fromisoformat(told["created_at"])
    assert found == {
        "RunsSucceeded": (1, "Count"),
        "RunSeconds": (took.total_seconds(), "Seconds"),
        "CostUsd": (told["cost"]["usd"], "None"),
        "AttemptsSpot": (1, "Count"),
        "AttemptsOnDemand": (0, "Count"),
        "accuracy": (0.9, "None"),
    }
    facts = {name: document[name] for name in document.keys() - found.keys() - {"_aws"}}
    assert facts == {
        "stack": "dev",
        "run": RUN,
        "state": "SUCCEEDED",
        "image_tag": "g-0123456789abcdef0123456789abcdef01234567",
    }
    time = datetime.fromtimestamp(document["_aws"]["Timestamp"] / 1000, UTC)
    assert timedelta() <= datetime.now(UTC) - time < timedelta(minutes=10)


def test_a_failure_on_spot_and_then_on_demand_has_no_accuracy(watched, event, lines):
    watched.push(event("push-oci"))
    stop(watched, event, "task-spot-interruption")
    assert lines() == []  # the run goes on

    stop(watched, event, "task-exit-1")

    found, document = end_of(lines)
    assert found.keys() == {
        "RunsFailed",
        "RunSeconds",
        "CostUsd",
        "AttemptsSpot",
        "AttemptsOnDemand",
    }
    assert (found["AttemptsSpot"], found["AttemptsOnDemand"]) == ((1, "Count"), (1, "Count"))
    assert document["state"] == "FAILED"


def test_a_cancelled_run_is_no_failure(watched, event, lines):
    watched.push(event("push-oci"))
    watched.reconcile(CANCEL)
    lines()

    stop(watched, event, "task-user-stopped")

    found, _ = end_of(lines)
    assert found.keys() & ENDS == {"RunsCancelled"}


def test_an_end_is_told_once_however_often_it_is_delivered(watched, event, lines):
    watched.push(event("push-oci"))
    publish(watched)
    arn = watched.record(RUN)["attempts"][-1]["task_arn"]
    stopped = watched.end(event("task-succeeded", detail={"taskArn": arn}))
    for _ in range(3):
        watched.stop(stopped)

    assert len(lines()) == 1


def test_a_topic_that_refuses_makes_no_more_ends_than_there_were(watched, event, lines):
    watched.push(event("push-oci"))
    watched.errors["Publish"] = ["InternalError", "InternalError"]
    with pytest.raises(Exception, match="InternalError"):
        stop(watched, event, "task-exit-1")
    with pytest.raises(ExceptionGroup, match="InternalError"):
        watched.reconcile()
    watched.reconcile()

    ends = [line for line in lines() if ENDS & emf.metrics_of(line).keys()]
    assert len(ends) == 1


def test_a_crash_behind_the_notice_tells_the_end_at_least_once(watched, event, crash, lines):
    watched.push(event("push-oci"))

    def after(operation, _params):
        if operation == "Publish":
            raise crash

    watched.after = after
    with pytest.raises(crash):
        stop(watched, event, "task-exit-1")
    watched.recover()
    watched.reconcile()

    assert sum(bool(ENDS & emf.metrics_of(line).keys()) for line in lines()) == 1


def test_a_crash_behind_the_metrics_tells_the_end_again(watched, event, crash, lines):
    watched.push(event("push-oci"))

    def before(operation, _params):
        if operation == "PutObject" and watched.notices:
            raise crash

    watched.before = before
    with pytest.raises(crash):
        stop(watched, event, "task-exit-1")
    watched.before = lambda _operation, _params: None
    watched.reconcile()

    assert sum(bool(ENDS & emf.metrics_of(line).keys()) for line in lines()) == 2


@pytest.mark.parametrize("says", [{}, {"metrics": False}])
def test_without_metrics_nothing_is_written(aws, event, capsys, says):
    aws.parameters[WIRING] = json.dumps(json.loads(aws.parameters[WIRING]) | says)
    aws.push(event("push-oci"))
    publish(aws)
    aws.reconcile()
    stop(aws, event, "task-succeeded")

    assert aws.record(RUN)["state"] == "SUCCEEDED"
    assert capsys.readouterr().out == ""
    (override,) = aws.record(RUN)["attempts"][0]["request"]["overrides"]["containerOverrides"]
    assert "PUSHTRAIN_METRICS" not in {each["name"] for each in override["environment"]}


def test_the_trainer_is_told_of_which_stack_its_metrics_are(watched, event):
    watched.push(event("push-oci"))

    (override,) = watched.record(RUN)["attempts"][0]["request"]["overrides"]["containerOverrides"]
    assert {"name": "PUSHTRAIN_METRICS", "value": "dev"} in override["environment"]


def test_a_wiring_of_a_stack_that_knew_no_metrics_is_read(aws, watched):
    assert load_wiring(watched.clients("invoke").ssm).get("metrics") is True
    wiring = json.loads(aws.parameters[WIRING])
    del wiring["metrics"]
    aws.parameters[WIRING] = json.dumps(wiring)

    assert "metrics" not in load_wiring(aws.clients("invoke").ssm)


@pytest.mark.parametrize("error", [OSError("no space"), ValueError("closed"), KeyError("x")])
def test_a_handler_that_cannot_write_metrics_ends_the_run(watched, event, monkeypatch, error):
    watched.push(event("push-oci"))
    publish(watched)

    def fail(*_args, **_more):
        raise error

    monkeypatch.setattr("builtins.print", fail)
    stop(watched, event, "task-succeeded")

    told = watched.record(RUN)
    assert told["state"] == "SUCCEEDED"
    assert told["notified_at"]
    assert f"open/{RUN}" not in watched.objects


def test_a_document_that_cannot_be_made_is_said_and_raised_by_nobody(wires, capsys):
    def fail():
        raise KeyError("ended_at")

    metrics.say(with_metrics(wires), fail)

    told = json.loads(capsys.readouterr().out)
    assert told == {"outcome": "no metrics", "reason": "KeyError('ended_at')"}


def test_a_round_tells_of_open_runs_and_of_the_oldest(watched, event, lines):
    watched.push(event("push-oci"))
    claimed = rfc3339(datetime.now(UTC) - timedelta(hours=30))
    watched.change(RUN, created_at=claimed)

    watched.reconcile()

    found, document = end_of(lines)
    assert found.keys() == {"OpenRuns", "HoursWithoutModel"}
    assert found["OpenRuns"] == (1, "Count")
    hours, unit = found["HoursWithoutModel"]
    assert 30 <= hours < 31
    assert unit == "None"
    assert document["stack"] == "dev"


def test_a_round_without_open_runs_tells_zeros(watched, lines):
    watched.reconcile()

    found, _ = end_of(lines)
    assert found == {"OpenRuns": (0, "Count"), "HoursWithoutModel": (0, "None")}


def test_a_round_that_comes_to_nothing_has_told_before(watched, event, lines):
    watched.push(event("push-oci"))
    watched.errors["DescribeTasks"] = ["ServerException"]
    with pytest.raises(Exception, match="ServerException"):
        watched.reconcile()

    found, _ = end_of(lines)
    assert found["OpenRuns"] == (1, "Count")


def test_a_run_that_waits_for_data_counts_and_one_that_is_over_does_not(wires):
    over: Any = record(wires, created_at="2026-01-01T00:00:00.000Z")
    waiting: Any = {**over, "state": "WAITING", "created_at": "2026-01-02T01:00:00.000Z"}

    found = metrics.of_round(wires, [over, waiting], NOW)

    assert (found["OpenRuns"], found["HoursWithoutModel"]) == (1, 3.0)


def test_the_cost_is_told_where_it_is_known(wires):
    unknown = ({"usd": None, "why": "no such region"}, None)
    assert metrics.of_end(record(wires, cost={"usd": 0.0123}), NOW)["CostUsd"] == 0.0123
    for cost in unknown:
        assert "CostUsd" not in metrics.of_end(record(wires, cost=cost), NOW)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 10**400, 2.0**361, True, "0.9", None]
)
def test_what_is_no_number_to_cloudwatch_is_left_out(wires, value):
    document = metrics.of_end(record(wires, metrics={"accuracy": value}), NOW)

    assert "accuracy" not in document
    assert "RunsSucceeded" in emf.metrics_of(json.dumps(document))


@pytest.mark.parametrize(
    "name",
    ["RunSeconds", "RunsFailed", "OpenRuns", "TrainingLoss", "stack", "run", "_aws", "image_tag"],
)
def test_a_champion_metric_called_as_one_of_ours_replaces_nothing(wires, name):
    wires = {**wires, "champion_metric": name}
    plain = metrics.of_end(record(wires), NOW)

    assert metrics.of_end(record(wires, metrics={name: 0.5}), NOW) == plain


NUMBERS = st.floats() | st.integers() | st.sampled_from([10**400, True, None])


@given(
    state=st.sampled_from(sorted(runs.FINAL)),
    name=st.text(max_size=300),
    value=NUMBERS,
    cost=st.none() | st.fixed_dictionaries({"usd": NUMBERS}),
    tags=st.lists(st.text(max_size=128), max_size=3),
    providers=st.lists(st.sampled_from(["FARGATE", "FARGATE_SPOT"]), max_size=120),
    minutes=st.integers(-10_000, 10_000),
)
def test_any_record_makes_a_document_of_the_format(wires, minutes, **drawn):
    run = record(
        {**wires, "champion_metric": drawn["name"]},
        state=drawn["state"],
        providers=drawn["providers"],
        metrics={drawn["name"]: drawn["value"]},
        cost=drawn["cost"],
        ended_at=rfc3339(NOW + timedelta(minutes=minutes)),
    )
    run["image"] = {**run["image"], "tags": drawn["tags"]}

    found = emf.metrics_of(json.dumps(metrics.of_end(run, NOW)))

    assert len(found.keys() & ENDS) == 1
    assert found["AttemptsSpot"][0] + found["AttemptsOnDemand"][0] == len(drawn["providers"])


@pytest.mark.parametrize(
    "change",
    [
        {"Timestamp": 1_767_326_400},
        {"CloudWatchMetrics": [{"Namespace": "", "Dimensions": [["stack"]], "Metrics": []}]},
        {
            "CloudWatchMetrics": [
                {
                    "Namespace": "pushtrain",
                    "Dimensions": [["stack"]],
                    "Metrics": [{"Name": "a", "Unit": "Hours"}],
                }
            ]
        },
    ],
)
def test_the_rules_refuse_what_the_format_does(wires, change):
    document = metrics.of_end(record(wires), NOW)

    with pytest.raises(jsonschema.ValidationError):
        emf.read(json.dumps({**document, "_aws": document["_aws"] | change}))
