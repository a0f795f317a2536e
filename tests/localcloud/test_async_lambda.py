import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.localcloud

RECORD = """
import json, os
import boto3

def handler(event, context):
    boto3.client("sqs").send_message(
        QueueUrl=os.environ["QUEUE"], MessageBody=json.dumps({"pid": os.getpid(), "event": event})
    )
    if event.get("detail", event).get("image-tag", "").startswith("bad"):
        raise RuntimeError("no good")
"""
PUSH = {"source": ["aws.ecr"]}


def files(code=RECORD):
    return {"handler/__init__.py": "", "handler/invoke.py": code}


@pytest.fixture
def push(bench):
    """Give a function that lets ECR tell of a push of these tags."""
    bench.repository()

    def push(*tags):
        for tag in tags:
            bench.push_script(f"# {tag}", tag)

    return push


def drain(bench, url, number, seconds=30):
    return [bench.message(url, seconds)[0] for _ in range(number)]


def test_a_rule_invokes_a_function_of_a_package_that_imports_its_own(bench, push):
    code = {
        "handler/__init__.py": "",
        "handler/runs.py": "NAME = 'runs'",
        "handler/invoke.py": "from handler.runs import NAME\nfrom .runs import NAME as same\n"
        + RECORD.replace('"pid": os.getpid()', '"pid": [NAME, same]'),
    }
    url, _ = bench.queue("seen")
    bench.rule("push", PUSH, bench.function(code, QUEUE=url))
    push("v1")

    said, _ = bench.message(url)
    assert said["pid"] == ["runs", "runs"]
    assert said["event"]["detail"]["image-tag"] == "v1"


def test_a_function_sees_its_own_settings_and_nothing_of_this_machine(bench, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    code = "import os\ndef handler(event, context):\n    return dict(os.environ)\n"
    bench.function(files(code), MINE="set")
    answer = bench.client("lambda").invoke(FunctionName="f")
    environment = json.loads(answer["Payload"].read())

    assert environment["MINE"] == "set"
    assert environment["AWS_ENDPOINT_URL"] == bench.cloud.url
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "f"
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_SQS"} & set(environment)


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (None, 3)])
def test_an_event_that_fails_is_retried_and_ends_in_the_on_failure_queue(
    bench, push, retries, attempts
):
    url, _ = bench.queue("seen")
    lost, lost_arn = bench.queue("lost")
    bench.rule("push", PUSH, bench.function(files(), QUEUE=url))
    lam = bench.client("lambda")
    if retries is None:  # the default, and the older way to keep what failed
        lam.update_function_configuration(
            FunctionName="f", DeadLetterConfig={"TargetArn": lost_arn}
        )
    else:
        lam.put_function_event_invoke_config(
            FunctionName="f",
            MaximumRetryAttempts=retries,
            DestinationConfig={"OnFailure": {"Destination": lost_arn}},
        )
    push("bad")

    failure, _ = bench.message(lost)
    assert failure["requestPayload"]["detail"]["image-tag"] == "bad"
    assert failure["requestContext"]["condition"] == "RetriesExhausted"
    assert failure["responsePayload"]["errorMessage"] == "no good"
    assert len(drain(bench, url, attempts)) == attempts
    assert "Messages" not in bench.client("sqs").receive_message(QueueUrl=url)


def test_an_asynchronous_invocation_takes_the_same_way(bench):
    url, _ = bench.queue("seen")
    lost, lost_arn = bench.queue("lost")
    bench.function(files(), QUEUE=url)
    bench.client("lambda").put_function_event_invoke_config(
        FunctionName="f",
        MaximumRetryAttempts=0,
        DestinationConfig={"OnFailure": {"Destination": lost_arn}},
    )
    bench.client("lambda").invoke(
        FunctionName="f", InvocationType="Event", Payload=json.dumps({"image-tag": "bad"})
    )

    assert bench.message(lost)[0]["requestPayload"] == {"image-tag": "bad"}


def test_a_function_that_is_not_there_sends_the_event_to_the_rule_s_own_queue(bench, push):
    url, arn = bench.queue("undelivered")
    missing = "arn:aws:lambda:us-east-1:000000000000:function:none"
    bench.rule("push", PUSH, missing, permit=False, DeadLetterConfig={"Arn": arn})
    push("v1")

    event, attributes = bench.message(url)
    assert event["detail"]["image-tag"] == "v1"
    assert attributes["ERROR_CODE"] == "RESOURCE_NOT_FOUND"
    assert attributes["TARGET_ARN"] == missing
    assert attributes["RULE_ARN"].endswith(":rule/push")


def test_a_rule_without_permission_invokes_nothing(bench, push):
    url, _ = bench.queue("seen")
    undelivered, arn = bench.queue("undelivered")
    function = bench.function(files(), QUEUE=url)
    bench.rule("push", PUSH, function, permit=False, DeadLetterConfig={"Arn": arn})
    bench.client("lambda").add_permission(
        FunctionName="f",
        StatementId="another-rule",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn="arn:aws:events:us-east-1:000000000000:rule/other",
    )
    push("v1")

    assert bench.message(undelivered)[1]["ERROR_CODE"] == "NO_PERMISSIONS"
    assert "Messages" not in bench.client("sqs").receive_message(QueueUrl=url)


def test_a_throttled_event_waits_and_is_not_lost(bench, push):
    url, _ = bench.queue("seen")
    code = RECORD.replace(
        "def handler(event, context):",
        "def handler(event, context):\n    import time; time.sleep(0.3)",
    )
    bench.rule("push", PUSH, bench.function(files(code), QUEUE=url))
    bench.client("lambda").put_function_concurrency(
        FunctionName="f", ReservedConcurrentExecutions=1
    )
    push("v1", "v2", "v3")

    tags = {said["event"]["detail"]["image-tag"] for said in drain(bench, url, 3)}
    assert tags == {"v1", "v2", "v3"}


def test_many_events_at_once_need_two_workers_at_most(bench, push):
    url, _ = bench.queue("seen")
    bench.rule("push", PUSH, bench.function(files(), QUEUE=url))
    push(*(f"v{number}" for number in range(30)))

    said = drain(bench, url, 30)
    assert {one["event"]["detail"]["image-tag"] for one in said} == {f"v{n}" for n in range(30)}
    assert len({one["pid"] for one in said}) <= 2


def test_a_reset_ends_the_workers_and_forgets_what_waits(bench, push):
    url, _ = bench.queue("seen")
    bench.rule("push", PUSH, bench.function(files(), QUEUE=url))
    push("bad")
    said, _ = bench.message(url)
    bench.cloud.reset()

    bench.until(lambda: not Path(f"/proc/{said['pid']}").exists(), 5)
    again, _ = bench.queue("seen")
    assert again == url
    assert not bench.cloud._lambda._due
    assert "Messages" not in bench.client("sqs").receive_message(QueueUrl=url)
