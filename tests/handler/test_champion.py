"""Which run becomes the champion, what is written, and that of two at once the better one stays."""

import json
import math
import threading
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import champion, runs
from handler.champion import Found, PromotionRefusedError
from handler.store import LostRaceError

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture(scope="session")
def new_run(wires):
    """Return a run that ended well; its name is made of one letter."""

    def make(letter="1", etag="e1", **wiring):
        digest = f"sha256:{letter * 64}"
        image: Any = {
            "repository": "trainer",
            "uri": f"r@{digest}",
            "digest": digest,
            "tags": ["g-1"],
        }
        data: Any = {"key": "data/dataset", "version_id": "v1", "etag": etag} if etag else None
        wired: Any = {**wires, **wiring}
        made = runs.claimed(image=image, parameters={}, wiring=wired, data=data)
        return {**made, "state": "SUCCEEDED", "ended_at": made["updated_at"]}

    return make


@pytest.fixture
def s3(aws):
    return aws.clients("observe").s3


def manifest(accuracy: object = None, *, test: object = A, data: object = B, **more) -> Any:
    return {
        "version": 1,
        "files": {"model.safetensors": {"size": 1, "sha256": C}},
        "metrics": {} if accuracy is None else {"accuracy": accuracy},
        "model": "model.safetensors",
        "data": {"test_sha256": test, "sha256": data},
        **more,
    }


def document(aws):
    return json.loads(aws.get(champion.KEY))


def standing(**fields) -> Any:
    """Return a champion's document."""
    return {
        "version": 1,
        "run": "c" * 12,
        "image_digest": f"sha256:{C}",
        "prefix": "runs/cccccccccccc/",
        "model": "model.safetensors",
        "metric": "accuracy",
        "goal": "max",
        "value": 0.8,
        "data": {"test_sha256": A, "sha256": B, "etag": "e1"},
        "promoted_at": "2026-01-01T00:00:00.000Z",
        "by": "observe",
        "reason": "there was no champion",
        "previous": None,
        **fields,
    }


def crown(aws, **fields):
    """Put a champion there."""
    there = standing(**fields)
    aws.put(champion.KEY, json.dumps(there).encode())
    return there


def test_without_a_champion_the_run_becomes_it(aws, s3, new_run):
    run = new_run()
    promotion = champion.promote(s3, run, manifest(0.5))

    assert promotion == {
        "decision": "promoted",
        "reason": "there was no champion",
        "metric": "accuracy",
        "value": 0.5,
        "champion": None,
        "at": promotion["at"],
    }
    assert document(aws) == {
        "version": 1,
        "run": "111111111111",
        "image_digest": f"sha256:{'1' * 64}",
        "prefix": "runs/111111111111/",
        "model": "model.safetensors",
        "metric": "accuracy",
        "goal": "max",
        "value": 0.5,
        "data": {"test_sha256": A, "sha256": B, "etag": "e1"},
        "promoted_at": promotion["at"],
        "by": "observe",
        "reason": "there was no champion",
        "previous": None,
    }


def test_a_better_run_follows_the_champion_which_is_remembered(aws, s3, new_run):
    crown(aws, value=0.8)
    promotion = champion.promote(s3, new_run(), manifest(0.81))

    assert promotion["decision"] == "promoted"
    assert promotion["reason"] == "accuracy 0.81 beats 0.8 of run cccccccccccc"
    assert promotion["champion"] == {"run": "cccccccccccc", "value": 0.8}
    assert document(aws)["run"] == "111111111111"
    assert document(aws)["previous"] == {"run": "cccccccccccc", "value": 0.8}


@pytest.mark.parametrize(
    ("value", "rival", "reason"),
    [
        (0.99722, 0.94166, "accuracy 0.9972 beats 0.9417 of"),
        (0.997222, 0.997221, "accuracy 0.997222 beats 0.997221 of"),
        (0.9972222222222222, 0.9972222222222222, "accuracy 0.9972 does not beat 0.9972 of"),
        (0.3, 0.1 + 0.2, "accuracy 0.29999999999999999 does not beat 0.30000000000000004 of"),
    ],
)
def test_reason_has_the_digits_that_tell_two_values_apart(aws, new_run, value, rival, reason):
    crown(aws, value=rival)
    promotion = champion.promote(aws.clients("observe").s3, new_run(), manifest(value))

    assert promotion["reason"] == f"{reason} run cccccccccccc"


