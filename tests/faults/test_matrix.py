"""Each row of the matrix on the embedded cloud, with the real Lambdas."""

import pytest

from tests.faults.rows import ROWS, Row
from tests.faults.stage import FINAL

pytestmark = pytest.mark.localcloud


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault.replace(" ", "-"))
def test_a_fault_ends_as_the_table_says(stage, row: Row):
    row.act(stage)
    stage.settle()
    record = stage.record()

    assert record["state"] == row.state
    assert tuple(attempt["cause"] for attempt in record["attempts"]) == row.attempts
    assert len(stage.tasks(stage.run)) == row.tasks
    assert stage.most_at_once(stage.run) <= 1, "nothing runs twice"
    if row.providers:
        requests = [attempt["request"] for attempt in record["attempts"]]
        used = [each["capacityProviderStrategy"][0]["capacityProvider"] for each in requests]
        assert tuple(used) == row.providers
    check_end(stage, record, row)
    assert stage.queued() == row.queue
    check_nothing_is_left(stage)


def check_end(stage, record, row):
    """The record says how it ended, why and what to do; and everybody was told, once an end."""
    assert record["state"] in FINAL
    assert record["ended_at"]
    assert record["notified_at"]
    said = record["diagnosis"]
    if row.state != "SUCCEEDED":
        assert said["cause"] == row.cause
        assert all((said["summary"], said["detail"], said["action"]))
    for attempt in record["attempts"]:
        if attempt["cause"]:
            assert all(attempt["diagnosis"][part] for part in ("summary", "detail", "action"))
    people = stage.messages(stage.notices["people"])
    programs = stage.messages(stage.notices["programs"])
    ours = [message for message in people if f"run {record['run']} " in message["Subject"]]
    events = [event["detail"] for event in programs if event["detail"]["run"] == record["run"]]
    assert len(ours) == row.notices or (row.notices is None and ours)
    assert len(events) == row.events or (row.events is None and events)
    for message in ours:
        assert len(message["Subject"]) <= 100
        assert len(message["Message"].encode()) <= 256 * 1024
        assert record["state"] in message["Subject"]
    assert {event["state"] for event in events} == {record["state"]}


def check_nothing_is_left(stage):
    """No mark, no slot, no task, no definition; and reconcile finds nothing to do."""
    assert stage.cloud.tasks.living() == []
    assert stage.keys("open/") == []
    assert stage.definitions() == []
    if stage.keys("slots.json"):
        assert stage.read("slots.json") == b"[]"
    before = {key: stage.read(key) for key in stage.keys("runs/")}
    stage.reconcile_only()
    assert {key: stage.read(key) for key in stage.keys("runs/")} == before
