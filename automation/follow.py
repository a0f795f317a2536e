"""How far a run has come, and what its tasks say: for whoever follows it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

STATIONS: Final = ("claimed", "asked", "running", "log", "stopped", "recorded")
"""Run claimed, task asked for, task running, its first log line, task stopped, end recorded."""
FINAL_STATES: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
QUIET_READS: Final = 3
"""Empty reads after a run's end before its log is taken for whole: lines arrive late."""

Event = tuple[datetime, str, Mapping[str, Any]]
"""When it happened, its detail-type, its detail."""
Record = Mapping[str, Any]
"""A run record, as docs/run-record.md has it."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line that a task has written."""

    attempt: int
    at: datetime
    text: str


def part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object inside a document; empty where it is null, or unknown to who wrote it."""
    return document.get(name) or {}


def log_stream(record: Record | None) -> str | None:
    """Return the log stream of the run's last attempt, once that has a task."""
    attempts: list[dict[str, Any]] = record["attempts"] if record else []
    return attempts[-1]["log_stream"] if attempts else None


def stations(
    digest: str,
    events: Sequence[Event],
    record: Record | None,
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
    """The log of a stack's tasks, each stream read on from where it was left."""

    def __init__(self, logs: Any, group: str) -> None:
        """Read with a client of CloudWatch Logs."""
        self.first_at: datetime | None = None
        self._logs = logs
        self._group = group
        self._next: dict[str, str] = {}

    def read(self, stream: str) -> list[str]:
        """Return the lines since the last call."""
        return [text for _, text in self.entries(stream)]

    def entries(self, stream: str) -> list[tuple[datetime, str]]:
        """Return the lines since the last call, and when each was written."""
        found: list[tuple[datetime, str]] = []
        while True:
            token = self._next.get(stream)
            try:
                answer = self._logs.get_log_events(
                    logGroupName=self._group,
                    logStreamName=stream,
                    startFromHead=True,
                    **({"nextToken": token} if token else {}),
                )
            except self._logs.exceptions.ResourceNotFoundException:
                return found  # the task has not begun to write
            found += [
                (datetime.fromtimestamp(event["timestamp"] / 1000, UTC), event["message"])
                for event in answer["events"]
            ]
            self._next[stream] = answer["nextForwardToken"]
            # The end is where the token stays; a page may be empty before that.
            if answer["nextForwardToken"] == token:
                break
        if found and self.first_at is None:
            self.first_at = found[0][0]
        return found


def lines(
    record: Callable[[], Record],
    log: TaskLog,
    *,
    attempt: int | None = None,
    follow: bool = False,
    poll_seconds: float = 1.0,
) -> Iterator[Line]:
    """Give the lines of a run's attempts in their order, or of one attempt alone.

    follow: wait for more until the run has ended, over however many attempts that takes.
    """
    quiet = 0
    while True:
        now = record()
        news = False
        for each in now["attempts"]:
            if each["log_stream"] and attempt in (None, each["number"]):
                for at, text in log.entries(each["log_stream"]):
                    news = True
                    yield Line(attempt=each["number"], at=at, text=text)
        over = now["state"] in FINAL_STATES or _is_over(now, attempt)
        quiet = 0 if news or not over else quiet + 1
        if not follow or quiet >= QUIET_READS:
            return
        time.sleep(poll_seconds)


def _is_over(record: Record, attempt: int | None) -> bool:
    return any(
        each["number"] == attempt and (each["failure"] or each["stopped_at"])
        for each in record["attempts"]
    )
