"""What this product promises of a stack, as functions over resources: no Pulumi, no AWS.

A property that a preview does not know yet is UNKNOWN; a rule that meets one where it had to look
says so in a finding that is not `known`, so that nothing passes without having been looked at.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast


class Unknown:
    """Stands for a value that is known only once `up` has made what it comes from."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One resource of a stack."""

    type: str
    name: str
    urn: str
    properties: Mapping[str, Any]
    refers: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """URNs of the resources that a property's value was made of; known in a preview too."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a resource, or could not be looked at."""

    urn: str
    message: str
    known: bool = True
    """False: nobody knows the value yet, so it may be right."""


Findings: TypeAlias = Iterable[Finding]


@dataclass(frozen=True, kw_only=True)
class ResourceRule:
    """Looks at one resource, before it is made."""

    name: str
    promise: str
    check: Callable[[Resource], Findings]


@dataclass(frozen=True, kw_only=True)
class StackRule:
    """Looks at all resources of a stack together."""

    name: str
    promise: str
    check: Callable[[Sequence[Resource]], Findings]


WILDCARD_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ecr:GetAuthorizationToken": "names a registry, which is the account; AWS knows no "
        "resource for it",
        "ecs:DeregisterTaskDefinition": "AWS knows no resource for it",
        "ecs:DescribeTaskDefinition": "AWS knows no resource for it",
        "ecs:ListTasks": "its resource is a container instance, and Fargate has none; the policy's "
        "condition names the cluster",
    }
)
"""Actions that may be allowed on every resource, each with the reason; no other may.

https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
"""

ALGORITHMS: Final = ("AES256", "aws:kms", "aws:kms:dsse")
ANYWHERE: Final = frozenset({"0.0.0.0/0", "::/0"})
NARROWING: Final = frozenset(
    {
        *("aws:sourcearn", "aws:sourceaccount", "aws:principalarn", "aws:principalaccount"),
        *("aws:principalorgid", "kms:calleraccount"),
    }
)
"""Condition keys that say whose call it is: with one of them, `Principal: "*"` is not everybody."""
EVERY_OF_A_KIND: Final = re.compile(r"arn:[^:]*:[^:]*:[^:]*:[^:]*:(\*|[A-Za-z-]+[/:]\*)")
PUBLIC_ACCESS_FLAGS: Final = (
    *("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"),
)

BUCKET: Final = "aws:s3/bucket:Bucket"
BUCKET_ACL: Final = "aws:s3/bucketAcl:BucketAcl"
BUCKET_ENCRYPTION: Final = (
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
)
BUCKET_POLICY: Final = "aws:s3/bucketPolicy:BucketPolicy"
PUBLIC_ACCESS_BLOCK: Final = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
QUEUE: Final = "aws:sqs/queue:Queue"
QUEUE_POLICY: Final = "aws:sqs/queuePolicy:QueuePolicy"
TOPIC: Final = "aws:sns/topic:Topic"
TOPIC_POLICY: Final = "aws:sns/topicPolicy:TopicPolicy"
SUBSCRIPTION: Final = "aws:sns/topicSubscription:TopicSubscription"
LOG_GROUP: Final = "aws:cloudwatch/logGroup:LogGroup"
REPOSITORY: Final = "aws:ecr/repository:Repository"
FUNCTION: Final = "aws:lambda/function:Function"
FUNCTION_URL: Final = "aws:lambda/functionUrl:FunctionUrl"
PERMISSION: Final = "aws:lambda/permission:Permission"
INVOKE_CONFIG: Final = "aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig"
RULE_TARGET: Final = "aws:cloudwatch/eventTarget:EventTarget"
SCHEDULE: Final = "aws:scheduler/schedule:Schedule"
TASK_DEFINITION: Final = "aws:ecs/taskDefinition:TaskDefinition"
SECURITY_GROUP: Final = "aws:ec2/securityGroup:SecurityGroup"
SECURITY_GROUP_RULE: Final = "aws:ec2/securityGroupRule:SecurityGroupRule"
INGRESS_RULE: Final = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
SUBNET: Final = "aws:ec2/subnet:Subnet"
ENDPOINT: Final = "aws:ec2/vpcEndpoint:VpcEndpoint"
ROLE: Final = "aws:iam/role:Role"
KEY: Final = "aws:kms/key:Key"

