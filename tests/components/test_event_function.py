"""A handler behind a rule: right code, right order, and no event lost."""

import json
from pathlib import Path

import pytest

from components import event_function

PARTS = ["invoke", "observe", "reconcile"]


@pytest.mark.parametrize("part", PARTS)
def test_function_runs_its_handler_with_the_name_of_its_wiring(dev, part):
    function = dev.inputs(f"pushtrain-trigger-{part}-function")

    assert function["handler"] == f"handler.{part}.handler"
    assert function["runtime"] == "python3.13"
    assert function["architectures"] == ["arm64"]
    assert function["role"].endswith(f"role/pushtrain-trigger-{part}-role-0a1b2c3")
    assert function["environment"] == {"variables": {"PUSHTRAIN_WIRING": "/pushtrain/dev/wiring"}}


@pytest.mark.parametrize("part", PARTS)
def test_handler_is_in_its_archive_and_nothing_but_sources_is(dev, part):
    assets = dev.inputs(f"pushtrain-trigger-{part}-function")["code"].assets
    folder = event_function.HANDLER_FOLDER

    assert f"handler/{part}.py" in assets
    assert "handler/__init__.py" in assets
    assert {name: Path(asset.path) for name, asset in assets.items()} == {
        f"handler/{file.name}": file for file in [*folder.glob("*.py"), folder / "prices.json"]
    }


@pytest.mark.parametrize(
    ("part", "seconds"), [("invoke", 60), ("observe", 900), ("reconcile", 900)]
)
def test_function_has_time_for_its_work(dev, part, seconds):
    assert dev.inputs(f"pushtrain-trigger-{part}-function")["timeout"] == seconds


@pytest.mark.parametrize("part", PARTS)
def test_function_logs_to_its_own_group(dev, part):
    logging = dev.inputs(f"pushtrain-trigger-{part}-function")["loggingConfig"]

    assert logging == {"logFormat": "Text", "logGroup": f"pushtrain-trigger-{part}-logs-0a1b2c3"}


@pytest.mark.parametrize("part", PARTS)
def test_event_that_the_function_fails_on_is_kept(dev, part):
    retries = dev.inputs(f"pushtrain-trigger-{part}-retries")

    assert retries["functionName"] == f"pushtrain-trigger-{part}-function-0a1b2c3"
    assert retries["maximumRetryAttempts"] == 2
    assert retries["maximumEventAgeInSeconds"] == 3600
    assert retries["destinationConfig"] == {
        "onFailure": {
            "destination": f"arn:aws:sqs:us-east-1:123456789012:"
            f"pushtrain-trigger-{part}-failed-0a1b2c3"
        }
    }


@pytest.mark.parametrize("part", PARTS)
def test_event_that_does_not_reach_the_function_is_kept(dev, part):
    target = dev.inputs(f"pushtrain-trigger-{part}-target")

    assert target["rule"] == f"pushtrain-trigger-{part}-rule-0a1b2c3"
    assert target["arn"].endswith(f"function:pushtrain-trigger-{part}-function-0a1b2c3")
    assert target["retryPolicy"] == {"maximumEventAgeInSeconds": 3600, "maximumRetryAttempts": 10}
    assert target["deadLetterConfig"] == {
        "arn": f"arn:aws:sqs:us-east-1:123456789012:pushtrain-trigger-{part}-undelivered-0a1b2c3"
    }


def test_queues_are_encrypted_and_keep_events_as_long_as_sqs_can(dev):
    queues = dev.of_type("aws:sqs/queue:Queue")

    assert len(queues) == 6
    for queue in queues:
        assert queue.inputs["sqsManagedSseEnabled"] is True
        assert queue.inputs["messageRetentionSeconds"] == 1_209_600


@pytest.mark.parametrize("part", PARTS)
def test_only_its_own_rule_may_call_a_function(dev, part):
    permission = dev.inputs(f"pushtrain-trigger-{part}-permission")

    assert permission == {
        "function": f"pushtrain-trigger-{part}-function-0a1b2c3",
        "action": "lambda:InvokeFunction",
        "principal": "events.amazonaws.com",
        "sourceArn": "arn:aws:events:us-east-1:123456789012:rule/"
        f"pushtrain-trigger-{part}-rule-0a1b2c3",
    }


@pytest.mark.parametrize("part", PARTS)
def test_no_event_comes_before_it_could_be_delivered_handled_or_kept(dev, part):
    name = f"pushtrain-trigger-{part}"
    target, function = dev.one(f"{name}-target"), dev.one(f"{name}-function")

    assert {
        dev.one(f"{name}-{before}").urn
        for before in ("function", "permission", "retries", "undelivered", "undelivered-policy")
    } <= target.dependencies
    assert {
        dev.one(f"{name}-{before}").urn for before in ("basics-policy", "work-policy", "logs")
    } <= function.dependencies


def test_pattern_is_within_what_eventbridge_takes(deploy):
    prefixes = ["c-", *(f"{number}{'x' * 127}" for number in range(9))]
    deployment = deploy.whole({"image.tagPrefixes": prefixes})
    rule = deployment.inputs("pushtrain-trigger-invoke-rule")

    assert len(rule["eventPattern"]) <= 2048
    assert json.loads(rule["eventPattern"])["detail"]["image-tag"] == [
        {"prefix": prefix} for prefix in prefixes
    ]


def test_reconcile_runs_every_five_minutes_whatever_happens(dev):
    rule = dev.inputs("pushtrain-trigger-reconcile-rule")

    assert rule["scheduleExpression"] == "rate(5 minutes)"
    assert "eventPattern" not in rule


@pytest.mark.parametrize("part", ["invoke", "observe"])
def test_the_others_run_when_something_happens(dev, part):
    rule = dev.inputs(f"pushtrain-trigger-{part}-rule")

    assert "scheduleExpression" not in rule
    assert json.loads(rule["eventPattern"])["source"]


@pytest.mark.parametrize("part", PARTS)
def test_no_function_takes_a_share_of_what_the_account_may_run_at_once(dev, part):
    # A new account has ten: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
    assert "reservedConcurrentExecutions" not in dev.inputs(f"pushtrain-trigger-{part}-function")
