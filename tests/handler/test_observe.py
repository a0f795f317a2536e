import hashlib
import json

import pytest

from handler.observe import UnknownTaskError, handler
from trainer.history import Epoch, to_metrics

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
RUN = DIGEST[7:19]
PREFIX = f"runs/{RUN}/"
MODEL = b"weights" * 1000


@pytest.fixture
def started(aws, event):
    """An account in which the run's task has started."""
    aws.push(event("push-oci"))
    return aws


@pytest.fixture
def ended(event):
    """Return the recorded event, told of the task that runs in that account."""

    def load(aws, name, **detail):
        arn = aws.record(RUN)["attempts"][-1]["task_arn"]
        return event(name, detail={"taskArn": arn, **detail})

    return load


def train_request(**detail):
    return {
        "source": "pushtrain",
        "detail-type": "Train Request",
        "detail": {"digest": DIGEST, "tag": "latest", "by": "me", "token": "t1", **detail},
    }


def publish(aws, manifest=None, **changes):
    """Write a model and a manifest that names it."""
    aws.put(f"{PREFIX}config.json", b"{}")
    aws.put(f"{PREFIX}model.safetensors", MODEL)
    entry = {"size": len(MODEL), "sha256": hashlib.sha256(MODEL).hexdigest()}
    document = {"version": 1, "run": RUN, "files": {"model.safetensors": entry}} | changes
    text = json.dumps(document) if manifest is None else manifest
    aws.put(f"{PREFIX}manifest.json", text.encode())


def log(aws, *lines):
    stream = aws.record(RUN)["attempts"][-1]["log_stream"]
    aws.log_lines["/pushtrain/dev/training", stream] = list(lines)


def test_a_verified_publication_is_a_success(started, ended):
    publish(started, metrics={"accuracy": 0.91, "epochs": 5, "note": "x", "best": True})

    outcome = started.stop(ended(started, "task-succeeded"))

    record = started.record(RUN)
    (attempt,) = record["attempts"]
    assert outcome == {
        "outcome": "ended",
        "run": RUN,
        "state": "SUCCEEDED",
        "attempt": 1,
        "task_arn": attempt["task_arn"],
    }
    assert record["state"] == "SUCCEEDED"
    assert record["metrics"] == {"accuracy": 0.91, "epochs": 5}
    assert record["diagnosis"]["action"] == ""
    assert record["ended_at"] <= record["notified_at"] == record["updated_at"]
    assert attempt["exit_code"] == 0
    assert attempt["started_at"] == "2026-01-02T03:05:12.003Z"
    assert attempt["stopped_at"] == "2026-01-02T03:15:00.250Z"
    assert attempt["stop_code"] == "EssentialContainerExited"
    assert attempt["stopped_reason"] == "Essential container in task exited"


def test_a_success_is_priced_from_the_download_to_the_end(started, ended):
    publish(started)

    started.stop(ended(started, "task-succeeded"))

    record = started.record(RUN)
    (attempt,) = record["attempts"]
    vcpu, _, address = record["cost"]["items"]
    assert attempt["pull_started_at"] == "2026-01-02T03:04:45.001Z"
    assert address["amount"] == 616  # to 03:15:00.250, rounded up
    assert vcpu["amount"] == 2 * 616
    assert vcpu["provider"] == "FARGATE_SPOT"
    assert record["cost"]["stored"]["bytes"] == len(MODEL)
    assert 0 < record["cost"]["usd_least"] < record["cost"]["usd"]


def test_a_failure_is_priced_too_and_has_stored_nothing(started, ended):
    started.stop(ended(started, "task-exit-1"))

    found = started.record(RUN)["cost"]
    assert found["usd"] > 0
    assert found["stored"]["bytes"] == 0


def test_a_run_where_no_price_is_known_ends_as_any_other(started, ended):
    publish(started)
    elsewhere = "arn:aws:ecs:mars-1:123456789012:cluster/dev"
    started.change(RUN, wiring={"cluster": elsewhere})

    started.stop(ended(started, "task-succeeded"))

    record = started.record(RUN)
    assert record["state"] == "SUCCEEDED"
    assert record["notified_at"]
    assert record["cost"] == {"usd": None, "why": "the price table has no region 'mars-1'"}


