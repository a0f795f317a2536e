"""Whether the task of a run lives: what ECS, its log and its publication say of it."""

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from handler import ending, events, log, runs, tasks
from handler.events import StoppedTask, rfc3339
from handler.runs import Attempt, Run
from handler.store import RunStore
from handler.wiring import Clients, Wiring

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient

Task = Mapping[str, Any]
"""One of DescribeTasks."""

_AT_ONCE = 100
"""Tasks that DescribeTasks takes."""
_FORGETS_AFTER = timedelta(hours=1)
"""How long ECS knows a stopped task at least; a younger one that it does not know may yet come."""
_QUIET_FOR = timedelta(minutes=10)
"""A task that wrote into its log since then is at work, whatever ECS says."""


def describe(ecs: "ECSClient", found: list[Run]) -> dict[str, Task]:
    """Return the tasks of the started runs that ECS knows."""
    arns: dict[str, list[str]] = defaultdict(list)
    for run in found:
        attempt = runs.open_attempt(run)
        if run["state"] == "STARTED" and attempt and attempt["task_arn"]:
            arns[run["wiring"]["cluster"]].append(attempt["task_arn"])
    return {
        task["taskArn"]: task
        for cluster, of_cluster in arns.items()
        for task in _describe(ecs, cluster, of_cluster)
    }


def attend(run: Run, task: Task | None, store: RunStore, clients: Clients) -> Run:
    """Record what became of the open attempt's task; stop one that is to be stopped."""
    attempt = runs.open_attempt(run)
    if not attempt:
        return run
    if not attempt["task_arn"]:
        return _adopt(run, attempt, store, clients)
    if not task:
        lost = _lost(run, attempt, clients)
        return ending.record(run, lost, store, clients) if lost else run
    if task["lastStatus"] == "STOPPED":
        return ending.record(run, _stopped(task), store, clients)
    if _over_time(run, attempt, task):
        limit = run["wiring"]["max_run_minutes"]
        stop: runs.Stop = {
            "why": "time",
            "by": "reconcile",
            "reason": f"over its time of {limit} minutes (pushtrain:maxRunMinutes)",
            "at": runs.now(),
        }
        run = store.change(run["run"], functools.partial(runs.to_be_stopped, stop=stop))
    if run["stop"] and not runs.is_final(run):
        tasks.stop_task(
            clients.ecs, run["wiring"]["cluster"], attempt["task_arn"], run["stop"]["reason"]
        )
    return run


def stop_strays(store: RunStore, clients: Clients, wires: Wiring) -> None:
    """Stop the tasks at work that no record waits for.

    They are of an attempt that was given up before RunTask answered, where whoever asked died
    before it could stop the task: nobody else would ever look at it.
    """
    pages = clients.ecs.get_paginator("list_tasks").paginate(
        cluster=wires["cluster"], desiredStatus="RUNNING"
    )
    arns = [arn for page in pages for arn in page["taskArns"]]
    for task in _describe(clients.ecs, wires["cluster"], arns):
        ours = events.parse_started_by(task.get("startedBy", ""))
        if ours and _is_stray(task, *ours, store):
            reason = "no run waits for this task"
            tasks.stop_task(clients.ecs, wires["cluster"], task["taskArn"], reason)


def _is_stray(task: Task, name: str, attempt: int, store: RunStore) -> bool:
    # The record is read after the task was listed: a request stands in it before it is sent.
    run = store.find(name)
    if not run:
        return False
    if runs.is_final(run) or attempt != len(run["attempts"]):
        return True
    return run["attempts"][-1]["task_arn"] not in {None, task["taskArn"]}


def _describe(ecs: "ECSClient", cluster: str, arns: list[str]) -> Iterator[Task]:
    for first in range(0, len(arns), _AT_ONCE):
        answer = ecs.describe_tasks(cluster=cluster, tasks=arns[first : first + _AT_ONCE])
        yield from cast("list[Task]", answer["tasks"])


def _adopt(run: Run, attempt: Attempt, store: RunStore, clients: Clients) -> Run:
    """Record the task that the request has started already, if ECS knows one."""
    for status in ("RUNNING", "STOPPED"):
        task_arn = _find(run, attempt, clients.ecs, status)
        if task_arn:
            started = functools.partial(runs.started, number=attempt["number"], task_arn=task_arn)
            return store.change(run["run"], started)
    return run


def _find(run: Run, attempt: Attempt, ecs: "ECSClient", status: Any) -> str | None:
    answer = ecs.list_tasks(
        cluster=run["wiring"]["cluster"],
        startedBy=attempt["request"]["startedBy"],
        desiredStatus=status,
    )
    return next(iter(answer["taskArns"]), None)


def _stopped(task: Task) -> StoppedTask:
    return events.parse_task(
        {
            key: rfc3339(value) if isinstance(value, datetime) else value
            for key, value in task.items()
        }
    )


def _lost(run: Run, attempt: Attempt, clients: Clients) -> StoppedTask | None:
    """Return the end of a task that ECS has forgotten, or None if it may be at work."""
    task_arn = cast("str", attempt["task_arn"])
    time = datetime.now(UTC)
    if time - datetime.fromisoformat(attempt["requested_at"]) < _FORGETS_AFTER:
        return None
    if _find(run, attempt, clients.ecs, "RUNNING"):
        return None
    last = log.tail(clients.logs, run["wiring"], task_arn).time
    if last and time - last < _QUIET_FOR:
        return None
    return StoppedTask(
        run=run["run"],
        attempt=attempt["number"],
        cluster=run["wiring"]["cluster"],
        task_arn=task_arn,
        containers=(),
        stop_code=None,
        stopped_reason=None,
        pull_started_at=None,
        started_at=None,
        stopped_at=rfc3339(last or time),
        forgotten=True,
    )


def _over_time(run: Run, attempt: Attempt, task: Task) -> bool:
    """Say whether the run's tasks have had their time, all of them together."""
    minutes = run["wiring"]["max_run_minutes"]
    if not minutes:
        return False
    began = task.get("startedAt") or datetime.fromisoformat(attempt["requested_at"])
    used = datetime.now(UTC) - began
    for earlier in run["attempts"]:
        if earlier["task_arn"] and earlier["stopped_at"]:
            # Nobody knows when a task that was lost had started.
            began = earlier["started_at"] or earlier["requested_at"]
            used += datetime.fromisoformat(earlier["stopped_at"]) - datetime.fromisoformat(began)
    return used > timedelta(minutes=minutes)
