"""IAM and resource policies as plain documents: one statement for each need, named by its Sid.

An ARN may be an Output: `Output.json_dumps` writes the document once they are known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pulumi import Input, Output

Document: TypeAlias = dict[str, Any]
Statement: TypeAlias = dict[str, Any]

EVENT_SOURCE: Final = "pushtrain"
EVENT_DETAIL_TYPE: Final = "Training Run Ended"
"""What handler/notices.py puts on the account's event bus."""
SECRETS_MANAGER: Final = "secretsmanager"
PARAMETER_STORE: Final = "ssm"
CONTAINER_INSIGHTS: Final = "/aws/ecs/containerinsights/"
"""What its log groups' names begin with; the cluster's name follows."""
CHAMPION_KEY: Final = "models/champion.json"
_READ_TO_BRING_ON: Final = ("runs/*", "slots.json")
_READ_TO_END: Final = ("open/*", CHAMPION_KEY)
"""Objects that may be absent, and folders that are listed."""


@dataclass(frozen=True, kw_only=True)
class AwsScope:
    """Where the stack lives: what an ARN needs that no resource tells."""

    partition: Input[str]
    region: Input[str]
    account: Input[str]

    def arn(self, service: str, resource: Input[str]) -> Output[str]:
        """Return the ARN of a resource in this account and region."""
        return Output.format(
            "arn:{0}:{1}:{2}:{3}:{4}",
            self.partition,
            service,
            self.region,
            self.account,
            resource,
        )


def document(*statements: Statement) -> Document:
    """Return a policy document of these statements."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(
    sid: str,
    actions: Sequence[str],
    resources: Sequence[Input[str]],
    condition: Mapping[str, Any] | None = None,
) -> Statement:
    """Return a statement of an identity's policy."""
    statement: Statement = {
        "Sid": sid,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": list(resources),
    }
    return {**statement, "Condition": dict(condition)} if condition else statement


def assume_role(service: str, scope: AwsScope, source_arn: Input[str] | None = None) -> Document:
    """Let an AWS service take a role, for what is in this account alone: no confused deputy.

    Lambda, and ECS for both of a task's roles, say which account it is for; AWS has it so in
    https://github.com/aws/agent-toolkit-for-aws, processing-s3-uploads-with-step-functions.
    """
    condition: dict[str, Any] = {"StringEquals": {"aws:SourceAccount": scope.account}}
    if source_arn is not None:
        condition["ArnLike"] = {"aws:SourceArn": source_arn}
    return document(
        {
            "Sid": "Assume",
            "Effect": "Allow",
            "Principal": {"Service": service},
            "Action": "sts:AssumeRole",
            "Condition": condition,
        }
    )


def tls_only(bucket_arn: Input[str]) -> Document:
    """Refuse every request to a bucket that comes without TLS."""
    return document(_tls_only("s3:*", [bucket_arn, Output.format("{0}/*", bucket_arn)]))


def tls_only_topic(topic_arn: Input[str], alarms: Statement | None = None) -> Document:
    """Refuse every message that comes to a topic, and every subscriber that gets it, without TLS.

    Whom the account's own policies let publish may do so: a topic's policy need not allow it too.
    """
    return document(
        *([alarms] if alarms else []),
        _tls_only("sns:Publish", topic_arn),
        {
            "Sid": "NoPlainWebhooks",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sns:Subscribe",
            "Resource": topic_arn,
            "Condition": {"StringEquals": {"sns:Protocol": "http"}},
        },
    )


def alarms_to_topic(topic_arn: Input[str], scope: AwsScope, resources: str) -> Statement:
    """Let the stack's alarms tell a topic: CloudWatch has no role of the account to do it as.

    https://docs.aws.amazon.com/sns/latest/dg/sns-access-policy-use-cases.html
    """
    return {
        "Sid": "Alarms",
        "Effect": "Allow",
        "Principal": {"Service": "cloudwatch.amazonaws.com"},
        "Action": "sns:Publish",
        "Resource": topic_arn,
        "Condition": of_alarms(scope, resources),
    }


def of_alarms(scope: AwsScope, resources: str) -> Mapping[str, Any]:
    """Return the condition that it is an alarm of this account, and called as the stack's are."""
    return {
        "StringEquals": {"aws:SourceAccount": scope.account},
        "ArnLike": {"aws:SourceArn": scope.arn("cloudwatch", f"alarm:{resources}-*")},
    }


def storage_endpoint(
    bucket_arn: Input[str], data_key: str, partition: Input[str], region: Input[str]
) -> Document:
    """Let tasks reach through the S3 endpoint what a trainer may, and ECR's layers: no more.

    Layers: https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html
    """
    return document(
        *({**statement, "Principal": "*"} for statement in _train(bucket_arn, data_key)),
        {
            "Sid": "ImageLayers",
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:GetObject"],
            "Resource": [
                Output.format("arn:{0}:s3:::prod-{1}-starport-layer-bucket/*", partition, region)
            ],
        },
    )


