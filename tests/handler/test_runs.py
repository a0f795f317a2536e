import copy

import pytest

from handler import runs

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
ARN = "arn:aws:ecs:us-east-1:123456789012:task/dev/0f1e2d3c"
DATA: runs.Data = {"key": "data/dataset", "version_id": "v1", "etag": "e"}
SUCCESS: runs.RunDiagnosis = {"cause": "success", "summary": "done", "detail": "", "action": ""}


def build(_run, number):
    return {"clientToken": str(number)}


@pytest.fixture
def claimed(wires):
    return runs.claimed(
        image={
            "repository": "trainer",
            "uri": f"r/trainer@{DIGEST}",
            "digest": DIGEST,
            "tags": ["t"],
        },
        parameters={},
        wiring=wires,
        data=DATA,
    )


@pytest.fixture
def attempted(claimed):
    return runs.attempted(claimed, build)


@pytest.fixture
def started(attempted):
    return runs.started(attempted, 1, ARN)


@pytest.fixture
def ended(started):
    return runs.ended(started, "SUCCEEDED", SUCCESS, {"accuracy": 0.9})


def test_an_attempt_that_is_open_is_not_opened_again(attempted):
    assert [a["number"] for a in attempted["attempts"]] == [1]
    assert runs.attempted(attempted, build) is attempted


def refuse(run: runs.Run) -> runs.Run:
    return runs.with_attempt(run, {**run["attempts"][-1], "failure": "no capacity"})


def test_an_attempt_that_placed_nothing_is_followed_by_the_next(attempted):
    failed = refuse(attempted)
    again = runs.attempted(failed, build)

    assert runs.open_attempt(failed) is None
    assert [a["failure"] for a in again["attempts"]] == ["no capacity", None]
    assert [a["request"]["clientToken"] for a in again["attempts"]] == ["1", "2"]


def test_an_attempt_that_stopped_is_over(attempted):
    attempted["attempts"][0]["stopped_at"] = runs.now()

    assert runs.open_attempt(attempted) is None


def test_a_task_outweighs_a_failure_that_was_recorded(attempted):
    started = runs.started(refuse(attempted), 1, ARN)

    assert started["state"] == "STARTED"
    assert started["attempts"][0]["task_arn"] == ARN
    assert started["attempts"][0]["failure"] is None


def test_a_task_of_an_earlier_attempt_starts_nothing(attempted):
    again = runs.attempted(refuse(attempted), build)

    assert runs.started(again, 1, ARN) is again


def test_data_are_frozen_once(claimed):
    other: runs.Data = {"key": "data/dataset", "version_id": "v2", "etag": "f"}

    assert runs.supplied(claimed, other) is claimed


def test_a_waiting_run_is_claimed_by_its_data(claimed, wires):
    waiting = runs.claimed(image=claimed["image"], parameters={}, wiring=wires, data=None)
    supplied = runs.supplied(waiting, DATA)

    assert (waiting["state"], supplied["state"]) == ("WAITING", "CLAIMED")
    assert (supplied["data"], supplied["waiting"]) == (DATA, None)


def test_a_final_state_is_never_left(ended):
    wait: runs.Waiting = {"why": "limit", "detail": "", "not_before": None}
    stop: runs.Stop = {"why": "cancel", "by": "me", "reason": "", "at": runs.now()}

    assert ended["state"] == "SUCCEEDED"
    assert runs.attempted(ended, build) is ended
    assert runs.started(ended, 1, "another") is ended
    assert runs.waiting(ended, wait) is ended
    assert runs.to_be_stopped(ended, stop) is ended
    assert runs.ended(ended, "FAILED", SUCCESS) is ended


def test_a_tag_is_noted_in_any_state(ended):
    tagged = runs.tagged(ended, "latest")

    assert tagged["image"]["tags"] == ["t", "latest"]
    assert tagged["state"] == "SUCCEEDED"
    assert runs.tagged(tagged, "latest") is tagged


def test_a_transition_leaves_the_record_it_was_given_alone(claimed):
    before = copy.deepcopy(claimed)

    runs.started(runs.attempted(runs.tagged(claimed, "latest"), build), 1, ARN)

    assert claimed == before