IDENTITY_POLICIES: Final = frozenset(
    {
        "aws:iam/rolePolicy:RolePolicy",
        "aws:iam/policy:Policy",
        "aws:iam/userPolicy:UserPolicy",
        "aws:iam/groupPolicy:GroupPolicy",
    }
)
ATTACHMENTS: Final = frozenset(
    {
        "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
        "aws:iam/userPolicyAttachment:UserPolicyAttachment",
        "aws:iam/groupPolicyAttachment:GroupPolicyAttachment",
        "aws:iam/policyAttachment:PolicyAttachment",
    }
)
RESOURCE_POLICIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        BUCKET_POLICY: "policy",
        QUEUE_POLICY: "policy",
        QUEUE: "policy",
        TOPIC_POLICY: "policy",
        TOPIC: "policy",
        KEY: "policy",
        ROLE: "assumeRolePolicy",
        "aws:ecr/repositoryPolicy:RepositoryPolicy": "policy",
        "aws:secretsmanager/secretPolicy:SecretPolicy": "policy",
    }
)
"""Types with a policy that says who may, and the property that holds it."""


# Encryption


def encryption(resource: Resource) -> Findings:
    """Check that what lies in a queue or bucket is encrypted, and that keys are rotated."""
    get = resource.properties.get
    if resource.type == QUEUE:
        yield from _must(
            resource,
            _either(get("sqsManagedSseEnabled"), get("kmsMasterKeyId")),
            "set sqsManagedSseEnabled or kmsMasterKeyId",
        )
    elif resource.type == BUCKET_ENCRYPTION:
        default = "applyServerSideEncryptionByDefault"
        for rule in _items(get("rules")) or [{}]:
            algorithm = _at(rule, default, "sseAlgorithm")
            yield from _must(
                resource,
                _known(algorithm, algorithm in ALGORITHMS),
                f"sseAlgorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm}",
            )
    elif resource.type == KEY:
        yield from _must(resource, get("enableKeyRotation"), "set enableKeyRotation")


def buckets_encrypted(resources: Sequence[Resource]) -> Findings:
    """Check that each bucket says how its objects are encrypted."""
    for bucket in _of(resources, BUCKET):
        if not _about(resources, BUCKET_ENCRYPTION, "bucket", bucket):
            yield Finding(bucket.urn, "give it a BucketServerSideEncryptionConfiguration")


def own_key(resources: Sequence[Resource]) -> Findings:
    """Check that a stack with a key of its own has all its data encrypted with it."""
    keys = frozenset(key.urn for key in _of(resources, KEY))
    if not keys:
        return
    for bucket in _of(resources, BUCKET):
        for found in _about(resources, BUCKET_ENCRYPTION, "bucket", bucket):
            for at in range(len(_items(found.properties.get("rules")))):
                path = ("rules", at, "applyServerSideEncryptionByDefault", "kmsMasterKeyId")
                yield from _must(found, _key(found, path, keys), "name the key of this stack")
    for kind, path in (
        (QUEUE, ("kmsMasterKeyId",)),
        (TOPIC, ("kmsMasterKeyId",)),
        (LOG_GROUP, ("kmsKeyId",)),
        (REPOSITORY, ("encryptionConfigurations", 0, "kmsKey")),
    ):
        for resource in _of(resources, kind):
            wrong = f"name the key of this stack in {path[-1]}"
            yield from _must(resource, _key(resource, path, keys), wrong)


def _key(resource: Resource, path: tuple[str | int, ...], keys: frozenset[str]) -> Any:
    value = _at(resource.properties, *path)
    if value is UNKNOWN:
        # What comes of one of the keys is its ARN, though nobody knows that yet.
        return bool(resource.refers.get(str(path[0]), frozenset()) & keys) or UNKNOWN
    return value and not str(value).startswith("alias/aws/")


# TLS


def plain_http(resource: Resource) -> Findings:
    """Check that nothing is sent to an address without TLS."""
    if resource.type == SUBSCRIPTION:
        protocol = resource.properties.get("protocol")
        yield from _must(
            resource, _known(protocol, protocol != "http"), "subscribe an https address"
        )


