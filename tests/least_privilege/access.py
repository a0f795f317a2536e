"""What IAM is asked, and what it answers: one access for each check behind an API call."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ministack.core.iam_evaluator import EvalContext, ParsedStatement, evaluate
from ministack.core.iam_evaluator import parse_policy_document as parse

PARTITION, REGION, ACCOUNT = "aws", "us-east-1", "123456789012"
OPERATORS = frozenset(
    {
        "ArnEquals",
        "ArnLike",
        "Bool",
        "ForAllValues:StringEquals",
        "Null",
        "StringEquals",
        "StringLike",
    }
)
"""Those that the evaluator is tested for; of one that it did not know, it would say nothing."""


@dataclass(frozen=True)
class Access:
    """One question to IAM: may this be done to that, in these circumstances?"""

    action: str
    resource: str
    context: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, hash=False)
    """By condition key."""
    principal: str = ""
    """A service that asks of a resource's own policy."""

    def __str__(self) -> str:
        told = "".join(f" {key}={value}" for key, value in sorted(self.context.items()))
        return f"{self.action} {self.resource}{told}"


class Policies:
    """What one role, or one resource, is given: several documents are one."""

    def __init__(self, *documents: Mapping[str, Any]) -> None:
        self.documents = documents
        self._parsed: list[tuple[Any, ParsedStatement]] = []
        for document in documents:
            statements = document["Statement"]
            for statement in statements:
                unknown = {*statement.get("Condition", {})} - OPERATORS
                assert not unknown, f"the evaluator is not tested for {unknown}"
                (parsed,) = parse({"Statement": [statement]})
                self._parsed.append((statement.get("Principal", "*"), parsed))

    def allow(self, access: Access) -> bool:
        """Say whether the access is allowed: an Allow, and no Deny, that speaks of it."""
        context = EvalContext(
            principal_arn="",
            principal_type="AssumedRole",
            principal_account=ACCOUNT,
            action=access.action,
            resource_arn=access.resource,
            region=REGION,
            secure_transport=access.context.get("aws:SecureTransport") != "false",
            service_context={
                key.lower(): list(value) if isinstance(value, tuple) else value
                for key, value in access.context.items()
            },
        )
        statements = [
            parsed
            for principal, parsed in self._parsed
            if principal in ("*", {"AWS": "*"}) or access.principal in _services(principal)
        ]
        return evaluate(context, [statements]).decision == "Allow"