def test_the_definition_goes_with_the_run(started, ended):
    publish(started)

    started.stop(ended(started, "task-succeeded"))

    assert started.record(RUN)["state"] == "SUCCEEDED"
    assert started.active() == []


def test_the_end_is_told_once_it_is_on_record_and_the_mark_goes_last(started, ended):
    publish(started)
    order = []

    def before(operation, _params):
        if operation in {"Publish", "PutEvents", "DeregisterTaskDefinition", "DeleteObject"}:
            assert started.record(RUN)["state"] == "SUCCEEDED"
            order.append((operation, started.record(RUN)["notified_at"] is not None))

    started.before = before

    started.stop(ended(started, "task-succeeded"))

    assert order == [
        ("DeregisterTaskDefinition", False),
        ("PutEvents", False),
        ("Publish", False),
        ("DeleteObject", True),
    ]
    assert f"open/{RUN}" not in started.objects


def test_the_definition_stays_while_another_run_of_the_image_is_open(started, ended):
    started.push(train_request())

    started.stop(ended(started, "task-exit-1"))
    first = started.active()
    again = started.record(f"{RUN}-2")["attempts"][-1]["task_arn"]
    started.stop(ended(started, "task-exit-1", taskArn=again, startedBy=f"{RUN}-2-a1"))

    assert len(first) == 1
    assert started.active() == []


def test_definitions_that_no_attempt_names_go_too(started, ended):
    (arn,) = started.active()
    left = {key: started.definitions[arn][key] for key in ("family", "containerDefinitions")}
    for _ in range(2):
        started.clients("invoke").ecs.register_task_definition(**left)

    started.stop(ended(started, "task-exit-1"))

    assert started.active() == []
    assert started.definitions["arn:aws:ecs:us-east-1:123456789012:task-definition/dev-template:1"][
        "status"
    ] == ("ACTIVE")


def test_a_definition_that_another_deregistered_meanwhile_is_no_error(started, ended):
    def before(operation, params):
        if operation == "DeregisterTaskDefinition":
            started.definitions[params["taskDefinition"]]["status"] = "INACTIVE"

    started.before = before

    started.stop(ended(started, "task-exit-1"))

    assert started.record(RUN)["state"] == "FAILED"


def test_a_definition_that_cannot_be_deregistered_is_an_error(started, ended):
    started.errors = {"DeregisterTaskDefinition": ["ClientException"]}

    with pytest.raises(Exception, match="ClientException"):
        started.stop(ended(started, "task-exit-1"))
    assert started.notices == []
    started.stop(ended(started, "task-exit-1"))

    assert started.active() == []
    assert len(started.notices) == 2


