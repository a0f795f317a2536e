"""How far a run has come, and what its task says: for whoever follows it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from localcloud.cloud import Cloud

STATIONS: Final = ("claimed", "asked", "running", "log", "stopped", "recorded")
"""Run claimed, task asked for, task running, its first log line, task stopped, end recorded."""
FINAL_STATES: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})

Event = tuple[datetime, str, Mapping[str, Any]]
"""When it happened, its detail-type, its detail."""


def log_stream(record: Mapping[str, Any] | None) -> str | None:
    """Return the log stream of the run's last attempt, once that has a task."""
    attempts: list[dict[str, Any]] = record["attempts"] if record else []
    return attempts[-1]["log_stream"] if attempts else None


def stations(
    digest: str,
    events: Sequence[Event],
    record: Mapping[str, Any] | None,
    first_line: datetime | None,
) -> dict[str, float]:
    """Return how many milliseconds after its push the run came past each of STATIONS."""
    pushed = next((at for at, kind, detail in events if _is_push(kind, detail, digest)), None)
    if pushed is None or record is None:
        return {}
    attempt: Mapping[str, Any] = record["attempts"][-1] if record["attempts"] else {}
    arn = attempt.get("task_arn")
    reached: dict[str, datetime] = {"claimed": _time(record["created_at"])}
    if attempt:
        reached["asked"] = _time(attempt["requested_at"])
    for at, kind, detail in events:
        if kind == "ECS Task State Change" and detail["taskArn"] == arn:
            if detail["lastStatus"] == "RUNNING":
                reached["running"] = at
            elif detail["lastStatus"] == "STOPPED":
                reached["stopped"] = at
    if first_line:
        reached["log"] = first_line
    if record["ended_at"]:
        reached["recorded"] = _time(record["ended_at"])
    return {
        name: (reached[name] - pushed).total_seconds() * 1000
        for name in STATIONS
        if name in reached
    }


def _is_push(kind: str, detail: Mapping[str, Any], digest: str) -> bool:
    return kind == "ECR Image Action" and detail["image-digest"] == digest


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


class TaskLog:
    """The log of one task, read on from where it was left."""

    def __init__(self, cloud: Cloud, group: str) -> None:
        self.first_at: datetime | None = None
        self._logs = cloud.client("logs")
        self._group = group
        self._from: dict[str, str] = {}

    def read(self, stream: str) -> list[str]:
        """Return the lines since the last call."""
        try:
            answer = self._logs.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **self._from
            )
        except self._logs.exceptions.ResourceNotFoundException:
            return []  # the task has not begun to write
        self._from = {"nextToken": answer["nextForwardToken"]}
        events = answer["events"]
        if events and self.first_at is None:
            self.first_at = datetime.fromtimestamp(events[0]["timestamp"] / 1000, UTC)
        return [event["message"] for event in events]
