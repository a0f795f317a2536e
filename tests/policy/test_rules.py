"""Each rule on resources that break it, that keep it, and that nobody knows yet."""

import json
from typing import Any

import pytest

from policy import rules
from policy.rules import RESOURCE_RULES, STACK_RULES, UNKNOWN, Resource

RULES = {rule.name: rule for rule in (*RESOURCE_RULES, *STACK_RULES)}
BUCKET_ARN = "arn:aws:s3:::b"


def made(kind: str, name: str = "it", /, refers=None, **properties: Any) -> Resource:
    urn = f"urn:pulumi:dev::pushtrain::{kind}::{name}"
    return Resource(type=kind, name=name, urn=urn, properties=properties, refers=refers or {})


def policy(*statements: dict[str, Any], kind="aws:iam/rolePolicy:RolePolicy") -> Resource:
    return made(kind, policy=document(*statements))


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(actions: Any, resources: Any = BUCKET_ARN, **more: Any) -> dict[str, Any]:
    return {"Sid": "It", "Effect": "Allow", "Action": actions, "Resource": resources, **more}


def everybody(**more: Any) -> dict[str, Any]:
    return {**allow("sqs:SendMessage", "arn:aws:sqs:us-east-1:1:q"), "Principal": "*", **more}


def of_bucket(kind: str, **properties: Any) -> Resource:
    return made(kind, bucket="b", **properties)


def encrypted(**default: Any) -> Resource:
    inputs = {"applyServerSideEncryptionByDefault": default}
    return of_bucket(rules.BUCKET_ENCRYPTION, rules=[inputs])


def container(**options: str) -> str:
    return json.dumps([{"logConfiguration": {"options": options}}])


