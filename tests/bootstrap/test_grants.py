"""What each role may do: whatever a stack takes of AWS, nothing of others', and no way to more."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document
from policy_sentry.querying.actions import get_action_data

from bootstrap import grants

ACCOUNT, REGION = "123456789012", "us-east-1"
STATE = "arn:aws:s3:::bootstrap-state-0a1b2c3"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0123abcd"
BOUNDARY = f"arn:aws:iam::{ACCOUNT}:policy/bootstrap-work-boundary-0a1b2c3"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/pushtrain-trigger-invoke-role-0a1b2c3"
MOST_POLICY, MOST_ATTACHED = 6144, 10
"""https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html"""
NO_NARROWER = {
    # It can name a container instance, and Fargate has none.
    "ecs:ListTasks",
    # By the VPC's id, of which every pattern is all of them.
    "ec2:DescribeVpcAttribute",
}
ROLES = ("preview", "image", "deploy-dev", "deploy-prod")
WITHIN = {"iam:PermissionsBoundary": BOUNDARY}
OWN = {"aws:ResourceTag/project": "pushtrain", "aws:ResourceTag/stack": "dev"}
MADE_OWN = {"aws:RequestTag/project": "pushtrain", "aws:RequestTag/stack": "dev"}
EVERYTHING = (
    {"destroyable": False, "parameters": ["epochs=1"], "image.tagPrefixes": ["c-"]},
    {"notify.emails": ["ann@example.com"], "notify.webhooks": ["https://example.com/hook"]},
    {
        "network": "private",
        "customerKey": True,
        "secrets": [
            "TOKEN=arn:aws:secretsmanager:us-east-1:123456789012:secret:pushtrain/token-AbCdEf",
            "WORD=arn:aws:ssm:us-east-1:123456789012:parameter/pushtrain/word",
        ],
    },
    {
        "network": "existing",
        "network.vpcId": "vpc-0a1b2c3d",
        "network.subnetIds": ["subnet-0a1b2c3d"],
    },
)


def arn(service, resource, region=REGION):
    return f"arn:aws:{service}:{region}:{ACCOUNT}:{resource}"


@pytest.fixture(scope="module")
def attached(account):
    """The documents of each role, by their policies' names, its boundary apart."""
    policies = {
        f"arn:aws:iam::{ACCOUNT}:policy/{made.name}-0a1b2c3": made.name
        for made in account.of_type("aws:iam/policy:Policy")
    }
    found: dict[str, list[str]] = {role: [] for role in ROLES}
    for made in account.of_type("aws:iam/rolePolicyAttachment:RolePolicyAttachment"):
        role = made.inputs["role"].removeprefix("bootstrap-").removesuffix("-0a1b2c3")
        found[role].append(policies[made.inputs["policyArn"]])
    return found


@pytest.fixture(scope="module")
def may(account, attached):
    """Ask whether a role may do something: by its policies and its boundary, or by one alone."""

    def read(*names):
        documents = [account.document(name, "policy") for name in names]
        return [parse_policy_document(each) for each in documents]

    parsed = {role: read(*names) for role, names in attached.items()}
    boundary = read("bootstrap-workflow-boundary")
    alone = {"work": read("bootstrap-work-boundary"), "workflow": boundary}

    def ask(role, action, resource="*", *, bare=False, **context: Any):
        asked = EvalContext(
            principal_arn="",
            principal_type="AssumedRole",
            principal_account=ACCOUNT,
            action=action,
            resource_arn=resource,
            region=REGION,
            secure_transport=True,
            service_context={key.lower(): value for key, value in context.items()},
        )
        if role in alone:
            return evaluate(asked, alone[role]).decision == "Allow"
        if bare:
            return evaluate(asked, parsed[role]).decision == "Allow"
        return all(
            evaluate(asked, statements).decision == "Allow"
            for statements in (parsed[role], boundary)
        )

    return ask


# The table of calls


def test_a_deployment_of_every_kind_of_resource_is_provided_for(deploy):
    registered = {
        made.typ
        for settings in EVERYTHING
        for made in deploy.whole(settings).registrations
        if made.custom and made.typ.startswith("aws:")
    }

    assert registered - set(grants.TYPES) == set(), "bootstrap/grants.py lacks their calls"