def test_files_without_a_manifest_get_one(started, ended):
    files = {"a/model.bin": MODEL, "metrics.csv": b"1,2", "report.html": b"<p>"}
    for name, body in files.items():
        started.put(f"{PREFIX}{name}", body)
    started.put(f"{PREFIX}config.json", b"{}")
    started.put(f"{PREFIX}a/", b"")

    started.stop(ended(started, "task-succeeded"))

    manifest = json.loads(started.get(f"{PREFIX}manifest.json"))
    assert started.record(RUN)["state"] == "SUCCEEDED"
    assert manifest == {
        "version": 1,
        "run": RUN,
        "attempt": 1,
        "image_digest": DIGEST,
        "files": {
            name: {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for name, body in files.items()
        },
    }


def test_a_manifest_that_appears_meanwhile_is_the_one_that_counts(started, ended):
    started.put(f"{PREFIX}model.safetensors", MODEL)

    def before(operation, params):
        if operation == "PutObject" and params["Key"].endswith("manifest.json"):
            publish(started, metrics={"accuracy": 0.5})

    started.before = before

    started.stop(ended(started, "task-succeeded"))

    assert started.record(RUN)["metrics"] == {"accuracy": 0.5}
    assert len(started.objects[f"{PREFIX}manifest.json"]) == 1


def test_exit_code_0_with_nothing_published_is_a_failure(started, ended):
    started.put(f"{PREFIX}config.json", b"{}")

    started.stop(ended(started, "task-succeeded"))

    record = started.record(RUN)
    assert record["state"] == "FAILED"
    assert f"nothing was published under {PREFIX}" in record["diagnosis"]["detail"]
    assert "PUSHTRAIN_RUN_PREFIX" in record["diagnosis"]["action"]
    assert f"{PREFIX}manifest.json" not in started.objects


SHA = hashlib.sha256(MODEL).hexdigest()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"version": 2}, "must have version 1, got 2"),
        ({"version": True}, "must have version 1, got True"),
        ({"run": "0123456789ab"}, f"must name run {RUN}, got '0123456789ab'"),
        ({"files": None}, "files in manifest.json must be a JSON object, got None"),
        ({"files": {}}, "must name at least one file"),
        ({"files": {"model.safetensors": 3}}, "'model.safetensors' must be a JSON object"),
        ({"files": {"model.safetensors": {"size": -1, "sha256": SHA}}}, "size of 0 or more"),
        ({"files": {"model.safetensors": {"size": True, "sha256": SHA}}}, "got True"),
        ({"files": {"model.safetensors": {"size": 7000, "sha256": "x"}}}, "64 hex digits"),
        (
            {"files": {"model.safetensors": {"size": 6999, "sha256": SHA}}},
            "model.safetensors must have 6999 bytes, got 7000",
        ),
        (
            {"files": {"model.safetensors": {"size": 7000, "sha256": "0" * 64}}},
            f"model.safetensors must have SHA-256 {'0' * 64}, got {SHA}",
        ),
        ({"files": {"lost.bin": {"size": 1, "sha256": SHA}}}, "lost.bin must be there, got"),
        ({"files": {"../x/run.json": {"size": 1, "sha256": SHA}}}, "relative path"),
        ({"files": {"/etc/passwd": {"size": 1, "sha256": SHA}}}, "relative path"),
        ({"files": {"a\\..\\b": {"size": 1, "sha256": SHA}}}, "relative path"),
        ({"files": {"run.json": {"size": 1, "sha256": SHA}}}, "relative path"),
        ({"files": {"": {"size": 1, "sha256": SHA}}}, "relative path"),
    ],
)
def test_a_wrong_manifest_is_a_failure_that_says_how(started, ended, changes, fault):
    publish(started, metrics={"accuracy": 0.9})
    publish(started, metrics={"accuracy": 0.9}, **changes)

    started.stop(ended(started, "task-succeeded"))

    record = started.record(RUN)
    assert record["state"] == "FAILED"
    assert fault in record["diagnosis"]["detail"]
    assert record["metrics"] == {}


@pytest.mark.parametrize("manifest", ["", "{", "[" * 100_000, "\ud7ff" * 3, "3", "[]"])
def test_a_manifest_that_is_no_object_is_a_failure(started, ended, manifest):
    publish(started, manifest)

    started.stop(ended(started, "task-succeeded"))

    assert started.record(RUN)["state"] == "FAILED"
    assert "manifest.json must be" in started.record(RUN)["diagnosis"]["detail"]


def test_a_giant_manifest_is_not_read(started, ended):
    publish(started, " " * (8 * 1024 * 1024) + "{}")

    started.stop(ended(started, "task-succeeded"))

    assert "must be at most" in started.record(RUN)["diagnosis"]["detail"]


def test_metrics_that_are_no_json_numbers_are_left_out(started, ended):
    metrics = '"metrics": {"loss": NaN, "norm": 1e999, "accuracy": 1e-1}'
    entry = f'{{"model.safetensors": {{"size": 7000, "sha256": "{SHA}"}}}}'
    publish(started, f'{{"version": 1, "run": "{RUN}", "files": {entry}, {metrics}}}')

    started.stop(ended(started, "task-succeeded"))

    assert started.record(RUN)["metrics"] == {"accuracy": 0.1}