def test_what_is_written_keeps_to_the_contract(aws, s3, new_run, root):
    schema = json.loads((root / "docs" / "run-record.schema.json").read_text())
    champion.promote(s3, new_run("1", None), manifest(0.5, test=None, data=None, model=None))
    champion.promote(s3, new_run("2"), manifest(0.6))
    champion.override(s3, new_run("3"), manifest(), by="ann", reason="it is smaller")

    for one in aws.objects[champion.KEY]:
        jsonschema.validate(json.loads(one.body), {**schema, "$ref": "#/$defs/champion"})
    assert document(aws)["value"] is None


KEPT = {
    "a worse run": (manifest(0.79), {}, "accuracy 0.79 does not beat 0.8 of run cccccccccccc"),
    "a tie": (manifest(0.8), {}, "accuracy 0.8 does not beat 0.8 of run cccccccccccc"),
    "no metric": (manifest(), {}, "the manifest has no metric accuracy"),
    "not a number": (
        manifest(math.nan),
        {},
        "accuracy must be a finite number, got nan",
    ),
    "infinity": (manifest(math.inf), {}, "accuracy must be a finite number, got inf"),
    "a text": (manifest("0.99"), {}, "accuracy must be a finite number, got '0.99'"),
    "a truth": (manifest(True), {}, "accuracy must be a finite number, got True"),
    "a number beyond all numbers": (
        manifest(10**400),
        {},
        f"accuracy must be a finite number, got 1{'0' * 79}",
    ),
    "metrics that are none": (
        manifest(metrics=[0.99]),
        {},
        "the manifest has no metric accuracy",
    ),
    "other test data": (
        manifest(0.9, test=C),
        {},
        (
            "the champion, run cccccccccccc, was tested on other data (test_sha256 differs):"
            " pushtrain promote 111111111111 makes it the champion by hand"
        ),
    ),
    "another file of data, and no hash of its test part": (
        manifest(0.9, test=None, data=C),
        {},
        (
            "the champion, run cccccccccccc, was tested on other data (sha256 differs):"
            " pushtrain promote 111111111111 makes it the champion by hand"
        ),
    ),
    "another upload, and no manifest that tells more": (
        manifest(0.9, data=None, test=None),
        {"data": {"test_sha256": A, "sha256": B, "etag": "e2"}},
        (
            "the champion, run cccccccccccc, was tested on other data (etag differs):"
            " pushtrain promote 111111111111 makes it the champion by hand"
        ),
    ),
    "data of which nothing is known": (
        manifest(0.9),
        {"data": {"test_sha256": None, "sha256": None, "etag": None}},
        (
            "nothing tells whether the champion, run cccccccccccc, was tested on the same data:"
            " pushtrain promote 111111111111 makes it the champion by hand"
        ),
    ),
    "a champion of another metric": (
        manifest(0.9),
        {"metric": "loss"},
        (
            "the champion, run cccccccccccc, was chosen by loss, and this run goes by accuracy:"
            " pushtrain promote 111111111111 makes it the champion by hand"
        ),
    ),
    "a champion by hand without the metric": (
        manifest(0.9),
        {"value": None},
        (
            "the champion, run cccccccccccc, was chosen by hand and has no accuracy:"
            " pushtrain promote 111111111111 makes it the champion by hand"
        ),
    ),
}


@pytest.mark.parametrize(("published", "there", "reason"), KEPT.values(), ids=KEPT)
def test_champion_is_kept_against(aws, new_run, published, there, reason):
    before = crown(aws, **there)
    promotion = champion.promote(aws.clients("observe").s3, new_run(), published)

    assert (promotion["decision"], promotion["reason"]) == ("kept", reason)
    assert promotion["champion"] == {"run": before["run"], "value": before["value"]}
    assert json.dumps(promotion, allow_nan=False)
    assert document(aws) == before


@pytest.mark.parametrize("accuracy", [None, math.nan])
def test_a_run_without_the_metric_is_no_first_champion_either(aws, s3, new_run, accuracy):
    assert champion.promote(s3, new_run(), manifest(accuracy))["decision"] == "kept"
    assert champion.KEY not in aws.objects


SAME = {
    "test data of equal pixels in another file": (manifest(0.9, data=C), "e2"),
    "the same file, by a trainer that hashes no pixels": (manifest(0.9, test=None), "e2"),
    "the same upload, by a trainer that tells nothing": (manifest(0.9, data=None, test=None), "e1"),
    "the same upload, and hashes that are none": (
        manifest(0.9, data=7, test="no hash: a text with blanks"),
        "e1",
    ),
    "the same upload, and data that are no object": (manifest(0.9) | {"data": ["x"]}, "e1"),
}


