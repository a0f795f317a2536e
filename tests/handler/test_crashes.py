"""The Lambda dies after any of its AWS calls: the next delivery, or reconcile, makes it good."""

import hashlib
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
RUN = DIGEST[7:19]
CAPACITY = "Capacity is unavailable at this time"
WITH_PUSHES = {
    "source": "pushtrain",
    "detail-type": "Reconcile Request",
    "detail": {"pushes": True},
}
CANCEL = {
    "source": "pushtrain",
    "detail-type": "Cancel Request",
    "detail": {"run": RUN, "by": "ana", "reason": "wrong data"},
}


def publish(aws):
    aws.put(f"runs/{RUN}/model.bin", b"weights")
    entry = {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    manifest = {
        "version": 1,
        "run": RUN,
        "files": {"model.bin": entry},
        "metrics": {"accuracy": 0.9},
    }
    aws.put(f"runs/{RUN}/manifest.json", json.dumps(manifest).encode())


def stopped(aws, event, name):
    """Let the one task at work stop, and return the event that says so."""
    (arn,) = aws.running()
    started_by = aws.tasks[arn]["params"]["startedBy"]
    return aws.end(event(name, detail={"taskArn": arn, "startedBy": started_by}))


# Each story delivers its events through `deliver`, and says how its run ends.


def reclaimed_and_resumed(aws, event, deliver):
    deliver(lambda: aws.push(event("push-oci")))
    first = stopped(aws, event, "task-spot-interruption")
    deliver(lambda: aws.stop(first))
    publish(aws)
    second = stopped(aws, event, "task-succeeded")
    deliver(lambda: aws.stop(second))
    return "SUCCEEDED", ["spot", None]


def without_capacity_and_failed(aws, event, deliver):
    aws.failures = [CAPACITY]
    deliver(lambda: aws.push(event("push-oci")))
    stop = stopped(aws, event, "task-exit-1")
    deliver(lambda: aws.stop(stop))
    return "FAILED", ["capacity", "exit"]


def cannot_be_set_up(aws, event, deliver):
    deliver(lambda: aws.push(event("push-oci")))
    for _ in range(3):
        stop = stopped(aws, event, "task-resource-initialization")
        deliver(lambda stop=stop: aws.stop(stop))
    return "FAILED", ["resources"] * 3


def cancelled(aws, event, deliver):
    deliver(lambda: aws.push(event("push-oci")))
    (arn,) = aws.running()
    for _ in range(2):  # whoever asked and got no answer asks again
        deliver(lambda: aws.reconcile(CANCEL))
    assert aws.running() == []
    stop = event("task-user-stopped", detail={"taskArn": arn})
    aws.end(stop)
    deliver(lambda: aws.stop(stop))
    return "CANCELLED", ["cancel"]


def ends_unseen(aws, event, deliver):
    """No event of the end comes at all."""
    deliver(lambda: aws.push(event("push-oci")))
    for name in ("task-spot-interruption", "task-exit-1"):
        stopped(aws, event, name)
        deliver(aws.reconcile)
    return "FAILED", ["spot", "exit"]


def over_its_time(aws, event, deliver):
    deliver(lambda: aws.push(event("push-oci")))
    (arn,) = aws.running()
    attempts = aws.record(RUN)["attempts"]
    attempts[0]["requested_at"] = "2026-01-01T00:00:00.000Z"
    aws.change(RUN, wiring={"max_run_minutes": 30}, attempts=attempts)
    deliver(aws.reconcile)
    stop = event("task-user-stopped", detail={"taskArn": arn})
    aws.end(stop)
    deliver(lambda: aws.stop(stop))
    return "FAILED", ["time"]


STORIES = [
    reclaimed_and_resumed,
    without_capacity_and_failed,
    cannot_be_set_up,
    cancelled,
    ends_unseen,
    over_its_time,
]
IMAGE = {"imageDigest": DIGEST, "imageTags": ["g-1"], "imagePushedAt": None}


class Telling:
    """Delivers the events of a story, whose process ends after one of its calls."""

    def __init__(self, aws: Any, crash: type[BaseException], again: Callable[..., object]) -> None:
        self.aws = aws
        self.crash = crash
        self.again = again
        self.crashed = False

    def deliver(self, work: Callable[[], object]) -> None:
        try:
            work()
        except self.crash:
            self.crashed = True
            self.aws.recover()
            self.again(self.aws, work)


def delivered_again(_aws, work):
    work()


def left_to_reconcile(aws, _work):
    """The event is lost: what is left are rounds, and ECR's list of images."""
    for _ in range(2):
        aws.reconcile(WITH_PUSHES)


@pytest.mark.parametrize("again", [delivered_again, left_to_reconcile])
@pytest.mark.parametrize("story", STORIES)
def test_a_crash_after_any_call_changes_no_story(new_account, event, crash, story, again):
    for call in itertools.count(1):
        aws = new_account(limit=1)
        aws.validates = False
        aws.images = [IMAGE | {"imagePushedAt": datetime.now(UTC) - timedelta(minutes=30)}]
        telling = Telling(aws, crash, again)
        aws.crash_after(call)

        state, causes = story(aws, event, telling.deliver)

        aws.recover()
        if telling.crashed:
            aws.reconcile()
        assert_over(aws, state, causes)
        if not telling.crashed:
            assert call > 30
            return


def assert_over(aws, state, causes):
    record = aws.record(RUN)
    assert record["state"] == state
    assert [attempt["cause"] for attempt in record["attempts"]] == causes
    assert len(aws.tasks) == len([cause for cause in causes if cause != "capacity"])
    assert aws.running() == []
    assert aws.active() == []
    assert record["notified_at"]
    assert len([notice for notice in aws.notices if "TopicArn" in notice]) in {1, 2}
    assert not [key for key in aws.objects if key.startswith("open/")]
    assert json.loads(aws.get("slots.json")) == []
    assert f"runs/{RUN}-2/run.json" not in aws.objects
