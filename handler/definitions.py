"""Task definitions: the stack's template, and the one of each image, pinned to its digest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from handler import runs
from handler.runs import Run
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
            "family": _family(run),
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
    """Deregister the definitions made for the run's image.

    There may be several: a delivery that lost the race to open the first attempt leaves one.
    """
    while found := _active(ecs, _family(run)):
        _deregister(ecs, found["taskDefinitionArn"])


def _registrable(definition: Mapping[str, Any]) -> dict[str, Any]:
    return {key: definition[key] for key in _COPIED if definition.get(key)}


def _active(ecs: "ECSClient", reference: str) -> Mapping[str, Any] | None:
    try:
        answer = ecs.describe_task_definition(taskDefinition=reference)
    except ecs.exceptions.ClientException:
        return None  # ECS's word for a family that has no active definition
    definition = cast("Mapping[str, Any]", answer["taskDefinition"])
    return definition if definition.get("status") == "ACTIVE" else None


def _deregister(ecs: "ECSClient", arn: str) -> None:
    try:
        ecs.deregister_task_definition(taskDefinition=arn)
    except ecs.exceptions.ClientException:
        if _active(ecs, arn):
            raise


def _family(run: Run) -> str:
    return f"{run['wiring']['stack']}-{runs.name_of(run['image']['digest'])}"


def _without_tag(image: str) -> str:
    registry, slash, name = image.partition("@")[0].rpartition("/")
    return f"{registry}{slash}{name.partition(':')[0]}"