@pytest.mark.parametrize("metrics", [None, [], "x"])
def test_metrics_of_another_shape_are_none(started, ended, metrics):
    publish(started, metrics=metrics)

    started.stop(ended(started, "task-succeeded"))

    assert started.record(RUN)["state"] == "SUCCEEDED"
    assert started.record(RUN)["metrics"] == {}


@pytest.mark.parametrize(
    ("name", "end", "words"),
    [
        ("task-exit-1", ("FAILED", 1), "the trainer failed"),
        ("task-exit-137", ("FAILED", 137), "out of memory"),
        ("task-cannot-pull", ("FAILED", None), "not in the repository any more"),
        ("task-user-stopped", ("CANCELLED", 143), "somebody stopped"),
    ],
)
def test_a_task_that_failed_ends_its_run_with_a_diagnosis(started, ended, name, end, words):
    stop = ended(started, name)

    started.stop(stop)

    record = started.record(RUN)
    (attempt,) = record["attempts"]
    assert (record["state"], attempt["exit_code"]) == end
    assert words in record["diagnosis"]["summary"]
    assert stop["detail"]["stoppedReason"] in record["diagnosis"]["detail"]
    assert record["diagnosis"] == attempt["diagnosis"] | {"cause": attempt["cause"]}
    assert record["diagnosis"]["action"]
    assert attempt["stop_code"] == stop["detail"]["stopCode"]
    assert started.active() == []


def test_the_diagnosis_ends_with_the_last_log_lines(started, ended):
    log(started, *[f"line {n}" for n in range(30)], "x" * 1000)

    started.stop(ended(started, "task-exit-1"))

    detail = started.record(RUN)["diagnosis"]["detail"]
    expected = ["last log lines:", *[f"line {n}" for n in range(11, 30)], "x" * 500]
    assert detail.splitlines()[1:] == expected


def test_lines_for_metrics_are_not_among_the_last_of_a_log(started, ended):
    epoch = Epoch(epoch=1, loss=2.0, accuracy=0.3, learning_rate=0.1, seconds=4.0)
    log(started, "no more memory", to_metrics(epoch, stack="dev", run=RUN, time=1.8e9))

    started.stop(ended(started, "task-exit-1"))

    assert started.record(RUN)["diagnosis"]["detail"].endswith("last log lines:\nno more memory")


def test_a_log_that_is_not_there_is_no_error(started, ended):
    started.stop(ended(started, "task-exit-1"))

    assert started.record(RUN)["diagnosis"]["detail"].endswith("no log lines")


def test_files_of_a_trainer_that_was_stopped_are_no_publication(started, ended):
    started.put(f"{PREFIX}model.bin", MODEL)
    stop = ended(started, "task-spot-interruption", containers=[{"name": "trainer", "exitCode": 0}])

    started.stop(stop)

    first, second = started.record(RUN)["attempts"]
    assert (first["cause"], second["cause"]) == ("spot", None)
    assert f"{PREFIX}manifest.json" not in started.objects


def test_a_publication_that_was_complete_when_the_task_was_stopped_counts(started, ended):
    publish(started)
    stop = ended(started, "task-spot-interruption", containers=[{"name": "trainer", "exitCode": 0}])

    started.stop(stop)

    assert started.record(RUN)["state"] == "SUCCEEDED"


def test_an_end_without_its_time_has_one_on_record(started, ended):
    started.stop(ended(started, "task-exit-1", stoppedAt=None))

    assert started.record(RUN)["attempts"][0]["stopped_at"]


def test_a_second_event_changes_nothing(started, ended):
    started.stop(ended(started, "task-exit-1"))
    before = started.get(f"{PREFIX}run.json")
    publish(started)

    outcome = started.stop(ended(started, "task-succeeded"))

    assert outcome["outcome"] == "known"
    assert started.get(f"{PREFIX}run.json") == before