def tls_only(resources: Sequence[Resource]) -> Findings:
    """Check that each bucket, topic and queue refuses who comes without TLS."""
    for kind, policy_kind, key, action in (
        (BUCKET, BUCKET_POLICY, "bucket", "s3:*"),
        (TOPIC, TOPIC_POLICY, "arn", "sns:Publish"),
        (QUEUE, QUEUE_POLICY, "queueUrl", "sqs:*"),
    ):
        for resource in _of(resources, kind):
            found = [
                _known(statement, statement is not UNKNOWN and _refuses_plain(statement, action))
                for policy in _about(resources, policy_kind, key, resource)
                for statement in _statements(policy.properties.get("policy"))
            ]
            wrong = f"its policy must deny everybody {action} where aws:SecureTransport is false"
            yield from _must(resource, _either(*found), wrong)


def _refuses_plain(statement: Mapping[str, Any], action: str) -> bool:
    condition = _lower(_at(statement, "Condition", "Bool"))
    resources = [str(each) for each in _list(statement.get("Resource"))]
    return (
        statement.get("Effect") == "Deny"
        and statement.get("Principal") in ("*", {"AWS": "*"})
        and action in _list(statement.get("Action"))
        and condition.get("aws:securetransport") in ("false", ["false"], False)
        # Objects are resources of their own beside their bucket.
        and (action != "s3:*" or any(each.endswith("/*") for each in resources))
    )


# Public access


def public_access(resource: Resource) -> Findings:
    """Check that nobody outside the account may do, reach or see anything."""
    yield from _public_policy(resource)
    yield from _public_network(resource)
    get = resource.properties.get
    if resource.type == PUBLIC_ACCESS_BLOCK:
        for flag in PUBLIC_ACCESS_FLAGS:
            yield from _must(resource, get(flag), f"set {flag}")
    elif resource.type == BUCKET_ACL:
        acl = get("acl")
        closed = str(acl) not in ("public-read", "public-read-write", "authenticated-read")
        yield from _must(resource, _known(acl, closed), f"acl must be private, got {acl}")
    elif resource.type == FUNCTION_URL:
        kind = get("authorizationType")
        yield from _must(
            resource,
            _known(kind, kind == "AWS_IAM"),
            f"authorizationType must be AWS_IAM, got {kind}",
        )
    elif resource.type == PERMISSION:
        principal = get("principal")
        yield from _must(resource, _known(principal, principal != "*"), "name the principal, got *")


def _public_policy(resource: Resource) -> Findings:
    if resource.type not in RESOURCE_POLICIES:
        return
    for statement in _statements(resource.properties.get(RESOURCE_POLICIES[resource.type])):
        if statement is UNKNOWN:
            yield _unknown(resource, RESOURCE_POLICIES[resource.type])
        elif statement.get("Effect") == "Allow" and _is_everybody(statement):
            sid = statement.get("Sid", "a statement")
            yield Finding(resource.urn, f"{sid} allows everybody; name the principal")


def _is_everybody(statement: Mapping[str, Any]) -> bool:
    principal = statement.get("Principal")
    named = [principal, *_list(_mapping(principal).get("AWS"))]
    keys = {
        key
        for operator, test in _mapping(statement.get("Condition")).items()
        if not re.search("Not|Null|IfExists", operator)
        for key, values in _lower(test).items()
        if "*" not in _list(values)
    }
    return "NotPrincipal" in statement or ("*" in named and not keys & NARROWING)


def _public_network(resource: Resource) -> Findings:
    get = resource.properties.get
    if resource.type == SUBNET:
        public = get("mapPublicIpOnLaunch")
        yield from _must(resource, _known(public, not public), "leave mapPublicIpOnLaunch out")
        return
    if resource.type == SECURITY_GROUP:
        sources = [
            source
            for rule in _items(get("ingress"))
            for key in ("cidrBlocks", "ipv6CidrBlocks")
            for source in _items(_at(rule, key))
        ]
    elif resource.type == SECURITY_GROUP_RULE and get("type") != "egress":
        inwards = [*_items(get("cidrBlocks")), *_items(get("ipv6CidrBlocks"))]
        sources = [UNKNOWN] if get("type") is UNKNOWN else inwards
    elif resource.type == INGRESS_RULE:
        sources = [get("cidrIpv4"), get("cidrIpv6")]
    else:
        sources = []
    for source in sources:
        yield from _must(
            resource, _known(source, source not in ANYWHERE), f"say who may come in, got {source}"
        )


