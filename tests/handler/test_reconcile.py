"""What the events did not bring to its end, a round does; on a healthy day it does nothing."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from handler.events import rfc3339
from handler.reconcile import handler
from handler.store import RecordError

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
RUN = DIGEST[7:19]
OTHER = "sha256:" + "0123456789ab" + "c" * 52
CAPACITY = "Capacity is unavailable at this time"
WITH_PUSHES = {
    "source": "pushtrain",
    "detail-type": "Reconcile Request",
    "detail": {"pushes": True},
}


def ago(**time):
    return rfc3339(datetime.now(UTC) - timedelta(**time))


def last(aws, run=RUN):
    return aws.record(run)["attempts"][-1]


def age(aws, **changes):
    """Change the latest attempt's record."""
    attempts = aws.record(RUN)["attempts"]
    attempts[-1] |= changes
    aws.change(RUN, attempts=attempts)


def wait_is_over(aws):
    aws.change(RUN, waiting={"not_before": ago(seconds=1)})


def publish(aws):
    aws.put(f"runs/{RUN}/model.bin", b"weights")
    entry = {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    manifest = {"version": 1, "run": RUN, "files": {"model.bin": entry}}
    aws.put(f"runs/{RUN}/manifest.json", json.dumps(manifest).encode())


def writes(aws):
    return [call for call in aws.calls if call.split(":")[1][:3] in {"Put", "Run", "Del", "Sto"}]


@pytest.fixture
def started(aws, event):
    aws.push(event("push-oci"))
    aws.calls.clear()
    return aws


@pytest.fixture
def forgotten(started):
    """An account in which ECS has forgotten the run's task."""
    age(started, requested_at=ago(hours=2))
    started.tasks.pop(last(started)["task_arn"])
    return started


def test_without_open_runs_a_round_is_one_list(aws):
    assert aws.reconcile() == {"outcome": "reconciled", "open": 0, "changed": []}
    assert aws.calls == ["ssm:GetParameter", "s3:ListObjectsV2"]


def test_a_run_that_is_over_costs_no_round_anything(started, event):
    started.stop(started.end(event("task-exit-1", detail={"taskArn": last(started)["task_arn"]})))
    started.calls.clear()

    started.reconcile()

    assert started.calls == ["ssm:GetParameter", "s3:ListObjectsV2"]


def test_a_task_at_work_is_only_looked_at(started):
    assert started.reconcile() == {"outcome": "reconciled", "open": 1, "changed": []}

    assert started.calls == [
        "ssm:GetParameter",
        "s3:ListObjectsV2",
        "s3:GetObject",
        "ecs:DescribeTasks",
    ]


def test_a_run_that_waits_for_data_starts_with_them(aws, event):
    dataset = aws.objects.pop("data/dataset")
    aws.push(event("push-oci"))

    before = aws.reconcile()
    aws.objects["data/dataset"] = dataset
    after = aws.reconcile()

    assert before["changed"] == []
    assert after["changed"] == [{"run": RUN, "state": "STARTED"}]
    assert aws.record(RUN)["data"]["version_id"] == dataset[0].version_id


@pytest.mark.parametrize(
    ("failures", "why"),
    [
        ([CAPACITY, CAPACITY], "capacity"),
        (["RESOURCE:CPU", "AGENT"], "capacity"),
        (["You've reached the limit on the number of vCPUs you can run concurrently"], "limit"),
    ],
)
def test_what_could_not_be_placed_waits_and_begins_with_the_first_provider(
    aws, event, failures, why
):
    aws.failures = list(failures)

    assert aws.push(event("push-oci"))["outcome"] == "waiting"
    waiting = aws.record(RUN)["waiting"]
    aws.push(event("push-oci"))
    aws.reconcile()

    assert (waiting["why"], waiting["detail"]) == (why, failures[-1])
    assert ago(minutes=-4) < waiting["not_before"] < ago(minutes=-6)
    assert aws.record(RUN)["waiting"] == waiting
    assert not aws.tasks

    wait_is_over(aws)
    aws.reconcile()

    assert aws.record(RUN)["state"] == "STARTED"
    strategy = last(aws)["request"]["capacityProviderStrategy"]
    assert strategy == [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]


def test_each_wait_is_longer_and_at_last_the_run_fails(aws, event):
    aws.validates = False
    aws.failures = [CAPACITY] * 100
    minutes = []

    aws.push(event("push-oci"))
    while waiting := aws.record(RUN)["waiting"]:
        until = datetime.fromisoformat(waiting["not_before"]) - datetime.now(UTC)
        minutes.append(round(until.total_seconds() / 60))
        wait_is_over(aws)
        aws.reconcile()

    record = aws.record(RUN)
    assert minutes[:6] == [5, 10, 20, 40, 60, 60]
    assert record["state"] == "FAILED"
    assert record["diagnosis"]["cause"] == "capacity"
    assert record["diagnosis"]["summary"].endswith(", 100 times")
    assert len(aws.notices) == 2
    assert f"open/{RUN}" not in aws.objects


def test_a_request_that_ecs_refuses_is_made_anew_with_a_definition_that_is_there(aws, event):
    aws.errors = {"RunTask": ["InvalidParameterException"]}
    assert aws.push(event("push-oci"))["outcome"] == "waiting"
    first = last(aws)
    aws.definitions[first["request"]["taskDefinition"]]["status"] = "INACTIVE"

    wait_is_over(aws)
    aws.reconcile()

    assert first["cause"] == "refused"
    assert "InvalidParameterException" in first["failure"]
    assert aws.record(RUN)["state"] == "STARTED"
    assert last(aws)["request"]["taskDefinition"] in aws.active()


def test_a_request_that_ecs_refuses_again_and_again_fails_the_run(aws, event):
    aws.errors = {"RunTask": ["ClientException"] * 3}

    aws.push(event("push-oci"))
    for _ in range(2):
        wait_is_over(aws)
        aws.reconcile()

    assert aws.record(RUN)["state"] == "FAILED"
    assert aws.record(RUN)["diagnosis"]["cause"] == "refused"
    assert len(aws.record(RUN)["attempts"]) == 3


def test_an_end_whose_event_was_lost_is_found(started, event):
    started.end(event("task-exit-1", detail={"taskArn": last(started)["task_arn"]}))

    started.reconcile()

    record = started.record(RUN)
    assert record["state"] == "FAILED"
    assert record["diagnosis"]["cause"] == "exit"
    assert last(started)["stopped_at"] == "2026-01-02T03:15:00.250Z"
    assert record["notified_at"]


def test_a_lost_reclaim_is_followed_by_the_next_attempt(started, event):
    started.end(event("task-spot-interruption", detail={"taskArn": last(started)["task_arn"]}))

    started.reconcile()

    assert started.record(RUN)["state"] == "STARTED"
    assert [a["cause"] for a in started.record(RUN)["attempts"]] == ["spot", None]


def test_a_forgotten_task_that_published_is_a_success(forgotten):
    publish(forgotten)

    forgotten.reconcile()

    assert forgotten.record(RUN)["state"] == "SUCCEEDED"
    assert forgotten.record(RUN)["promotion"]["decision"] == "kept"


def test_a_forgotten_task_that_published_nothing_is_tried_again_and_at_last_fails(forgotten):
    forgotten.reconcile()
    second = last(forgotten)["number"]
    for _ in range(2):
        age(forgotten, requested_at=ago(hours=2))
        forgotten.tasks.clear()
        forgotten.reconcile()

    record = forgotten.record(RUN)
    assert second == 2
    assert record["state"] == "FAILED"
    assert [a["cause"] for a in record["attempts"]] == ["lost"] * 3
    assert "3 times" in record["diagnosis"]["summary"]


def test_files_of_a_forgotten_task_are_no_publication(forgotten):
    forgotten.put(f"runs/{RUN}/model.bin", b"half")

    forgotten.reconcile()

    assert [a["cause"] for a in forgotten.record(RUN)["attempts"]] == ["lost", None]
    assert f"runs/{RUN}/manifest.json" not in forgotten.objects


def test_a_task_that_writes_its_log_is_at_work_whatever_ecs_says(forgotten):
    stream = last(forgotten)["log_stream"]
    forgotten.log_lines["/pushtrain/dev/training", stream] = ["epoch 3"]

    forgotten.reconcile()
    before = forgotten.record(RUN)["state"], len(forgotten.record(RUN)["attempts"])
    forgotten.log_time = datetime.now(UTC) - timedelta(minutes=11)
    forgotten.reconcile()

    assert before == ("STARTED", 1)
    assert len(forgotten.record(RUN)["attempts"]) == 2
    first = forgotten.record(RUN)["attempts"][0]
    assert first["diagnosis"]["detail"].endswith("epoch 3")
    assert first["stopped_at"] == rfc3339(forgotten.log_time)


def test_a_young_task_that_ecs_does_not_know_may_yet_come(started):
    started.tasks.clear()

    started.reconcile()

    assert started.record(RUN)["state"] == "STARTED"
    assert writes(started) == []


def test_a_task_of_the_attempt_that_runs_is_no_loss(forgotten):
    arn = "arn:aws:ecs:us-east-1:123456789012:task/dev/other"
    forgotten.tasks[arn] = {"params": last(forgotten)["request"], "status": "RUNNING"}

    forgotten.reconcile()

    assert len(forgotten.record(RUN)["attempts"]) == 1


@pytest.mark.parametrize("status", ["RUNNING", "STOPPED"])
def test_a_task_that_nobody_wrote_down_is_adopted(started, event, status):
    arn = last(started)["task_arn"]
    if status == "STOPPED":
        started.end(event("task-exit-1", detail={"taskArn": arn}))
    age(started, task_arn=None, log_stream=None)
    started.change(RUN, state="CLAIMED")
    started.answers.clear()  # ECS forgets tokens

    started.reconcile()

    assert last(started)["task_arn"] == arn
    assert len(started.tasks) == 1
    started.reconcile()
    assert started.record(RUN)["state"] == ("STARTED" if status == "RUNNING" else "FAILED")


def test_a_request_that_was_never_sent_is_sent(aws, event, crash):
    aws.before = lambda operation, _: (
        (_ for _ in ()).throw(crash) if operation == "RunTask" else None
    )
    with pytest.raises(crash):
        aws.push(event("push-oci"))
    aws.before = lambda _operation, _params: None

    aws.reconcile()

    assert aws.record(RUN)["state"] == "STARTED"
    assert len(aws.tasks) == 1


def over_time(aws):
    aws.change(RUN, wiring={"max_run_minutes": 30})
    age(aws, requested_at=ago(minutes=31))


def test_a_task_over_its_time_is_stopped_and_the_run_fails(started, event):
    over_time(started)
    on_record = []

    def before(operation, _params):
        if operation == "StopTask":
            on_record.append(started.record(RUN)["stop"]["why"])

    started.before = before

    started.reconcile()
    stop = event("task-user-stopped", detail={"taskArn": last(started)["task_arn"]})
    started.stop(stop)

    record = started.record(RUN)
    assert on_record == ["time"]
    assert started.running() == []
    assert record["state"] == "FAILED"
    assert record["diagnosis"]["cause"] == last(started)["cause"] == "time"
    assert "30 minutes" in record["stop"]["reason"]


@pytest.mark.parametrize(
    ("limit", "minutes", "over"),
    [(30, (0, 29), False), (0, (0, 9999), False), (30, (11, 20), True), (30, (9, 20), False)],
)
def test_a_run_s_time_is_that_of_all_its_tasks(aws, event, limit, minutes, over):
    earlier, latest = minutes
    arn = aws.push(event("push-oci"))["task_arn"]
    times = {"startedAt": ago(minutes=60 + earlier), "stoppedAt": ago(minutes=60)}
    aws.stop(event("task-spot-interruption", detail={"taskArn": arn, **times}))
    aws.change(RUN, wiring={"max_run_minutes": limit})
    age(aws, requested_at=ago(minutes=latest))

    aws.reconcile()

    assert (aws.record(RUN)["stop"] is not None) is over


def test_a_task_that_is_to_be_stopped_is_told_so_again(started):
    stop = {"why": "cancel", "by": "me", "reason": "wrong data", "at": ago(minutes=1)}
    started.change(RUN, stop=stop)

    started.reconcile()

    assert started.running() == []
    assert started.record(RUN)["state"] == "STARTED"


def test_an_end_that_was_not_told_is_told(started, event):
    started.errors = {"Publish": ["InternalError"]}
    with pytest.raises(Exception, match="InternalError"):
        started.stop(event("task-exit-1", detail={"taskArn": last(started)["task_arn"]}))
    assert started.record(RUN)["notified_at"] is None

    started.reconcile()

    assert started.record(RUN)["notified_at"]
    assert [n for n in started.notices if "TopicArn" in n]
    assert f"open/{RUN}" not in started.objects


def test_a_mark_that_was_left_goes_and_nothing_is_told_twice(started, event):
    started.stop(event("task-exit-1", detail={"taskArn": last(started)["task_arn"]}))
    told = len(started.notices)
    started.put(f"open/{RUN}", b"")

    started.reconcile()

    assert f"open/{RUN}" not in started.objects
    assert len(started.notices) == told


@pytest.mark.parametrize(("hours", "stays"), [(0.5, True), (1.5, False)])
def test_a_mark_without_a_record_stays_as_long_as_its_claim_may_come(aws, hours, stays):
    aws.put("open/0123456789ab", b"")
    aws.objects["open/0123456789ab"][-1].time -= timedelta(hours=hours)

    aws.reconcile()

    assert ("open/0123456789ab" in aws.objects) is stays


def test_a_record_that_cannot_be_read_is_an_error_and_holds_up_no_other(aws, event):
    for name in ("0123456789ab", "ffffffffffff"):
        aws.put(f"open/{name}", b"")
        aws.put(f"runs/{name}/run.json", b'{"version": 2}')
    dataset = aws.objects.pop("data/dataset")
    aws.push(event("push-oci"))
    aws.objects["data/dataset"] = dataset

    with pytest.raises(ExceptionGroup, match="must have version 1, got 2") as caught:
        aws.reconcile()

    assert [type(error) for error in caught.value.exceptions] == [RecordError] * 2
    assert aws.record(RUN)["state"] == "STARTED"
    assert aws.get("runs/0123456789ab/run.json") == b'{"version": 2}'


def image(digest=DIGEST, minutes=30, tags=("g-1",), **more):
    return {
        "imageDigest": digest,
        "imageTags": list(tags),
        "imagePushedAt": datetime.now(UTC) - timedelta(minutes=minutes),
        "imageManifestMediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactMediaType": "application/vnd.oci.image.config.v1+json",
        **more,
    }


def test_a_push_whose_event_was_lost_is_delivered(aws):
    aws.images = [image(tags=["g-1", "latest"])]

    outcome = aws.reconcile(WITH_PUSHES)

    assert aws.record(RUN)["state"] == "STARTED"
    assert aws.record(RUN)["image"]["tags"] == ["g-1", "latest"]
    assert len(aws.tasks) == 1
    assert outcome["changed"][0] == {"run": RUN, "state": "STARTED"}


INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.mark.parametrize(
    ("told", "trained"),
    [
        ({}, True),
        ({"minutes": 2}, False),  # its event may yet come
        ({"minutes": 8 * 24 * 60}, False),
        ({"artifactMediaType": None, "imageManifestMediaType": INDEX}, True),
        ({"artifactMediaType": "application/vnd.cncf.helm.config.v1+json"}, False),
        ({"tags": [f"sha256-{'0' * 64}.sig"]}, False),
    ],
)
def test_only_images_whose_event_is_overdue_are_delivered(aws, told, trained):
    aws.images = [image(**told)]  # made here: at collection, all of them would be overdue

    aws.reconcile(WITH_PUSHES)

    assert len(aws.tasks) == trained


def test_an_image_that_has_a_run_is_no_lost_push(started):
    started.images = [image()]
    before = started.get(f"runs/{RUN}/run.json")

    started.reconcile(WITH_PUSHES)

    assert started.get(f"runs/{RUN}/run.json") == before


def test_only_tags_that_train_are_delivered(aws, wires):
    aws.parameters["/pushtrain/dev/wiring"] = json.dumps(wires | {"tag_prefixes": ["g-"]})
    aws.images = [image(tags=["latest"]), image(OTHER, tags=["latest", "g-1"])]

    aws.reconcile(WITH_PUSHES)

    assert f"runs/{RUN}/run.json" not in aws.objects
    assert aws.record(OTHER[7:19])["image"]["tags"] == ["g-1"]


@pytest.mark.parametrize(
    ("time", "looked"),
    [
        ("2026-01-02T03:00:00Z", True),
        ("2026-01-02T03:04:59Z", True),
        ("2026-01-02T03:05:00Z", False),
        ("2026-01-02T03:59:00Z", False),
    ],
)
def test_the_first_round_of_an_hour_looks_for_lost_pushes(aws, time, looked):
    aws.reconcile({"source": "aws.events", "detail-type": "Scheduled Event", "time": time})

    assert ("ecr:DescribeImages" in aws.calls) is looked


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "round",
        {"source": "aws.events"},
        {"detail-type": "Scheduled Event"},
        {"detail-type": "Scheduled Event", "time": 3},
        {"source": "pushtrain", "detail-type": "Reconcile Request"},
        {"source": "pushtrain", "detail-type": "Train Request", "detail": {}},
    ],
)
def test_anything_else_is_refused(aws, event):
    assert handler_outcome(aws, event)["outcome"] == "refused"
    assert aws.calls == []


