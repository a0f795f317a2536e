"""A Lambda behind an EventBridge rule or schedule, with nothing lost on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pulumi import AssetArchive, ComponentResource, FileAsset, Output, ResourceOptions
from pulumi_aws import cloudwatch, iam, lambda_, sqs

from components import policies

HANDLER_FOLDER: Final = Path(__file__).parent.parent / "handler"
RUNTIME: Final = "python3.13"
WIRING_VARIABLE: Final = "PUSHTRAIN_WIRING"
MOST_AGE_SECONDS: Final = 3600
"""Training on yesterday's push is rarely wanted: after this the event waits for a person."""
DELIVERY_ATTEMPTS: Final = 10
QUEUE_RETENTION_SECONDS: Final = 14 * 24 * 3600
"""SQS's most: time for a person to come back."""
FUNCTION_RETRIES: Final = 2
"""Lambda's most."""


@dataclass(frozen=True)
class Pattern:
    """Events that look so; values may be Outputs."""

    document: Mapping[str, Any]


@dataclass(frozen=True)
class Schedule:
    """An event at these times."""

    expression: str
    """EventBridge's `rate(...)` or `cron(...)`, in UTC."""


@dataclass(frozen=True, kw_only=True)
class EventFunctionArgs:
    """One handler, the events it is for, and what it may do."""

    module: str
    """Of handler/, with a function `handler` in it."""
    description: str
    trigger: Pattern | Schedule
    policy: policies.Document
    scope: policies.AwsScope
    wiring_name: str
    """Of the SSM parameter that tells the function everything else."""
    timeout_seconds: int
    memory: int
    """MiB; Lambda gives processor time in proportion."""
    log_retention_days: int
    permissions_boundary: str | None
    """ARN of the policy that bounds the function's role."""
    key: policies.KeyScope | None
    """The key that queues and log are encrypted with; None for AWS's own."""


class EventFunction(ComponentResource):
    """The events of one rule reach one function, or one of two queues."""

    function_name: Output[str]
    rule_name: Output[str]
    log_group_name: Output[str]
    undelivered_queue_name: Output[str]
    failed_queue_name: Output[str]
    undelivered_queue_url: Output[str]
    """Holds the events that EventBridge could not hand to the function."""
    failed_queue_url: Output[str]
    """Holds the events that the function failed on three times."""

    def __init__(
        self, name: str, args: EventFunctionArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("pushtrain:trigger:EventFunction", name, None, opts)
        child = ResourceOptions(parent=self)

        match args.trigger:
            case Pattern(document):
                pattern, schedule = Output.json_dumps(dict(document), sort_keys=True), None
            case Schedule(expression):
                pattern, schedule = None, expression
        rule = cloudwatch.EventRule(
            f"{name}-rule",
            description=args.description,
            event_pattern=pattern,
            schedule_expression=schedule,
            opts=child,
        )
        undelivered, failed = (
            sqs.Queue(
                f"{name}-{fate}",
                sqs_managed_sse_enabled=None if args.key else True,
                kms_master_key_id=args.key.key_arn if args.key else None,
                message_retention_seconds=QUEUE_RETENTION_SECONDS,
                opts=child,
            )
            for fate in ("undelivered", "failed")
        )
        logs = cloudwatch.LogGroup(
            f"{name}-logs",
            retention_in_days=args.log_retention_days,
            kms_key_id=args.key.key_arn if args.key else None,
            opts=child,
        )
        role = iam.Role(
            f"{name}-role",
            description=args.description,
            permissions_boundary=args.permissions_boundary,
            assume_role_policy=Output.json_dumps(
                policies.assume_role("lambda.amazonaws.com", args.scope)
            ),
            opts=child,
        )
        grants = [
            iam.RolePolicy(
                f"{name}-{part}-policy",
                role=role.name,
                policy=Output.json_dumps(policy),
                opts=child,
            )
            for part, policy in (
                ("basics", policies.function_basics(logs.arn, failed.arn, args.key)),
                ("work", args.policy),
            )
        ]
        function = lambda_.Function(
            f"{name}-function",
            description=args.description,
            runtime=RUNTIME,
            architectures=["arm64"],
            handler=f"handler.{args.module}.handler",
            code=handler_code(),
            role=role.arn,
            timeout=args.timeout_seconds,
            memory_size=args.memory,
            environment={"variables": {WIRING_VARIABLE: args.wiring_name}},
            logging_config={"log_format": "Text", "log_group": logs.name},
            opts=ResourceOptions(parent=self, depends_on=grants),
        )
        retries = lambda_.FunctionEventInvokeConfig(
            f"{name}-retries",
            function_name=function.name,
            maximum_retry_attempts=FUNCTION_RETRIES,
            maximum_event_age_in_seconds=MOST_AGE_SECONDS,
            destination_config={"on_failure": {"destination": failed.arn}},
            opts=child,
        )
        permission = lambda_.Permission(
            f"{name}-permission",
            function=function.name,
            action="lambda:InvokeFunction",
            principal="events.amazonaws.com",
            source_arn=rule.arn,
            opts=child,
        )
        queue_policy = sqs.QueuePolicy(
            f"{name}-undelivered-policy",
            queue_url=undelivered.url,
            policy=Output.json_dumps(policies.dead_letter_queue(undelivered.arn, rule.arn)),
            opts=child,
        )
        sqs.QueuePolicy(
            f"{name}-failed-policy",
            queue_url=failed.url,
            policy=Output.json_dumps(policies.tls_only_queue(failed.arn)),
            opts=child,
        )
        cloudwatch.EventTarget(
            f"{name}-target",
            rule=rule.name,
            arn=function.arn,
            retry_policy={
                "maximum_event_age_in_seconds": MOST_AGE_SECONDS,
                "maximum_retry_attempts": DELIVERY_ATTEMPTS,
            },
            dead_letter_config={"arn": undelivered.arn},
            # An event that finds no permission, or no retries set, is one that is lost.
            opts=ResourceOptions(parent=self, depends_on=[permission, queue_policy, retries]),
        )

        self.function_name = function.name
        self.rule_name = rule.name
        self.log_group_name = logs.name
        self.undelivered_queue_name = undelivered.name
        self.failed_queue_name = failed.name
        self.undelivered_queue_url = undelivered.url
        self.failed_queue_url = failed.url
        self.register_outputs(
            {
                "function_name": self.function_name,
                "rule_name": self.rule_name,
                "log_group_name": self.log_group_name,
                "undelivered_queue_name": self.undelivered_queue_name,
                "failed_queue_name": self.failed_queue_name,
                "undelivered_queue_url": self.undelivered_queue_url,
                "failed_queue_url": self.failed_queue_url,
            }
        )


def handler_code() -> AssetArchive:
    """Return the handlers file by file: a folder's archive would change with its __pycache__."""
    return AssetArchive(
        {
            f"handler/{file.name}": FileAsset(str(file))
            for file in sorted(HANDLER_FOLDER.iterdir())
            if file.suffix in {".py", ".json"}
        }
    )