BUCKET = made(rules.BUCKET, "store", bucket="b", arn=BUCKET_ARN)
NEW_BUCKET = made(rules.BUCKET, "store", bucket=UNKNOWN, arn=UNKNOWN)
OTHER_BUCKET = made(rules.BUCKET, "other", bucket="c", arn="arn:aws:s3:::c")
OF_NEW_BUCKET = {"bucket": frozenset({NEW_BUCKET.urn})}
TOPIC = made(rules.TOPIC, arn="arn:aws:sns:us-east-1:1:t", name="t")
QUEUE = made(rules.QUEUE, url="https://q", name="q", kmsMasterKeyId="k")
KEY = made(rules.KEY, "key", arn="k")
FUNCTION = made(rules.FUNCTION, name="f")
TLS_ONLY = {
    rules.TOPIC: {"Action": ["sns:Publish"], "Resource": "arn:aws:sns:us-east-1:1:t"},
    rules.QUEUE: {"Action": "sqs:*", "Resource": "arn:aws:sqs:us-east-1:1:q"},
}
PLAIN_REFUSED = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": [BUCKET_ARN, f"{BUCKET_ARN}/*"],
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}
FLAGS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
BLOCKED = dict.fromkeys(FLAGS, True)
SAYS_WHO = {
    "aws:s3/bucketPolicy:BucketPolicy": "policy",
    "aws:sqs/queuePolicy:QueuePolicy": "policy",
    "aws:sqs/queue:Queue": "policy",
    "aws:sns/topicPolicy:TopicPolicy": "policy",
    "aws:sns/topic:Topic": "policy",
    "aws:kms/key:Key": "policy",
    "aws:iam/role:Role": "assumeRolePolicy",
    "aws:ecr/repositoryPolicy:RepositoryPolicy": "policy",
    "aws:secretsmanager/secretPolicy:SecretPolicy": "policy",
}
SAYS_WHAT = [
    f"aws:iam/{kind[0].lower()}{kind[1:]}:{kind}"
    for kind in ("RolePolicy", "Policy", "UserPolicy", "GroupPolicy")
]
WORLD = ["0.0.0.0/0"]


def destination(queue: Any) -> dict[str, Any]:
    return {"destinationConfig": {"onFailure": {"destination": queue}}}


VIOLATIONS = [
    ("encryption", made(rules.QUEUE), "set sqsManagedSseEnabled or kmsMasterKeyId"),
    ("encryption", made(rules.QUEUE, sqsManagedSseEnabled=False), "set sqsManagedSseEnabled"),
    ("encryption", encrypted(sseAlgorithm="none"), "got none"),
    ("encryption", of_bucket(rules.BUCKET_ENCRYPTION), "got None"),
    ("encryption", made(rules.KEY), "set enableKeyRotation"),
    ("no-plain-http", made(rules.SUBSCRIPTION, protocol="http"), "subscribe an https address"),
    *(
        ("no-public-access", of_bucket(rules.PUBLIC_ACCESS_BLOCK, **BLOCKED | {flag: False}), flag)
        for flag in FLAGS
    ),
    ("no-public-access", of_bucket(rules.PUBLIC_ACCESS_BLOCK), "set blockPublicAcls"),
    ("no-public-access", of_bucket(rules.BUCKET_ACL, acl="public-read"), "got public-read"),
    ("no-public-access", made(rules.FUNCTION_URL, authorizationType="NONE"), "got NONE"),
    ("no-public-access", made(rules.PERMISSION, principal="*"), "name the principal"),
    *(
        (
            "no-public-access",
            made(kind, **{key: document({**everybody(), "Principal": principal})}),
            "It allows everybody",
        )
        for kind, key in SAYS_WHO.items()
        for principal in ("*", {"AWS": "*"}, {"AWS": ["1", "*"]})
    ),
    *(
        (
            "no-public-access",
            policy(everybody(Condition=condition), kind=rules.QUEUE),
            "It allows everybody",
        )
        for condition in (
            {"Bool": {"aws:MultiFactorAuthPresent": "true"}},
            {"StringNotEquals": {"aws:SourceAccount": "1"}},
            {"StringEqualsIfExists": {"aws:SourceAccount": "1"}},
            {"StringLike": {"aws:SourceArn": "*"}},
        )
    ),
    (
        "no-public-access",
        policy({"Effect": "Allow", "NotPrincipal": {"AWS": "1"}}, kind=rules.QUEUE),
        "a statement allows everybody",
    ),
    ("no-public-access", made(rules.SUBNET, mapPublicIpOnLaunch=True), "mapPublicIpOnLaunch"),
    (
        "no-public-access",
        made(rules.SECURITY_GROUP, ingress=[{"cidrBlocks": ["10.0.0.0/8", *WORLD]}]),
        "got 0.0.0.0/0",
    ),
    (
        "no-public-access",
        made(rules.SECURITY_GROUP, ingress=[{"ipv6CidrBlocks": ["::/0"]}]),
        "got ::/0",
    ),
    (
        "no-public-access",
        made(rules.SECURITY_GROUP_RULE, type="ingress", cidrBlocks=WORLD),
        "got 0.0.0.0/0",
    ),
    (
        "no-public-access",
        made(rules.SECURITY_GROUP_RULE, type="ingress", ipv6CidrBlocks=["::/0"]),
        "got ::/0",
    ),
    ("no-public-access", made(rules.INGRESS_RULE, cidrIpv4="0.0.0.0/0"), "got 0.0.0.0/0"),
    ("no-public-access", made(rules.INGRESS_RULE, cidrIpv6="::/0"), "got ::/0"),
    *(
        ("no-wildcards", made(kind, policy=document(allow("*"))), "It allows *; name the actions")
        for kind in SAYS_WHAT
    ),
    (
        "no-wildcards",
        policy({"Effect": "Allow", "Action": "s3:GetObject", "NotResource": "x"}),
        "all but what NotResource names",
    ),
    (
        "no-wildcards",
        policy({"Effect": "Allow", "Action": "s3:GetBucket?CL"}),
        "allows s3:GetBucket?CL",
    ),
    ("no-wildcards", policy(allow(["s3:GetObject", "s3:Put*"])), "It allows s3:Put*"),
    ("no-wildcards", policy(allow("s3:GetObject", "*")), "It allows s3:GetObject on *"),
    ("no-wildcards", policy(allow("s3:GetObject", ["arn:aws:s3:::*"])), "on arn:aws:s3:::*"),
    ("no-wildcards", policy(allow("iam:PassRole", "arn:aws:iam::1:role/*")), "role/*"),
    ("no-wildcards", policy(allow(["ecr:GetAuthorizationToken", "s3:GetObject"], "*")), "s3:Get"),
    (
        "no-wildcards",
        policy({"Effect": "Allow", "NotAction": ["iam:*"], "NotResource": "x"}),
        "all but what NotAction names",
    ),
    (
        "no-wildcards",
        made(rules.ROLE, inlinePolicies=[{"policy": document(allow("s3:*"))}]),
        "It allows s3:*",
    ),
    (
        "no-wildcards",
        made(rules.ROLE, managedPolicyArns=["arn:aws:iam::aws:policy/AdministratorAccess"]),
        "write its statements out",
    ),
    *(
        (
            "no-wildcards",
            made(kind, policyArn="arn:aws:iam::aws:policy/ReadOnlyAccess"),
            "write its statements out",
        )
        for kind in rules.ATTACHMENTS
    ),
    ("no-wildcards", made(rules.ENDPOINT), "AWS's own policy allows *"),
    ("log-retention", made(rules.LOG_GROUP), "set retentionInDays"),
    ("log-retention", made(rules.LOG_GROUP, retentionInDays=0), "set retentionInDays"),
    ("log-retention", made(rules.FUNCTION), "name a log group in loggingConfig"),
    (
        "log-retention",
        made(
            rules.TASK_DEFINITION,
            containerDefinitions=container(**{"awslogs-create-group": "true"}),
        ),
        "kept for ever",
    ),
    ("dead-letter-queues", made(rules.RULE_TARGET, arn="f"), "name a queue in deadLetterConfig"),
    ("dead-letter-queues", made(rules.SCHEDULE, target={"arn": "f"}), "name a queue"),
    ("buckets-encrypted", [BUCKET], "give it a BucketServerSideEncryptionConfiguration"),
    ("buckets-encrypted", [OTHER_BUCKET, encrypted(sseAlgorithm="AES256")], "give it a Bucket"),
    ("own-key", [KEY, BUCKET, encrypted(sseAlgorithm="AES256")], "name the key of this stack"),
    ("own-key", [KEY, made(rules.QUEUE, sqsManagedSseEnabled=True)], "in kmsMasterKeyId"),
    ("own-key", [KEY, TOPIC], "in kmsMasterKeyId"),
    ("own-key", [KEY, made(rules.TOPIC, kmsMasterKeyId="alias/aws/sns")], "in kmsMasterKeyId"),
    ("own-key", [KEY, made(rules.LOG_GROUP)], "in kmsKeyId"),
    (
        "own-key",
        [KEY, made(rules.REPOSITORY, encryptionConfigurations=[{"encryptionType": "AES256"}])],
        "in kmsKey",
    ),
    ("tls-only", [BUCKET], "must deny everybody"),
    ("tls-only", [TOPIC], "must deny everybody"),
    ("tls-only", [QUEUE], "must deny everybody"),
    (
        "tls-only",
        [OTHER_BUCKET, of_bucket(rules.BUCKET_POLICY, policy=document(PLAIN_REFUSED))],
        "must deny everybody",
    ),
    *(
        (
            "tls-only",
            [BUCKET, of_bucket(rules.BUCKET_POLICY, policy=document(PLAIN_REFUSED | change))],
            "must deny everybody",
        )
        for change in (
            {"Effect": "Allow"},
            {"Principal": {"AWS": "arn:aws:iam::1:root"}},
            {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
            {"Condition": {}},
            {"Action": "s3:GetObject"},
            {"Resource": BUCKET_ARN},
        )
    ),
    ("buckets-private", [BUCKET], "give it a BucketPublicAccessBlock"),
    ("buckets-private", [NEW_BUCKET, made(rules.PUBLIC_ACCESS_BLOCK, bucket=UNKNOWN)], "give it"),
    ("failed-events", [FUNCTION], "give it a FunctionEventInvokeConfig"),
    ("failed-events", [FUNCTION, made(rules.INVOKE_CONFIG, functionName="f")], "give it"),
    (
        "failed-events",
        [FUNCTION, made(rules.INVOKE_CONFIG, functionName="g", **destination("q"))],
        "give it",
    ),
]
PASSES = [
    ("encryption", made(rules.QUEUE, sqsManagedSseEnabled=True)),
    ("encryption", made(rules.QUEUE, kmsMasterKeyId="k")),
    *(
        ("encryption", encrypted(sseAlgorithm=each))
        for each in ("AES256", "aws:kms", "aws:kms:dsse")
    ),
    ("encryption", made(rules.KEY, enableKeyRotation=True)),
    ("no-plain-http", made(rules.SUBSCRIPTION, protocol="https")),
    ("no-plain-http", made(rules.SUBSCRIPTION, protocol="email")),
    ("no-public-access", of_bucket(rules.PUBLIC_ACCESS_BLOCK, **BLOCKED)),
    ("no-public-access", of_bucket(rules.BUCKET_ACL, acl="private")),
    ("no-public-access", made(rules.FUNCTION_URL, authorizationType="AWS_IAM")),
    ("no-public-access", made(rules.PERMISSION, principal="events.amazonaws.com")),
    ("no-public-access", policy(PLAIN_REFUSED, kind=rules.BUCKET_POLICY)),
    (
        "no-public-access",
        policy(everybody(Principal={"Service": "events.amazonaws.com"}), kind=rules.QUEUE_POLICY),
    ),
    (
        "no-public-access",
        policy(
            everybody(Condition={"ArnLike": {"AWS:SourceArn": "arn:x"}}), kind=rules.TOPIC_POLICY
        ),
    ),
    ("no-public-access", made(rules.SUBNET, mapPublicIpOnLaunch=False)),
    ("no-public-access", made(rules.SECURITY_GROUP, egress=[{"cidrBlocks": WORLD}])),
    ("no-public-access", made(rules.SECURITY_GROUP, ingress=[{"cidrBlocks": ["10.0.0.0/8"]}])),
    ("no-public-access", made(rules.SECURITY_GROUP_RULE, type="egress", cidrBlocks=WORLD)),
    ("no-public-access", made(rules.INGRESS_RULE, cidrIpv4="10.0.0.0/8")),
    ("no-wildcards", policy(allow(["s3:GetObject"], [f"{BUCKET_ARN}/runs/*"]))),
    ("no-wildcards", policy({**allow("s3:*", "*"), "Effect": "Deny"})),
    *(("no-wildcards", policy(allow(action, "*"))) for action in rules.WILDCARD_REASONS),
    ("no-wildcards", made(rules.ROLE, managedPolicyArns=["arn:aws:iam::1:policy/mine"])),
    ("no-wildcards", policy(allow("s3:GetObject", Principal="*"), kind=rules.ENDPOINT)),
    ("log-retention", made(rules.LOG_GROUP, retentionInDays=1)),
    ("log-retention", made(rules.FUNCTION, loggingConfig={"logGroup": "g"})),
    (
        "log-retention",
        made(rules.TASK_DEFINITION, containerDefinitions=container(**{"awslogs-group": "g"})),
    ),
    ("dead-letter-queues", made(rules.RULE_TARGET, deadLetterConfig={"arn": "q"})),
    ("dead-letter-queues", made(rules.SCHEDULE, target={"deadLetterConfig": {"arn": "q"}})),
    ("buckets-encrypted", [BUCKET, encrypted(sseAlgorithm="AES256")]),
    (
        "buckets-encrypted",
        [NEW_BUCKET, made(rules.BUCKET_ENCRYPTION, bucket=UNKNOWN, refers=OF_NEW_BUCKET)],
    ),
    ("own-key", [BUCKET, encrypted(sseAlgorithm="AES256"), TOPIC, made(rules.LOG_GROUP)]),
    ("own-key", [KEY, BUCKET, encrypted(kmsMasterKeyId="k"), QUEUE]),
    (
        "own-key",
        [
            KEY,
            made(rules.LOG_GROUP, kmsKeyId=UNKNOWN, refers={"kmsKeyId": frozenset({KEY.urn})}),
            made(rules.TOPIC, kmsMasterKeyId="k"),
            made(rules.REPOSITORY, encryptionConfigurations=[{"kmsKey": "k"}]),
        ],
    ),
    ("tls-only", [BUCKET, of_bucket(rules.BUCKET_POLICY, policy=document(PLAIN_REFUSED))]),
    *(
        (
            "tls-only",
            [BUCKET, of_bucket(rules.BUCKET_POLICY, policy=document(PLAIN_REFUSED | change))],
        )
        for change in (
            {"Principal": {"AWS": "*"}},
            {"Condition": {"Bool": {"AWS:securetransport": ["false"]}}},
        )
    ),
    (
        "tls-only",
        [
            TOPIC,
            made(
                rules.TOPIC_POLICY,
                arn=TOPIC.properties["arn"],
                policy=document(PLAIN_REFUSED | TLS_ONLY[rules.TOPIC]),
            ),
        ],
    ),
    (
        "tls-only",
        [
            QUEUE,
            made(
                rules.QUEUE_POLICY,
                queueUrl="https://q",
                policy=document(PLAIN_REFUSED | TLS_ONLY[rules.QUEUE]),
            ),
        ],
    ),
    ("buckets-private", [BUCKET, of_bucket(rules.PUBLIC_ACCESS_BLOCK)]),
    (
        "buckets-private",
        [NEW_BUCKET, made(rules.PUBLIC_ACCESS_BLOCK, bucket="b", refers=OF_NEW_BUCKET)],
    ),
    ("failed-events", [FUNCTION, made(rules.INVOKE_CONFIG, functionName="f", **destination("q"))]),
    ("failed-events", [made(rules.FUNCTION, name="f", deadLetterConfig={"targetArn": "q"})]),
]
UNKNOWNS = [
    ("encryption", made(rules.QUEUE, sqsManagedSseEnabled=UNKNOWN)),
    ("encryption", made(rules.QUEUE, sqsManagedSseEnabled=False, kmsMasterKeyId=UNKNOWN)),
    ("encryption", made(rules.BUCKET_ENCRYPTION, rules=UNKNOWN)),
    ("encryption", encrypted(sseAlgorithm=UNKNOWN)),
    ("encryption", made(rules.KEY, enableKeyRotation=UNKNOWN)),
    ("no-plain-http", made(rules.SUBSCRIPTION, protocol=UNKNOWN)),
    (
        "no-public-access",
        of_bucket(rules.PUBLIC_ACCESS_BLOCK, **BLOCKED | {"ignorePublicAcls": UNKNOWN}),
    ),
    ("no-public-access", of_bucket(rules.BUCKET_ACL, acl=UNKNOWN)),
    ("no-public-access", made(rules.FUNCTION_URL, authorizationType=UNKNOWN)),
    ("no-public-access", made(rules.PERMISSION, principal=UNKNOWN)),
    *(("no-public-access", made(kind, **{key: UNKNOWN})) for kind, key in SAYS_WHO.items()),
    ("no-public-access", made(rules.SUBNET, mapPublicIpOnLaunch=UNKNOWN)),
    ("no-public-access", made(rules.SECURITY_GROUP, ingress=[{"cidrBlocks": [UNKNOWN]}])),
    ("no-public-access", made(rules.SECURITY_GROUP_RULE, type="ingress", cidrBlocks=UNKNOWN)),
    ("no-public-access", made(rules.SECURITY_GROUP_RULE, type=UNKNOWN, cidrBlocks=WORLD)),
    *(("no-wildcards", made(kind, policy=UNKNOWN)) for kind in SAYS_WHAT),
    *(("no-wildcards", made(kind, policyArn=UNKNOWN)) for kind in rules.ATTACHMENTS),
    ("no-wildcards", made(rules.ENDPOINT, policy=UNKNOWN)),
    ("no-wildcards", made(rules.ROLE, inlinePolicies=UNKNOWN)),
    ("no-wildcards", made(rules.ROLE, managedPolicyArns=[UNKNOWN])),
    ("log-retention", made(rules.LOG_GROUP, retentionInDays=UNKNOWN)),
    ("log-retention", made(rules.FUNCTION, loggingConfig={"logGroup": UNKNOWN})),
    ("log-retention", made(rules.TASK_DEFINITION, containerDefinitions=UNKNOWN)),
    ("dead-letter-queues", made(rules.RULE_TARGET, deadLetterConfig={"arn": UNKNOWN})),
    ("dead-letter-queues", made(rules.SCHEDULE, target=UNKNOWN)),
    ("own-key", [KEY, made(rules.TOPIC, kmsMasterKeyId=UNKNOWN)]),
    ("own-key", [KEY, BUCKET, of_bucket(rules.BUCKET_ENCRYPTION, rules=UNKNOWN)]),
    ("tls-only", [BUCKET, of_bucket(rules.BUCKET_POLICY, policy=UNKNOWN)]),
    (
        "tls-only",
        [
            NEW_BUCKET,
            made(rules.BUCKET_POLICY, refers=OF_NEW_BUCKET, bucket=UNKNOWN, policy=UNKNOWN),
        ],
    ),
    (
        "failed-events",
        [FUNCTION, made(rules.INVOKE_CONFIG, functionName="f", **destination(UNKNOWN))],
    ),
]


def found(name: str, subject: Any):
    return list(RULES[name].check(subject))


@pytest.mark.parametrize(("name", "subject", "message"), VIOLATIONS)
def test_what_breaks_a_rule_is_found(name, subject, message):
    findings = found(name, subject)

    assert findings
    assert all(finding.known for finding in findings)
    assert message in findings[0].message
    assert findings[0].urn in {
        each.urn for each in (subject if isinstance(subject, list) else [subject])
    }


@pytest.mark.parametrize(("name", "subject"), PASSES)
def test_what_keeps_a_rule_is_left_alone(name, subject):
    assert found(name, subject) == []


@pytest.mark.parametrize(("name", "subject"), UNKNOWNS)
def test_what_is_not_known_is_neither_wrong_nor_passed_over(name, subject):
    findings = found(name, subject)

    assert findings
    assert [finding for finding in findings if finding.known] == []


def test_every_rule_has_a_violating_and_a_passing_case():
    assert {name for name, *_ in VIOLATIONS} == {name for name, *_ in PASSES} == set(RULES)


@pytest.mark.parametrize("rule", RESOURCE_RULES, ids=lambda rule: rule.name)
def test_a_resource_rule_says_nothing_of_a_type_that_it_does_not_know(rule):
    assert list(rule.check(made("aws:ec2/eip:Eip", policy=UNKNOWN, ingress=UNKNOWN))) == []


@pytest.mark.parametrize("rule", STACK_RULES, ids=lambda rule: rule.name)
def test_a_stack_without_anything_breaks_no_rule(rule):
    assert list(rule.check([])) == []


def test_a_known_name_of_another_is_not_taken_for_this_one():
    # The value of an Output may be made of two buckets; once it is known, the value decides.
    block = made(
        rules.PUBLIC_ACCESS_BLOCK,
        bucket="c",
        refers={"bucket": frozenset({BUCKET.urn, OTHER_BUCKET.urn})},
    )

    assert [each.urn for each in found("buckets-private", [BUCKET, OTHER_BUCKET, block])] == [
        BUCKET.urn
    ]
