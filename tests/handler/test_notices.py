"""What is told of a run's end, to whom, and that any record can be told of."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import notices, runs
from handler.notices import NoticeError

TOPIC = "arn:aws:sns:us-east-1:123456789012:dev-notices"
DIGEST = f"sha256:{'1' * 64}"
RUN = "1" * 12


@pytest.fixture(scope="session")
def ended(wires):
    """Return a run that has ended, with changes to its record."""

    def make(state="SUCCEEDED", *, tags=("g-0123",), attempts=1, wiring=None, **fields) -> Any:
        image: Any = {
            "repository": "trainer",
            "uri": f"123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer@{DIGEST}",
            "digest": DIGEST,
            "tags": [*tags],
        }
        wired: Any = {**wires, **(wiring or {})}
        made: Any = runs.claimed(image=image, parameters={}, wiring=wired, data=None)
        for _ in range(attempts):
            made["attempts"].append(attempt(len(made["attempts"]) + 1))
        return {
            **made,
            "state": state,
            "created_at": "2026-05-01T10:00:00.000Z",
            "ended_at": "2026-05-01T10:12:03.500Z",
            "diagnosis": {
                "cause": "published",
                "summary": "published 4 files, all verified",
                "detail": "",
                "action": "",
            },
            **fields,
        }

    return make


def attempt(number, **fields) -> Any:
    return {
        "number": number,
        "request": {
            "capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
        },
        "task_arn": "arn:aws:ecs:us-east-1:123456789012:task/dev/0a",
        "failure": None,
        "requested_at": "2026-05-01T10:00:01.000Z",
        "pull_started_at": None,
        "started_at": None,
        "stopped_at": "2026-05-01T10:12:00.000Z",
        "exit_code": 0,
        "stop_code": None,
        "stopped_reason": None,
        "log_stream": "train/trainer/0a",
        "cause": None,
        "diagnosis": None,
        **fields,
    }


PROMOTION = {
    "decision": "promoted",
    "reason": "accuracy 0.9123 beats 0.9 of run cccccccccccc",
    "metric": "accuracy",
    "value": 0.9123,
    "champion": {"run": "cccccccccccc", "value": 0.9},
    "at": "2026-05-01T10:12:03.000Z",
}
FAILURE = {
    "cause": "exit",
    "summary": "the trainer failed",
    "detail": "stop code EssentialContainerExited; exit code 1\nlast log lines:\nno such column",
    "action": "The last log lines say why: correct it and push the changed image.",
}


def test_success_is_told_as_a_message_and_as_an_event(aws, ended):
    notices.send(
        aws.clients("observe"),
        ended(metrics={"loss": 0.3, "accuracy": 0.9123}, promotion=PROMOTION),
        TOPIC,
    )
    event, message = aws.notices

    assert (event["Source"], event["DetailType"]) == ("pushtrain", "Training Run Ended")
    assert json.loads(event["Detail"]) == {
        "stack": "dev",
        "run": RUN,
        "state": "SUCCEEDED",
        "tags": ["g-0123"],
        "image_digest": DIGEST,
        "attempts": 1,
        "metrics": {"accuracy": 0.9123, "loss": 0.3},
        "diagnosis": {
            "cause": "published",
            "summary": "published 4 files, all verified",
            "detail": "",
            "action": "",
        },
        "promotion": PROMOTION,
        "record": f"s3://dev-models/runs/{RUN}/run.json",
        "duration": 723.5,
    }
    assert message["Subject"] == (
        "SUCCEEDED: run 111111111111 (g-0123), accuracy 0.9123, the new champion, stack dev"
    )
    assert (
        message["Message"]
        == f"""\
Run {RUN} of stack dev ended: SUCCEEDED

What happened
  published 4 files, all verified

The run
  image        123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer@{DIGEST}
  tags         g-0123
  attempts     1
  duration     0:12:04
  accuracy     0.9123
  loss         0.3
  promotion    promoted: accuracy 0.9123 beats 0.9 of run cccccccccccc

Where to look
  all of it    pushtrain runs show {RUN} -s dev
  the log      pushtrain logs {RUN} -s dev
  record       s3://dev-models/runs/{RUN}/run.json
  log group    /pushtrain/dev/training
  log stream   train/trainer/0a

Attempts
  1 on FARGATE_SPOT: exit code 0
