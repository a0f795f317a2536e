"""What rings, when, whom it tells, and what the runbook has on it."""

import re

import pytest

from automation.cli import pushtrain

ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
TOPIC = "arn:aws:sns:us-east-1:123456789012:pushtrain-notices-topic-0a1b2c3"
PARTS = ("invoke", "observe", "reconcile")
ON = {"metrics": True, "alarms": True, "alarms.noModelHours": 6}


@pytest.fixture(scope="module")
def watched(deploy):
    return deploy.whole(ON, stack="prod")


def short(made):
    return made.name.removeprefix("pushtrain-monitoring-")


def rings(entry, meaning, metric, dimensions, *, statistic, missing, at_least=1):
    """Return the inputs of an alarm that looks at five minutes."""
    namespace, _, name = metric.rpartition("/")
    return {
        "alarmDescription": f"{meaning}: docs/runbook.md#{entry}",
        "namespace": namespace,
        "metricName": name,
        "dimensions": dimensions,
        "statistic": statistic,
        "treatMissingData": missing,
        "threshold": at_least,
        "comparisonOperator": "GreaterThanOrEqualToThreshold",
        "period": 300,
        "evaluationPeriods": 1,
        "alarmActions": [TOPIC],
    }


def of_function(part):
    def made(kind):
        return f"pushtrain-trigger-{part}-{kind}-0a1b2c3"

    def queue(entry, meaning, fate):
        metric = "AWS/SQS/ApproximateNumberOfMessagesVisible"
        return rings(
            entry, meaning, metric, {"QueueName": made(fate)}, statistic="Maximum", missing="ignore"
        )

    def count(entry, meaning, metric, dimensions):
        return rings(entry, meaning, metric, dimensions, statistic="Sum", missing="notBreaching")

    function, rule = {"FunctionName": made("function")}, {"RuleName": made("rule")}
    return {
        f"{part}-failed": queue(
            "failed-events",
            f"{part} failed three times on an event and waits in its queue",
            "failed",
        ),
        f"{part}-undelivered": queue(
            "undelivered-events",
            f"An event did not get to {part} and waits in its queue",
            "undelivered",
        ),
        f"{part}-errors": count(
            "function-errors", f"{part} ended with an error", "AWS/Lambda/Errors", function
        ),
        f"{part}-throttles": count(
            "function-throttles",
            f"Lambda had no room to run {part}",
            "AWS/Lambda/Throttles",
            function,
        ),
        f"{part}-rule-failed": count(
            "rule-failures",
            f"The rule of {part} could not hand an event over",
            "AWS/Events/FailedInvocations",
            rule,
        ),
        f"{part}-rule-lost": count(
            "lost-events",
            f"An event for {part} is lost: its queue did not take it",
            "AWS/Events/InvocationsFailedToBeSentToDlq",
            rule,
        ),
    }


ALARMS = {
    **{name: inputs for part in PARTS for name, inputs in of_function(part).items()},
    "reconcile-silent": rings(
        "reconcile-is-silent",
        "Nothing has looked after runs for half an hour",
        "AWS/Lambda/Invocations",
        {"FunctionName": "pushtrain-trigger-reconcile-function-0a1b2c3"},
        statistic="Sum",
        missing="breaching",
    )
    | {"comparisonOperator": "LessThanThreshold", "period": 900, "evaluationPeriods": 2},
    "run-failed": rings(
        "a-run-failed",
        "A run has failed",
        "pushtrain/RunsFailed",
        {"stack": "prod"},
        statistic="Sum",
        missing="notBreaching",
    ),
    "no-model": rings(
        "no-model-after-a-push",
        "An image was pushed 6 hours ago, and its run has not ended",
        "pushtrain/HoursWithoutModel",
        {"stack": "prod"},
        statistic="Maximum",
        missing="ignore",
        at_least=6,
    ),
}


def test_every_alarm_is_this_and_tells_the_topic(watched):
    assert {short(made): made.inputs for made in watched.of_type(ALARM)} == ALARMS


def test_every_queue_function_and_rule_of_the_stack_is_watched(watched):
    watches = {
        value for made in watched.of_type(ALARM) for value in made.inputs["dimensions"].values()
    }
    there = {
        made.outputs["name"]
        for kind in (
            "sqs/queue:Queue",
            "lambda/function:Function",
            "cloudwatch/eventRule:EventRule",
        )
        for made in watched.of_type(f"aws:{kind}")
    }

    assert watches == there | {"prod"}


def test_nothing_rings_and_cloudwatch_may_tell_nobody_unless_alarms_are_on(deploy):
    silent = deploy.whole({"metrics": True})
    policy = silent.document("pushtrain-notices-tls-only", "policy")

    assert silent.of_type(ALARM) == []
    assert {statement["Effect"] for statement in policy["Statement"]} == {"Deny"}


def test_the_topic_lets_the_stacks_alarms_in(watched):
    policy = watched.document("pushtrain-notices-tls-only", "policy")
    allowed = [each for each in policy["Statement"] if each["Effect"] == "Allow"]

    assert allowed == [
        {
            "Sid": "Alarms",
            "Effect": "Allow",
            "Principal": {"Service": "cloudwatch.amazonaws.com"},
            "Action": "sns:Publish",
            "Resource": TOPIC,
            "Condition": {
                "StringEquals": {"aws:SourceAccount": "123456789012"},
                "ArnLike": {
                    "aws:SourceArn": "arn:aws:cloudwatch:us-east-1:123456789012:alarm:pushtrain-*"
                },
            },
        }
    ]


def entries(text):
    """Return each entry of the runbook by its heading as a link has it."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        heading.lower().replace(" ", "-"): body.strip()
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }


def alarms_of(entry):
    return sorted(re.findall(r"`([a-z-]+)`", entry.split("\n")[0]))


def test_every_alarm_has_its_entry_in_the_runbook_and_none_is_for_nothing(watched, root):
    named = {}
    for made in watched.of_type(ALARM):
        entry = made.inputs["alarmDescription"].partition("docs/runbook.md#")[2]
        named.setdefault(entry, []).append(short(made))

    found = entries((root / "docs/runbook.md").read_text())
    assert {heading: alarms_of(entry) for heading, entry in found.items()} == {
        heading: sorted(alarms) for heading, alarms in named.items()
    }
    for heading, entry in found.items():
        words = ", ".join(re.findall(r"^- \*\*(.+?)\*\*", entry, flags=re.MULTILINE)).lower()
        assert words == "means, look, do", heading


def test_the_runbooks_commands_are_ours(root):
    text = (root / "docs/runbook.md").read_text()
    commands = set(re.findall(r"\bpushtrain ([a-z]+) ", text))

    assert {"runs", "logs", "redrive", "drift", "up", "doctor"} <= commands <= {*pushtrain.commands}