@pytest.mark.parametrize(("published", "etag"), SAME.values(), ids=SAME)
def test_the_closest_hash_that_both_have_tells_the_same_data(aws, s3, new_run, published, etag):
    crown(aws)

    assert champion.promote(s3, new_run(etag=etag), published)["decision"] == "promoted"


@pytest.mark.parametrize(("loss", "decision"), [(0.1, "promoted"), (0.3, "kept"), (0.2, "kept")])
def test_goal_min_wants_less(aws, s3, new_run, loss, decision):
    crown(aws, metric="loss", goal="min", value=0.2)
    run = new_run(champion_metric="loss", champion_goal="min")
    promotion = champion.promote(s3, run, manifest(metrics={"loss": loss}))

    assert promotion["decision"] == decision
    assert document(aws)["goal"] == "min"


def test_a_model_that_is_not_among_the_files_is_not_named(aws, s3, new_run):
    champion.promote(s3, new_run("1"), manifest(0.1, model="../../etc/passwd"))
    assert document(aws)["model"] is None

    champion.promote(s3, new_run("2"), manifest(0.2, model=["model.safetensors"]))
    assert document(aws)["model"] is None


UNREADABLE = {
    "no JSON": (b"{", "must be JSON, got b'{'"),
    "no text": (b"\xff\xfe", "must be JSON, got b'\\xff\\xfe'"),
    "deeper than Python goes": (b"[" * 100_000, "must be JSON, got b'[[["),
    "no object": (b"[]", "must have version 1, got None"),
    "a newer version": (b'{"version": 2}', "must have version 1, got 2"),
    "fields that are missing": (
        b'{"version": 1}',
        "must have run, metric, data, promoted_at, reason as docs/run-record.md has it",
    ),
    "fields of other types": (
        json.dumps(
            {
                "version": 1,
                "run": "cccccccccccc",
                "metric": "accuracy",
                "value": "0.8",
                "data": {},
                "promoted_at": "2026-01-01T00:00:00.000Z",
                "reason": "",
                "previous": {"run": 1},
            }
        ).encode(),
        "must have value, previous as docs/run-record.md has it",
    ),
}


@pytest.mark.parametrize(("body", "fault"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_champion_that_cannot_be_read_is_kept_and_says_why(aws, s3, new_run, body, fault):
    # No run's end may hang on it.
    aws.put(champion.KEY, body)
    promotion = champion.promote(s3, new_run(), manifest(0.9))

    assert promotion["decision"] == "kept"
    assert f"s3://dev-models/models/champion.json {fault}" in promotion["reason"]
    assert promotion["reason"].endswith(": restore the object's version before, or delete it")
    assert aws.get(champion.KEY) == body
    with pytest.raises(PromotionRefusedError, match="restore the object's version before"):
        champion.override(s3, new_run(), manifest(0.9), by="ann", reason="because")


def test_told_again_after_a_crash_the_champion_says_the_same(aws, s3, new_run):
    crown(aws)
    first = champion.promote(s3, new_run(), manifest(0.9))
    again = champion.promote(s3, new_run(), manifest(0.9))

    assert again == first
    assert len(aws.objects[champion.KEY]) == 2


def test_told_again_after_it_was_followed_it_does_not_come_back(aws, s3, new_run):
    # Not even where a person chose a worse one in between.
    champion.promote(s3, new_run("1"), manifest(0.9))
    champion.override(s3, new_run("2"), manifest(0.1), by="ann", reason="it is fair")
    again = champion.promote(s3, new_run("1"), manifest(0.9))

    assert again["decision"] == "promoted"
    assert again["reason"] == "it was the champion until run 222222222222 followed it"
    assert document(aws)["run"] == "222222222222"


def meanwhile(aws, act):
    """Have something happen between the next reading of the champion and its writing."""
    left = iter([act])

    def after(operation, params):
        if operation == "GetObject" and params["Key"] == champion.KEY:
            next(left, lambda: None)()

    aws.after = after


@pytest.mark.parametrize(("first", "second"), [(0.7, 0.9), (0.9, 0.7)])
@pytest.mark.parametrize("there", [False, True])
def test_of_two_at_once_the_better_wins(aws, new_run, first, second, there):
    s3 = aws.clients("observe").s3
    if there:
        crown(aws, value=0.6)
    inner = []
    meanwhile(aws, lambda: inner.append(champion.promote(s3, new_run("2"), manifest(second))))
    outer = champion.promote(s3, new_run("1"), manifest(first))

    assert document(aws)["value"] == 0.9
    assert inner[0]["decision"] == "promoted"
    assert outer["decision"] == ("promoted" if first > second else "kept")
    assert outer["champion"] == {"run": "222222222222", "value": second}


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "PreconditionFailed", "NoSuchKey"])
def test_a_lost_race_is_run_again(aws, s3, new_run, code):
    aws.errors["PutObject"] = [code, code]

    assert champion.promote(s3, new_run(), manifest(0.5))["decision"] == "promoted"
    assert document(aws)["value"] == 0.5


