"""Deploy the unchanged Pulumi program to the embedded cloud, without the Pulumi CLI.

The program runs under the SDK's mock monitor; for each resource that it registers, the mock makes
the boto3 calls that the AWS provider would make. It creates only: this cloud is thrown away whole.
"""

import asyncio
import contextlib
import contextvars
import json
import runpy
import secrets
import threading
import time
import zipfile
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import boto3.s3.transfer  # loaded here, since two threads at once would trip over its lazy import
import pulumi
import yaml
from pulumi.runtime.mocks import MockCallArgs, MockMonitor, MockResourceArgs

from localcloud.cloud import Cloud
from localcloud.image import build

SIGNATURE_KEY: Final = "4dabf18193072939515e22adb298388d"
"""Marks a value as one that the engine would encrypt: sdk/python/lib/pulumi/runtime/rpc.py."""

if TYPE_CHECKING:
    from pulumi.runtime.stack import Stack

Inputs = dict[str, Any]
Created = tuple[str, dict[str, Any]]
Creator = Callable[["Resources", str, Inputs], Created]


class DeployError(RuntimeError):
    """Something of the program that the embedded cloud cannot deploy."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a deployment left behind."""

    outputs: Mapping[str, Any]
    """The program's exports."""
    urns: tuple[str, ...]
    ids: Mapping[str, str]
    """Logical name -> the id that the cloud gave."""
    notes: tuple[str, ...]
    """What was skipped, of the image's Dockerfile and of the program."""
    seconds: float


def deploy(
    cloud: Cloud,
    root: Path,
    stack: str,
    settings: Mapping[str, object] | None = None,
    on_resource: Callable[[str, str], None] | None = None,
) -> Deployment:
    """Run the program under `root` for a stack, and return once all of it is created.

    `settings` go over those of the stack file, by their keys in Pulumi.yaml. `on_resource` is told
    type and name of each resource as it comes to be. Raises what the program raises.
    """
    started = time.monotonic()
    project = yaml.safe_load((root / "Pulumi.yaml").read_text())
    config = stack_config(root, stack, settings or {})
    resources = Resources(cloud, on_resource or (lambda _type, _name: None))
    monitor = MockMonitor(resources)
    outputs: dict[str, Any] = {}

    def run() -> None:
        # The root resource lives in the context that this runs in.
        pulumi.runtime.set_mocks(resources, project=project["name"], stack=stack, monitor=monitor)
        pulumi.runtime.set_all_config(config)

        # Waits for everything that the program began.
        @pulumi.runtime.test  # pyright: ignore[reportUnknownMemberType] - untyped in the SDK
        def program() -> pulumi.Output[None]:
            runpy.run_path(str(root / "__main__.py"), run_name="__main__")
            root_resource = cast("Stack", pulumi.runtime.get_root_resource())
            return pulumi.Output.all(**root_resource.outputs).apply(outputs.update)

        program()

    # The program finds its files from its own folder, as under the CLI.
    with contextlib.chdir(root), event_loops():
        contextvars.Context().run(run)
    return Deployment(
        outputs=outputs,
        urns=tuple(monitor.get_registered_resources()),
        ids=resources.ids,
        notes=tuple(resources.notes),
        seconds=time.monotonic() - started,
    )


@contextlib.contextmanager
def event_loops() -> Generator[asyncio.AbstractEventLoop]:
    """Give the SDK event loops, in this thread and its workers, and close them: it does not."""
    loops: list[asyncio.AbstractEventLoop] = []

    def enter() -> None:
        loops.append(asyncio.new_event_loop())
        asyncio.set_event_loop(loops[-1])

    enter()
    loop = loops[0]
    loop.set_default_executor(ThreadPoolExecutor(initializer=enter))
    try:
        yield loop
    finally:
        # After an error, what depends on the resource that failed would wait for ever.
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_default_executor())
        for each in loops:
            each.close()
        asyncio.set_event_loop(None)


