"""The tasks of runs: the request, the answer, the stop."""

import hashlib
import json
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from handler import runs
from handler.runs import Run
from handler.wiring import error_code

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient

_OVERRIDES_LIMIT = 8192
"""Characters of JSON that RunTask takes as overrides."""
_REFUSALS = frozenset(
    {
        "ClientException",
        "ClusterNotFoundException",
        "InvalidParameterException",
        "PlatformTaskDefinitionIncompatibilityException",
        "PlatformUnknownException",
        "UnsupportedFeatureException",
    }
)
"""Errors of RunTask that are about the request: the same one would fail again."""


class ParametersError(ValueError):
    """Parameters that a task cannot be given."""


def build_request(run: Run, number: int, *, task_definition: str, provider: str) -> dict[str, Any]:
    """Return one attempt's RunTask request; replayed word for word, it starts nothing twice."""
    wiring = run["wiring"]
    token = f"{run['run']}/{number}/{run['image']['digest']}"
    return {
        "cluster": wiring["cluster"],
        "taskDefinition": task_definition,
        "count": 1,
        "capacityProviderStrategy": [{"capacityProvider": provider, "weight": 1}],
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
        "PUSHTRAIN_CHAMPION_KEY": "models/champion.json",
    } | {f"PUSHTRAIN_PARAM_{name.upper()}": value for name, value in run["parameters"].items()}
    if run["wiring"].get("metrics"):
        environment["PUSHTRAIN_METRICS"] = run["wiring"]["stack"]
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
        raise ParametersError(
            f"the parameters {', '.join(sorted(run['parameters']))[:500]} must fit into "
            f"{_OVERRIDES_LIMIT} characters of RunTask overrides, got {size}: shorten them in "
            f"{run['wiring']['parameters_name']}"
        )
    return overrides


def run_task(ecs: "ECSClient", request: dict[str, Any]) -> tuple[str, str]:
    """Return the ARN of the request's one task, or why there is none.

    Throttling, missing permissions and ECS's own faults are raised: the request is sent again.
    """
    try:
        answer = ecs.run_task(**request)
    except ecs.exceptions.ConflictException as conflict:
        # The token has started a task for other parameters: that task is the attempt's.
        arns = cast("list[str]", conflict.response.get("resourceIds", []))
        if not arns:
            raise
        return arns[0], ""
    except ClientError as error:
        if error_code(error) not in _REFUSALS:
            raise
        return "", f"RunTask refused the request: {error}"
    for task in answer.get("tasks", []):
        return task.get("taskArn", ""), ""
    reasons = [
        f"{failure.get('reason', '')} {failure.get('detail', '')}".strip()
        for failure in answer.get("failures", [])
    ]
    return "", "; ".join(reasons) or "RunTask answered without a task and without a failure"


def stop_task(ecs: "ECSClient", cluster: str, task_arn: str, reason: str) -> None:
    """Tell the task to stop; one that has stopped, or that ECS has forgotten, is no error."""
    try:
        ecs.stop_task(cluster=cluster, task=task_arn, reason=f"pushtrain: {reason}"[:255])
    except ecs.exceptions.InvalidParameterException as error:
        if "not found" not in str(error):
            raise
