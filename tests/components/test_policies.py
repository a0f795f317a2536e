"""Every policy of the stack, exactly: who may do what to which resource, when."""

import ast
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_sentry.querying.actions import get_action_data

from components import policies
from handler import notices

HERE = "us-east-1:123456789012"
BUCKET = "arn:aws:s3:::pushtrain-store-bucket-0a1b2c3"
CLUSTER = "pushtrain-training-cluster-0a1b2c3"
REPOSITORY = f"arn:aws:ecr:{HERE}:repository/pushtrain-images-repository-0a1b2c3"
PARAMETER = f"arn:aws:ssm:{HERE}:parameter/pushtrain/dev"
FAMILY = f"arn:aws:ecs:{HERE}:task-definition/dev-????????????:*"
TASKS = f"arn:aws:ecs:{HERE}:task/{CLUSTER}/*"
IN_CLUSTER = {"ArnEquals": {"ecs:cluster": f"arn:aws:ecs:{HERE}:cluster/{CLUSTER}"}}
TOPIC = f"arn:aws:sns:{HERE}:pushtrain-notices-topic-0a1b2c3"
ROLE = "arn:aws:iam::123456789012:role"


def allow(sid, action, resource, **condition):
    return {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource} | (
        {"Condition": condition} if condition else {}
    )


def streams(group):
    return [f"arn:aws:logs:{HERE}:log-group:{group}-0a1b2c3:log-stream:*"]


def queue(name):
    return f"arn:aws:sqs:{HERE}:{name}-0a1b2c3"


WRITE_LOG = ["logs:CreateLogStream", "logs:PutLogEvents"]


def basics(part):
    return [
        allow("WriteLog", WRITE_LOG, streams(f"pushtrain-trigger-{part}-logs")),
        allow("KeepFailedEvent", ["sqs:SendMessage"], [queue(f"pushtrain-trigger-{part}-failed")]),
    ]


def tell_absent(*keys):
    return allow(
        "TellAbsentFromForbidden",
        ["s3:ListBucket"],
        [BUCKET],
        StringLike={"s3:prefix": list(keys)},
    )


CLAIM_RUN = [
    allow("ReadWiring", ["ssm:GetParameter"], [f"{PARAMETER}/wiring", f"{PARAMETER}/training"]),
    allow("MarkRun", ["s3:PutObject"], [f"{BUCKET}/open/*"]),
    allow("FindData", ["s3:GetObject"], [f"{BUCKET}/data/dataset"]),
]
BRING_RUN_ON = [
    allow(
        "KeepRunRecord",
        ["s3:GetObject", "s3:PutObject"],
        [f"{BUCKET}/runs/*/run.json", f"{BUCKET}/slots.json"],
    ),
    allow("ReadDefinition", ["ecs:DescribeTaskDefinition"], ["*"]),
    allow("PinDefinition", ["ecs:RegisterTaskDefinition"], [FAMILY]),
    allow(
        "RunPinnedDefinition",
        ["ecs:RunTask"],
        [FAMILY],
        **IN_CLUSTER,
    ),
    allow(
        "StopTask",
        ["ecs:StopTask"],
        [TASKS],
        **IN_CLUSTER,
    ),
    allow(
        "TagDefinition",
        ["ecs:TagResource"],
        [FAMILY],
        StringEquals={"ecs:CreateAction": "RegisterTaskDefinition"},
    ),
    allow(
        "TagTask",
        ["ecs:TagResource"],
        [TASKS],
        StringEquals={"ecs:CreateAction": "RunTask"},
    ),
    allow(
        "HandRolesToTask",
        ["iam:PassRole"],
        [
            f"{ROLE}/pushtrain-training-execution-0a1b2c3",
            f"{ROLE}/pushtrain-training-task-0a1b2c3",
        ],
        StringEquals={"iam:PassedToService": "ecs-tasks.amazonaws.com"},
    ),
]
END_RUN = [
    allow("ReadRun", ["s3:GetObject"], [f"{BUCKET}/runs/*"]),
    allow("WriteManifest", ["s3:PutObject"], [f"{BUCKET}/runs/*/manifest.json"]),
    allow("Promote", ["s3:GetObject", "s3:PutObject"], [f"{BUCKET}/models/champion.json"]),
    allow("UnmarkRun", ["s3:DeleteObject"], [f"{BUCKET}/open/*"]),
    allow("ReadLastLogLines", ["logs:GetLogEvents"], streams("pushtrain-training-logs")),
    allow("RetireDefinition", ["ecs:DeregisterTaskDefinition"], ["*"]),
    allow(
        "TellPrograms",
        ["events:PutEvents"],
        [f"arn:aws:events:{HERE}:event-bus/default"],
        **{
            "ForAllValues:StringEquals": {
                "events:source": "pushtrain",
                "events:detail-type": "Training Run Ended",
            },
            "Null": {"events:source": "false", "events:detail-type": "false"},
        },
    ),
    allow("TellPeople", ["sns:Publish"], [TOPIC]),
]