@pytest.mark.parametrize("kind", grants.KINDS, ids=lambda kind: kind.sid)
def test_calls_are_aws_and_go_to_the_narrowest_resource(kind):
    for actions, anything in (
        ((*kind.read, *kind.write), False),
        ((*kind.read_any, *kind.write_any), True),
    ):
        for action in actions:
            service, _, name = action.partition(":")
            found = get_action_data(service, name)
            assert found, f"{action} is no action of AWS"
            formats = [row["resource_arn_format"] for row in found[service]]
            assert action in NO_NARROWER or (set(formats) == {"*"}) == anything, formats


@pytest.mark.parametrize("kind", grants.KINDS, ids=lambda kind: kind.sid)
def test_calls_are_in_order_and_told_once(kind):
    for actions in (kind.read, kind.read_any, kind.write_any, [*kind.read, *kind.write]):
        assert len(set(actions)) == len(actions)
    assert list(kind.read) == sorted(kind.read, key=str.lower)


def test_what_only_looks_changes_nothing():
    levels = {
        row["access_level"]
        for kind in grants.KINDS
        for action in (*kind.read, *kind.read_any)
        for service, _, name in [action.partition(":")]
        for row in (get_action_data(service, name) or {service: []})[service]
    }

    assert levels == {"Read", "List"}


@pytest.mark.parametrize(
    ("operation", "role"),
    [("up", "deploy-dev"), ("destroy", "deploy-dev"), ("preview and refresh", "preview")],
)
def test_what_the_provider_was_seen_to_call_is_granted(account, attached, operation, role):
    seen = json.loads((Path(__file__).parent / "provider_calls.json").read_text())[operation]
    granted = {
        action
        for name in attached[role]
        for statement in account.document(name, "policy")["Statement"]
        for action in statement["Action"]
    }

    assert len(seen) > 50
    assert set(seen) - granted == set()


# The documents


def test_roles_are_given_these(attached):
    def deploys(stack):
        parts = ("keys", "network", "roles", "stack", "state")
        return ["bootstrap-look", *(f"bootstrap-deploy-{stack}-{part}" for part in parts)]

    assert {role: sorted(names) for role, names in attached.items()} == {
        "preview": ["bootstrap-look", "bootstrap-preview-runs", "bootstrap-preview-state"],
        "image": ["bootstrap-image-push"],
        "deploy-dev": sorted(deploys("dev")),
        "deploy-prod": sorted(deploys("prod")),
    }


def test_every_role_is_within_the_boundary(account):
    for made in account.of_type("aws:iam/role:Role"):
        assert made.inputs["permissionsBoundary"].endswith("/bootstrap-workflow-boundary-0a1b2c3")


def test_documents_fit_also_for_the_longest_name(bootstrap):
    account = bootstrap(environments=["x" * 100])
    for made in account.of_type("aws:iam/policy:Policy"):
        text = json.dumps(json.loads(made.inputs["policy"]), separators=(",", ":"))
        assert len(text) <= MOST_POLICY, made.name
    attachments = account.of_type("aws:iam/rolePolicyAttachment:RolePolicyAttachment")
    for role in ("preview", "image", f"deploy-{'x' * 100}"):
        mine = [made for made in attachments if made.inputs["role"] == f"bootstrap-{role}-0a1b2c3"]
        assert 0 < len(mine) <= MOST_ATTACHED


def test_the_image_role_pushes_and_nothing_else(account):
    assert account.document("bootstrap-image-push", "policy")["Statement"] == [
        {
            "Sid": "LogInToRegistry",
            "Effect": "Allow",
            "Action": ["ecr:GetAuthorizationToken"],
            "Resource": ["*"],
        },
        {
            "Sid": "Push",
            "Effect": "Allow",
            "Action": [
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchGetImage",
                "ecr:CompleteLayerUpload",
                "ecr:InitiateLayerUpload",
                "ecr:PutImage",
                "ecr:UploadLayerPart",
            ],
            "Resource": [arn("ecr", "repository/pushtrain-images-repository-*")],
        },
    ]