def tls_only_queue(queue_arn: Input[str]) -> Document:
    """Refuse every request to a queue that comes without TLS."""
    return document(_tls_only("sqs:*", queue_arn))


def dead_letter_queue(queue_arn: Input[str], rule_arn: Input[str]) -> Document:
    """Let EventBridge leave what it could not deliver for this rule."""
    return document(
        {
            "Sid": "UndeliveredEvents",
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue_arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": rule_arn}},
        },
        _tls_only("sqs:*", queue_arn),
    )


def _tls_only(action: str, resource: Input[str] | list[Input[str]]) -> Statement:
    return {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": resource,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def account_decides(sid: str, scope: AwsScope) -> Statement:
    """Have the policies of the account's roles count for a key, which without it they would not."""
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {
            "AWS": Output.format("arn:{0}:iam::{1}:root", scope.partition, scope.account)
        },
        "Action": "kms:*",
        # In a key's policy: this key.
        "Resource": "*",
    }


def stack_key(scope: AwsScope, resources: str, *, container_insights: bool) -> Document:
    """Let the account's own policies say who uses the stack's key, and AWS where it is no role.

    S3, SQS and SNS use it in the name of whoever calls them, ECR by a grant of whoever makes the
    repository; the account's policies let them, by the first statement.
    """
    return document(
        account_decides("AccountDecides", scope),
        # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html
        {
            "Sid": "LogGroups",
            "Effect": "Allow",
            "Principal": {"Service": Output.format("logs.{0}.amazonaws.com", scope.region)},
            "Action": [
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            "Resource": "*",
            "Condition": {
                "ArnLike": {
                    "kms:EncryptionContext:aws:logs:arn": [
                        scope.arn("logs", f"log-group:{place}{resources}-*")
                        for place in ("", *([CONTAINER_INSIGHTS] if container_insights else []))
                    ]
                }
            },
        },
        # No condition: EventBridge tells KMS neither account nor rule, and what it could not
        # deliver would be lost. The queue's own policy says which rule may send.
        # https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html
        {
            "Sid": "UndeliveredEvents",
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            "Resource": "*",
        },
        {
            "Sid": "AlarmsToTopic",
            "Effect": "Allow",
            "Principal": {"Service": "cloudwatch.amazonaws.com"},
            "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            "Resource": "*",
            "Condition": of_alarms(scope, resources),
        },
    )


@dataclass(frozen=True, kw_only=True)
class KeyScope:
    """The stack's own key, which a role may use through AWS's services alone."""

    key_arn: Input[str]
    region: Input[str]

    def through(self, service: str, *actions: str) -> Statement:
        """Let a role use the key in what it asks of a service."""
        via = Output.format("{0}.{1}.amazonaws.com", service, self.region)
        return allow(
            f"UseKeyThrough{service.upper()}",
            actions,
            [self.key_arn],
            {"StringEquals": {"kms:ViaService": via}},
        )


def _keyed(key: KeyScope | None, *services: str) -> list[Statement]:
    """Let a role read and write what these services encrypt, where a stack has its own key."""
    if key is None:
        return []
    return [key.through(service, "kms:Decrypt", "kms:GenerateDataKey") for service in services]


def task_execution(
    repository_arn: Input[str], log_group_arn: Input[str], secret_arns: Sequence[str] = ()
) -> Document:
    """Let the ECS agent pull the stack's images, hand secrets over and write its tasks' logs."""
    return document(
        *pull_image(repository_arn)["Statement"],
        *write_log(log_group_arn)["Statement"],
        *(
            statement
            for service in (SECRETS_MANAGER, PARAMETER_STORE)
            for statement in read_secrets(service, secret_arns)["Statement"]
        ),
    )


def pull_image(repository_arn: Input[str]) -> Document:
    """Let the ECS agent pull the stack's images."""
    return document(
        # This call knows no resource: it names a registry, which is the account.
        allow("LogInToRegistry", ["ecr:GetAuthorizationToken"], ["*"]),
        allow(
            "PullImage",
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            [repository_arn],
        ),
    )


def write_log(log_group_arn: Input[str]) -> Document:
    """Let the ECS agent write a task's log."""
    return document(
        allow(
            "WriteLog",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [Output.format("{0}:log-stream:*", log_group_arn)],
        )
    )


def read_secrets(service: str, secret_arns: Sequence[str]) -> Document:
    """Let the ECS agent read those of the secrets that are kept by this service.

    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html
    """
    arns = sorted({secret_arn(arn) for arn in secret_arns if service_of(arn) == service})
    sid, action = {
        SECRETS_MANAGER: ("ReadSecrets", "secretsmanager:GetSecretValue"),
        PARAMETER_STORE: ("ReadSecretParameters", "ssm:GetParameters"),
    }[service]
    return document(*([allow(sid, [action], arns)] if arns else []))


def service_of(arn: str) -> str:
    """Return the service of an ARN."""
    return arn.split(":")[2]


def secret_arn(value_from: str) -> str:
    """Return what IAM knows a secret by: without the key, stage and version that ECS is told."""
    return ":".join(value_from.split(":")[:7])


def through_endpoint(statements: Document) -> Document:
    """Return what a role may do as the policy of an endpoint: whoever asks, no more than that."""
    return document(*({**each, "Principal": "*"} for each in statements["Statement"]))


def training_task(bucket_arn: Input[str], data_key: str, key: KeyScope | None = None) -> Document:
    """Let a trainer read data and models, publish and keep checkpoints, but touch no run record."""
    return document(*_train(bucket_arn, data_key), *_keyed(key, "s3"))


def _train(bucket_arn: Input[str], data_key: str) -> list[Statement]:
    objects = {
        key: Output.format("{0}/{1}", bucket_arn, key)
        for key in (data_key, "runs/*", "checkpoints/*", CHAMPION_KEY)
    }
    return [
        allow("ReadData", ["s3:GetObject", "s3:GetObjectVersion"], [objects[data_key]]),
        # To start from the champion's weights, and to compare with it.
        allow(
            "ReadCheckpointsAndModels",
            ["s3:GetObject"],
            [objects["checkpoints/*"], objects["runs/*"], objects[CHAMPION_KEY]],
        ),
        allow(
            "Publish",
            ["s3:AbortMultipartUpload", "s3:PutObject"],
            [objects["runs/*"], objects["checkpoints/*"]],
        ),
        {
            "Sid": "RunRecordIsTheLambdas",
            "Effect": "Deny",
            "Action": ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
            "Resource": [Output.format("{0}/runs/*/run.json", bucket_arn)],
        },
        _tell_absent(bucket_arn, data_key, "runs/*", "checkpoints/*", CHAMPION_KEY),
    ]


def _tell_absent(bucket_arn: Input[str], *keys: str) -> Statement:
    """Let S3 answer 404 where an object is absent: without it, it says 403 as if it were forbidden.

    S3 asks for it with the object's key as the prefix: https://github.com/kopia/kopia/pull/3072.
    """
    return allow(
        "TellAbsentFromForbidden",
        ["s3:ListBucket"],
        [bucket_arn],
        {"StringLike": {"s3:prefix": list(keys)}},
    )


@dataclass(frozen=True, kw_only=True)
class HandlerScope:
    """What the handlers of one stack touch."""

    aws: AwsScope
    stack: str
    bucket_arn: Input[str]
    data_key: str
    cluster_arn: Input[str]
    log_group_arn: Input[str]
    repository_arn: Input[str]
    topic_arn: Input[str]
    role_arns: Sequence[Input[str]]
    """Of the tasks that they start."""
    wiring_name: str
    parameters_name: str
    key: KeyScope | None = None

    def objects(self, *keys: str) -> list[Input[str]]:
        """Return the ARNs of objects in the stack's bucket."""
        return [Output.format("{0}/{1}", self.bucket_arn, key) for key in keys]

    def parameters(self, *names: str) -> list[Input[str]]:
        """Return the ARNs of SSM parameters."""
        return [self.aws.arn("ssm", f"parameter{name}") for name in names]

    @property
    def tasks(self) -> Output[str]:
        """The ARNs of the cluster's tasks."""
        cluster = Output.from_input(self.cluster_arn).apply(_last_part)
        return self.aws.arn("ecs", Output.format("task/{0}/*", cluster))

    @property
    def in_cluster(self) -> Mapping[str, Any]:
        """The condition that a call is about the stack's own cluster."""
        return {"ArnEquals": {"ecs:cluster": self.cluster_arn}}


def invoke_function(scope: HandlerScope) -> Document:
    """Let the invoke Lambda claim a run, and bring it on its way."""
    return document(
        *_claim_run(scope),
        *_bring_run_on(scope),
        _tell_absent(scope.bucket_arn, scope.data_key, *_READ_TO_BRING_ON),
        *_keyed(scope.key, "s3"),
    )


def observe_function(scope: HandlerScope) -> Document:
    """Let the observe Lambda check what a run published, and bring it on or to its end."""
    return document(
        allow("ReadWiring", ["ssm:GetParameter"], scope.parameters(scope.wiring_name)),
        *_bring_run_on(scope),
        *_end_run(scope),
        _tell_absent(scope.bucket_arn, *_READ_TO_BRING_ON, *_READ_TO_END),
        *_keyed(scope.key, "s3", "sns"),
    )


def reconcile_function(scope: HandlerScope) -> Document:
    """Let the reconcile Lambda do what either of the others would have, and look for what is."""
    return document(
        *_claim_run(scope),
        *_bring_run_on(scope),
        *_end_run(scope),
        _tell_absent(scope.bucket_arn, scope.data_key, *_READ_TO_BRING_ON, *_READ_TO_END),
        # A call that names no container instance, and Fargate has none, is one for "*"; see
        # https://github.com/cdklabs/construct-hub/pull/1207. The cluster narrows it.
        allow("FindTasks", ["ecs:ListTasks"], ["*"], scope.in_cluster),
        allow("LookAtTasks", ["ecs:DescribeTasks"], [scope.tasks], scope.in_cluster),
        allow("FindLostPushes", ["ecr:DescribeImages"], [scope.repository_arn]),
        *_keyed(scope.key, "s3", "sns"),
    )


def _claim_run(scope: HandlerScope) -> list[Statement]:
    """Read what a new run is made of, its data too, and mark it as open."""
    return [
        allow(
            "ReadWiring",
            ["ssm:GetParameter"],
            scope.parameters(scope.wiring_name, scope.parameters_name),
        ),
        allow("MarkRun", ["s3:PutObject"], scope.objects("open/*")),
        allow("FindData", ["s3:GetObject"], scope.objects(scope.data_key)),
    ]


def _bring_run_on(scope: HandlerScope) -> list[Statement]:
    """Keep the run's record, pin a definition to its image, and start it."""
    # A family is the stack's name and 12 hex digits; with `*`, dev would reach into stack dev-2.
    definitions = scope.aws.arn("ecs", f"task-definition/{scope.stack}-{'?' * 12}:*")
    return [
        allow(
            "KeepRunRecord",
            ["s3:GetObject", "s3:PutObject"],
            scope.objects("runs/*/run.json", "slots.json"),
        ),
        # DescribeTaskDefinition knows no resource.
        allow("ReadDefinition", ["ecs:DescribeTaskDefinition"], ["*"]),
        allow("PinDefinition", ["ecs:RegisterTaskDefinition"], [definitions]),
        allow("RunPinnedDefinition", ["ecs:RunTask"], [definitions], scope.in_cluster),
        # Of a run that is to be stopped, or an attempt that was given up before its task came.
        allow("StopTask", ["ecs:StopTask"], [scope.tasks], scope.in_cluster),
        allow(
            "TagDefinition",
            ["ecs:TagResource"],
            [definitions],
            {"StringEquals": {"ecs:CreateAction": "RegisterTaskDefinition"}},
        ),
        allow(
            "TagTask",
            ["ecs:TagResource"],
            [scope.tasks],
            {"StringEquals": {"ecs:CreateAction": "RunTask"}},
        ),
        allow(
            "HandRolesToTask",
            ["iam:PassRole"],
            scope.role_arns,
            {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        ),
    ]


def _end_run(scope: HandlerScope) -> list[Statement]:
    """Check what the run published, promote it, tell of its end, and clean up after it."""
    return [
        allow("ReadRun", ["s3:GetObject"], scope.objects("runs/*")),
        allow("WriteManifest", ["s3:PutObject"], scope.objects("runs/*/manifest.json")),
        allow(
            "Promote",
            ["s3:GetObject", "s3:PutObject"],
            scope.objects(CHAMPION_KEY),
        ),
        allow("UnmarkRun", ["s3:DeleteObject"], scope.objects("open/*")),
        allow(
            "ReadLastLogLines",
            ["logs:GetLogEvents"],
            [Output.format("{0}:log-stream:*", scope.log_group_arn)],
        ),
        # DeregisterTaskDefinition knows no resource.
        allow("RetireDefinition", ["ecs:DeregisterTaskDefinition"], ["*"]),
        allow(
            "TellPrograms",
            ["events:PutEvents"],
            [scope.aws.arn("events", "event-bus/default")],
            {
                # Both keys hold one value for each entry of a call.
                "ForAllValues:StringEquals": {
                    "events:source": EVENT_SOURCE,
                    "events:detail-type": EVENT_DETAIL_TYPE,
                },
                # Of no value at all, ForAllValues would be true.
                "Null": {"events:source": "false", "events:detail-type": "false"},
            },
        ),
        allow("TellPeople", ["sns:Publish"], [scope.topic_arn]),
    ]


def function_basics(
    log_group_arn: Input[str], failed_queue_arn: Input[str], key: KeyScope | None = None
) -> Document:
    """Let a Lambda write its log, and leave an event that it failed on in the queue."""
    return document(
        allow(
            "WriteLog",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [Output.format("{0}:log-stream:*", log_group_arn)],
        ),
        allow("KeepFailedEvent", ["sqs:SendMessage"], [failed_queue_arn]),
        *_keyed(key, "sqs"),
    )


def _last_part(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]
