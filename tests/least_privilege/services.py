"""What AWS itself does in the name of a role, or to a resource: no call of ours shows it."""

from collections.abc import Sequence

from tests.handler.conftest import WIRING
from tests.least_privilege.access import REGION, Access, arn

TASK_STREAM = f"train/trainer/{'0' * 32}"
FUNCTION_STREAM = f"2026/01/02/[$LATEST]{'0' * 32}"


def of_the_agent(secrets: Sequence[str] = ()) -> list[Access]:
    """Return what ECS's agent does for a Fargate task: pull its image, read secrets, write its log.

    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html; the
    managed policy of that page, AmazonECSTaskExecutionRolePolicy, has the six of the image and the
    log: https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AmazonECSTaskExecutionRolePolicy.html
    """
    repository = arn("ecr", f"repository/{WIRING['repository']}")
    return [
        Access("ecr:GetAuthorizationToken", "*"),
        Access("ecr:BatchCheckLayerAvailability", repository),
        Access("ecr:GetDownloadUrlForLayer", repository),
        Access("ecr:BatchGetImage", repository),
        *_log(WIRING["log_group"], TASK_STREAM),
        *(_secret(value_from) for value_from in secrets),
    ]


def _secret(value_from: str) -> Access:
    """Return how ECS reads a secret; of what it is told, key, stage and version are no ARN's."""
    if value_from.split(":")[2] == "ssm":
        return Access("ssm:GetParameters", value_from)
    return Access("secretsmanager:GetSecretValue", ":".join(value_from.split(":")[:7]))


def of_layers() -> list[Access]:
    """Return what fetches an image's layers from the registry's own bucket, by signed addresses.

    https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html
    """
    return [Access("s3:GetObject", f"arn:aws:s3:::prod-{REGION}-starport-layer-bucket/layer")]


def of_lambda(part: str) -> list[Access]:
    """Return what Lambda does for a function: write its log, and keep what it failed on.

    https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AWSLambdaBasicExecutionRole.html
    (CreateLogGroup is for functions whose group is not there),
    https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
    """
    return [
        *_log(f"pushtrain-trigger-{part}-logs-0a1b2c3", FUNCTION_STREAM),
        Access("sqs:SendMessage", arn("sqs", f"pushtrain-trigger-{part}-failed-0a1b2c3")),
    ]


def _log(group: str, stream: str) -> list[Access]:
    return [
        Access(action, arn("logs", f"log-group:{group}:log-stream:{stream}"))
        for action in ("logs:CreateLogStream", "logs:PutLogEvents")
    ]


_OF_KEY = {
    "s3:GetObject": ("kms:Decrypt",),
    "s3:GetObjectVersion": ("kms:Decrypt",),
    "s3:PutObject": ("kms:GenerateDataKey", "kms:Decrypt"),
    "sns:Publish": ("kms:GenerateDataKey", "kms:Decrypt"),
    "sqs:SendMessage": ("kms:GenerateDataKey", "kms:Decrypt"),
}


def of_key(accesses: Sequence[Access], key: str) -> list[Access]:
    """Return what services ask of a stack's own key in the name of whoever calls them.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html (Decrypt for an
    upload in parts), https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html,
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html.
    ECR and CloudWatch Logs use it by a grant and by the key's own policy, never as a caller of
    theirs: https://docs.aws.amazon.com/AmazonECR/latest/userguide/encryption-at-rest.html,
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html
    """
    through = {
        (action, access.action.partition(":")[0])
        for access in accesses
        for action in _OF_KEY.get(access.action, ())
    }
    return [
        Access(action, key, {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"})
        for action, service in sorted(through)
        if key
    ]
