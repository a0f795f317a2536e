"""The cluster and the template of every training task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_aws import cloudwatch, ecs, iam

from components import policies
from components.image_repository import ImageRepository
from components.model_store import DATA_KEY

CONTAINER: Final = "trainer"
LOG_STREAM_PREFIX: Final = "run"
STOP_TIMEOUT_SECONDS: Final = 120
"""Fargate's most, and what a Spot reclaim gives: time to save a checkpoint."""
USER: Final = "10001:10001"
"""The trainer image's user; an image of one's own runs as it too, so never as root."""
TEMPLATE_TAG: Final = "template"
"""No image has this tag: the invoke Lambda puts the pushed digest in its place."""


@dataclass(frozen=True, kw_only=True)
class TrainingTaskArgs:
    """The size of a task and what it works with."""

    stack: str
    cpu: int
    memory: int
    architecture: str
    container_insights: bool
    log_retention_days: int
    repository: ImageRepository
    bucket_arn: Input[str]
    scope: policies.AwsScope
    permissions_boundary: str | None
    """ARN of the policy that bounds the roles of tasks."""
    key: policies.KeyScope | None
    """The key that log and bucket are encrypted with; None for AWS's own."""
    secrets: Mapping[str, str]
    """Environment variable -> ARN of the secret that is in it."""


class TrainingTask(ComponentResource):
    """Owns everything of a task but its image, which each push brings."""

    cluster_arn: Output[str]
    template_arn: Output[str]
    execution_role_arn: Output[str]
    task_role_arn: Output[str]
    log_group_name: Output[str]
    log_group_arn: Output[str]

    def __init__(
        self, name: str, args: TrainingTaskArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("pushtrain:task:TrainingTask", name, None, opts)
        child = ResourceOptions(parent=self)

        cluster = ecs.Cluster(
            f"{name}-cluster",
            settings=[
                {
                    "name": "containerInsights",
                    "value": "enabled" if args.container_insights else "disabled",
                }
            ],
            opts=child,
        )
        providers = ecs.ClusterCapacityProviders(
            f"{name}-capacity",
            cluster_name=cluster.name,
            capacity_providers=["FARGATE", "FARGATE_SPOT"],
            opts=child,
        )
        key_arn = args.key.key_arn if args.key else None
        logs = cloudwatch.LogGroup(
            f"{name}-logs",
            retention_in_days=args.log_retention_days,
            kms_key_id=key_arn,
            opts=child,
        )
        if args.container_insights:
            cloudwatch.LogGroup(
                f"{name}-insights",
                # Container Insights writes to this one. Where there is none when the first task
                # runs, it makes it, without an end and without a key:
                # https://github.com/aws/containers-roadmap/issues/2315
                name=Output.format("{0}{1}/performance", policies.CONTAINER_INSIGHTS, cluster.name),
                retention_in_days=args.log_retention_days,
                kms_key_id=key_arn,
                opts=child,
            )
        execution_role = iam.Role(
            f"{name}-execution",
            description="Pulls images and writes logs for training tasks",
            permissions_boundary=args.permissions_boundary,
            assume_role_policy=Output.json_dumps(
                policies.assume_role("ecs-tasks.amazonaws.com", args.scope)
            ),
            opts=child,
        )
        execution_policy = iam.RolePolicy(
            f"{name}-execution-policy",
            role=execution_role.name,
            policy=Output.json_dumps(
                policies.task_execution(args.repository.arn, logs.arn, tuple(args.secrets.values()))
            ),
            opts=child,
        )
        task_role = iam.Role(
            f"{name}-task",
            description="What a trainer may do",
            # The ARN as AWS's page on task IAM roles has it:
            # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html
            permissions_boundary=args.permissions_boundary,
            assume_role_policy=Output.json_dumps(
                policies.assume_role(
                    "ecs-tasks.amazonaws.com", args.scope, args.scope.arn("ecs", "*")
                )
            ),
            opts=child,
        )
        task_policy = iam.RolePolicy(
            f"{name}-task-policy",
            role=task_role.name,
            policy=Output.json_dumps(policies.training_task(args.bucket_arn, DATA_KEY, args.key)),
            opts=child,
        )
        template = ecs.TaskDefinition(
            f"{name}-template",
            # An invoke Lambda may start <its stack>-<any 12 characters>. This is longer, so that
            # no stack's Lambda may: stack dev-abc's dev-abc-template would be one of stack dev's.
            family=f"{args.stack}-task-template",
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu=str(args.cpu),
            memory=str(args.memory),
            runtime_platform={
                "operating_system_family": "LINUX",
                "cpu_architecture": args.architecture.upper(),
            },
            execution_role_arn=execution_role.arn,
            task_role_arn=task_role.arn,
            container_definitions=Output.json_dumps(
                [
                    container_definition(
                        image=Output.format("{0}:{1}", args.repository.url, TEMPLATE_TAG),
                        memory=args.memory,
                        log_group=logs.name,
                        region=args.scope.region,
                        secrets=args.secrets,
                    )
                ],
                sort_keys=True,
            ),
            opts=ResourceOptions(
                parent=self, depends_on=[providers, execution_policy, task_policy]
            ),
        )

        self.cluster_arn = cluster.arn
        self.template_arn = template.arn
        self.execution_role_arn = execution_role.arn
        self.task_role_arn = task_role.arn
        self.log_group_name = logs.name
        self.log_group_arn = logs.arn
        self.register_outputs(
            {
                "cluster_arn": self.cluster_arn,
                "template_arn": self.template_arn,
                "execution_role_arn": self.execution_role_arn,
                "task_role_arn": self.task_role_arn,
                "log_group_name": self.log_group_name,
                "log_group_arn": self.log_group_arn,
            }
        )


def container_definition(
    *,
    image: Input[str],
    memory: int,
    log_group: Input[str],
    region: Input[str],
    secrets: Mapping[str, str],
) -> Mapping[str, Any]:
    """Return the container; AWS's own defaults are written out, or each preview shows a change."""
    definition: dict[str, Any] = {
        "name": CONTAINER,
        "image": image,
        "essential": True,
        "cpu": 0,
        "memory": memory,
        "user": USER,
        "environment": [],
        "mountPoints": [],
        "portMappings": [],
        "systemControls": [],
        "volumesFrom": [],
        # Passes SIGTERM on and reaps children, whatever the image starts.
        "linuxParameters": {"initProcessEnabled": True},
        "stopTimeout": STOP_TIMEOUT_SECONDS,
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": log_group,
                "awslogs-region": region,
                "awslogs-stream-prefix": LOG_STREAM_PREFIX,
            },
        },
    }
    if secrets:
        # Where each secret is, not what it is: ECS's agent reads it as the task starts.
        definition["secrets"] = [
            {"name": name, "valueFrom": arn} for name, arn in sorted(secrets.items())
        ]
    return definition