def buckets_private(resources: Sequence[Resource]) -> Findings:
    """Check that each bucket has its public access block."""
    for bucket in _of(resources, BUCKET):
        if not _about(resources, PUBLIC_ACCESS_BLOCK, "bucket", bucket):
            yield Finding(bucket.urn, "give it a BucketPublicAccessBlock")


# IAM


def wildcards(resource: Resource) -> Findings:
    """Check that each action and resource is named, but for those with a reason written down."""
    get = resource.properties.get
    for place, document in _identity_policies(resource):
        for statement in _statements(document):
            if statement is UNKNOWN:
                yield _unknown(resource, place)
            elif statement.get("Effect") == "Allow":
                sid = statement.get("Sid", "a statement")
                for fault in _wide(statement):
                    yield Finding(resource.urn, f"{sid} {fault}")
    attached = [get("policyArn")] if resource.type in ATTACHMENTS else []
    if resource.type == ROLE:
        attached = _items(get("managedPolicyArns"))
    for arn in attached:
        yield from _must(
            resource,
            _known(arn, ":iam::aws:policy/" not in str(arn)),
            f"{arn} is AWS's, wide and changed by AWS; write its statements out",
        )


def _identity_policies(resource: Resource) -> list[tuple[str, Any]]:
    get = resource.properties.get
    if resource.type in IDENTITY_POLICIES:
        return [("policy", get("policy"))]
    if resource.type == ROLE:
        return [("inlinePolicies", _at(each, "policy")) for each in _items(get("inlinePolicies"))]
    if resource.type == ENDPOINT:
        # Without a policy of its own, an endpoint lets everything through.
        whole = {"Effect": "Allow", "Action": "*", "Resource": "*", "Sid": "AWS's own policy"}
        return [("policy", get("policy") or {"Statement": whole})]
    return []


def _wide(statement: Mapping[str, Any]) -> list[str]:
    faults = [
        f"allows all but what {key} names; name what it may"
        for key in ("NotAction", "NotResource")
        if key in statement
    ]
    actions = _list(statement.get("Action"))
    named = [str(action) for action in actions if "*" not in str(action) and "?" not in str(action)]
    faults += [f"allows {action}; name the actions" for action in actions if action not in named]
    without = [action for action in named if action not in WILDCARD_REASONS]
    for target in _list(statement.get("Resource")):
        if without and (target == "*" or EVERY_OF_A_KIND.fullmatch(str(target))):
            faults.append(
                f"allows {', '.join(without)} on {target}; name the resources, or write the reason "
                "into WILDCARD_REASONS of policy/rules.py"
            )
    return faults


# Logs


def log_retention(resource: Resource) -> Findings:
    """Check that logs are deleted one day, and none is begun that never is."""
    get = resource.properties.get
    if resource.type == LOG_GROUP:
        yield from _must(resource, get("retentionInDays"), "set retentionInDays")
    elif resource.type == FUNCTION:
        # Left to itself, Lambda makes a group that keeps its logs for ever.
        yield from _must(
            resource, _at(get("loggingConfig"), "logGroup"), "name a log group in loggingConfig"
        )
    elif resource.type == TASK_DEFINITION:
        containers = _read(get("containerDefinitions"))
        for container in [UNKNOWN] if containers is UNKNOWN else _items(containers):
            create = _at(container, "logConfiguration", "options", "awslogs-create-group")
            yield from _must(
                resource,
                _known(create, str(create).lower() != "true"),
                "awslogs-create-group makes a group that is kept for ever; name one of the stack",
            )


# Dead letters


def dead_letters(resource: Resource) -> Findings:
    """Check that what a rule or schedule cannot deliver lands in a queue."""
    path = {
        RULE_TARGET: ("deadLetterConfig", "arn"),
        SCHEDULE: ("target", "deadLetterConfig", "arn"),
    }.get(resource.type)
    if path:
        arn = _at(resource.properties, *path)
        yield from _must(resource, arn, "name a queue in deadLetterConfig")