"""
    )


def test_mail_goes_to_the_topic_of_now_not_to_one_that_the_run_froze(aws, ended):
    notices.send(aws.clients("observe"), ended(wiring={"topic": "arn:aws:sns:::gone"}), TOPIC)

    assert aws.notices[1]["TopicArn"] == TOPIC


def test_failure_says_why_and_what_to_do(ended):
    spot = {"summary": "Fargate took its Spot capacity back", "detail": "", "action": ""}
    run = ended(
        "FAILED",
        diagnosis=FAILURE,
        attempts=0,
    ) | {"attempts": [attempt(1, diagnosis=spot), attempt(2, exit_code=1)]}
    text = notices.message(run)

    assert notices.subject(run) == (
        "FAILED: run 111111111111 (g-0123), the trainer failed, stack dev"
    )
    assert "What happened\n  the trainer failed\n" in text
    assert "What to do\n  The last log lines say why: correct it and push the changed" in text
    assert "1 on FARGATE_SPOT: Fargate took its Spot capacity back\n" in text
    assert "2 on FARGATE_SPOT: exit code 1\n" in text
    assert text.endswith("exit code 1\n  last log lines:\n  no such column\n")


def test_run_that_never_had_a_task_says_so(ended):
    unplaced = attempt(
        1, failure="RESOURCE:CPU", task_arn=None, log_stream=None, stopped_at=None, exit_code=None
    )

    assert "none: no task got as far as a log" in notices.message(ended("CANCELLED", attempts=0))
    run = ended("FAILED", attempts=0) | {"attempts": [unplaced]}
    assert "1 on FARGATE_SPOT: RESOURCE:CPU\n" in notices.message(run)
    lost = attempt(1, stopped_at=None, exit_code=None)
    run = ended("FAILED", attempts=0) | {"attempts": [lost]}
    assert "1 on FARGATE_SPOT: no end on record\n" in notices.message(run)


def test_an_event_that_the_bus_takes_no_is_an_error_and_no_mail_is_sent_before(aws, ended):
    # Whoever tries again would send it twice.
    aws.refused_events = ["ThrottlingException"]

    with pytest.raises(NoticeError, match=r"run 111111111111 must reach .*ThrottlingException"):
        notices.send(aws.clients("observe"), ended(), TOPIC)
    assert aws.notices == []


@pytest.mark.parametrize("operation", ["Publish", "PutEvents"])
def test_errors_are_raised(aws, ended, operation):
    aws.errors[operation] = ["InternalError"]

    with pytest.raises(aws.clients("observe").sns.exceptions.ClientError, match="InternalError"):
        notices.send(aws.clients("observe"), ended(), TOPIC)


@pytest.mark.parametrize("tag", ["g-0123\nBcc: all@example.com", "g\r\n", "é" * 200, "\x00", ""])
def test_subject_is_one_line_of_ascii(ended, tag):
    subject = notices.subject(ended(tags=[tag], wiring={"stack": "s" * 100}))

    assert re.fullmatch(r"SUCCEEDED: run 1{12} \([ -~]+", subject)
    assert len(subject) <= 99


def test_many_tags_are_counted(ended):
    text = notices.message(ended(tags=[f"t{number}" for number in range(1000)]))

    assert "t49 and 950 more\n" in text


def test_colours_and_control_characters_of_a_log_are_left_out(ended):
    detail = "\x1b[31mred\x1b[0m\r10 %\r20 %\r\nnext\x00\x07\ud800"
    text = notices.message(ended("FAILED", diagnosis={**FAILURE, "detail": detail}))

    assert text.endswith("Why\n  red\n  10 %\n  20 %\n  next\ufffd\ufffd\ufffd\n")


def test_a_metric_cannot_pass_for_something_else(ended):
    text = notices.message(ended(metrics={"image": 7.0, "tags": 8.0}))

    assert f"image        123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer@{DIGEST}" in text
    assert "tags         g-0123" in text


def test_the_longest_detail_leaves_the_rest_whole(ended):
    detail = "\n" * 300_000
    text = notices.message(ended("FAILED", diagnosis={**FAILURE, "detail": detail}))

    assert len(text.encode()) <= 262_144
    assert "What to do\n  The last log lines say why" in text
    assert f"pushtrain runs show {RUN} -s dev" in text


def test_thousands_of_metrics_leave_room_and_the_deciding_one_stays(aws, ended):
    metrics = {f"{number:x>250}": 0.5 for number in range(2000)} | {"accuracy": 0.9}
    notices.send(aws.clients("observe"), ended(metrics=metrics), TOPIC)

    assert next(iter(json.loads(aws.notices[0]["Detail"])["metrics"])) == "accuracy"
    assert "  accuracy     0.9\n" in aws.notices[1]["Message"]


# A unit and how often it is repeated: the report of a failure shall not be megabytes.
WORDS = st.tuples(
    st.text(max_size=4)
    | st.sampled_from(["\n", "\\", '"', "\ud800", "\U0001f600", "\x00", "é\u2028\x85", "\x1b[1m"]),
    st.sampled_from([1, 3, 100_000]),
)


@given(
    tags=st.tuples(WORDS, st.sampled_from([0, 1, 2000])),
    summary=WORDS,
    detail=WORDS,
    action=WORDS,
    reason=WORDS,
    names=st.tuples(st.text(max_size=300), st.sampled_from([0, 1, 2000])),
    value=st.floats() | st.integers() | st.just(10**400) | st.just(10**308),
    state=st.sampled_from(["SUCCEEDED", "FAILED", "CANCELLED"]),
    attempts=st.sampled_from([0, 1, 300]),
)
def test_any_record_can_be_told_of(new_account, ended, **drawn):
    texts = {name: drawn[name][0] * drawn[name][1] for name in ("summary", "detail", "action")}
    (tag, times), count = drawn["tags"]
    name, more = drawn["names"]
    reason, often = drawn["reason"]
    run = ended(
        drawn["state"],
        tags=[tag * times] * count,
        metrics=dict.fromkeys(
            ["accuracy", *(f"{number}{name}" for number in range(more))], drawn["value"]
        ),
        diagnosis={"cause": "exit", **texts},
        promotion={**PROMOTION, "reason": reason * often},
    )
    run["attempts"] = [attempt(1, diagnosis=texts)] * drawn["attempts"]
    aws = new_account()
    notices.send(aws.clients("observe"), run, TOPIC)
    event, message = aws.notices

    assert json.loads(event["Detail"])["run"] == RUN
    assert message["Message"].startswith(f"Run {RUN} of stack dev ended: {drawn['state']}\n")
    assert f"pushtrain runs show {RUN} -s dev" in message["Message"]
    assert f"s3://dev-models/runs/{RUN}/run.json" in message["Message"]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", message["Message"])