IDENTITY_POLICIES = {
    "pushtrain-training-execution-policy": [
        allow("LogInToRegistry", ["ecr:GetAuthorizationToken"], ["*"]),
        allow(
            "PullImage",
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            [REPOSITORY],
        ),
        allow("WriteLog", WRITE_LOG, streams("pushtrain-training-logs")),
    ],
    "pushtrain-training-task-policy": [
        allow("ReadData", ["s3:GetObject", "s3:GetObjectVersion"], [f"{BUCKET}/data/dataset"]),
        allow(
            "ReadCheckpointsAndModels",
            ["s3:GetObject"],
            [f"{BUCKET}/checkpoints/*", f"{BUCKET}/runs/*", f"{BUCKET}/models/champion.json"],
        ),
        allow(
            "Publish",
            ["s3:AbortMultipartUpload", "s3:PutObject"],
            [f"{BUCKET}/runs/*", f"{BUCKET}/checkpoints/*"],
        ),
        {
            "Sid": "RunRecordIsTheLambdas",
            "Effect": "Deny",
            "Action": ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
            "Resource": [f"{BUCKET}/runs/*/run.json"],
        },
        tell_absent("data/dataset", "runs/*", "checkpoints/*", "models/champion.json"),
    ],
    "pushtrain-trigger-invoke-basics-policy": basics("invoke"),
    "pushtrain-trigger-invoke-work-policy": [
        *CLAIM_RUN,
        *BRING_RUN_ON,
        tell_absent("data/dataset", "runs/*", "slots.json"),
    ],
    "pushtrain-trigger-observe-basics-policy": basics("observe"),
    "pushtrain-trigger-observe-work-policy": [
        allow("ReadWiring", ["ssm:GetParameter"], [f"{PARAMETER}/wiring"]),
        *BRING_RUN_ON,
        *END_RUN,
        tell_absent("runs/*", "slots.json", "open/*", "models/champion.json"),
    ],
    "pushtrain-trigger-reconcile-basics-policy": basics("reconcile"),
    "pushtrain-trigger-reconcile-work-policy": [
        *CLAIM_RUN,
        *BRING_RUN_ON,
        *END_RUN,
        tell_absent("data/dataset", "runs/*", "slots.json", "open/*", "models/champion.json"),
        allow("FindTasks", ["ecs:ListTasks"], ["*"], **IN_CLUSTER),
        allow("LookAtTasks", ["ecs:DescribeTasks"], [TASKS], **IN_CLUSTER),
        allow("FindLostPushes", ["ecr:DescribeImages"], [REPOSITORY]),
    ],
}

ROLES = {
    "pushtrain-training-execution-policy": "pushtrain-training-execution",
    "pushtrain-training-task-policy": "pushtrain-training-task",
    "pushtrain-trigger-invoke-basics-policy": "pushtrain-trigger-invoke-role",
    "pushtrain-trigger-invoke-work-policy": "pushtrain-trigger-invoke-role",
    "pushtrain-trigger-observe-basics-policy": "pushtrain-trigger-observe-role",
    "pushtrain-trigger-observe-work-policy": "pushtrain-trigger-observe-role",
    "pushtrain-trigger-reconcile-basics-policy": "pushtrain-trigger-reconcile-role",
    "pushtrain-trigger-reconcile-work-policy": "pushtrain-trigger-reconcile-role",
}


