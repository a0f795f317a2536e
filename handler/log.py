"""What a task wrote last."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from handler import runs
from handler.wiring import Wiring

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

_LINES = 20
_LINE_LENGTH = 500
_METRICS = '{"_aws":'
"""How a line begins that a trainer wrote for CloudWatch's metrics and not for a reader."""


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The end of a task's log."""

    lines: tuple[str, ...] = ()
    time: datetime | None = None
    """Of the last line; None if there is none."""


def tail(logs: "CloudWatchLogsClient", wires: Wiring, task_arn: str) -> Tail:
    """Return the last lines, none of a task that never got as far as a log."""
    try:
        answer = logs.get_log_events(
            logGroupName=wires["log_group"],
            logStreamName=runs.log_stream(wires, task_arn),
            limit=_LINES,
            startFromHead=False,
        )
    except logs.exceptions.ResourceNotFoundException:
        return Tail()
    events = answer["events"]
    times = [event["timestamp"] for event in events if "timestamp" in event]
    return Tail(
        lines=tuple(
            message[:_LINE_LENGTH]
            for event in events
            if not (message := event.get("message", "")).startswith(_METRICS)
        ),
        time=datetime.fromtimestamp(max(times) / 1000, UTC) if times else None,
    )
