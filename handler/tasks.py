"""The tasks of runs: the definition pinned to an image, the request, the answer."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from handler import runs
from handler.runs import Run
from handler.store import RunStore
from handler.wiring import Wiring

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient

# What RegisterTaskDefinition takes of what DescribeTaskDefinition gives.
_COPIED = (
    "containerDefinitions",
    "cpu",
    "enableFaultInjection",
    "ephemeralStorage",
    "executionRoleArn",
    "ipcMode",
    "memory",
    "networkMode",
    "pidMode",
    "placementConstraints",
    "proxyConfiguration",
    "requiresCompatibilities",
    "runtimePlatform",
    "taskRoleArn",
    "volumes",
)
_OVERRIDES_LIMIT = 8192
"""Characters of JSON that RunTask takes as overrides."""


class TaskNotPlacedError(RuntimeError):
    """RunTask placed no task: the next delivery makes the next attempt."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """The task definition that the stack owns, from which each image's own is copied."""

    wiring: Wiring
    definition: dict[str, Any]
    tags: list[dict[str, str]]

    @classmethod
    def read(cls, ecs: "ECSClient", wiring: Wiring) -> Self:
        """Return the template as it is registered."""
        answer = ecs.describe_task_definition(taskDefinition=wiring["template"], include=["TAGS"])
        tags = cast("list[dict[str, str]]", answer.get("tags", []))
        return cls(
            wiring=wiring,
            definition=_registrable(cast("Mapping[str, Any]", answer["taskDefinition"])),
            # Nobody but AWS may write tags in its own name space.
            tags=[tag for tag in tags if not tag["key"].startswith("aws:")],
        )

    def image_uri(self, digest: str) -> str:
        """Return where that image lies: the placeholder's repository is right in any partition."""
        container = self.wiring["container"]
        for definition in self.definition["containerDefinitions"]:
            if definition["name"] == container:
                return f"{_without_tag(definition['image'])}@{digest}"
        raise ValueError(
            f"{self.wiring['template']} must have a container {container}, got none: run pulumi up"
        )

    def pin(self, ecs: "ECSClient", run: Run) -> str:
        """Return the ARN of the definition that runs exactly the run's image, made if need be."""
        container, uri = self.wiring["container"], run["image"]["uri"]
        pinned: dict[str, Any] = self.definition | {
            "family": f"{self.wiring['stack']}-{runs.name_of(run['image']['digest'])}",
            "containerDefinitions": [
                definition | {"image": uri} if definition["name"] == container else definition
                for definition in self.definition["containerDefinitions"]
            ],
        }
        found = _active(ecs, pinned["family"])
        # One of an earlier stack of this name may pin the same image, with roles long gone.
        if found and _registrable(found) | {"family": found["family"]} == pinned:
            return found["taskDefinitionArn"]
        if self.tags:  # ECS refuses an empty list
            pinned["tags"] = self.tags
        answer = ecs.register_task_definition(**pinned)
        return answer["taskDefinition"].get("taskDefinitionArn", "")


def retire(ecs: "ECSClient", run: Run) -> None:
    """Deregister the definitions made for the run: those its attempts named, and any left over.

    A delivery that lost the race to open the first attempt leaves one that no attempt names.
    """
    named = [attempt["request"]["taskDefinition"] for attempt in run["attempts"]]
    for arn in dict.fromkeys(named):
        _deregister(ecs, arn)
    for family in dict.fromkeys(_family(arn) for arn in named):
        while _deregister(ecs, family):
            pass


def build_request(run: Run, number: int, task_definition: str) -> dict[str, Any]:
    """Return one attempt's RunTask request; replayed word for word, it starts nothing twice."""
    wiring = run["wiring"]
    providers = wiring["capacity_providers"]
    token = f"{run['run']}/{number}/{run['image']['digest']}"
    return {
        "cluster": wiring["cluster"],
        "taskDefinition": task_definition,
        "count": 1,
        "capacityProviderStrategy": [
            {"capacityProvider": providers[min(number, len(providers)) - 1], "weight": 1}
        ],
        "networkConfiguration": {
            "awsvpcConfiguration": {
                "subnets": wiring["subnets"],
                "securityGroups": wiring["security_groups"],
                "assignPublicIp": "ENABLED" if wiring["assign_public_ip"] else "DISABLED",
            }
        },
        "overrides": build_overrides(run, number),
        "clientToken": hashlib.sha256(token.encode()).hexdigest(),
        "startedBy": f"{run['run']}-a{number}",
        "enableECSManagedTags": True,
        "propagateTags": "TASK_DEFINITION",
    }