def failed_events(resources: Sequence[Resource]) -> Findings:
    """Check that what a function fails on lands somewhere."""
    for function in _of(resources, FUNCTION):
        places = [
            _at(config.properties, "destinationConfig", "onFailure", "destination")
            for config in _about(resources, INVOKE_CONFIG, "functionName", function)
        ]
        places.append(_at(function.properties, "deadLetterConfig", "targetArn"))
        yield from _must(
            function,
            _either(*places),
            "give it a FunctionEventInvokeConfig with a destination on failure",
        )


RESOURCE_RULES: Final = (
    ResourceRule(
        name="encryption",
        promise="Queues and buckets are encrypted, and keys are rotated.",
        check=encryption,
    ),
    ResourceRule(
        name="no-plain-http", promise="Notices go to https addresses alone.", check=plain_http
    ),
    ResourceRule(
        name="no-public-access",
        promise="Nothing is open to anybody outside the account.",
        check=public_access,
    ),
    ResourceRule(
        name="no-wildcards",
        promise="IAM policies name their actions and resources, or have a reason written down.",
        check=wildcards,
    ),
    ResourceRule(name="log-retention", promise="Every log has an end.", check=log_retention),
    ResourceRule(
        name="dead-letter-queues",
        promise="What a rule cannot deliver lands in a queue.",
        check=dead_letters,
    ),
)
STACK_RULES: Final = (
    StackRule(
        name="buckets-encrypted",
        promise="Every bucket says how it encrypts.",
        check=buckets_encrypted,
    ),
    StackRule(
        name="own-key",
        promise="A stack with a key of its own encrypts all its data with it.",
        check=own_key,
    ),
    StackRule(
        name="tls-only",
        promise="Every bucket, topic and queue refuses who comes without TLS.",
        check=tls_only,
    ),
    StackRule(
        name="buckets-private",
        promise="Every bucket has its public access blocked.",
        check=buckets_private,
    ),
    StackRule(
        name="failed-events",
        promise="What a function fails on lands in a queue.",
        check=failed_events,
    ),
)


# What the rules are made of


def _must(resource: Resource, held: Any, message: str) -> Findings:
    if held is UNKNOWN:
        yield Finding(resource.urn, message, known=False)
    elif not held:
        yield Finding(resource.urn, message)


def _unknown(resource: Resource, place: str) -> Finding:
    return Finding(resource.urn, f"{place} is not known yet", known=False)


def _known(value: Any, held: object) -> Any:
    return UNKNOWN if value is UNKNOWN else held


def _either(*held: Any) -> Any:
    """Return whether one of them holds for sure; UNKNOWN where one still may."""
    return any(each for each in held if each is not UNKNOWN) or (UNKNOWN in held and UNKNOWN)


def _at(value: Any, *path: str | int) -> Any:
    """Return what lies at a path: None where nothing does, UNKNOWN where nobody knows yet."""
    for step in path:
        if value is UNKNOWN:
            return UNKNOWN
        if isinstance(step, int):
            value = dict(enumerate(_items(value))).get(step)
        else:
            value = _mapping(value).get(step)
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _items(value: Any) -> list[Any]:
    if value is UNKNOWN:
        return [UNKNOWN]
    return cast("list[Any]", value) if isinstance(value, list) else []


def _list(value: Any) -> list[Any]:
    """Return what IAM lets be one or several, as several."""
    return _items(value) if isinstance(value, list) else [value]


def _read(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _statements(document: Any) -> list[Any]:
    statement = _at(_read(document), "Statement")
    return [] if statement is None else _list(statement)


def _lower(conditions: Any) -> dict[str, Any]:
    """Return conditions by key in lower case: IAM takes any."""
    return {key.lower(): value for key, value in _mapping(conditions).items()}


def _of(resources: Iterable[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource.type == kind]


def _about(resources: Iterable[Resource], kind: str, key: str, subject: Resource) -> list[Resource]:
    """Return the resources of a kind whose property names this one."""
    return [each for each in _of(resources, kind) if _names(each, key, subject)]


def _names(resource: Resource, key: str, subject: Resource) -> bool:
    value = resource.properties.get(key)
    own = [subject.properties.get(each) for each in ("bucket", "name", "arn", "url")]
    if value is UNKNOWN or UNKNOWN in own:
        return subject.urn in resource.refers.get(key, ())
    return value is not None and value in own
