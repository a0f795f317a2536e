import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.events import (
    MalformedEventError,
    NotOursError,
    parse_push,
    parse_stopped_task,
)

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("push-oci", "g-0123456789abcdef0123456789abcdef01234567"),
        ("push-docker-v2", "c-0123456789ab"),
        ("push-without-media-types", "latest"),
        ("push-index", "latest"),
    ],
)
def test_a_tagged_push_of_an_image_is_read(event, name, tag):
    push = parse_push(event(name))

    assert push.digest == DIGEST
    assert push.tag == tag
    assert (push.repository, push.account, push.region) == ("trainer", "123456789012", "us-east-1")
    assert push.time == "2026-01-02T03:04:05Z"
    assert push.event_id == "13cde686-328b-6117-af20-0e5566167482"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("push-empty-tag", "without a tag"),
        ("push-without-tag", "without a tag"),
        ("push-failure", "'FAILURE'"),
        ("push-attestation", "in-toto"),
        ("push-helm-chart", "helm"),
        ("push-signature", "signature"),
        ("delete", "'DELETE'"),
        ("task-succeeded", "ECS Task State Change"),
    ],
)
def test_what_is_no_tagged_push_is_refused_with_a_reason(event, name, reason):
    with pytest.raises(NotOursError, match=reason):
        parse_push(event(name))


@pytest.mark.parametrize(
    "changes",
    [
        {"detail": None},
        {"detail": []},
        {"source": None},
        {"source": 3},
        {"detail": {"image-digest": "sha256:06ea"}},
        {"detail": {"image-digest": DIGEST + "\n"}},
        {"detail": {"image-digest": DIGEST.upper()}},
        {"detail": {"image-digest": None}},
        {"detail": {"image-tag": 7}},
        {"detail": {"image-tag": "a" * 129}},
        {"detail": {"image-tag": "a b"}},
        {"detail": {"repository-name": ["trainer"]}},
        {"detail": {"artifact-media-type": {}}},
        {"detail": {"action-type": None}},
        {"account": 123456789012},
    ],
)
def test_a_malformed_push_is_an_error(event, changes):
    with pytest.raises(MalformedEventError, match="must be"):
        parse_push(event("push-oci", **changes))


def test_a_stopped_task_is_read(event):
    stop = parse_stopped_task(event("task-exit-137"))

    assert (stop.run, stop.attempt) == (DIGEST[7:19], 1)
    assert stop.cluster == "arn:aws:ecs:us-east-1:123456789012:cluster/dev"
    assert stop.task_arn.endswith(":task/dev/0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    assert stop.container("trainer").exit_code == 137
    assert stop.container("trainer").reason.startswith("OutOfMemoryError")
    assert stop.container("sidecar").exit_code is None
    assert stop.stop_code == "EssentialContainerExited"
    assert stop.started_at == "2026-01-02T03:05:12.003Z"
    assert stop.stopped_at == "2026-01-02T03:15:00.250Z"


def test_a_task_that_never_had_a_container_is_read(event):
    stop = parse_stopped_task(event("task-failed-to-start"))

    assert stop.containers == ()
    assert stop.started_at is None
    assert stop.container("trainer").exit_code is None


@pytest.mark.parametrize(
    ("started_by", "run", "attempt"),
    [("0123456789ab-a1", "0123456789ab", 1), ("0123456789ab-12-a34", "0123456789ab-12", 34)],
)
def test_the_run_is_found_by_who_started_the_task(event, started_by, run, attempt):
    stop = parse_stopped_task(event("task-exit-1", detail={"startedBy": started_by}))

    assert (stop.run, stop.attempt) == (run, attempt)


@pytest.mark.parametrize(
    "detail",
    [
        {"startedBy": None},
        {"startedBy": "ecs-svc/1234"},
        {"startedBy": "0123456789ab"},
        {"startedBy": "0123456789ab-a0"},
        {"startedBy": "0123456789ab-a1\n"},
        {"startedBy": "0123456789ab-a" + "9" * 5000},
        {"lastStatus": "RUNNING"},
    ],
)
def test_a_task_of_no_run_is_refused(event, detail):
    with pytest.raises(NotOursError, match=r"no run|has not ended"):
        parse_stopped_task(event("task-exit-1", detail=detail))


@pytest.mark.parametrize(
    "detail",
    [
        {"containers": {}},
        {"containers": [None]},
        {"containers": [{"name": "trainer", "exitCode": "1"}]},
        {"containers": [{"name": "trainer", "exitCode": True}]},
        {"stoppedAt": "yesterday"},
        {"stoppedAt": "0001-01-01T00:00:00+23:59"},
        {"taskArn": None},
        {"stopCode": 4},
    ],
)
def test_a_malformed_state_change_is_an_error(event, detail):
    with pytest.raises(MalformedEventError, match="must be"):
        parse_stopped_task(event("task-exit-1", detail=detail))


@st.composite
def broken_events(draw, names):
    """An event of ours with one value, at any place, replaced by any JSON."""
    recorded = draw(st.sampled_from(names))
    place, key = recorded, draw(st.sampled_from(sorted(recorded)))
    while isinstance(place[key], dict) and place[key] and draw(st.booleans()):
        place, key = place[key], draw(st.sampled_from(sorted(place[key])))
    before = place[key]
    place[key] = draw(JSON)
    text = json.dumps(recorded)
    place[key] = before
    return json.loads(text)


@given(data=st.data())
def test_any_json_is_a_push_or_refused_or_raised(new_account, event, data):
    aws = new_account()
    anything = data.draw(JSON | broken_events([event("push-oci"), event("delete")]))

    try:
        outcome = aws.push(anything)["outcome"]
    except MalformedEventError:
        outcome = "malformed"

    # The value that was replaced may say nothing of the push, such as the event's resources.
    is_push = outcome == "started" and anything["detail"]["image-digest"] == DIGEST
    assert is_push or outcome in {"refused", "malformed"}
    assert len(aws.tasks) == is_push


@given(data=st.data())
def test_any_json_ends_the_run_or_is_refused_or_raised(new_account, event, data):
    aws = new_account()
    detail = {"taskArn": aws.push(event("push-oci"))["task_arn"]}
    recorded = [event(name, detail=detail) for name in ("task-exit-1", "task-failed-to-start")]
    anything = data.draw(JSON | broken_events(recorded))

    try:
        outcome = aws.stop(anything)["outcome"]
    except MalformedEventError:
        outcome = "malformed"

    record = aws.record(DIGEST[7:19])
    assert outcome in {"ended", "refused", "malformed"}
    assert (outcome == "ended") == (record["attempts"][0]["stopped_at"] is not None)
    assert record["state"] == "STARTED" or outcome == "ended"


def test_a_time_without_a_zone_is_utc(event):
    stop = parse_stopped_task(event("task-exit-1", detail={"stoppedAt": "2026-01-02T03:04:05"}))

    assert stop.stopped_at == "2026-01-02T03:04:05.000Z"
