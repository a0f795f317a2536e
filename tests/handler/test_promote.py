"""A success is compared with the champion; a person may decide otherwise."""

import hashlib
import json

import pytest

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
RUN = DIGEST[7:19]
SECOND = f"{RUN}-2"


def request(run, **detail):
    return {
        "source": "pushtrain",
        "detail-type": "Promote Request",
        "detail": {"run": run, "by": "ana", "reason": "it is smaller", **detail},
    }


def succeed(aws, event, run, accuracy):
    aws.put(f"runs/{run}/model.bin", b"weights")
    entry = {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    manifest = {
        "version": 1,
        "run": run,
        "files": {"model.bin": entry},
        "metrics": {"accuracy": accuracy},
        "model": "model.bin",
    }
    aws.put(f"runs/{run}/manifest.json", json.dumps(manifest).encode())
    arn = aws.record(run)["attempts"][-1]["task_arn"]
    aws.stop(event("task-succeeded", detail={"taskArn": arn, "startedBy": f"{run}-a1"}))


@pytest.fixture
def two(aws, event):
    """An account with a champion, and a run that did not beat it."""
    aws.push(event("push-oci"))
    asked = {"digest": DIGEST, "tag": "latest", "by": "me", "token": "t"}
    aws.push({"source": "pushtrain", "detail-type": "Train Request", "detail": asked})
    succeed(aws, event, RUN, 0.9)
    succeed(aws, event, SECOND, 0.8)
    return aws


def champion(aws):
    return json.loads(aws.get("models/champion.json"))


def test_the_better_model_of_two_is_the_champion_and_both_records_say_why(two):
    first, second = two.record(RUN)["promotion"], two.record(SECOND)["promotion"]

    assert champion(two)["run"] == RUN
    assert (first["decision"], second["decision"]) == ("promoted", "kept")
    assert second["champion"] == {"run": RUN, "value": 0.9}
    events = [json.loads(n["Detail"]) for n in two.notices if "Detail" in n]
    assert [e["promotion"]["decision"] for e in events] == ["promoted", "kept"]


def test_a_person_s_word_makes_a_champion(two):
    outcome = two.stop(request(SECOND))

    assert (outcome["outcome"], outcome["run"], outcome["state"]) == (
        "promoted",
        SECOND,
        "SUCCEEDED",
    )
    assert champion(two)["run"] == SECOND
    assert champion(two)["by"] == "ana"
    assert "it is smaller" in two.record(SECOND)["promotion"]["reason"]
    assert two.record(SECOND)["promotion"]["decision"] == "promoted"


def test_a_model_that_is_not_what_it_was_is_refused(two):
    two.put(f"runs/{SECOND}/model.bin", b"strange")

    outcome = two.stop(request(SECOND))

    assert outcome["outcome"] == "refused"
    assert "SHA-256" in outcome["reason"]
    assert champion(two)["run"] == RUN


@pytest.mark.parametrize(
    ("run", "reason"),
    [("ffffffffffff", "must be a run of this stack"), ("x", "must be the name of a run")],
)
def test_what_is_no_run_is_refused(two, run, reason):
    outcome = two.stop(request(run))

    assert outcome["outcome"] == "refused"
    assert reason in outcome["reason"]


def test_a_run_without_a_model_is_refused(aws, event):
    aws.push(event("push-oci"))

    outcome = aws.stop(request(RUN))

    assert outcome["outcome"] == "refused"
    assert "must have SUCCEEDED" in outcome["reason"]
