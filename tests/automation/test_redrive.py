"""`pushtrain redrive`: what failed goes through its handler again, and may leave its queue."""

import io
import json

import pytest

from automation import redrive

pytestmark = pytest.mark.localcloud

PUSH = {
    "source": "aws.ecr",
    "detail-type": "ECR Image Action",
    "time": "2026-11-27T10:00:00Z",
    "detail": {
        "repository-name": "dev-images",
        "image-tag": "g-3f2a",
        "image-digest": f"sha256:{'3' * 64}",
    },
}
END = {
    "source": "aws.ecs",
    "detail-type": "ECS Task State Change",
    "time": "2026-11-27T10:05:00Z",
    "detail": {"taskArn": "arn:aws:ecs:us-east-1:1:task/dev/77", "startedBy": "3f2a0c11d2e4-a1"},
}


def destination(event):
    """Give what Lambda sends to an on-failure destination."""
    return {
        "version": "1.0",
        "timestamp": "2026-11-27T10:03:00.000Z",
        "requestContext": {
            "requestId": "r",
            "functionArn": "arn:aws:lambda:us-east-1:1:function:dev-invoke:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        },
        "requestPayload": event,
        "responseContext": {"statusCode": 200, "functionError": "Unhandled"},
        "responsePayload": {"errorMessage": "epochs must be a number", "errorType": "WiringError"},
    }


class Lambda:
    def __init__(self):
        self.asked = []
        self.broken = set()

    def invoke(self, FunctionName, InvocationType, Payload):  # noqa: N803 - boto3's
        assert InvocationType == "RequestResponse"
        event = json.loads(Payload)
        self.asked.append((FunctionName, event))
        if FunctionName in self.broken:
            answer = {"errorType": "WiringError", "errorMessage": "still no number"}
            return {"Payload": io.BytesIO(json.dumps(answer).encode()), "FunctionError": "x"}
        answer = {"outcome": "started", "run": "3" * 12, "state": "STARTED"}
        return {"Payload": io.BytesIO(json.dumps(answer).encode())}


@pytest.fixture
def functions(place):
    fake = Lambda()
    place.session.replaced["lambda"] = fake
    return fake


@pytest.fixture(autouse=True)
def queues(place, monkeypatch):
    """The stack's queues, and functions that take what is in them."""
    monkeypatch.setattr(redrive, "WAIT_SECONDS", 0)  # this SQS is one machine
    sqs = place.cloud.client("sqs")
    urls = {}
    for name in ("failedPushes", "undeliveredPushes", "failedEnds", "undeliveredEnds"):
        urls[name] = sqs.create_queue(QueueName=name)["QueueUrl"]
    place.outputs |= urls | {"invokeFunction": "dev-invoke", "observeFunction": "dev-observe"}
    return urls


@pytest.fixture
def send(place, queues):
    def to(queue, body, **attributes):
        place.cloud.client("sqs").send_message(
            QueueUrl=queues[queue],
            MessageBody=body if isinstance(body, str) else json.dumps(body),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": text}
                for name, text in attributes.items()
            },
        )

    return to


@pytest.fixture
def left(place, queues):
    """Say how many messages of a queue can be seen by whoever comes next."""

    def of(queue):
        answer = place.cloud.client("sqs").receive_message(
            QueueUrl=queues[queue], MaxNumberOfMessages=10, VisibilityTimeout=0
        )
        return len(answer.get("Messages", []))

    return of


def test_empty_queues_are_success(place, functions):
    assert place.pushtrain("redrive", "-s", "dev") == (0, "", "no event has failed\n")
    assert functions.asked == []


def test_each_event_goes_to_its_own_handler_unwrapped(place, functions, send, left):
    send("failedPushes", destination(PUSH))
    send("undeliveredEnds", END, ERROR_CODE="NO_PERMISSIONS", ERROR_MESSAGE="not allowed")
    code, out, err = place.pushtrain("redrive", "-s", "dev")

    assert code == 0
    assert functions.asked == [("dev-invoke", PUSH), ("dev-observe", END)]
    assert "push, failed: push of dev-images:g-3f2a sha256:333333333333" in out
    assert "had failed: WiringError: epochs must be a number" in out
    assert "end, undelivered: end of 3f2a0c11d2e4-a1, task 77" in out
    assert "had failed: NO_PERMISSIONS: not allowed" in out
    assert "now: started 333333333333 STARTED" in out
    assert err == "2 redriven, 0 failed again\n"
    assert (left("failedPushes"), left("undeliveredEnds")) == (0, 0)


def test_what_fails_again_stays_for_the_next_time_and_is_exit_code_1(place, functions, send, left):
    functions.broken = {"dev-observe"}
    send("failedPushes", destination(PUSH))
    send("failedEnds", destination(END))
    code, out, err = place.pushtrain("redrive", "-s", "dev")

    assert code == 1
    assert "now: failed: dev-observe failed with WiringError: still no number" in out
    assert err == "1 redriven, 1 failed again\n"
    assert (left("failedPushes"), left("failedEnds")) == (0, 1)


def test_a_dry_run_lists_and_changes_nothing(place, functions, send, left):
    send("failedPushes", destination(PUSH))
    code, out, err = place.pushtrain("redrive", "-s", "dev", "--dry-run")

    assert (code, functions.asked) == (0, [])
    assert "push of dev-images:g-3f2a" in out
    assert "now:" not in out
    assert err == "1 to redrive: pushtrain redrive -s dev\n"
    assert left("failedPushes") == 1


def test_more_than_sqs_gives_at_once_are_all_redriven(place, functions, send, left):
    for _ in range(23):
        send("failedPushes", destination(PUSH))
    code, _, err = place.pushtrain("redrive", "-s", "dev")

    assert (code, len(functions.asked)) == (0, 23)
    assert err == "23 redriven, 0 failed again\n"
    assert left("failedPushes") == 0


@pytest.mark.parametrize("body", ["not json", "[]", '"text"', "[" * 5000])
def test_a_message_that_holds_no_event_stays_and_hides_no_other(place, functions, send, left, body):
    send("failedPushes", body)
    send("failedPushes", destination(PUSH))
    code, out, _ = place.pushtrain("redrive", "-s", "dev")

    assert code == 1
    assert functions.asked == [("dev-invoke", PUSH)]
    assert "the message holds no event" in out
    assert left("failedPushes") == 1


def test_an_interrupted_redrive_gives_back_what_it_has_taken(place, send, left, monkeypatch):
    for _ in range(3):
        send("failedPushes", destination(PUSH))

    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(redrive, "_again", interrupted)

    assert place.pushtrain("redrive", "-s", "dev")[0] == 130
    assert left("failedPushes") == 3


def test_outcomes_as_json_hold_the_events(place, functions, send):
    functions.broken = {"dev-invoke"}
    send("failedPushes", destination(PUSH))
    code, out, _ = place.pushtrain("redrive", "-s", "dev", "--json")
    (outcome,) = json.loads(out)

    assert code == 1
    assert outcome["event"] == PUSH
    assert (outcome["outcome"], outcome["why"]) == (
        "failed",
        "WiringError: epochs must be a number",
    )
    assert outcome["since"] == "2026-11-27T10:00:00Z"