def build_overrides(run: Run, number: int) -> dict[str, Any]:
    """Return the task's environment, which must fit into a RunTask request."""
    data = run["data"]
    environment = {
        "PUSHTRAIN_RUN": run["run"],
        "PUSHTRAIN_ATTEMPT": str(number),
        "PUSHTRAIN_BUCKET": run["wiring"]["bucket"],
        "PUSHTRAIN_RUN_PREFIX": runs.prefix(run["run"]),
        "PUSHTRAIN_CHECKPOINT_PREFIX": f"checkpoints/{run['run']}/",
        "PUSHTRAIN_DATA_KEY": data["key"] if data else "",
        "PUSHTRAIN_DATA_VERSION": data["version_id"] if data else "",
        "PUSHTRAIN_IMAGE_DIGEST": run["image"]["digest"],
        "PUSHTRAIN_IMAGE_TAG": run["image"]["tags"][0],
    } | {f"PUSHTRAIN_PARAM_{name.upper()}": value for name, value in run["parameters"].items()}
    overrides = {
        "containerOverrides": [
            {
                "name": run["wiring"]["container"],
                "environment": [
                    {"name": name, "value": value} for name, value in sorted(environment.items())
                ],
            }
        ]
    }
    if (size := len(json.dumps(overrides))) > _OVERRIDES_LIMIT:
        raise ValueError(
            f"the parameters {', '.join(sorted(run['parameters']))[:500]} must fit into "
            f"{_OVERRIDES_LIMIT} characters of RunTask overrides, got {size}: shorten them in "
            f"{run['wiring']['parameters_name']}"
        )
    return overrides


def place(ecs: "ECSClient", store: RunStore, run: Run) -> Run:
    """Send the open attempt's request, and return the record with the task in it."""
    attempt = run["attempts"][-1]
    number = attempt["number"]
    task_arn, failure = _run_task(ecs, attempt["request"])
    if failure:
        run = store.change(
            run["run"], functools.partial(runs.not_placed, number=number, failure=failure)
        )
        if runs.may_start(run):
            raise TaskNotPlacedError(f"attempt {number} of run {run['run']}: {failure}")
        return run
    run = store.change(
        run["run"], functools.partial(runs.started, number=number, task_arn=task_arn)
    )
    if number != len(run["attempts"]):
        # Our request started a task after its failure was recorded and another attempt opened.
        ecs.stop_task(
            cluster=attempt["request"]["cluster"],
            task=task_arn,
            reason=f"pushtrain: attempt {number} was given up before it started",
        )
        raise TaskNotPlacedError(f"attempt {number} of run {run['run']} came too late")
    return run


def _run_task(ecs: "ECSClient", request: dict[str, Any]) -> tuple[str, str]:
    """Return the task's ARN, or why there is none."""
    try:
        answer = ecs.run_task(**request)
    except ecs.exceptions.ConflictException as conflict:
        # The token has started a task for other parameters: that task is the attempt's.
        arns = cast("list[str]", conflict.response.get("resourceIds", []))
        if not arns:
            raise
        return arns[0], ""
    for task in answer.get("tasks", []):
        return task.get("taskArn", ""), ""
    reasons = [
        f"{failure.get('reason', '')} {failure.get('detail', '')}".strip()
        for failure in answer.get("failures", [])
    ]
    return "", "; ".join(reasons) or "RunTask answered without a task and without a failure"


def _registrable(definition: Mapping[str, Any]) -> dict[str, Any]:
    return {key: definition[key] for key in _COPIED if definition.get(key)}


def _active(ecs: "ECSClient", reference: str) -> Mapping[str, Any] | None:
    try:
        answer = ecs.describe_task_definition(taskDefinition=reference)
    except ecs.exceptions.ClientException:
        return None  # ECS's word for a family that has no active definition
    definition = cast("Mapping[str, Any]", answer["taskDefinition"])
    return definition if definition.get("status") == "ACTIVE" else None


def _deregister(ecs: "ECSClient", reference: str) -> bool:
    """Deregister what the reference names, and say whether there was anything active."""
    found = _active(ecs, reference)
    if not found:
        return False
    try:
        ecs.deregister_task_definition(taskDefinition=found["taskDefinitionArn"])
    except ecs.exceptions.ClientException:
        if _active(ecs, found["taskDefinitionArn"]):
            raise
    return True


def _family(task_definition: str) -> str:
    return task_definition.rsplit("/", 1)[-1].rsplit(":", 1)[0]


def _without_tag(image: str) -> str:
    registry, slash, name = image.partition("@")[0].rpartition("/")
    return f"{registry}{slash}{name.partition(':')[0]}"