def test_a_race_that_is_lost_each_time_is_an_error(aws, s3, new_run):
    aws.errors["PutObject"] = ["PreconditionFailed"] * 99

    with pytest.raises(LostRaceError, match=r"models/champion\.json was changed by another"):
        champion.promote(s3, new_run(), manifest(0.5))


@pytest.mark.parametrize("operation", ["GetObject", "PutObject"])
@pytest.mark.parametrize("code", ["AccessDenied", "SlowDown"])
def test_any_other_error_is_raised(aws, s3, new_run, operation, code):
    aws.errors[operation] = [code]

    with pytest.raises(s3.exceptions.ClientError, match=code):
        champion.promote(s3, new_run(), manifest(0.5))


def test_many_at_once_leave_the_best(aws, new_run):
    values = [0.1, 0.9, 0.5, 0.7, 0.3]
    made = {}

    def work(letter, value):
        s3 = aws.clients("observe").s3
        made[value] = champion.promote(s3, new_run(letter), manifest(value))

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip("12345", values, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert document(aws)["value"] == 0.9
    assert made[0.9]["decision"] == "promoted"
    assert len(made) == 5


def test_by_hand_any_run_that_succeeded_becomes_champion(aws, s3, new_run):
    crown(aws)
    promotion = champion.override(s3, new_run(), manifest(0.1, test=C), by="ann", reason="smaller")

    assert promotion["decision"] == "promoted"
    assert promotion["reason"] == "by hand (ann): smaller"
    assert promotion["champion"] == {"run": "cccccccccccc", "value": 0.8}
    assert document(aws)["by"] == "ann"
    assert document(aws)["reason"] == "by hand (ann): smaller"
    assert document(aws)["previous"] == {"run": "cccccccccccc", "value": 0.8}


def test_by_hand_the_former_champion_comes_back(aws, s3, new_run):
    champion.promote(s3, new_run("1"), manifest(0.8))
    champion.promote(s3, new_run("2"), manifest(0.9))
    champion.override(s3, new_run("1"), manifest(0.8), by="ann", reason="two is unfair")

    assert document(aws)["run"] == "111111111111"


def test_by_hand_twice_is_once(aws, s3, new_run):
    first = champion.override(s3, new_run(), manifest(0.1), by="ann", reason="smaller")
    again = champion.override(s3, new_run(), manifest(0.1), by="bob", reason="me too")

    assert again == first
    assert len(aws.objects[champion.KEY]) == 1


@pytest.mark.parametrize("state", ["WAITING", "CLAIMED", "STARTED", "FAILED", "CANCELLED"])
def test_by_hand_a_run_that_did_not_succeed_is_refused(aws, s3, new_run, state):
    run = new_run() | {"state": state}

    with pytest.raises(PromotionRefusedError, match=f"must have SUCCEEDED .*, got {state}"):
        champion.override(s3, run, manifest(0.9), by="ann", reason="because")
    assert champion.KEY not in aws.objects


def test_by_hand_only_so_much_of_names_and_reasons_is_kept(aws, s3, new_run):
    champion.override(s3, new_run(), manifest(0.9), by="a" * 9000, reason="r" * 9000)

    assert len(aws.get(champion.KEY)) < 3000


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(ANY, ANY, st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)))
def test_whatever_a_manifest_holds_a_decision_can_be_recorded(new_run, metrics, data, value):
    published = {"files": {}, "metrics": metrics, "data": data}
    for found in (Found(), Found(champion=standing(value=value)), Found(fault="broken")):
        promotion = champion.decide(new_run(), published, found)
        json.dumps(promotion, allow_nan=False)
        assert promotion["reason"]


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["max", "min"]),
)
def test_the_champion_is_followed_by_strictly_better_ones_only(new_run, value, rival, goal):
    run = new_run(champion_goal=goal)
    promotion = champion.decide(run, manifest(value), Found(champion=standing(value=rival)))
    better = value > rival if goal == "max" else value < rival

    assert promotion["decision"] == ("promoted" if better else "kept")