def handler_outcome(aws, event):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handler.wiring.clients", lambda: aws.clients("reconcile"))
        return handler(event, None)


def stray(aws, event, crash):
    """Start a task for an attempt that was given up, and die before it can be stopped."""
    aws.remembers_failures = False
    aws.failures = ["Capacity is unavailable at this time"]

    def before(operation, _params):
        if operation == "RunTask":
            aws.before = die
            aws.push(event("push-oci"))

    def die(operation, _params):
        if operation == "StopTask":
            raise crash

    aws.before = before
    with pytest.raises(crash):
        aws.push(event("push-oci"))
    aws.before = lambda _operation, _params: None


def test_a_stray_task_is_stopped(aws, event, crash):
    stray(aws, event, crash)
    at_work = len(aws.running())

    aws.reconcile(WITH_PUSHES)

    assert at_work == 2
    assert aws.running() == [last(aws)["task_arn"]]


def test_a_task_of_a_run_that_is_over_is_a_stray(started, event):
    arn = last(started)["task_arn"]
    started.stop(event("task-exit-1", detail={"taskArn": arn}))

    started.reconcile(WITH_PUSHES)

    assert started.running() == []


@pytest.mark.parametrize("started_by", ["", "somebody", "ecs-svc/1", "ffffffffffff-a1"])
def test_tasks_of_others_are_left_alone(aws, started_by):
    arn = "arn:aws:ecs:us-east-1:123456789012:task/dev/other"
    params = {"startedBy": started_by, "cluster": "arn:aws:ecs:us-east-1:123456789012:cluster/dev"}
    aws.tasks[arn] = {"params": params, "status": "RUNNING"}

    aws.reconcile(WITH_PUSHES)

    assert aws.running() == [arn]


def test_a_task_that_is_about_to_be_written_down_is_no_stray(started):
    age(started, task_arn=None, log_stream=None)
    started.change(RUN, state="CLAIMED")

    started.reconcile(WITH_PUSHES)

    assert len(started.running()) == 1


def test_a_broken_record_of_another_run_of_the_image_keeps_the_definition(started, event):
    started.put(f"open/{RUN}-2", b"")
    started.put(f"runs/{RUN}-2/run.json", b"{")

    started.stop(event("task-exit-1", detail={"taskArn": last(started)["task_arn"]}))

    assert started.record(RUN)["notified_at"]
    assert len(started.active()) == 1
