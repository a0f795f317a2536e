"""What must hold once a row has settled."""

from typing import Any

from tests.faults.rows import Row
from tests.faults.stage import FINAL, Stage


def judge(stage: Stage, row: Row) -> None:
    """Act, wait, and hold what came of it against the table."""
    row.act(stage)
    stage.settle()
    record = stage.record()
    requests = [attempt["request"] for attempt in record["attempts"]]
    used = [each["capacityProviderStrategy"][0]["capacityProvider"] for each in requests]

    same("state", record["state"], row.state)
    same("attempts", tuple(attempt["cause"] for attempt in record["attempts"]), row.attempts)
    same("tasks", len(stage.tasks(stage.run)), row.tasks)
    hold(stage.most_at_once(stage.run) <= 1, "two tasks of the run lived at once")
    if row.providers:
        same("providers", tuple(used), row.providers)
    _judge_end(record, row)
    _judge_notices(stage, record, row)
    same("queues", stage.queued(), row.queue)
    _judge_what_is_left(stage)


def same(what: str, found: object, expected: object) -> None:
    """Raise where what was found is not what was expected."""
    hold(found == expected, f"{what} must be {expected!r}, got {found!r}")


def hold(truth: object, otherwise: str) -> None:
    """Raise where something does not hold."""
    if not truth:
        raise AssertionError(otherwise)


def _judge_end(record: dict[str, Any], row: Row) -> None:
    """The record says how it ended, why, and what to do."""
    hold(record["state"] in FINAL, "the run must be over")
    hold(record["ended_at"], "the end must have its time")
    hold(record["notified_at"], "the notice must be on record")
    said = record["diagnosis"]
    if row.state != "SUCCEEDED":
        same("cause", said["cause"], row.cause)
        hold(said["summary"] and said["detail"] and said["action"], f"{said} must say it all")
    for attempt in record["attempts"]:
        if attempt["cause"]:
            said = attempt["diagnosis"]
            hold(said["summary"] and said["detail"] and said["action"], f"{said} must say it all")


def _judge_notices(stage: Stage, record: dict[str, Any], row: Row) -> None:
    """Everybody was told, once an end."""
    people = stage.messages(stage.notices["people"])
    programs = stage.messages(stage.notices["programs"])
    ours = [message for message in people if f"run {record['run']} " in message["Subject"]]
    events = [event["detail"] for event in programs if event["detail"]["run"] == record["run"]]
    for what, found, expected in (("people", ours, row.notices), ("programs", events, row.events)):
        if expected is None:
            hold(found, f"{what} must be told")
        else:
            same(f"notices to {what}", len(found), expected)
    for message in ours:
        hold(len(message["Subject"]) < 100, "the subject must fit")
        hold(len(message["Message"].encode()) <= 256 * 1024, "the message must fit")
        hold(record["state"] in message["Subject"], "the subject must say how it ended")
    hold(all(e["state"] == record["state"] for e in events), "the event must say how it ended")


def _judge_what_is_left(stage: Stage) -> None:
    """No mark, no slot, no task, no definition; and reconcile finds nothing to do."""
    same("living tasks", stage.cloud.tasks.living(), [])
    same("marks", stage.keys("open/"), [])
    same("definitions", stage.definitions(), [])
    if stage.keys("slots.json"):
        same("slots", stage.read("slots.json"), b"[]")
    before = {key: stage.read(key) for key in stage.keys("runs/")}
    stage.reconcile_only()
    same("records", {key: stage.read(key) for key in stage.keys("runs/")}, before)
