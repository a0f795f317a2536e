"""What each role may do: what a deployment of each kind of resource asks of AWS, and no more.

The calls are those of the AWS provider (7.51, which bridges hashicorp/terraform-provider-aws 6) for
a resource's life: create, read, update, tag, delete. A stack's resources are named by Pulumi, each
beginning with `pushtrain-`; where AWS gives the name, in EC2 and KMS, the default tags of a stack's
file tell whose it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pulumi import Input, Output

from components.policies import (
    CONTAINER_INSIGHTS,
    AwsScope,
    Document,
    Statement,
    allow,
    document,
)

STACK_PROJECT: Final = "pushtrain"
"""Of the main program: its resources' names begin with it, and its states lie under it."""

PUSH: Final = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
)
"""https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html."""
NETWORK: Final = (
    *("internet-gateway", "route-table", "security-group", "security-group-rule"),
    *("subnet", "vpc", "vpc-endpoint"),
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Resources that AWS keeps in one place, and the calls that their lives take."""

    sid: str
    types: Sequence[str]
    """Of Pulumi's AWS provider, without `aws:`."""
    names: Sequence[str] = ()
    """What their ARNs end in, after account and region; empty where calls are for `*`."""
    read: Sequence[str] = ()
    write: Sequence[str] = ()
    """Of what is named so."""
    read_any: Sequence[str] = ()
    write_any: Sequence[str] = ()
    """Calls that know no narrower resource than `*`."""


KINDS: Final = (
    Kind(
        sid="Alarms",
        types=("cloudwatch/metricAlarm:MetricAlarm",),
        names=["cloudwatch:alarm:pushtrain-*"],
        read=["cloudwatch:DescribeAlarms", "cloudwatch:ListTagsForResource"],
        write=[
            "cloudwatch:DeleteAlarms",
            "cloudwatch:PutMetricAlarm",
            "cloudwatch:TagResource",
            "cloudwatch:UntagResource",
        ],
    ),
    Kind(
        sid="Dashboards",
        types=("cloudwatch/dashboard:Dashboard",),
        names=["cloudwatch::dashboard/pushtrain-*"],
        read=["cloudwatch:GetDashboard"],
        write=["cloudwatch:DeleteDashboards", "cloudwatch:PutDashboard"],
    ),
    Kind(
        sid="Rules",
        types=("cloudwatch/eventRule:EventRule", "cloudwatch/eventTarget:EventTarget"),
        names=["events:rule/pushtrain-*"],
        read=["events:DescribeRule", "events:ListTagsForResource", "events:ListTargetsByRule"],
        write=[
            "events:DeleteRule",
            "events:PutRule",
            "events:PutTargets",
            "events:RemoveTargets",
            "events:TagResource",
            "events:UntagResource",
        ],
    ),
    Kind(
        sid="Logs",
        types=("cloudwatch/logGroup:LogGroup",),
        names=[
            "logs:log-group:pushtrain-*",
            f"logs:log-group:{CONTAINER_INSIGHTS}pushtrain-*",
        ],
        read=["logs:ListTagsForResource"],
        read_any=["logs:DescribeLogGroups"],
        write=[
            "logs:AssociateKmsKey",
            "logs:CreateLogGroup",
            "logs:DeleteLogGroup",
            "logs:DeleteRetentionPolicy",
            "logs:DisassociateKmsKey",
            "logs:PutRetentionPolicy",
            "logs:TagResource",
            "logs:UntagResource",
        ],
    ),
    Kind(
        sid="Images",
        types=("ecr/lifecyclePolicy:LifecyclePolicy", "ecr/repository:Repository"),
        names=["ecr:repository/pushtrain-*"],
        read=[
            "ecr:DescribeImages",
            "ecr:DescribeImageScanFindings",
            "ecr:DescribeRepositories",
            "ecr:GetLifecyclePolicy",
            "ecr:ListTagsForResource",
        ],
        # The program asks for it in previews too; alone, it opens nothing.
        read_any=["ecr:GetAuthorizationToken"],
        write=[
            *PUSH,
            "ecr:CreateRepository",
            "ecr:DeleteLifecyclePolicy",
            "ecr:DeleteRepository",
            "ecr:PutImageScanningConfiguration",
            "ecr:PutImageTagMutability",
            "ecr:PutLifecyclePolicy",
            "ecr:TagResource",
            "ecr:UntagResource",
        ],
    ),
    Kind(
        sid="Clusters",
        types=(
            "ecs/cluster:Cluster",
            "ecs/clusterCapacityProviders:ClusterCapacityProviders",
        ),
        names=["ecs:cluster/pushtrain-*"],
        read=["ecs:DescribeClusters", "ecs:ListTagsForResource"],
        write=[
            "ecs:CreateCluster",
            "ecs:DeleteCluster",
            "ecs:PutClusterCapacityProviders",
            "ecs:TagResource",
            "ecs:UntagResource",
            "ecs:UpdateCluster",
            "ecs:UpdateClusterSettings",
        ],
    ),
    Kind(
        sid="Tasks",
        types=(),
        names=["ecs:task/pushtrain-*"],
        read=["ecs:DescribeTasks"],
        # `pushtrain destroy` stops what runs, and takes back the definitions that runs registered.
        write=["ecs:StopTask"],
    ),
    Kind(
        sid="Definitions",
        types=("ecs/taskDefinition:TaskDefinition",),
        names=["ecs:task-definition/{stack}-task-template:*"],
        write=["ecs:RegisterTaskDefinition", "ecs:TagResource", "ecs:UntagResource"],
        read_any=["ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions", "ecs:ListTasks"],
        write_any=["ecs:DeregisterTaskDefinition"],
    ),
    Kind(
        sid="Functions",
        types=(
            "lambda/function:Function",
            "lambda/functionEventInvokeConfig:FunctionEventInvokeConfig",
            "lambda/permission:Permission",
        ),
        names=["lambda:function:pushtrain-*"],
        read=[
            "lambda:GetFunction",
            "lambda:GetFunctionCodeSigningConfig",
            "lambda:GetFunctionConfiguration",
            "lambda:GetFunctionEventInvokeConfig",
            "lambda:GetPolicy",
            "lambda:ListTags",
            "lambda:ListVersionsByFunction",
        ],
        write=[
            "lambda:AddPermission",
            "lambda:CreateFunction",
            "lambda:DeleteFunction",
            "lambda:DeleteFunctionConcurrency",
            "lambda:DeleteFunctionEventInvokeConfig",
            "lambda:PutFunctionConcurrency",
            "lambda:PutFunctionEventInvokeConfig",
            "lambda:RemovePermission",
            "lambda:TagResource",
            "lambda:UntagResource",
            "lambda:UpdateFunctionCode",
            "lambda:UpdateFunctionConfiguration",
            "lambda:UpdateFunctionEventInvokeConfig",
        ],
    ),
    Kind(
        sid="Buckets",
        types=(
            "s3/bucket:Bucket",
            "s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
            "s3/bucketOwnershipControls:BucketOwnershipControls",
            "s3/bucketPolicy:BucketPolicy",
            "s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
            "s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
            "s3/bucketVersioning:BucketVersioning",
        ),
        names=["s3:::pushtrain-*"],
        # The provider reads all sides of a bucket, whatever the program sets of them; its tags
        # through S3 Control: https://github.com/hashicorp/terraform-provider-aws/pull/45251.
        read=[
            "s3:GetAccelerateConfiguration",
            "s3:GetBucketAcl",
            "s3:GetBucketCORS",
            "s3:GetBucketLocation",
            "s3:GetBucketLogging",
            "s3:GetBucketObjectLockConfiguration",
            "s3:GetBucketOwnershipControls",
            "s3:GetBucketPolicy",
            "s3:GetBucketPublicAccessBlock",
            "s3:GetBucketRequestPayment",
            "s3:GetBucketTagging",
            "s3:GetBucketVersioning",
            "s3:GetBucketWebsite",
            "s3:GetEncryptionConfiguration",
            "s3:GetLifecycleConfiguration",
            "s3:GetReplicationConfiguration",
            "s3:ListBucket",
            "s3:ListTagsForResource",
        ],
        write=[
            "s3:CreateBucket",
            "s3:DeleteBucket",
            "s3:DeleteBucketPolicy",
            "s3:ListBucketVersions",
            "s3:PutBucketOwnershipControls",
            "s3:PutBucketPolicy",
            "s3:PutBucketPublicAccessBlock",
            "s3:PutBucketTagging",
            "s3:PutBucketVersioning",
            "s3:PutEncryptionConfiguration",
            "s3:PutLifecycleConfiguration",
            "s3:TagResource",
            "s3:UntagResource",
        ],
    ),
    Kind(
        sid="Objects",
        types=("s3/bucketObjectv2:BucketObjectv2",),
        names=["s3:::pushtrain-*/*"],
        # Reading is left to those who write: a preview has no business with data.
        write=[
            "s3:DeleteObject",
            "s3:DeleteObjectVersion",
            "s3:GetObject",
            "s3:GetObjectTagging",
            "s3:PutObject",
            "s3:PutObjectTagging",
        ],
    ),
    Kind(
        sid="Topics",
        types=(
            "sns/topic:Topic",
            "sns/topicPolicy:TopicPolicy",
            "sns/topicSubscription:TopicSubscription",
        ),
        names=["sns:pushtrain-*"],
        read=["sns:GetTopicAttributes", "sns:ListTagsForResource"],
        read_any=["sns:GetSubscriptionAttributes"],
        write=[
            "sns:CreateTopic",
            "sns:DeleteTopic",
            "sns:SetTopicAttributes",
            "sns:Subscribe",
            "sns:TagResource",
            "sns:UntagResource",
        ],
        write_any=["sns:SetSubscriptionAttributes", "sns:Unsubscribe"],
    ),
    Kind(
        sid="Queues",
        types=("sqs/queue:Queue", "sqs/queuePolicy:QueuePolicy"),
        names=["sqs:pushtrain-*"],
        read=["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ListQueueTags"],
        write=[
            "sqs:CreateQueue",
            "sqs:DeleteQueue",
            "sqs:SetQueueAttributes",
            "sqs:TagQueue",
            "sqs:UntagQueue",
        ],
    ),
    Kind(
        sid="Wiring",
        types=("ssm/parameter:Parameter",),
        names=["ssm:parameter/pushtrain/{stack}/wiring"],
        read=["ssm:GetParameter", "ssm:GetParameters", "ssm:ListTagsForResource"],
        read_any=["ssm:DescribeParameters"],
        write=[
            "ssm:AddTagsToResource",
            "ssm:DeleteParameter",
            "ssm:PutParameter",
            "ssm:RemoveTagsFromResource",
        ],
    ),
    Kind(
        sid="Network",
        types=(
            "ec2/defaultSecurityGroup:DefaultSecurityGroup",
            "ec2/internetGateway:InternetGateway",
            "ec2/route:Route",
            "ec2/routeTable:RouteTable",
            "ec2/routeTableAssociation:RouteTableAssociation",
            "ec2/securityGroup:SecurityGroup",
            "ec2/subnet:Subnet",
            "ec2/vpc:Vpc",
            "ec2/vpcEndpoint:VpcEndpoint",
            "vpc/securityGroupEgressRule:SecurityGroupEgressRule",
            "vpc/securityGroupIngressRule:SecurityGroupIngressRule",
        ),
        # What is written goes by tags: `_network`.
        read_any=[
            "ec2:DescribeAvailabilityZones",
            "ec2:DescribeInternetGateways",
            "ec2:DescribeNetworkAcls",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribePrefixLists",
            "ec2:DescribeRouteTables",
            "ec2:DescribeSecurityGroupRules",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSubnets",
            "ec2:DescribeVpcAttribute",
            "ec2:DescribeVpcEndpoints",
            "ec2:DescribeVpcs",
        ],
    ),
    Kind(
        sid="Keys",
        types=("kms/key:Key",),
        names=["kms:key/*"],
        # Of what a key is, not of what it encrypts; what is written goes by tags: `_keys`.
        read=[
            "kms:DescribeKey",
            "kms:GetKeyPolicy",
            "kms:GetKeyRotationStatus",
            "kms:ListResourceTags",
        ],
    ),
    Kind(
        sid="Roles",
        types=("iam/role:Role", "iam/rolePolicy:RolePolicy"),
        names=["iam::role/pushtrain-*"],
        # What is written goes by the boundary: `_roles`.
        read=[
            "iam:GetRole",
            "iam:GetRolePolicy",
            "iam:ListAttachedRolePolicies",
            "iam:ListInstanceProfilesForRole",
            "iam:ListRolePolicies",
            "iam:ListRoleTags",
        ],
    ),
)


@dataclass(frozen=True, kw_only=True)
class AccountScope:
    """What the bootstrap has made, as far as roles touch it."""

    aws: AwsScope
    state_bucket_arn: Input[str]
    key_arn: Input[str]

    def named(self, name: str, stack: str = "*") -> Output[str]:
        """Return the ARN of what a kind's name says: `<service>:<resource>`, or without region."""
        service, _, resource = name.replace("{stack}", stack).partition(":")
        if service == "s3":
            return Output.format("arn:{0}:s3:{1}", self.aws.partition, resource)
        if resource.startswith(":"):
            # Those of IAM, and dashboards, have no region.
            return Output.format(
                "arn:{0}:{1}::{2}{3}", self.aws.partition, service, self.aws.account, resource
            )
        return self.aws.arn(service, resource)

    def state(self, *keys: str) -> list[Input[str]]:
        """Return the ARNs of objects of Pulumi's state."""
        return [Output.format("{0}/.pulumi/{1}", self.state_bucket_arn, key) for key in keys]


def look(account: AccountScope) -> Document:
    """Let a role see what stacks are made of, but neither secrets' values nor data."""
    read_any = sorted(action for kind in KINDS for action in kind.read_any)
    return document(
        *(
            allow(f"See{kind.sid}", kind.read, [account.named(name) for name in kind.names])
            for kind in KINDS
            if kind.read
        ),
        # Calls that know no resource.
        allow("LookAround", read_any, ["*"]),
    )


def preview(account: AccountScope) -> Mapping[str, Document]:
    """Let a role that may look read the state for a preview, and a run for a comment on it."""
    store = "s3:::pushtrain-store-bucket-*"
    return {
        "state": document(
            _list_state(account),
            # Neither a preview nor a look for drift takes a lock, or writes anything else:
            # https://github.com/pulumi/pulumi/blob/master/pkg/backend/diy/backend.go.
            allow("ReadState", ["s3:GetObject"], account.state("*")),
            # A program is not run without its secrets.
            allow("ReadSecrets", ["kms:Decrypt"], [account.key_arn]),
        ),
        "runs": document(
            allow(
                "ReadRuns",
                ["s3:GetObject"],
                [
                    account.named(f"{store}/runs/*"),
                    account.named(f"{store}/models/champion.json"),
                ],
            ),
            allow(
                "ReadLog",
                ["logs:GetLogEvents"],
                [account.named("logs:log-group:pushtrain-*:log-stream:*")],
            ),
            # Where a stack has a key of its own.
            allow(
                "ReadRunsWithKey",
                ["kms:Decrypt"],
                [account.named("kms:key/*")],
                {
                    "StringEquals": {
                        "aws:ResourceTag/project": STACK_PROJECT,
                        "kms:ViaService": Output.format("s3.{0}.amazonaws.com", account.aws.region),
                    }
                },
            ),
        ),
    }


def image(account: AccountScope) -> Mapping[str, Document]:
    """Let a role push trainer images."""
    return {
        "push": document(
            # This call knows no resource: it names a registry, which is the account.
            allow("LogInToRegistry", ["ecr:GetAuthorizationToken"], ["*"]),
            allow("Push", PUSH, [account.named("ecr:repository/pushtrain-images-repository-*")]),
        )
    }


def deploy(account: AccountScope, stack: str, boundary_arn: Input[str]) -> Mapping[str, Document]:
    """Let a role that may look deploy, change and destroy one stack."""
    own = f"{STACK_PROJECT}/{stack}"
    kinds = [
        allow(f"Keep{kind.sid}", kind.write, [account.named(name, stack) for name in kind.names])
        for kind in KINDS
        if kind.write
    ]
    write_any = sorted(action for kind in KINDS for action in kind.write_any)
    return {
        "state": document(
            _list_state(account),
            allow(
                "KeepState",
                ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
                account.state(
                    f"stacks/{own}.*",
                    f"locks/organization/{own}/*",
                    f"history/{own}/*",
                    f"backups/{own}/*",
                ),
            ),
            # Written by whoever comes to an empty bucket first.
            allow("KeepLayout", ["s3:GetObject", "s3:PutObject"], account.state("meta.yaml")),
            allow("KeepSecrets", ["kms:Decrypt", "kms:Encrypt"], [account.key_arn]),
        ),
        "stack": document(*kinds, allow("CallsWithoutResource", write_any, ["*"])),
        "network": document(*_network(account, stack)),
        "keys": document(*_keys(account, stack)),
        "roles": document(*_roles(account, boundary_arn)),
    }


def _list_state(account: AccountScope) -> Statement:
    return allow(
        "ListState",
        ["s3:ListBucket"],
        [account.state_bucket_arn],
        {"StringLike": {"s3:prefix": [".pulumi/*"]}},
    )


def _tags(key: str, stack: str) -> dict[str, Any]:
    """Return the condition that the default tags of the stack's file are there."""
    return {"StringEquals": {f"aws:{key}/project": STACK_PROJECT, f"aws:{key}/stack": stack}}


def _network(account: AccountScope, stack: str) -> list[Statement]:
    """Make what bears the stack's tags, and change only what does."""
    made = [account.named(f"ec2:{kind}/*") for kind in NETWORK]
    rules = ["ec2:AuthorizeSecurityGroupEgress", "ec2:AuthorizeSecurityGroupIngress"]
    creations = [
        "ec2:CreateInternetGateway",
        "ec2:CreateRouteTable",
        "ec2:CreateSecurityGroup",
        "ec2:CreateSubnet",
        "ec2:CreateVpc",
        "ec2:CreateVpcEndpoint",
    ]
    return [
        allow("MakeWithTags", creations, made, _tags("RequestTag", stack)),
        allow(
            "TagWhatIsMade",
            ["ec2:CreateTags"],
            made,
            {
                "StringEquals": {
                    "ec2:CreateAction": [each.removeprefix("ec2:") for each in (*creations, *rules)]
                }
            },
        ),
        allow(
            "ChangeWhatHasThem",
            [
                # In a VPC, beside a subnet.
                *creations,
                "ec2:AssociateRouteTable",
                "ec2:AttachInternetGateway",
                *rules,
                "ec2:CreateRoute",
                "ec2:CreateTags",
                "ec2:DeleteInternetGateway",
                "ec2:DeleteRoute",
                "ec2:DeleteRouteTable",
                "ec2:DeleteSecurityGroup",
                "ec2:DeleteSubnet",
                "ec2:DeleteTags",
                "ec2:DeleteVpc",
                "ec2:DeleteVpcEndpoints",
                "ec2:DetachInternetGateway",
                "ec2:DisassociateRouteTable",
                "ec2:ModifySecurityGroupRules",
                "ec2:ModifySubnetAttribute",
                "ec2:ModifyVpcAttribute",
                "ec2:ModifyVpcEndpoint",
                "ec2:ReplaceRoute",
                "ec2:RevokeSecurityGroupEgress",
                "ec2:RevokeSecurityGroupIngress",
            ],
            made,
            _tags("ResourceTag", stack),
        ),
        # A VPC comes with a group that nobody tags; the stack closes it.
        allow(
            "AdoptDefaultGroup",
            ["ec2:CreateTags"],
            [account.named("ec2:security-group/*")],
            {
                **_tags("RequestTag", stack),
                "Null": {"aws:ResourceTag/project": "true", "aws:ResourceTag/stack": "true"},
            },
        ),
        # A rule is part of its group, which must bear the tags.
        allow("WriteRules", rules, [account.named("ec2:security-group-rule/*")]),
    ]


def _keys(account: AccountScope, stack: str) -> list[Statement]:
    """Make a key that bears the stack's tags, and use and change only such."""
    keys = account.named("kms:key/*")
    return [
        allow("MakeKeyWithTags", ["kms:CreateKey"], ["*"], _tags("RequestTag", stack)),
        # Of a key that is being made; AWS knows no condition that says so.
        allow("TagKey", ["kms:TagResource"], [keys], _tags("RequestTag", stack)),
        allow(
            "KeepKeyWithTags",
            [
                "kms:Decrypt",
                "kms:EnableKeyRotation",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:PutKeyPolicy",
                "kms:ScheduleKeyDeletion",
                "kms:UntagResource",
                "kms:UpdateKeyDescription",
            ],
            [keys],
            _tags("ResourceTag", stack),
        ),
        # A repository or a function with a key keeps a grant of it, which its maker gives.
        allow(
            "LendKeyToServices",
            ["kms:CreateGrant", "kms:RetireGrant"],
            [keys],
            {**_tags("ResourceTag", stack), "Bool": {"kms:GrantIsForAWSResource": "true"}},
        ),
    ]


def _roles(account: AccountScope, boundary_arn: Input[str]) -> list[Statement]:
    """Make roles within the boundary, change only such, and hand them to tasks and functions."""
    roles = account.named("iam::role/pushtrain-*")
    return [
        allow(
            "MakeRolesWithinBoundary",
            [
                "iam:CreateRole",
                "iam:DeleteRolePolicy",
                "iam:PutRolePermissionsBoundary",
                "iam:PutRolePolicy",
                "iam:UpdateAssumeRolePolicy",
            ],
            [roles],
            {"StringEquals": {"iam:PermissionsBoundary": boundary_arn}},
        ),
        allow(
            "KeepRoles",
            [
                "iam:DeleteRole",
                "iam:TagRole",
                "iam:UntagRole",
                "iam:UpdateRole",
                "iam:UpdateRoleDescription",
            ],
            [roles],
        ),
        allow(
            "HandRolesOn",
            ["iam:PassRole"],
            [roles],
            {
                "StringEquals": {
                    "iam:PassedToService": ["ecs-tasks.amazonaws.com", "lambda.amazonaws.com"]
                }
            },
        ),
        # The first cluster of an account makes it.
        allow(
            "MakeRoleOfEcs",
            ["iam:CreateServiceLinkedRole"],
            [account.named("iam::role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS")],
            {"StringEquals": {"iam:AWSServiceName": "ecs.amazonaws.com"}},
        ),
    ]


# Boundaries: the most that a role can do, whatever policies it is given


def workflow_boundary(account: AccountScope, work_boundary_arn: Input[str]) -> Document:
    """Bound the roles of workflows: what stacks are made of, and nothing of the bootstrap's own."""
    roles = account.named("iam::role/*")
    services = ("cloudwatch", "ec2", "ecr", "ecs", "events", "kms", "lambda", "logs", "s3", "sns")
    return document(
        allow(
            "ServicesOfStacks",
            [f"{service}:*" for service in (*services, "sqs", "ssm")],
            ["*"],
        ),
        allow("RolesOfStacks", ["iam:*"], [account.named("iam::role/pushtrain-*")]),
        allow(
            "RoleOfEcs",
            ["iam:CreateServiceLinkedRole"],
            [account.named("iam::role/aws-service-role/ecs.amazonaws.com/*")],
        ),
        {
            "Sid": "RolesAreBoundToo",
            "Effect": "Deny",
            "Action": [
                "iam:AttachRolePolicy",
                "iam:CreateRole",
                "iam:PutRolePermissionsBoundary",
                "iam:PutRolePolicy",
                "iam:UpdateAssumeRolePolicy",
            ],
            "Resource": [roles],
            # Also where the key is missing, since the role has no boundary.
            "Condition": {"StringNotEquals": {"iam:PermissionsBoundary": work_boundary_arn}},
        },
        {
            "Sid": "BoundariesStay",
            "Effect": "Deny",
            "Action": ["iam:DeleteRolePermissionsBoundary"],
            "Resource": [roles],
        },
        {
            "Sid": "OldStatesStay",
            "Effect": "Deny",
            "Action": [
                "s3:DeleteBucket*",
                "s3:DeleteObjectVersion",
                "s3:PutBucket*",
                "s3:PutEncryptionConfiguration",
                "s3:PutLifecycleConfiguration",
            ],
            "Resource": [
                account.state_bucket_arn,
                Output.format("{0}/*", account.state_bucket_arn),
            ],
        },
        {
            "Sid": "KeyOfSecretsIsForUseOnly",
            "Effect": "Deny",
            "NotAction": ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt"],
            "Resource": [account.key_arn],
        },
    )


def work_boundary(account: AccountScope) -> Document:
    """Bound the roles that a deployment makes: what tasks and handlers do with their stack."""
    return document(
        allow(
            "Storage",
            [
                "s3:AbortMultipartUpload",
                "s3:DeleteObject",
                "s3:GetObject",
                "s3:GetObjectVersion",
                "s3:ListBucket",
                "s3:PutObject",
            ],
            [account.named("s3:::pushtrain-*")],
        ),
        allow("LogInToRegistry", ["ecr:GetAuthorizationToken"], ["*"]),
        allow(
            "Images",
            [
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchGetImage",
                "ecr:DescribeImages",
                "ecr:GetDownloadUrlForLayer",
            ],
            [account.named("ecr:repository/pushtrain-*")],
        ),
        allow(
            "Logs",
            ["logs:CreateLogStream", "logs:GetLogEvents", "logs:PutLogEvents"],
            [account.named("logs:log-group:pushtrain-*")],
        ),
        allow(
            "Tasks",
            [
                "ecs:DeregisterTaskDefinition",
                "ecs:DescribeTaskDefinition",
                "ecs:DescribeTasks",
                "ecs:ListTasks",
                "ecs:RegisterTaskDefinition",
                "ecs:RunTask",
                "ecs:StopTask",
                "ecs:TagResource",
            ],
            ["*"],
        ),
        allow(
            "HandRolesToTasks",
            ["iam:PassRole"],
            [account.named("iam::role/pushtrain-*")],
            {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        ),
        allow(
            "Settings",
            ["ssm:GetParameter", "ssm:GetParameters"],
            [account.named("ssm:parameter/pushtrain/*")],
        ),
        # A trainer's secrets are named for whom they are: no other of the account is to be had.
        allow(
            "Secrets",
            ["secretsmanager:GetSecretValue"],
            [account.named("secretsmanager:secret:pushtrain/*")],
        ),
        allow(
            "Messages",
            ["sns:Publish", "sqs:SendMessage"],
            [account.named("sns:pushtrain-*"), account.named("sqs:pushtrain-*")],
        ),
        allow(
            "KeyOfTheStack",
            ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"],
            [account.named("kms:key/*")],
            {"StringEquals": {"aws:ResourceTag/project": STACK_PROJECT}},
        ),
        allow("Events", ["events:PutEvents"], [account.named("events:event-bus/default")]),
    )


TYPES: Final[Mapping[str, Kind]] = MappingProxyType(
    {f"aws:{typ}": kind for kind in KINDS for typ in kind.types}
)
