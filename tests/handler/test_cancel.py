"""A cancelled run is never tried again, whatever state it was in."""

import pytest

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
RUN = DIGEST[7:19]


def request(run=RUN, **detail):
    return {
        "source": "pushtrain",
        "detail-type": "Cancel Request",
        "detail": {"run": run, "by": "ana", "reason": "wrong data", **detail},
    }


def last(aws):
    return aws.record(RUN)["attempts"][-1]


def test_the_task_of_a_started_run_is_stopped_once_the_record_says_why(aws, event):
    aws.push(event("push-oci"))
    on_record = []

    def before(operation, _params):
        if operation == "StopTask":
            on_record.append(aws.record(RUN)["stop"])

    aws.before = before

    outcome = aws.reconcile(request())

    assert outcome == {"outcome": "stopping", "run": RUN, "state": "STARTED"}
    assert [{**stop, "at": ""} for stop in on_record] == [
        {"why": "cancel", "by": "ana", "reason": "wrong data", "at": ""}
    ]
    assert aws.running() == []

    aws.stop(event("task-user-stopped", detail={"taskArn": last(aws)["task_arn"]}))

    record = aws.record(RUN)
    assert record["state"] == "CANCELLED"
    assert record["diagnosis"]["cause"] == last(aws)["cause"] == "cancel"
    assert record["notified_at"]
    assert len(record["attempts"]) == 1


@pytest.mark.parametrize("name", ["task-spot-interruption", "task-exit-1", "task-cannot-pull"])
def test_whatever_ends_the_task_of_a_cancelled_run_it_is_not_tried_again(aws, event, name):
    aws.push(event("push-oci"))
    aws.reconcile(request())

    aws.stop(event(name, detail={"taskArn": last(aws)["task_arn"]}))

    assert aws.record(RUN)["state"] == "CANCELLED"
    assert len(aws.tasks) == 1


def test_a_run_that_waits_is_over_at_once(aws, event):
    aws.objects.pop("data/dataset")
    aws.push(event("push-oci"))

    outcome = aws.reconcile(request())

    record = aws.record(RUN)
    assert outcome == {"outcome": "cancelled", "run": RUN, "state": "CANCELLED"}
    assert record["attempts"] == []
    assert record["diagnosis"]["detail"] == "by ana: wrong data; no task was at work"
    assert len(aws.notices) == 2
    assert f"open/{RUN}" not in aws.objects


def test_a_request_that_may_have_been_sent_is_sent_again_and_its_task_stopped(aws, event, crash):
    """Only RunTask can say which task came of it."""

    def after(operation, _params):
        if operation == "RunTask":
            raise crash

    aws.after = after
    with pytest.raises(crash):
        aws.push(event("push-oci"))
    aws.recover()
    assert last(aws)["task_arn"] is None
    assert len(aws.tasks) == 1

    outcome = aws.reconcile(request())

    assert outcome["outcome"] == "stopping"
    assert aws.running() == []
    assert last(aws)["task_arn"] in aws.tasks


def test_a_request_that_places_nothing_after_all_ends_the_run(aws, event):
    aws.errors = {"RunTask": ["ThrottlingException"]}
    with pytest.raises(Exception, match="Throttling"):
        aws.push(event("push-oci"))
    aws.failures = ["Capacity is unavailable at this time"]

    outcome = aws.reconcile(request())

    assert outcome["outcome"] == "cancelled"
    assert aws.record(RUN)["diagnosis"]["cause"] == "cancel"
    assert not aws.tasks


def test_a_task_that_starts_while_the_run_is_cancelled_is_stopped(aws, event):
    def overtake(operation, _params):
        if operation == "RunTask":
            aws.recover()
            aws.reconcile(request())

    aws.after = overtake

    aws.push(event("push-oci"))

    assert aws.running() == []
    assert aws.record(RUN)["stop"]["why"] == "cancel"


def test_a_task_that_ecs_has_forgotten_is_no_error(aws, event):
    aws.push(event("push-oci"))
    aws.tasks.clear()

    assert aws.reconcile(request())["outcome"] == "stopping"


def test_a_task_that_cannot_be_stopped_is_an_error(aws, event):
    aws.push(event("push-oci"))
    aws.errors = {"StopTask": ["InvalidParameterException"]}

    with pytest.raises(Exception, match="InvalidParameterException"):
        aws.reconcile(request())

    assert aws.record(RUN)["stop"]["why"] == "cancel"


def test_a_run_that_is_over_stays_as_it_is(aws, event):
    aws.push(event("push-oci"))
    aws.stop(event("task-exit-1", detail={"taskArn": last(aws)["task_arn"]}))
    before = aws.record(RUN)

    outcome = aws.reconcile(request())

    assert (outcome["outcome"], outcome["state"]) == ("known", "FAILED")
    assert aws.record(RUN) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run": "0123456789ab"}, "must be a run of this stack"),
        ({"run": "../x"}, "must be the name of a run"),
        ({"run": None}, "run must be a text"),
        ({"by": 3}, "by must be a text"),
        ({"by": ""}, "by must be a text"),
        ({"reason": []}, None),
    ],
)
def test_what_asks_for_nothing_sensible_is_refused(aws, event, changes, reason):
    aws.push(event("push-oci"))

    outcome = aws.reconcile(request() | {"detail": request()["detail"] | changes})

    if reason:
        assert outcome["outcome"] == "refused"
        assert reason in outcome["reason"]
        assert aws.record(RUN)["stop"] is None
    else:
        assert aws.record(RUN)["stop"]["reason"] == "no reason given"
