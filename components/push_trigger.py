"""From a pushed image to a running task, and from a stopped task to the end of its run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_aws import ssm

from components import policies
from components.event_function import EventFunction, EventFunctionArgs, Pattern, Schedule
from components.image_repository import ImageRepository
from components.model_store import DATA_KEY, ModelStore
from components.network import Network
from components.notices import Notices
from components.training_task import CONTAINER, LOG_STREAM_PREFIX, TrainingTask

INVOKE_TIMEOUT_SECONDS: Final = 60
OBSERVE_TIMEOUT_SECONDS: Final = 900
"""Lambda's most: observe reads every published file to check its hash."""
RECONCILE_TIMEOUT_SECONDS: Final = 900
"""As observe, whose work it does where the event was lost."""
INVOKE_MEMORY: Final = 256
OBSERVE_MEMORY: Final = 512
RECONCILE_MEMORY: Final = 512
ROUND: Final = "rate(5 minutes)"
"""How often reconcile looks after runs; handler/reconcile.py counts on it once an hour."""


@dataclass(frozen=True, kw_only=True)
class PushTriggerArgs:
    """What the handlers are wired to."""

    stack: str
    cpu: int
    memory: int
    architecture: str
    spot: bool
    parameters: Mapping[str, str]
    """Default run parameters."""
    max_concurrent_runs: int
    max_run_minutes: int
    champion_metric: str
    champion_goal: str
    metrics: bool
    tag_prefixes: Sequence[str]
    log_retention_days: int
    permissions_boundary: str | None
    key: policies.KeyScope | None
    repository: ImageRepository
    network: Network
    store: ModelStore
    task: TrainingTask
    notices: Notices
    scope: policies.AwsScope


class PushTrigger(ComponentResource):
    """A push starts its training, once; the end of the task ends the run's record."""

    wiring_name: str
    parameters_name: str
    """Where the user's own run parameters may be put; nothing is there by default."""
    invoke: EventFunction
    observe: EventFunction
    reconcile: EventFunction

    def __init__(
        self, name: str, args: PushTriggerArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("pushtrain:trigger:PushTrigger", name, None, opts)
        child = ResourceOptions(parent=self)

        # Physical names: the handlers know the first, and the user's commands both.
        self.wiring_name = f"/pushtrain/{args.stack}/wiring"
        self.parameters_name = f"/pushtrain/{args.stack}/training"
        wiring = ssm.Parameter(
            f"{name}-wiring",
            name=self.wiring_name,
            type="String",
            description="What the handlers of this stack work with; docs/run-record.md",
            value=Output.json_dumps(
                {
                    "stack": args.stack,
                    "bucket": args.store.bucket_name,
                    "data_key": DATA_KEY,
                    "repository": args.repository.name,
                    "cluster": args.task.cluster_arn,
                    "template": args.task.template_arn,
                    "container": CONTAINER,
                    "subnets": args.network.subnet_ids,
                    "security_groups": [args.network.security_group_id],
                    "assign_public_ip": args.network.assign_public_ip,
                    "capacity_providers": ["FARGATE_SPOT", "FARGATE"] if args.spot else ["FARGATE"],
                    "log_group": args.task.log_group_name,
                    "log_stream_prefix": LOG_STREAM_PREFIX,
                    "parameters": dict(args.parameters),
                    "parameters_name": self.parameters_name,
                    "tag_prefixes": list(args.tag_prefixes),
                    "cpu": args.cpu,
                    "memory": args.memory,
                    "architecture": args.architecture,
                    "max_concurrent_runs": args.max_concurrent_runs,
                    "max_run_minutes": args.max_run_minutes,
                    "topic": args.notices.topic_arn,
                    "champion_metric": args.champion_metric,
                    "champion_goal": args.champion_goal,
                    "metrics": args.metrics,
                },
                sort_keys=True,
            ),
            opts=child,
        )
        scope = policies.HandlerScope(
            aws=args.scope,
            stack=args.stack,
            bucket_arn=args.store.bucket_arn,
            data_key=DATA_KEY,
            cluster_arn=args.task.cluster_arn,
            log_group_arn=args.task.log_group_arn,
            repository_arn=args.repository.arn,
            topic_arn=args.notices.topic_arn,
            role_arns=[args.task.execution_role_arn, args.task.task_role_arn],
            wiring_name=self.wiring_name,
            parameters_name=self.parameters_name,
            key=args.key,
        )
        # A handler that ran before its wiring is there would fail.
        wired = ResourceOptions(parent=self, depends_on=[wiring])
        self.observe = EventFunction(
            f"{name}-observe",
            EventFunctionArgs(
                module="observe",
                description="A training task stopped: check what it published, record how it ended",
                trigger=Pattern(stopped_pattern(args.task.cluster_arn)),
                policy=policies.observe_function(scope),
                scope=args.scope,
                wiring_name=self.wiring_name,
                timeout_seconds=OBSERVE_TIMEOUT_SECONDS,
                memory=OBSERVE_MEMORY,
                log_retention_days=args.log_retention_days,
                permissions_boundary=args.permissions_boundary,
                key=args.key,
            ),
            wired,
        )
        self.invoke = EventFunction(
            f"{name}-invoke",
            EventFunctionArgs(
                module="invoke",
                description="An image was pushed: claim its run, start its training",
                trigger=Pattern(push_pattern(args.repository.name, args.tag_prefixes)),
                policy=policies.invoke_function(scope),
                scope=args.scope,
                wiring_name=self.wiring_name,
                timeout_seconds=INVOKE_TIMEOUT_SECONDS,
                memory=INVOKE_MEMORY,
                log_retention_days=args.log_retention_days,
                permissions_boundary=args.permissions_boundary,
                key=args.key,
            ),
            # Nothing may start before its end would be noticed.
            ResourceOptions(parent=self, depends_on=[wiring, self.observe]),
        )
        self.reconcile = EventFunction(
            f"{name}-reconcile",
            EventFunctionArgs(
                module="reconcile",
                description="Every five minutes: go on with each run that no event went on with",
                trigger=Schedule(ROUND),
                policy=policies.reconcile_function(scope),
                scope=args.scope,
                wiring_name=self.wiring_name,
                timeout_seconds=RECONCILE_TIMEOUT_SECONDS,
                # None is reserved for it: two rounds at once do no harm, and a new account has ten.
                memory=RECONCILE_MEMORY,
                log_retention_days=args.log_retention_days,
                permissions_boundary=args.permissions_boundary,
                key=args.key,
            ),
            wired,
        )

        self.register_outputs(
            {"wiring_name": self.wiring_name, "parameters_name": self.parameters_name}
        )


def push_pattern(repository_name: Input[str], tag_prefixes: Sequence[str]) -> Mapping[str, Any]:
    """Return the pattern of a successful push of a tagged image to the repository.

    A manifest pushed without a tag (the parts of an index) arrives with an empty one.
    https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-eventbridge.html
    """
    return {
        "source": ["aws.ecr"],
        "detail-type": ["ECR Image Action"],
        "detail": {
            "action-type": ["PUSH"],
            "result": ["SUCCESS"],
            "repository-name": [repository_name],
            "image-tag": [{"prefix": prefix} for prefix in tag_prefixes]
            or [{"anything-but": [""]}],
        },
    }


def stopped_pattern(cluster_arn: Input[str]) -> Mapping[str, Any]:
    """Return the pattern of a task of the cluster that has stopped, for whatever reason."""
    return {
        "source": ["aws.ecs"],
        "detail-type": ["ECS Task State Change"],
        "detail": {"clusterArn": [cluster_arn], "lastStatus": ["STOPPED"]},
    }