def undelivered(part):
    return [
        {
            "Sid": "UndeliveredEvents",
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue(f"pushtrain-trigger-{part}-undelivered"),
            "Condition": {
                "ArnEquals": {
                    "aws:SourceArn": f"arn:aws:events:{HERE}:rule/"
                    f"pushtrain-trigger-{part}-rule-0a1b2c3"
                }
            },
        },
        *tls_only_queue(part, "undelivered"),
    ]


def tls_only_queue(part, fate):
    return [
        {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sqs:*",
            "Resource": queue(f"pushtrain-trigger-{part}-{fate}"),
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    ]


RESOURCE_POLICIES = {
    "pushtrain-store-tls-only": [
        {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [BUCKET, f"{BUCKET}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    ],
    "pushtrain-network-s3": [
        *(
            statement | {"Principal": "*"}
            for statement in IDENTITY_POLICIES["pushtrain-training-task-policy"]
        ),
        {
            "Sid": "ImageLayers",
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:GetObject"],
            "Resource": ["arn:aws:s3:::prod-us-east-1-starport-layer-bucket/*"],
        },
    ],
    "pushtrain-trigger-invoke-undelivered-policy": undelivered("invoke"),
    "pushtrain-notices-tls-only": [
        {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sns:Publish",
            "Resource": TOPIC,
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        },
        {
            "Sid": "NoPlainWebhooks",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sns:Subscribe",
            "Resource": TOPIC,
            "Condition": {"StringEquals": {"sns:Protocol": "http"}},
        },
    ],
    "pushtrain-trigger-observe-undelivered-policy": undelivered("observe"),
    "pushtrain-trigger-reconcile-undelivered-policy": undelivered("reconcile"),
    **{
        f"pushtrain-trigger-{part}-failed-policy": tls_only_queue(part, "failed")
        for part in ("invoke", "observe", "reconcile")
    },
}


def trust(service, **condition):
    return [
        {
            "Sid": "Assume",
            "Effect": "Allow",
            "Principal": {"Service": service},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}, **condition},
        }
    ]


TRUST_POLICIES = {
    "pushtrain-training-execution": trust("ecs-tasks.amazonaws.com"),
    "pushtrain-training-task": trust(
        "ecs-tasks.amazonaws.com", ArnLike={"aws:SourceArn": f"arn:aws:ecs:{HERE}:*"}
    ),
    "pushtrain-trigger-invoke-role": trust("lambda.amazonaws.com"),
    "pushtrain-trigger-observe-role": trust("lambda.amazonaws.com"),
    "pushtrain-trigger-reconcile-role": trust("lambda.amazonaws.com"),
}


@pytest.mark.parametrize(("name", "statements"), {**IDENTITY_POLICIES, **RESOURCE_POLICIES}.items())
def test_policy_is_exactly_this(dev, name, statements):
    assert dev.document(name, "policy") == {"Version": "2012-10-17", "Statement": statements}


@pytest.mark.parametrize(("name", "statements"), TRUST_POLICIES.items())
def test_role_is_taken_only_by_this_service(dev, name, statements):
    assert dev.document(name, "assumeRolePolicy") == {
        "Version": "2012-10-17",
        "Statement": statements,
    }


def test_there_are_no_other_policies_and_each_is_on_its_role(dev):
    tables = [IDENTITY_POLICIES, RESOURCE_POLICIES, TRUST_POLICIES]
    found = {name for (name, _), document in dev.documents().items() if "Statement" in document}
    grants = dev.of_type("aws:iam/rolePolicy:RolePolicy")

    assert found == {name for table in tables for name in table}
    assert {grant.name: grant.inputs["role"] for grant in grants} == {
        policy: f"{role}-0a1b2c3" for policy, role in ROLES.items()
    }
    assert not [made.typ for made in dev.registrations if "PolicyAttachment" in made.typ]
    assert not [made for made in dev.registrations if {"managedPolicyArns"} & {*made.inputs}]


def test_each_policy_is_on_what_it_names(dev):
    assert dev.inputs("pushtrain-notices-tls-only")["arn"] == TOPIC
    for part, fate in itertools.product(
        ("invoke", "observe", "reconcile"), ("undelivered", "failed")
    ):
        name = f"pushtrain-trigger-{part}-{fate}"
        assert dev.inputs(f"{name}-policy")["queueUrl"].endswith(f"/{name}-0a1b2c3")
    assert dev.inputs("pushtrain-store-tls-only")["bucket"] == "pushtrain-store-bucket-0a1b2c3"


def grants(deployment):
    """Yield (policy, action, resource) of everything that a role is allowed."""
    for name in IDENTITY_POLICIES:
        for statement in deployment.document(name, "policy")["Statement"]:
            if statement["Effect"] == "Allow":
                for action in statement["Action"]:
                    for resource in statement["Resource"]:
                        yield name, action, resource


def forms(action):
    """Return AWS's own list of the resources that an action can be allowed on, each an ARN form."""
    service, name = action.split(":")
    return [row["resource_arn_format"] for row in get_action_data(service, name)[service]]


def fits(resource, form):
    """Whether an ARN is of a form such as arn:${Partition}:s3:::${BucketName}/${ObjectName}."""
    parts = re.split(r"\$\{\w+\}", form)
    return re.fullmatch(
        r"[^/]+".join(map(re.escape, parts[:-1])) + rf".+{re.escape(parts[-1])}", resource
    )


def test_star_stands_only_where_aws_knows_no_narrower_resource(dev):
    stars = {action for _, action, resource in grants(dev) if resource == "*"}

    assert stars == {
        "ecr:GetAuthorizationToken",
        "ecs:DescribeTaskDefinition",
        "ecs:DeregisterTaskDefinition",
        "ecs:ListTasks",
    }
    # Of what a ListTasks could be narrowed to, a container instance, Fargate has none.
    assert {form for action in stars - {"ecs:ListTasks"} for form in forms(action)} == {"*"}


def test_every_action_is_allowed_on_a_kind_of_resource_that_it_knows(dev):
    # Elsewhere AWS would take the policy and still refuse the call.
    strangers = [
        (name, action, resource)
        for name, action, resource in grants(dev)
        if not any(fits(resource, form) for form in forms(action) if form != "*")
        and resource != "*"
    ]

    assert strangers == []


def test_no_action_holds_a_wildcard(dev):
    assert [action for _, action, _ in grants(dev) if "*" in action or "?" in action] == []


OPERATIONS = {"s3:HeadObject": "s3:GetObject", "s3:ListObjectsV2": "s3:ListBucket"}
"""The action of each operation that is not its own."""
IMPLIED = {
    "ecs:RegisterTaskDefinition": {"ecs:TagResource", "iam:PassRole"},
    "s3:GetObject": {"s3:ListBucket"},  # or S3 says forbidden where nothing is
}
"""What an operation needs besides."""


def definitions(folder):
    """Return functions by (module, name), methods by name, and where imported names are from."""
    functions, methods, imported = {}, {}, {}
    for file in sorted(folder.glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            match node:
                case ast.FunctionDef(name=name):
                    functions[file.stem, name] = node
                case ast.ClassDef(body=body):
                    for method in (at for at in body if isinstance(at, ast.FunctionDef)):
                        methods.setdefault(method.name, []).append((file.stem, method))
                case ast.ImportFrom(module=str(source), names=names):
                    home = source.removeprefix("handler.")
                    imported |= {(file.stem, at.name): home for at in names}
    return functions, methods, imported


def reachable(folder, module):
    """Yield the functions that a handler may come to; a method is any of that name."""
    functions, methods, imported = definitions(folder)
    wanted, seen = [(module, functions[module, "handler"])], set()
    while wanted:
        home, function = wanted.pop()
        if function in seen:
            continue
        seen.add(function)
        yield function
        for at in ast.walk(function):
            key = (home, "")
            if isinstance(at, ast.Name):
                key = imported.get((home, at.id), home), at.id
            elif isinstance(at, ast.Attribute):
                key = ast.unparse(at.value), at.attr
                wanted += methods.get(at.attr, [])
            if key in functions:
                wanted.append((key[0], functions[key]))


def _operation(method):
    return "".join(word.capitalize() for word in method.split("_"))


def calls(nodes):
    """Return the actions of the AWS calls in this syntax: client.method(...) or a paginator's."""
    found = set()
    for call in (at for node in nodes for at in ast.walk(node) if isinstance(at, ast.Call)):
        name = ast.unparse(call.func).replace("clients.events.", "clients.eventbridge.")
        # `events` alone is a module of ours.
        match name.removeprefix("self._").removeprefix("clients.").split("."):
            case ["eventbridge", method]:
                found.add(f"events:{_operation(method)}")
            case ["ecr" | "ecs" | "logs" | "s3" | "sns" | "ssm" as service, method]:
                if method == "get_paginator":
                    method = ast.literal_eval(call.args[0])
                action = f"{service}:{_operation(method)}"
                found.add(OPERATIONS.get(action, action))
    return found | {need for action in found for need in IMPLIED.get(action, ())}


@pytest.mark.parametrize("part", ["invoke", "observe", "reconcile"])
def test_handler_is_allowed_just_the_calls_that_it_makes(dev, root, part):
    # No emulator checks IAM, so a call without its grant would first fail in somebody's account.
    allowed = {
        action for name, action, _ in grants(dev) if name == f"pushtrain-trigger-{part}-work-policy"
    }

    assert calls(reachable(root / "handler", part)) == allowed


def test_the_event_that_may_be_put_is_the_one_that_notices_put():
    assert policies.EVENT_SOURCE == notices.SOURCE
    assert policies.EVENT_DETAIL_TYPE == notices.DETAIL_TYPE


def test_task_may_write_neither_run_records_nor_champions(dev):
    document = dev.document("pushtrain-training-task-policy", "policy")
    denied = [one["Resource"] for one in document["Statement"] if one["Effect"] == "Deny"]
    written = [
        resource
        for name, action, resource in grants(dev)
        if name == "pushtrain-training-task-policy" and action == "s3:PutObject"
    ]

    assert denied == [[f"{BUCKET}/runs/*/run.json"]]
    assert not [resource for resource in written if resource.startswith(f"{BUCKET}/models")]


def test_policies_of_a_role_fit_into_it(deploy):
    deployment = deploy.whole(stack="s" * 100)
    sizes = {}
    for grant in deployment.of_type("aws:iam/rolePolicy:RolePolicy"):
        role = grant.inputs["role"]
        sizes[role] = sizes.get(role, 0) + len(re.sub(r"\s", "", grant.inputs["policy"]))

    assert len(sizes) == 5
    assert max(sizes.values()) <= 10240  # characters, of all inline policies of a role


@given(
    st.sampled_from(["aws", "aws-cn", "aws-us-gov"]), st.sampled_from(["eu-west-1", "cn-north-1"])
)
def test_arns_follow_partition_and_region(deploy, partition, region):
    scope = policies.AwsScope(partition=partition, region=region, account="1")
    found = []

    deploy(
        lambda: policies.Output.json_dumps(
            [
                scope.arn("ecs", "cluster/a"),
                policies.storage_endpoint("b", "data", partition, region),
            ]
        ).apply(lambda text: found.append(json.loads(text)))
    )

    ((arn, endpoint),) = found
    assert arn == f"arn:{partition}:ecs:{region}:1:cluster/a"
    assert endpoint["Statement"][-1]["Resource"] == [
        f"arn:{partition}:s3:::prod-{region}-starport-layer-bucket/*"
    ]