def _services(principal: Any) -> list[str]:
    named = principal.get("Service", []) if isinstance(principal, dict) else []
    return [named] if isinstance(named, str) else named


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of boto3 that was made."""

    service: str
    operation: str
    params: Mapping[str, Any]
    absent: bool = False
    """Whether S3 said that there is no such object."""
    roles: Sequence[str] = ()
    """Of the definition that a task is run from: the request does not name them."""


def needs(call: Call) -> list[Access]:
    """Return what a call must be allowed: not always one action, nor one of its own name."""
    return list(_NEEDS[call.service, call.operation](call))


def arn(service: str, resource: str) -> str:
    """Return the ARN of something in the account."""
    return f"arn:{PARTITION}:{service}:{REGION}:{ACCOUNT}:{resource}"


# S3: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html


def _object(action: str) -> Any:
    def ask(call: Call) -> Iterator[Access]:
        params = call.params
        bucket = f"arn:{PARTITION}:s3:::{params['Bucket']}"
        # With a version GetObjectVersion is asked, and GetObject is not.
        version = "Version" if action == "s3:GetObject" and params.get("VersionId") else ""
        yield Access(action + version, f"{bucket}/{params['Key']}")
        # Without it S3 says 403 instead of 404. Tried by others: one with the key as the prefix
        # of its condition will do, https://github.com/kopia/kopia/pull/3072.
        if call.absent:
            yield Access("s3:ListBucket", bucket, {"s3:prefix": params["Key"]})

    return ask


def _list(call: Call) -> Iterator[Access]:
    bucket = f"arn:{PARTITION}:s3:::{call.params['Bucket']}"
    yield Access("s3:ListBucket", bucket, {"s3:prefix": call.params.get("Prefix", "")})


# ECS: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerservice.html
# Tags: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/supported-iam-actions-tagging.html
# Roles: https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_use_passrole.html


def _register_definition(call: Call) -> Iterator[Access]:
    # AWS numbers the revision, so that none is known yet.
    definition = arn("ecs", f"task-definition/{call.params['family']}:*")
    yield Access("ecs:RegisterTaskDefinition", definition)
    roles = (call.params.get(key) for key in ("taskRoleArn", "executionRoleArn"))
    yield from _pass(*filter(None, roles))
    if call.params.get("tags"):
        yield Access("ecs:TagResource", definition, {"ecs:CreateAction": "RegisterTaskDefinition"})


def _run_task(call: Call) -> Iterator[Access]:
    params = call.params
    cluster: str = params["cluster"]
    yield Access("ecs:RunTask", params["taskDefinition"], {"ecs:cluster": cluster})
    yield from _pass(*call.roles)
    if params.get("tags") or params.get("propagateTags") or params.get("enableECSManagedTags"):
        task = arn("ecs", f"task/{cluster.rsplit('/', 1)[-1]}/{'0' * 32}")
        yield Access("ecs:TagResource", task, {"ecs:CreateAction": "RunTask"})


def _pass(*roles: str) -> Iterator[Access]:
    for role in roles:
        yield Access("iam:PassRole", role, {"iam:PassedToService": "ecs-tasks.amazonaws.com"})


def _of_tasks(action: str) -> Any:
    def ask(call: Call) -> Iterator[Access]:
        params = call.params
        for task in params.get("tasks") or [params["task"]]:
            yield Access(action, task, {"ecs:cluster": params["cluster"]})

    return ask


def _of_all(action: str) -> Any:
    """Of a call that names no resource, or none that its caller could know."""

    def ask(call: Call) -> Iterator[Access]:
        known = {"ecs:cluster": call.params["cluster"]} if "cluster" in call.params else {}
        yield Access(action, "*", known)

    return ask


# https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
# has the resource of each of these.


def _log_events(call: Call) -> Iterator[Access]:
    group, stream = call.params["logGroupName"], call.params["logStreamName"]
    yield Access("logs:GetLogEvents", arn("logs", f"log-group:{group}:log-stream:{stream}"))


def _put_events(call: Call) -> Iterator[Access]:
    entries = call.params["Entries"]
    yield Access(
        "events:PutEvents",
        arn("events", f"event-bus/{entries[0].get('EventBusName', 'default')}"),
        {
            "events:source": tuple(entry["Source"] for entry in entries),
            "events:detail-type": tuple(entry["DetailType"] for entry in entries),
        },
    )


_NEEDS: dict[tuple[str, str], Any] = {
    ("s3", "AbortMultipartUpload"): _object("s3:AbortMultipartUpload"),
    ("s3", "CompleteMultipartUpload"): _object("s3:PutObject"),
    ("s3", "CreateMultipartUpload"): _object("s3:PutObject"),
    ("s3", "DeleteObject"): _object("s3:DeleteObject"),
    ("s3", "GetObject"): _object("s3:GetObject"),
    ("s3", "HeadObject"): _object("s3:GetObject"),
    ("s3", "ListObjectsV2"): _list,
    ("s3", "PutObject"): _object("s3:PutObject"),
    ("s3", "UploadPart"): _object("s3:PutObject"),
    ("ecs", "DeregisterTaskDefinition"): _of_all("ecs:DeregisterTaskDefinition"),
    ("ecs", "DescribeTaskDefinition"): _of_all("ecs:DescribeTaskDefinition"),
    ("ecs", "DescribeTasks"): _of_tasks("ecs:DescribeTasks"),
    ("ecs", "ListTasks"): _of_all("ecs:ListTasks"),
    ("ecs", "RegisterTaskDefinition"): _register_definition,
    ("ecs", "RunTask"): _run_task,
    ("ecs", "StopTask"): _of_tasks("ecs:StopTask"),
    ("ecr", "DescribeImages"): lambda call: [
        Access("ecr:DescribeImages", arn("ecr", f"repository/{call.params['repositoryName']}"))
    ],
    ("events", "PutEvents"): _put_events,
    ("logs", "GetLogEvents"): _log_events,
    ("sns", "Publish"): lambda call: [Access("sns:Publish", call.params["TopicArn"])],
    ("ssm", "GetParameter"): lambda call: [
        Access("ssm:GetParameter", arn("ssm", f"parameter{call.params['Name']}"))
    ],
}
