"""What runs in a stack's cluster, and what runs leave in ECS that Pulumi does not know of."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

MOST_TASKS: Final = 100
"""That DescribeTasks takes at once."""
WAIT_SECONDS: Final = 6
WAIT_ATTEMPTS: Final = 100


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of a cluster."""

    arn: str
    cluster: str
    run: str
    """The run and its attempt, as docs/run-record.md names who started a task."""
    status: str


def running(ecs: Any, clusters: Iterable[str]) -> list[Task]:
    """Give the tasks that run, or are about to; none of a cluster that is gone."""
    found: list[Task] = []
    for cluster in clusters:
        try:
            arns = list(_pages(ecs, "list_tasks", "taskArns", cluster=cluster))
        except ecs.exceptions.ClusterNotFoundException:
            continue
        for some in _batches(arns):
            described = ecs.describe_tasks(cluster=cluster, tasks=some)["tasks"]
            found += [
                Task(
                    arn=task["taskArn"],
                    cluster=cluster,
                    run=task.get("startedBy", ""),
                    status=task["lastStatus"],
                )
                for task in described
            ]
    return found


def stop(ecs: Any, clusters: Sequence[str]) -> list[Task]:
    """Stop all tasks, and wait until they have: a cluster with tasks cannot be deleted."""
    tasks = running(ecs, clusters)
    for task in tasks:
        ecs.stop_task(cluster=task.cluster, task=task.arn, reason="pushtrain destroy")
    for cluster in {task.cluster for task in tasks}:
        for some in _batches([task.arn for task in tasks if task.cluster == cluster]):
            ecs.get_waiter("tasks_stopped").wait(
                cluster=cluster,
                tasks=some,
                WaiterConfig={"Delay": WAIT_SECONDS, "MaxAttempts": WAIT_ATTEMPTS},
            )
    return tasks


def deregister_definitions(ecs: Any, stack: str) -> list[str]:
    """Deregister what runs registered: families of the stack and an image's 12 hex digits."""
    of_run = re.compile(rf"{re.escape(stack)}-[0-9a-f]{{12}}")
    gone: list[str] = []
    for family in _pages(
        ecs, "list_task_definition_families", "families", familyPrefix=f"{stack}-", status="ACTIVE"
    ):
        if of_run.fullmatch(family):
            for arn in _pages(
                ecs, "list_task_definitions", "taskDefinitionArns", familyPrefix=family
            ):
                # AWS takes the prefix of this call for the whole name; emulators may not.
                if arn.rpartition("/")[2].partition(":")[0] == family:
                    ecs.deregister_task_definition(taskDefinition=arn)
                    gone.append(arn)
    return gone


def _pages(ecs: Any, operation: str, key: str, **request: Any) -> Iterator[str]:
    for page in ecs.get_paginator(operation).paginate(**request):
        yield from page[key]


def _batches(arns: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(arns), MOST_TASKS):
        yield list(arns[start : start + MOST_TASKS])