def stack_config(root: Path, stack: str, settings: Mapping[str, object]) -> dict[str, str]:
    """Return the stack's configuration as the CLI hands it over: JSON text, but plain strings."""
    project = yaml.safe_load((root / "Pulumi.yaml").read_text())
    file = root / f"Pulumi.{stack}.yaml"
    if not file.is_file():
        raise DeployError(f"stack must have a file {file.name} beside Pulumi.yaml, got {stack!r}")
    content = cast("dict[str, Any]", yaml.safe_load(file.read_text()) or {})
    given = cast("dict[str, Any]", content.get("config") or {})
    if secret := [key for key, value in given.items() if _is_encrypted(value)]:
        raise DeployError(f"{file.name} must hold no encrypted values, got {', '.join(secret)}")
    declared: dict[str, Any] = project.get("config") or {}
    defaults = {_literal(key): entry["default"] for key, entry in declared.items()}
    return {
        key if ":" in key else f"{project['name']}:{key}": (
            value if isinstance(value, str) else json.dumps(value)
        )
        # The last one wins, however its key was written.
        for values in (defaults, given, settings)
        for key, value in values.items()
    }


def _literal(key: str) -> str:
    """Return the key that a declaration means: one with a dot is declared as a path, ["a.b"]."""
    return json.loads(key)[0] if key.startswith("[") else key


def _is_encrypted(value: object) -> bool:
    return isinstance(value, dict) and "secure" in value


@dataclass
class Resources(pulumi.runtime.Mocks):
    """Creates what the program registers, several at once."""

    cloud: Cloud
    on_resource: Callable[[str, str], None]
    ids: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, service: Any) -> Any:
        """Return a client of the cloud."""
        return self.cloud.client(service)

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        """Create a resource; a component is no more than its children."""
        inputs: Inputs = _plain(args.inputs)  # pyright: ignore[reportUnknownMemberType] - the SDK's
        if not args.custom:
            return "", {}
        if args.typ not in CREATORS:
            raise DeployError(
                f"resource type must be one that the embedded cloud knows, "
                f"got {args.typ} ({args.name}): see localcloud/deployer.py"
            )
        identity, outputs = CREATORS[args.typ](self, args.name, inputs)
        with self._lock:
            self.ids[args.name] = identity
            self.on_resource(args.typ, args.name)
        return identity, {**inputs, **outputs}

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        """Answer the few look-ups that the program may make."""
        region, account = self.cloud.region, self.cloud.account
        answers: dict[str, Callable[[], dict[str, Any]]] = {
            "aws:index/getPartition:getPartition": lambda: {"partition": "aws"},
            "aws:index/getRegion:getRegion": lambda: {"region": region},
            "aws:index/getCallerIdentity:getCallerIdentity": lambda: {"accountId": account},
            "aws:index/getAvailabilityZones:getAvailabilityZones": lambda: {
                "names": [
                    zone["ZoneName"]
                    for zone in self.client("ec2").describe_availability_zones()[
                        "AvailabilityZones"
                    ]
                ]
            },
            "aws:ecr/getAuthorizationToken:getAuthorizationToken": lambda: {
                "userName": "AWS",
                "password": secrets.token_hex(),
            },
        }
        if args.token not in answers:
            raise DeployError(f"look-up must be one of {', '.join(answers)}, got {args.token}")
        return answers[args.token](), []


CREATORS: Final[dict[str, Creator]] = {}


def _creates(token: str) -> Callable[[Creator], Creator]:
    def enter(creator: Creator) -> Creator:
        CREATORS[token] = creator
        return creator

    return enter