def test_the_preview_role_reads_the_state_without_a_lock(account):
    assert account.document("bootstrap-preview-state", "policy")["Statement"] == [
        {
            "Sid": "ListState",
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [STATE],
            "Condition": {"StringLike": {"s3:prefix": [".pulumi/*"]}},
        },
        {
            "Sid": "ReadState",
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": [f"{STATE}/.pulumi/*"],
        },
        {
            "Sid": "ReadSecrets",
            "Effect": "Allow",
            "Action": ["kms:Decrypt"],
            "Resource": [KEY],
        },
    ]


def test_a_deploy_role_keeps_the_state_of_its_stack_alone(account):
    (_, keep, layout, secrets) = account.document("bootstrap-deploy-dev-state", "policy")[
        "Statement"
    ]

    assert keep["Resource"] == [
        f"{STATE}/.pulumi/stacks/pushtrain/dev.*",
        f"{STATE}/.pulumi/locks/organization/pushtrain/dev/*",
        f"{STATE}/.pulumi/history/pushtrain/dev/*",
        f"{STATE}/.pulumi/backups/pushtrain/dev/*",
    ]
    assert keep["Action"] == ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    assert layout["Resource"] == [f"{STATE}/.pulumi/meta.yaml"]
    assert secrets["Action"] == ["kms:Decrypt", "kms:Encrypt"]
    assert secrets["Resource"] == [KEY]


# What follows from them


ROLES_OF_OTHERS = (f"arn:aws:iam::{ACCOUNT}:role/admin", ROLE.replace("pushtrain", "bootstrap", 1))


def test_a_deploy_role_makes_roles_within_the_boundary_only(may):
    for action in ("CreateRole", "PutRolePolicy", "UpdateAssumeRolePolicy"):
        assert may("deploy-dev", f"iam:{action}", ROLE, **WITHIN)
        assert not may("deploy-dev", f"iam:{action}", ROLE)
        other = {"iam:PermissionsBoundary": f"arn:aws:iam::{ACCOUNT}:policy/loose"}
        assert not may("deploy-dev", f"iam:{action}", ROLE, **other)
        for role in ROLES_OF_OTHERS:
            assert not may("deploy-dev", f"iam:{action}", role, **WITHIN)


@pytest.mark.parametrize("given", [{"role": "deploy-dev", "bare": True}, {"role": "workflow"}])
def test_policies_and_boundary_each_demand_that_roles_are_bound(may, given):
    for action in (
        "iam:CreateRole",
        "iam:PutRolePermissionsBoundary",
        "iam:PutRolePolicy",
        "iam:UpdateAssumeRolePolicy",
    ):
        assert may(action=action, resource=ROLE, **given, **WITHIN)
        assert not may(action=action, resource=ROLE, **given)
        for role in ROLES_OF_OTHERS:
            assert not may(action=action, resource=role, **given, **WITHIN)
    rid = "iam:DeleteRolePermissionsBoundary"
    assert not may(action=rid, resource=ROLE, **given, **WITHIN)
    for action in ("iam:CreatePolicyVersion", "iam:DeletePolicy", "iam:SetDefaultPolicyVersion"):
        assert not may(action=action, resource=BOUNDARY, **given)


@pytest.mark.parametrize("given", [{"role": "deploy-dev", "bare": True}, {"role": "workflow"}])
def test_policies_and_boundary_each_keep_the_bootstraps_own(may, given):
    for action in ("s3:DeleteBucket", "s3:PutBucketPolicy", "s3:PutLifecycleConfiguration"):
        assert not may(action=action, resource=STATE, **given)
    old = f"{STATE}/.pulumi/stacks/pushtrain/dev.json"
    assert may(action="s3:PutObject", resource=old, **given)
    assert not may(action="s3:DeleteObjectVersion", resource=old, **given)
    assert may(action="kms:Decrypt", resource=KEY, **given)
    for action in ("kms:ScheduleKeyDeletion", "kms:PutKeyPolicy"):
        assert not may(action=action, resource=KEY, **given)


def test_no_role_can_rid_itself_or_others_of_a_boundary(may):
    for role in ROLES:
        for action in (
            "iam:AttachRolePolicy",
            "iam:CreatePolicyVersion",
            "iam:CreateUser",
            "iam:DeleteRolePermissionsBoundary",
            "iam:SetDefaultPolicyVersion",
            "iam:CreateOpenIDConnectProvider",
            "sts:AssumeRole",
        ):
            for resource in (ROLE, *ROLES_OF_OTHERS, BOUNDARY, "*"):
                assert not may(role, action, resource, **WITHIN), (role, action)


def test_roles_are_handed_to_tasks_and_functions_only(may):
    for service in ("ecs-tasks", "lambda"):
        context = {"iam:PassedToService": f"{service}.amazonaws.com"}
        assert may("deploy-dev", "iam:PassRole", ROLE, **context)
        assert not may("deploy-dev", "iam:PassRole", ROLES_OF_OTHERS[0], **context)
        assert not may("preview", "iam:PassRole", ROLE, **context)
    assert not may(
        "deploy-dev", "iam:PassRole", ROLE, **{"iam:PassedToService": "ec2.amazonaws.com"}
    )


def test_a_stack_is_kept_from_another(may):
    for key in ("stacks/pushtrain/dev.json", "history/pushtrain/dev/dev-1.history.json"):
        assert may("deploy-dev", "s3:PutObject", f"{STATE}/.pulumi/{key}")
        assert not may("deploy-prod", "s3:PutObject", f"{STATE}/.pulumi/{key}")
        assert not may("deploy-prod", "s3:GetObject", f"{STATE}/.pulumi/{key}")
    vpc = arn("ec2", "vpc/vpc-1")
    assert may("deploy-dev", "ec2:DeleteVpc", vpc, **OWN)
    assert not may("deploy-prod", "ec2:DeleteVpc", vpc, **OWN)
    assert not may("deploy-dev", "ec2:DeleteVpc", vpc)
    wiring = arn("ssm", "parameter/pushtrain/dev/wiring")
    assert may("deploy-dev", "ssm:PutParameter", wiring)
    assert not may("deploy-prod", "ssm:PutParameter", wiring)


def test_networks_and_keys_are_made_with_their_stacks_tags(may):
    for action, resource in (
        ("ec2:CreateVpc", arn("ec2", "vpc/*")),
        ("ec2:CreateSubnet", arn("ec2", "subnet/*")),
        ("kms:CreateKey", "*"),
    ):
        assert may("deploy-dev", action, resource, **MADE_OWN)
        assert not may("deploy-dev", action, resource)
        assert not may("deploy-prod", action, resource, **MADE_OWN)
    theirs = arn("kms", "key/9999")
    assert may("deploy-dev", "kms:ScheduleKeyDeletion", theirs, **OWN)
    assert not may("deploy-dev", "kms:ScheduleKeyDeletion", theirs)


def test_tags_are_put_on_what_is_made_and_on_ones_own(may):
    vpc, group = arn("ec2", "vpc/vpc-1"), arn("ec2", "security-group/sg-1")

    assert may("deploy-dev", "ec2:CreateTags", vpc, **{"ec2:CreateAction": "CreateVpc"})
    assert may("deploy-dev", "ec2:CreateTags", vpc, **OWN)
    assert not may("deploy-dev", "ec2:CreateTags", vpc, **MADE_OWN)
    # The group that comes with a VPC has no tags, and whatever has some is somebody's.
    assert may("deploy-dev", "ec2:CreateTags", group, **MADE_OWN)
    somebodys = {**MADE_OWN, "aws:ResourceTag/project": "other", "aws:ResourceTag/stack": "x"}
    assert not may("deploy-dev", "ec2:CreateTags", group, **somebodys)


@pytest.mark.parametrize("role", ROLES)
def test_what_the_bootstrap_made_is_out_of_reach(may, role):
    for action in ("DeleteBucket", "PutBucketPolicy", "PutBucketVersioning", "DeleteBucketPolicy"):
        assert not may(role, f"s3:{action}", STATE)
    old = f"{STATE}/.pulumi/stacks/pushtrain/dev.json"
    assert not may(role, "s3:DeleteObjectVersion", old)
    assert not may(role, "s3:PutLifecycleConfiguration", STATE)
    for action in ("ScheduleKeyDeletion", "PutKeyPolicy", "DisableKeyRotation", "CreateGrant"):
        # Not even where it could be given a stack's tags.
        assert not may(role, f"kms:{action}", KEY, **OWN, **MADE_OWN)
    assert not may(role, "kms:TagResource", KEY, **MADE_OWN)


def test_a_preview_sees_no_data_and_no_secret(may):
    store = "arn:aws:s3:::pushtrain-store-bucket-0a1b2c3"

    assert may("preview", "s3:GetObject", f"{store}/runs/0123456789ab/run.json")
    assert may("preview", "s3:GetObject", f"{store}/models/champion.json")
    assert may("preview", "s3:ListBucket", store)
    for key in ("data/dataset", "checkpoints/0123456789ab/1"):
        assert not may("preview", "s3:GetObject", f"{store}/{key}")
    for action, resource in (
        ("secretsmanager:GetSecretValue", arn("secretsmanager", "secret:pushtrain/token")),
        ("ssm:GetParameter", arn("ssm", "parameter/pushtrain/dev/training")),
        ("ssm:GetParameter", arn("ssm", "parameter/elsewhere")),
        ("sqs:ReceiveMessage", arn("sqs", "pushtrain-trigger-invoke-failed-0a1b2c3")),
        ("kms:Decrypt", arn("kms", "key/9999")),
    ):
        assert not may("preview", action, resource)


def test_a_preview_writes_nothing(attached, account):
    written = {
        action
        for name in attached["preview"]
        for statement in account.document(name, "policy")["Statement"]
        for action in statement["Action"]
        for service, _, call in [action.partition(":")]
        for row in (get_action_data(service, call) or {service: []})[service]
        if row["access_level"] not in ("Read", "List")
    }

    # Reading what is encrypted is no writing, though AWS counts it so.
    assert written == {"kms:Decrypt"}


def test_whatever_a_stacks_roles_are_granted_is_within_their_boundary(deploy, may):
    for settings in EVERYTHING:
        deployment = deploy.whole(settings)
        asked = [
            (action, resource, statement.get("Condition", {}))
            for made in deployment.of_type("aws:iam/rolePolicy:RolePolicy")
            for statement in json.loads(made.inputs["policy"])["Statement"]
            if statement["Effect"] == "Allow"
            for action in statement["Action"]
            for resource in statement["Resource"]
        ]
        assert len(asked) > 50
        for action, resource, condition in asked:
            context = {
                key: values if isinstance(values, str) else values[0]
                for given in condition.values()
                for key, values in given.items()
            }
            # The key is the stack's own, and bears its tags.
            context |= OWN if action.startswith("kms:") else {}
            assert may("work", action, resource, **context), (action, resource)


def test_the_boundary_of_work_opens_nothing_else(may):
    for action, resource in (
        ("iam:CreateRole", ROLE),
        ("iam:PassRole", ROLES_OF_OTHERS[0]),
        ("s3:GetObject", f"{STATE}/.pulumi/stacks/pushtrain/dev.json"),
        ("s3:GetObject", "arn:aws:s3:::elsewhere/x"),
        ("s3:PutBucketPolicy", "arn:aws:s3:::pushtrain-store-bucket-0a1b2c3"),
        ("secretsmanager:GetSecretValue", arn("secretsmanager", "secret:elsewhere")),
        ("ssm:GetParameter", arn("ssm", "parameter/elsewhere")),
        ("kms:Decrypt", KEY),
        ("ec2:RunInstances", "*"),
        ("sts:AssumeRole", ROLE),
    ):
        assert not may("work", action, resource)


def test_stack_files_have_the_tags_that_a_deploy_role_goes_by(root):
    for file in root.glob("Pulumi.*.yaml"):
        name = file.name.split(".")[1]
        tags = yaml.safe_load(file.read_text())["config"].get("aws:defaultTags", {}).get("tags")
        if name != "local":
            assert tags == {**(tags or {}), "project": "pushtrain", "stack": name}


def test_names_of_a_stack_do_not_begin_like_the_bootstraps(deploy, account):
    stack = deploy.whole()

    assert all(made.name.startswith("pushtrain") for made in stack.registrations)
    assert not [made.name for made in account.registrations if made.name.startswith("pushtrain")]
