"""What AWS's services may do to the stack, and as its roles: for this account and no other."""

import dataclasses
import json

import pytest

from tests.least_privilege.access import ACCOUNT, Access, Policies, arn
from tests.least_privilege.world import OURS, World, mutations

PARTS = ("invoke", "observe", "reconcile")
EVERYTHING = {
    "Statement": [{"Sid": "Everything", "Effect": "Allow", "Action": "*", "Resource": "*"}]
}


def queue(part):
    """EventBridge leaves there what it could not deliver.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
    """
    return Access(
        "sqs:SendMessage",
        arn("sqs", f"pushtrain-trigger-{part}-undelivered-0a1b2c3"),
        {
            "aws:SourceArn": arn("events", f"rule/pushtrain-trigger-{part}-rule-0a1b2c3"),
            "aws:SecureTransport": "true",
        },
        "events.amazonaws.com",
    )


def trust(service, **context):
    return Access(
        "sts:AssumeRole",
        "role",
        {"aws:SourceAccount": ACCOUNT, **context},
        f"{service}.amazonaws.com",
    )


TRUSTED = {
    "pushtrain-training-execution": trust("ecs-tasks"),
    "pushtrain-training-task": trust("ecs-tasks", **{"aws:SourceArn": arn("ecs", "task/c/0")}),
    **{f"pushtrain-trigger-{part}-role": trust("lambda") for part in PARTS},
}


@pytest.mark.parametrize("part", PARTS)
def test_a_queue_takes_the_events_of_its_own_rule_alone(stack, part):
    (document,) = stack.documents(f"pushtrain-trigger-{part}-undelivered-policy")

    assert_exact(document, queue(part))


@pytest.mark.parametrize("role", TRUSTED)
def test_a_role_is_taken_by_its_service_for_this_account_alone(stack, role):
    (document,) = stack.documents(role, key="assumeRolePolicy")
    # A trust policy says nothing of resources: it is its role's.
    document["Statement"] = [{**each, "Resource": "role"} for each in document["Statement"]]

    assert_exact(document, TRUSTED[role])


def of_the_key():
    """Log groups, undelivered events and alarms are encrypted by AWS, in nobody's name.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html,
    https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html
    """
    group = {"kms:EncryptionContext:aws:logs:arn": arn("logs", f"log-group:{OURS}training-logs")}
    alarm = {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": arn("cloudwatch", f"alarm:{OURS}a")}
    writes = ("Decrypt", "GenerateDataKey")
    encrypts = ("Encrypt", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo")
    for actions, service, context in (
        ((*writes, *encrypts, "DescribeKey"), "logs.us-east-1", group),
        (writes, "events", {}),
        (writes, "cloudwatch", alarm),
    ):
        for action in actions:
            # In a key's policy, every resource is that key.
            yield Access(f"kms:{action}", "*", context, f"{service}.amazonaws.com")


def test_a_key_is_used_for_what_the_stack_keeps_alone(stack):
    for key in stack.deployment.of_type("aws:kms/key:Key"):
        document = json.loads(key.inputs["policy"])
        account, *services = document["Statement"]

        assert account["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
        assert_exact({"Statement": services}, *of_the_key())


def test_the_topic_is_told_by_the_stacks_alarms_alone(stack):
    """CloudWatch publishes as itself: in nobody's name, and from no role.

    https://docs.aws.amazon.com/sns/latest/dg/sns-access-policy-use-cases.html
    """
    (document,) = stack.documents("pushtrain-notices-tls-only")
    allows = [each for each in document["Statement"] if each["Effect"] == "Allow"]
    context = {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": arn("cloudwatch", f"alarm:{OURS}a")}
    alarm = Access("sns:Publish", arn("sns", "dev-notices"), context, "cloudwatch.amazonaws.com")

    if stack.deployment.of_type("aws:cloudwatch/metricAlarm:MetricAlarm"):
        assert_exact({"Statement": allows}, alarm)
    else:
        assert allows == []


def assert_exact(document, *accesses):
    world = World({"it": accesses})
    unnoticed = [
        mutation.what
        for mutation in mutations(document)
        if not world.notices("it", Policies(mutation.document), mutation.actions)
    ]

    assert world.allowed(Policies(document)) == world.needed["it"]
    assert unnoticed == []


@pytest.mark.parametrize(
    ("policy", "access"),
    [
        (
            "pushtrain-store-tls-only",
            Access("s3:GetObject", "arn:aws:s3:::dev-models/data/dataset"),
        ),
        ("pushtrain-store-tls-only", Access("s3:ListBucket", "arn:aws:s3:::dev-models")),
        ("pushtrain-notices-tls-only", Access("sns:Publish", arn("sns", "dev-notices"))),
        *(
            (
                f"pushtrain-trigger-{part}-failed-policy",
                Access("sqs:SendMessage", arn("sqs", f"pushtrain-trigger-{part}-failed-0a1b2c3")),
            )
            for part in PARTS
        ),
    ],
)
def test_whoever_may_do_anything_needs_tls_for_it(stack, policy, access):
    policies = Policies(EVERYTHING, *stack.documents(policy))
    plain = dataclasses.replace(access, context={"aws:SecureTransport": "false"})

    assert policies.allow(access)
    assert not policies.allow(plain)
    assert Policies(EVERYTHING).allow(plain)


def test_nobody_subscribes_a_plain_webhook(stack):
    policies = Policies(EVERYTHING, *stack.documents("pushtrain-notices-tls-only"))
    topic = arn("sns", "dev-notices")
    allowed = [
        protocol
        for protocol in ("email", "http", "https", "sqs")
        if policies.allow(Access("sns:Subscribe", topic, {"sns:Protocol": protocol}))
    ]

    assert allowed == ["email", "https", "sqs"]


def for_services(deployment):
    """Yield what lets a service of AWS do something: where it stands, and on which conditions."""
    for (name, key), document in deployment.documents().items():
        for statement in document.get("Statement", []) if isinstance(document, dict) else []:
            if statement["Effect"] == "Allow" and "Service" in (statement.get("Principal") or ""):
                yield f"{name} {key} {statement['Sid']}", statement.get("Condition", {})
    for permission in deployment.of_type("aws:lambda/permission:Permission"):
        given = {key: permission.inputs.get(key, "") for key in ("sourceArn", "sourceAccount")}
        yield permission.name, {"ArnLike": given}


WITHOUT_ACCOUNT = {"pushtrain-encryption-key policy UndeliveredEvents"}
"""EventBridge tells KMS neither account nor rule; docs/security.md."""


def test_no_service_does_anything_for_another_account(stack):
    found = dict(for_services(stack.deployment))
    open_to_all = [
        where
        for where, condition in found.items()
        if not any(ACCOUNT in str(value) for test in condition.values() for value in test.values())
        and where not in WITHOUT_ACCOUNT
    ]

    assert len(found) >= 11  # three rules' queues and functions, five roles
    assert open_to_all == []