def test_an_end_before_the_start_is_on_record_adopts_the_task(aws, event):
    """Invoke may still be about to write down the ARN that RunTask gave it."""
    outcomes = []

    def after(operation, _params):
        if operation == "RunTask":
            aws.recover()
            (arn,) = aws.running()
            outcomes.append(aws.stop(event("task-exit-1", detail={"taskArn": arn})))

    aws.after = after

    invoked = aws.push(event("push-oci"))

    record = aws.record(RUN)
    assert outcomes[0]["outcome"] == "ended"
    assert invoked["state"] == record["state"] == "FAILED"
    assert record["attempts"][0]["task_arn"] == aws.running()[0]


def test_another_task_than_the_recorded_one_is_refused(started, event):
    outcome = started.stop(event("task-exit-1"))

    assert outcome["outcome"] == "refused"
    assert "the task of attempt 1 is arn:aws:ecs" in outcome["reason"]
    assert started.record(RUN)["state"] == "STARTED"
    assert len(started.active()) == 1


def test_a_task_of_an_attempt_that_was_followed_by_another_is_refused(aws, event):
    aws.failures = ["Capacity is unavailable at this time"]
    aws.push(event("push-oci"))

    outcome = aws.stop(event("task-exit-1"))

    assert outcome["outcome"] == "refused"
    assert outcome["reason"] == "attempt 1 was followed by attempt 2"
    assert aws.record(RUN)["state"] == "STARTED"


def test_the_end_of_the_last_attempt_alone_tells_of_the_run(started, event, ended):
    """The next task may end while the event of the one before it is still at work."""

    def after(operation, _params):
        if operation == "RunTask":
            started.recover()
            started.errors = {"Publish": ["InternalError"]}
            second = {"taskArn": started.running()[-1], "startedBy": f"{RUN}-a2"}
            with pytest.raises(Exception, match="InternalError"):
                started.stop(event("task-exit-1", detail=second))

    started.after = after

    started.stop(ended(started, "task-spot-interruption"))

    record = started.record(RUN)
    assert (record["state"], record["notified_at"]) == ("FAILED", None)
    assert [notice for notice in started.notices if "TopicArn" in notice] == []


def test_an_attempt_opened_while_the_end_was_judged_keeps_the_run_open(started, ended):
    """What a later delivery wrote counts, not what this one read before."""

    def overtake(operation, _params):
        if operation == "GetLogEvents":
            record = started.record(RUN)
            record["attempts"][0]["task_arn"] = "arn:aws:ecs:us-east-1:123456789012:task/dev/other"
            started.put(f"{PREFIX}run.json", json.dumps(record).encode())

    started.before = overtake

    outcome = started.stop(ended(started, "task-exit-1"))

    assert outcome["outcome"] == "refused"
    assert started.record(RUN)["state"] == "STARTED"


def test_a_task_that_nobody_recorded_is_an_error(aws, event):
    with pytest.raises(UnknownTaskError, match=f"got no attempt 1 of run {RUN}"):
        aws.stop(event("task-exit-1"))


def test_an_attempt_that_nobody_recorded_is_an_error(started, event):
    with pytest.raises(UnknownTaskError, match=f"got no attempt 2 of run {RUN}"):
        started.stop(event("task-exit-1", detail={"startedBy": f"{RUN}-a2"}))


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        ({"clusterArn": "arn:aws:ecs:us-east-1:123456789012:cluster/other"}, "cluster/other"),
        ({"lastStatus": "RUNNING"}, "has not ended"),
        ({"startedBy": "somebody"}, "no run"),
    ],
)
def test_other_tasks_are_refused(started, ended, detail, reason):
    outcome = started.stop(ended(started, "task-exit-1", **detail))

    assert outcome["outcome"] == "refused"
    assert reason in outcome["reason"]
    assert started.record(RUN)["state"] == "STARTED"


def test_a_running_task_is_refused(started, ended):
    assert started.stop(ended(started, "task-running"))["outcome"] == "refused"


def test_the_handler_prints_one_line_of_json(started, ended, monkeypatch, capsys):
    monkeypatch.setattr("handler.wiring.clients", lambda: started.clients("observe"))

    outcome = handler(ended(started, "task-exit-1"), None)

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == outcome
    assert outcome["state"] == "FAILED"
