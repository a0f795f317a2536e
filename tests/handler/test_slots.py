"""No more runs at once than `maxConcurrentRuns`, whoever comes when."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from handler.slots import SlotsError
from handler.store import LostRaceError

RUN = "06ea17a8981d"


def digest(number):
    return f"sha256:{number:012x}" + "0" * 52


@pytest.fixture
def limited(aws, wires):
    """An account in which two runs may be at work."""
    aws.parameters["/pushtrain/dev/wiring"] = json.dumps(wires | {"max_concurrent_runs": 2})
    return aws


@pytest.fixture
def push(event):
    return lambda number: event("push-oci", detail={"image-digest": digest(number)})


def end(aws, event, number):
    run = digest(number)[7:19]
    arn = aws.record(run)["attempts"][-1]["task_arn"]
    aws.tasks[arn]["status"] = "STOPPED"
    return aws.stop(event("task-exit-1", detail={"taskArn": arn, "startedBy": f"{run}-a1"}))


def holders(aws):
    return json.loads(aws.get("slots.json"))


def test_without_a_limit_there_are_no_slots(aws, event):
    aws.push(event("push-oci"))

    assert "slots.json" not in aws.objects


def test_a_run_beyond_the_limit_waits_until_another_is_over(limited, event, push):
    outcomes = [limited.push(push(number))["outcome"] for number in (1, 2, 3)]
    third = digest(3)[7:19]
    waiting = limited.record(third)["waiting"]
    idle = limited.reconcile()["changed"]

    end(limited, event, 1)
    limited.reconcile()

    assert outcomes == ["started", "started", "waiting"]
    assert waiting["why"] == "limit"
    assert "maxConcurrentRuns" in waiting["detail"]
    assert waiting["not_before"] is None
    assert idle == []
    assert limited.record(third)["state"] == "STARTED"
    assert holders(limited) == [digest(2)[7:19], third]


def test_the_longest_waiting_run_starts_first(limited, event, push):
    for number in (9, 8, 7, 5, 6):
        limited.push(push(number))
        limited.change(digest(number)[7:19], created_at=f"2026-01-02T03:0{9 - number}:00.000Z")

    end(limited, event, 9)
    limited.reconcile()

    states = {number: limited.record(digest(number)[7:19])["state"] for number in (5, 6, 7)}
    assert states == {7: "STARTED", 6: "WAITING", 5: "WAITING"}


def test_a_run_keeps_its_slot_between_its_attempts(limited, event, push):
    limited.push(event("push-oci"))
    limited.push(push(2))
    arn = limited.record(RUN)["attempts"][-1]["task_arn"]

    limited.stop(event("task-spot-interruption", detail={"taskArn": arn}))
    third = limited.push(push(3))

    assert limited.record(RUN)["state"] == "STARTED"
    assert third["outcome"] == "waiting"
    assert holders(limited) == [RUN, digest(2)[7:19]]


def test_many_at_once_share_the_slots(limited, push):
    with ThreadPoolExecutor(12) as threads:
        outcomes = list(threads.map(lambda n: limited.push(push(n))["outcome"], range(12)))

    assert sorted(outcomes) == ["started"] * 2 + ["waiting"] * 10
    assert len(limited.tasks) == len(holders(limited)) == 2


def test_two_rounds_at_once_share_the_slots(limited, event, push):
    for number in range(5):
        limited.push(push(number))
    end(limited, event, 0)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: limited.reconcile(), range(2)))

    assert len(limited.running()) == len(holders(limited)) == 2


def test_a_slot_that_was_given_to_a_run_that_ended_meanwhile_is_freed(limited, event):
    def overtake(operation, params):
        if operation == "PutObject" and params["Key"] == "slots.json":
            limited.before = lambda _operation, _params: None
            limited.reconcile(
                {
                    "source": "pushtrain",
                    "detail-type": "Cancel Request",
                    "detail": {"run": RUN, "by": "me", "reason": "no"},
                }
            )

    limited.before = overtake

    limited.push(event("push-oci"))

    assert limited.record(RUN)["state"] == "CANCELLED"
    assert holders(limited) == []


def test_a_leaked_slot_is_freed_once_somebody_waits_for_it(limited, push):
    limited.push(push(1))
    limited.put("slots.json", json.dumps([digest(1)[7:19], "ffffffffffff"]).encode())
    limited.reconcile()
    leaked = holders(limited)

    limited.push(push(2))
    limited.reconcile()

    assert leaked == [digest(1)[7:19], "ffffffffffff"]
    assert holders(limited) == [digest(1)[7:19], digest(2)[7:19]]
    assert limited.record(digest(2)[7:19])["state"] == "STARTED"


def test_slots_that_always_change_end_in_an_error(limited, event, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)

    def overtake(operation, params):
        if operation == "PutObject" and params["Key"] == "slots.json":
            limited.put("slots.json", json.dumps([f"{next(limited.numbers):012x}"]).encode())

    limited.before = overtake

    with pytest.raises(LostRaceError, match="was changed by another each of 20 times"):
        limited.push(event("push-oci"))

    assert not limited.tasks


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[1]", b"[" * 100_000])
def test_slots_that_cannot_be_read_are_an_error(limited, event, body):
    limited.put("slots.json", body)

    with pytest.raises(SlotsError, match="must be a JSON array of runs"):
        limited.push(event("push-oci"))

    assert not limited.tasks


def test_forbidden_slots_are_an_error_and_not_their_absence(limited, event):
    limited.errors = {"GetObject": ["", "", "AccessDenied"]}

    with pytest.raises(Exception, match="AccessDenied"):
        limited.push(event("push-oci"))

    assert not limited.tasks