def _plain(value: Any) -> Any:
    """Return a value without the marks of its secrets, and whole numbers as such again."""
    if isinstance(value, dict):
        fields = cast("Inputs", value)
        if SIGNATURE_KEY in fields:
            return _plain(fields["value"])
        return {key: _plain(item) for key, item in fields.items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # the protocol knows but one kind of number
    return value


def _pascal(value: Any) -> Any:
    """Return a value with AWS's spelling of keys: camelCase -> PascalCase."""
    if isinstance(value, dict):
        fields = cast("Inputs", value)
        return {key[:1].upper() + key[1:]: _pascal(item) for key, item in fields.items()}
    if isinstance(value, list):
        return [_pascal(item) for item in cast("list[Any]", value)]
    return value


def _physical(name: str) -> str:
    """Return a name as the engine makes them up: the logical one and seven random digits."""
    return f"{name}-{secrets.token_hex(4)[:7]}"


def _tag_list(inputs: Inputs) -> list[dict[str, str]]:
    tags: dict[str, str] = inputs.get("tags") or {}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _tags_of(kind: str, inputs: Inputs) -> dict[str, Any]:
    tags = _tag_list(inputs)
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": tags}]} if tags else {}


# S3


@_creates("aws:s3/bucket:Bucket")
def _bucket(made: Resources, name: str, _: Inputs) -> Created:
    bucket = _physical(name)
    where = made.cloud.region
    place: dict[str, Any] = (
        {} if where == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": where}}
    )
    made.client("s3").create_bucket(Bucket=bucket, **place)
    return bucket, {"bucket": bucket, "arn": f"arn:aws:s3:::{bucket}"}


@_creates("aws:s3/bucketVersioning:BucketVersioning")
def _bucket_versioning(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("s3").put_bucket_versioning(
        Bucket=inputs["bucket"],
        VersioningConfiguration=_pascal(inputs["versioningConfiguration"]),
    )
    return inputs["bucket"], {}


@_creates("aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration")
def _bucket_encryption(made: Resources, _: str, inputs: Inputs) -> Created:
    rules = [
        {
            "ApplyServerSideEncryptionByDefault": {
                "SSEAlgorithm": default["sseAlgorithm"],
                **({"KMSMasterKeyID": key} if (key := default.get("kmsMasterKeyId")) else {}),
            },
            "BucketKeyEnabled": rule.get("bucketKeyEnabled") or False,
        }
        for rule in inputs["rules"]
        for default in [rule["applyServerSideEncryptionByDefault"]]
    ]
    made.client("s3").put_bucket_encryption(
        Bucket=inputs["bucket"], ServerSideEncryptionConfiguration={"Rules": rules}
    )
    return inputs["bucket"], {}


@_creates("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock")
def _bucket_public_access(made: Resources, _: str, inputs: Inputs) -> Created:
    bucket = inputs.pop("bucket")
    made.client("s3").put_public_access_block(
        Bucket=bucket, PublicAccessBlockConfiguration=_pascal(inputs)
    )
    return bucket, {"bucket": bucket}


@_creates("aws:s3/bucketOwnershipControls:BucketOwnershipControls")
def _bucket_ownership(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("s3").put_bucket_ownership_controls(
        Bucket=inputs["bucket"], OwnershipControls={"Rules": [_pascal(inputs["rule"])]}
    )
    return inputs["bucket"], {}


@_creates("aws:s3/bucketPolicy:BucketPolicy")
def _bucket_policy(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("s3").put_bucket_policy(Bucket=inputs["bucket"], Policy=inputs["policy"])
    return inputs["bucket"], {}


@_creates("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration")
def _bucket_lifecycle(made: Resources, _: str, inputs: Inputs) -> Created:
    rules = [{**_pascal(rule), "ID": rule["id"]} for rule in inputs["rules"]]
    for rule in rules:
        del rule["Id"]
    made.client("s3").put_bucket_lifecycle_configuration(
        Bucket=inputs["bucket"], LifecycleConfiguration={"Rules": rules}
    )
    return inputs["bucket"], {}


@_creates("aws:s3/bucketObjectv2:BucketObjectv2")
def _bucket_object(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("s3").upload_file(
        inputs["source"].path,
        inputs["bucket"],
        inputs["key"],
        ExtraArgs={"Metadata": inputs.get("metadata") or {}},
        Config=boto3.s3.transfer.TransferConfig(),
    )
    return f"{inputs['bucket']}/{inputs['key']}", {}


# ECR and the image


@_creates("aws:ecr/repository:Repository")
def _repository(made: Resources, name: str, inputs: Inputs) -> Created:
    repository = made.client("ecr").create_repository(
        repositoryName=_physical(name),
        imageTagMutability=inputs["imageTagMutability"],
        imageScanningConfiguration=inputs["imageScanningConfiguration"],
        encryptionConfiguration=inputs["encryptionConfigurations"][0],
    )["repository"]
    return repository["repositoryName"], {
        "name": repository["repositoryName"],
        "repositoryUrl": repository["repositoryUri"],
        "arn": repository["repositoryArn"],
        "registryId": repository["registryId"],
    }


@_creates("aws:ecr/lifecyclePolicy:LifecyclePolicy")
def _repository_lifecycle(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("ecr").put_lifecycle_policy(
        repositoryName=inputs["repository"], lifecyclePolicyText=inputs["policy"]
    )
    return inputs["repository"], {}


@_creates("docker:index/image:Image")
def _image(made: Resources, _: str, inputs: Inputs) -> Created:
    recipe = inputs["build"]
    image = build(
        Path(recipe["context"]),
        Path(recipe["dockerfile"]),
        recipe.get("args") or {},
        recipe["platform"],
    )
    made.notes.extend(image.notes)
    url, _, tag = inputs["imageName"].rpartition(":")
    with made.cloud.registry() as registry:
        digest = registry.push(image, url, tag)
    return inputs["imageName"], {"repoDigest": f"{url}@{digest}"}


# The network


@_creates("aws:ec2/vpc:Vpc")
def _vpc(made: Resources, _: str, inputs: Inputs) -> Created:
    ec2 = made.client("ec2")
    vpc = ec2.create_vpc(CidrBlock=inputs["cidrBlock"], **_tags_of("vpc", inputs))["Vpc"]["VpcId"]
    for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):  # one a call, as AWS asks
        wanted = inputs[attribute[:1].lower() + attribute[1:]]
        ec2.modify_vpc_attribute(VpcId=vpc, **{attribute: {"Value": wanted}})
    return vpc, {}


@_creates("aws:ec2/internetGateway:InternetGateway")
def _internet_gateway(made: Resources, _: str, inputs: Inputs) -> Created:
    ec2 = made.client("ec2")
    gateway = ec2.create_internet_gateway(**_tags_of("internet-gateway", inputs))
    identity = gateway["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=identity, VpcId=inputs["vpcId"])
    return identity, {}


@_creates("aws:ec2/routeTable:RouteTable")
def _route_table(made: Resources, _: str, inputs: Inputs) -> Created:
    table = made.client("ec2").create_route_table(
        VpcId=inputs["vpcId"], **_tags_of("route-table", inputs)
    )
    return table["RouteTable"]["RouteTableId"], {}


@_creates("aws:ec2/route:Route")
def _route(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("ec2").create_route(
        RouteTableId=inputs["routeTableId"],
        DestinationCidrBlock=inputs["destinationCidrBlock"],
        GatewayId=inputs["gatewayId"],
    )
    return f"{inputs['routeTableId']}/{inputs['destinationCidrBlock']}", {}


@_creates("aws:ec2/subnet:Subnet")
def _subnet(made: Resources, _: str, inputs: Inputs) -> Created:
    subnet = made.client("ec2").create_subnet(
        VpcId=inputs["vpcId"],
        CidrBlock=inputs["cidrBlock"],
        AvailabilityZone=inputs["availabilityZone"],
        **_tags_of("subnet", inputs),
    )
    return subnet["Subnet"]["SubnetId"], {}


@_creates("aws:ec2/routeTableAssociation:RouteTableAssociation")
def _route_table_association(made: Resources, _: str, inputs: Inputs) -> Created:
    association = made.client("ec2").associate_route_table(
        RouteTableId=inputs["routeTableId"], SubnetId=inputs["subnetId"]
    )
    return association["AssociationId"], {}


@_creates("aws:ec2/securityGroup:SecurityGroup")
def _security_group(made: Resources, name: str, inputs: Inputs) -> Created:
    ec2 = made.client("ec2")
    group = ec2.create_security_group(
        GroupName=_physical(name),
        Description=inputs["description"],
        VpcId=inputs["vpcId"],
        **_tags_of("security-group", inputs),
    )
    # A new group allows everything out: all that the program asks of a group with rules in it, and
    # what the provider takes from one without.
    if not inputs.get("egress"):
        (found,) = ec2.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
        ec2.revoke_security_group_egress(
            GroupId=group["GroupId"], IpPermissions=found["IpPermissionsEgress"]
        )
    return group["GroupId"], {}


@_creates("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup")
def _default_security_group(made: Resources, _: str, inputs: Inputs) -> Created:
    # AWS's provider takes the group over, without the rules that it came with.
    ec2 = made.client("ec2")
    (group,) = ec2.describe_security_groups(
        Filters=[
            {"Name": "vpc-id", "Values": [inputs["vpcId"]]},
            {"Name": "group-name", "Values": ["default"]},
        ]
    )["SecurityGroups"]
    identity = group["GroupId"]
    if rules := group["IpPermissions"]:
        ec2.revoke_security_group_ingress(GroupId=identity, IpPermissions=rules)
    if rules := group["IpPermissionsEgress"]:
        ec2.revoke_security_group_egress(GroupId=identity, IpPermissions=rules)
    return identity, {}


@_creates("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule")
def _egress_rule(made: Resources, _: str, inputs: Inputs) -> Created:
    answer = made.client("ec2").authorize_security_group_egress(
        GroupId=inputs["securityGroupId"], IpPermissions=_way(inputs)
    )
    return answer["SecurityGroupRules"][0]["SecurityGroupRuleId"], {}


@_creates("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")
def _ingress_rule(made: Resources, _: str, inputs: Inputs) -> Created:
    answer = made.client("ec2").authorize_security_group_ingress(
        GroupId=inputs["securityGroupId"], IpPermissions=_way(inputs)
    )
    return answer["SecurityGroupRules"][0]["SecurityGroupRuleId"], {}


def _way(inputs: Inputs) -> list[dict[str, Any]]:
    """Return what a rule allows, as EC2 takes it."""
    way: dict[str, Any] = {
        "IpProtocol": inputs["ipProtocol"],
        "FromPort": inputs["fromPort"],
        "ToPort": inputs["toPort"],
    }
    about = {"Description": inputs["description"]}
    if other := inputs.get("referencedSecurityGroupId"):
        way["UserIdGroupPairs"] = [{"GroupId": other, **about}]
    if prefixes := inputs.get("prefixListId"):
        way["PrefixListIds"] = [{"PrefixListId": prefixes, **about}]
    return [way]


@_creates("aws:ec2/vpcEndpoint:VpcEndpoint")
def _vpc_endpoint(made: Resources, _: str, inputs: Inputs) -> Created:
    ec2, service = made.client("ec2"), inputs["serviceName"]
    gateway = inputs["vpcEndpointType"] == "Gateway"
    endpoint = ec2.create_vpc_endpoint(
        VpcId=inputs["vpcId"],
        ServiceName=service,
        VpcEndpointType=inputs["vpcEndpointType"],
        PolicyDocument=inputs["policy"],
        **(
            {"RouteTableIds": inputs["routeTableIds"]}
            if gateway
            else {
                "SubnetIds": inputs["subnetIds"],
                "SecurityGroupIds": inputs["securityGroupIds"],
                "PrivateDnsEnabled": inputs["privateDnsEnabled"],
            }
        ),
        **_tags_of("vpc-endpoint", inputs),
    )
    lists: list[dict[str, Any]] = ec2.describe_prefix_lists()["PrefixLists"] if gateway else []
    prefixes = [each["PrefixListId"] for each in lists if each["PrefixListName"] == service]
    return endpoint["VpcEndpoint"]["VpcEndpointId"], (
        {"prefixListId": prefixes[0]} if prefixes else {}
    )


# ECS


@_creates("aws:ecs/cluster:Cluster")
def _cluster(made: Resources, name: str, inputs: Inputs) -> Created:
    cluster = made.client("ecs").create_cluster(
        clusterName=_physical(name), settings=inputs["settings"]
    )["cluster"]
    return cluster["clusterArn"], {"name": cluster["clusterName"], "arn": cluster["clusterArn"]}


@_creates("aws:ecs/clusterCapacityProviders:ClusterCapacityProviders")
def _capacity_providers(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("ecs").put_cluster_capacity_providers(
        cluster=inputs["clusterName"],
        capacityProviders=inputs["capacityProviders"],
        defaultCapacityProviderStrategy=[],
    )
    return inputs["clusterName"], {}


@_creates("aws:ecs/taskDefinition:TaskDefinition")
def _task_definition(made: Resources, _: str, inputs: Inputs) -> Created:
    definition = made.client("ecs").register_task_definition(
        **{**inputs, "containerDefinitions": json.loads(inputs["containerDefinitions"])}
    )["taskDefinition"]
    return definition["family"], {"arn": definition["taskDefinitionArn"]}


# IAM, KMS, SSM, logs


@_creates("aws:kms/key:Key")
def _key(made: Resources, _: str, inputs: Inputs) -> Created:
    kms = made.client("kms")
    key = kms.create_key(Description=inputs["description"], Policy=inputs["policy"])["KeyMetadata"]
    if inputs["enableKeyRotation"]:
        kms.enable_key_rotation(KeyId=key["KeyId"])
    return key["KeyId"], {"keyId": key["KeyId"], "arn": key["Arn"]}


@_creates("aws:iam/role:Role")
def _role(made: Resources, name: str, inputs: Inputs) -> Created:
    role = made.client("iam").create_role(
        RoleName=_physical(name),
        AssumeRolePolicyDocument=inputs["assumeRolePolicy"],
        Description=inputs["description"],
    )["Role"]
    return role["RoleName"], {"name": role["RoleName"], "arn": role["Arn"]}


@_creates("aws:iam/rolePolicy:RolePolicy")
def _role_policy(made: Resources, name: str, inputs: Inputs) -> Created:
    policy = _physical(name)
    made.client("iam").put_role_policy(
        RoleName=inputs["role"], PolicyName=policy, PolicyDocument=inputs["policy"]
    )
    return f"{inputs['role']}:{policy}", {}


@_creates("aws:ssm/parameter:Parameter")
def _parameter(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("ssm").put_parameter(
        Name=inputs["name"],
        Type=inputs["type"],
        Value=inputs["value"],
        Description=inputs["description"],
    )
    return inputs["name"], {}


@_creates("aws:cloudwatch/logGroup:LogGroup")
def _log_group(made: Resources, name: str, inputs: Inputs) -> Created:
    logs, group = made.client("logs"), _physical(name)
    key = {"kmsKeyId": inputs["kmsKeyId"]} if inputs.get("kmsKeyId") else {}
    logs.create_log_group(logGroupName=group, **key)
    logs.put_retention_policy(logGroupName=group, retentionInDays=inputs["retentionInDays"])
    where = f"{made.cloud.region}:{made.cloud.account}"
    return group, {"name": group, "arn": f"arn:aws:logs:{where}:log-group:{group}"}


# Queues, topics, rules, functions


@_creates("aws:sqs/queue:Queue")
def _queue(made: Resources, name: str, inputs: Inputs) -> Created:
    sqs = made.client("sqs")
    url = sqs.create_queue(
        QueueName=_physical(name),
        Attributes={
            **(
                {"KmsMasterKeyId": inputs["kmsMasterKeyId"]}
                if inputs.get("kmsMasterKeyId")
                else {"SqsManagedSseEnabled": str(inputs["sqsManagedSseEnabled"]).lower()}
            ),
            "MessageRetentionPeriod": str(inputs["messageRetentionSeconds"]),
        },
    )["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    return url, {"url": url, "arn": arn["QueueArn"]}


@_creates("aws:sqs/queuePolicy:QueuePolicy")
def _queue_policy(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("sqs").set_queue_attributes(
        QueueUrl=inputs["queueUrl"], Attributes={"Policy": inputs["policy"]}
    )
    return inputs["queueUrl"], {}


@_creates("aws:sns/topic:Topic")
def _topic(made: Resources, name: str, inputs: Inputs) -> Created:
    topic = _physical(name)
    key = {"KmsMasterKeyId": inputs["kmsMasterKeyId"]} if inputs.get("kmsMasterKeyId") else {}
    arn = made.client("sns").create_topic(Name=topic, Attributes=key)["TopicArn"]
    return arn, {"name": topic, "arn": arn}


@_creates("aws:sns/topicPolicy:TopicPolicy")
def _topic_policy(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("sns").set_topic_attributes(
        TopicArn=inputs["arn"], AttributeName="Policy", AttributeValue=inputs["policy"]
    )
    return inputs["arn"], {}


@_creates("aws:sns/topicSubscription:TopicSubscription")
def _subscription(made: Resources, _: str, inputs: Inputs) -> Created:
    arn = made.client("sns").subscribe(
        TopicArn=inputs["topic"],
        Protocol=inputs["protocol"],
        Endpoint=inputs["endpoint"],
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    return arn, {"arn": arn}


@_creates("aws:cloudwatch/eventRule:EventRule")
def _rule(made: Resources, name: str, inputs: Inputs) -> Created:
    rule = _physical(name)
    when = {
        ours: inputs[theirs]
        for ours, theirs in (
            ("EventPattern", "eventPattern"),
            ("ScheduleExpression", "scheduleExpression"),
        )
        if inputs.get(theirs)
    }
    arn = made.client("events").put_rule(Name=rule, Description=inputs["description"], **when)[
        "RuleArn"
    ]
    return rule, {"name": rule, "arn": arn}


@_creates("aws:cloudwatch/dashboard:Dashboard")
def _dashboard(made: Resources, _: str, inputs: Inputs) -> Created:
    dashboard = inputs["dashboardName"]
    made.client("cloudwatch").put_dashboard(
        DashboardName=dashboard, DashboardBody=inputs["dashboardBody"]
    )
    return dashboard, {}


@_creates("aws:cloudwatch/metricAlarm:MetricAlarm")
def _alarm(made: Resources, name: str, inputs: Inputs) -> Created:
    alarm = _physical(name)
    made.client("cloudwatch").put_metric_alarm(
        AlarmName=alarm,
        AlarmDescription=inputs["alarmDescription"],
        AlarmActions=inputs["alarmActions"],
        Namespace=inputs["namespace"],
        MetricName=inputs["metricName"],
        Dimensions=[
            {"Name": key, "Value": value} for key, value in sorted(inputs["dimensions"].items())
        ],
        Statistic=inputs["statistic"],
        Period=inputs["period"],
        EvaluationPeriods=inputs["evaluationPeriods"],
        Threshold=inputs["threshold"],
        ComparisonOperator=inputs["comparisonOperator"],
        TreatMissingData=inputs["treatMissingData"],
        Tags=_tag_list(inputs),
    )
    return alarm, {"name": alarm}


@_creates("aws:cloudwatch/eventTarget:EventTarget")
def _target(made: Resources, name: str, inputs: Inputs) -> Created:
    answer = made.client("events").put_targets(
        Rule=inputs["rule"],
        Targets=[
            {
                "Id": name,
                "Arn": inputs["arn"],
                "RetryPolicy": _pascal(inputs["retryPolicy"]),
                "DeadLetterConfig": _pascal(inputs["deadLetterConfig"]),
            }
        ],
    )
    if answer["FailedEntryCount"]:
        raise DeployError(f"target of rule {inputs['rule']}: {answer['FailedEntries']}")
    return name, {}


@_creates("aws:lambda/function:Function")
def _function(made: Resources, name: str, inputs: Inputs) -> Created:
    function = made.client("lambda").create_function(
        FunctionName=_physical(name),
        Description=inputs["description"],
        Runtime=inputs["runtime"],
        Architectures=inputs["architectures"],
        Handler=inputs["handler"],
        Code={"ZipFile": _zip(inputs["code"])},
        Role=inputs["role"],
        Timeout=inputs["timeout"],
        MemorySize=inputs["memorySize"],
        Environment=_pascal_first(inputs["environment"]),
        LoggingConfig=_pascal(inputs["loggingConfig"]),
    )
    return function["FunctionName"], {
        "name": function["FunctionName"],
        "arn": function["FunctionArn"],
    }


def _pascal_first(value: Inputs) -> Inputs:
    """Return a value with AWS's spelling of its own keys only: below are names of the user's."""
    return {key[:1].upper() + key[1:]: item for key, item in value.items()}


def _zip(archive: pulumi.AssetArchive) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, asset in sorted(archive.assets.items()):
            if not isinstance(asset, pulumi.FileAsset):
                raise DeployError(f"code must be an archive of files, got {name}: {asset!r}")
            file.write(asset.path, name)
    return out.getvalue()


@_creates("aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig")
def _function_retries(made: Resources, _: str, inputs: Inputs) -> Created:
    made.client("lambda").put_function_event_invoke_config(
        FunctionName=inputs["functionName"],
        MaximumRetryAttempts=inputs["maximumRetryAttempts"],
        MaximumEventAgeInSeconds=inputs["maximumEventAgeInSeconds"],
        DestinationConfig=_pascal(inputs["destinationConfig"]),
    )
    return inputs["functionName"], {}


@_creates("aws:lambda/permission:Permission")
def _permission(made: Resources, name: str, inputs: Inputs) -> Created:
    statement = _physical(name)
    made.client("lambda").add_permission(
        FunctionName=inputs["function"],
        StatementId=statement,
        Action=inputs["action"],
        Principal=inputs["principal"],
        SourceArn=inputs["sourceArn"],
    )
    return statement, {}
