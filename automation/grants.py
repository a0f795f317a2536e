"""What a policy lets somebody do, as single grants that can be compared."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

Properties: TypeAlias = Mapping[str, Any]

LAMBDA_PERMISSION: Final = "aws:lambda/permission:Permission"
POLICIES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "aws:iam/role:Role": ("assumeRolePolicy", "managedPolicyArns", "inlinePolicies"),
        "aws:iam/rolePolicy:RolePolicy": ("policy",),
        "aws:iam/policy:Policy": ("policy",),
        "aws:iam/userPolicy:UserPolicy": ("policy",),
        "aws:iam/groupPolicy:GroupPolicy": ("policy",),
        "aws:iam/rolePolicyAttachment:RolePolicyAttachment": ("policyArn",),
        "aws:s3/bucketPolicy:BucketPolicy": ("policy",),
        "aws:sqs/queuePolicy:QueuePolicy": ("policy",),
        "aws:sns/topicPolicy:TopicPolicy": ("policy",),
        "aws:ecr/repositoryPolicy:RepositoryPolicy": ("policy",),
        "aws:kms/key:Key": ("policy",),
        "aws:ec2/vpcEndpoint:VpcEndpoint": ("policy",),
        LAMBDA_PERMISSION: ("action", "principal", "function", "sourceArn", "sourceAccount"),
    }
)
"""The properties of each type that give somebody leave to do something."""


@dataclass(frozen=True)
class Grant:
    """One action that is allowed, denied or attached, on one resource."""

    effect: str
    action: str
    resource: str = ""
    principal: str = ""
    condition: str = ""


Grants: TypeAlias = Mapping[Grant, str]
"""Each with the name of its statement, which changes nothing."""


class UnreadableError(ValueError):
    """A document that is no policy, or not yet known."""


def documents(kind: str, inputs: Properties) -> dict[str, Any]:
    """Return a resource's policies by the name of their property."""
    names = POLICIES.get(kind, ())
    if kind == LAMBDA_PERMISSION:
        return {"statement": _lambda_permission(inputs)} if inputs else {}
    return {name: inputs[name] for name in names if inputs.get(name) is not None}


def read(document: Any) -> Grants:
    """Take a document apart."""
    if isinstance(document, str):
        # A managed policy is attached by its name alone.
        if document.startswith("arn:"):
            return {Grant("Attach", document): ""}
        try:
            document = json.loads(document)
        except ValueError as error:
            raise UnreadableError(f"a policy must be JSON, got {document[:80]!r}") from error
    if isinstance(document, list):
        parts = map(read, cast("list[Any]", document))
        return {grant: name for part in parts for grant, name in part.items()}
    entries = _mapping(document)
    if "policy" in entries:  # one of a role's inline policies
        return read(entries["policy"])
    statements = entries.get("Statement")
    if not isinstance(statements, list):
        statements = [statements]
    return {
        grant: str(statement.get("Sid", ""))
        for statement in map(_mapping, cast("list[Any]", statements))
        for grant in _grants(statement)
    }


def write(grants: Grants) -> Iterator[str]:
    """Write grants as lines; those with the same resources, say, are one paragraph."""
    resources: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for grant, name in grants.items():
        key = (name, grant.effect, grant.principal, grant.condition, grant.action)
        resources[key].append(grant.resource)
    actions: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for (*rest, action), entries in resources.items():
        actions[tuple(rest), tuple(entries)].append(action)
    for ((name, effect, principal, condition), entries), named in actions.items():
        yield f"{effect} {', '.join(named)}" + (f"   ({name})" if name else "")
        for position, entry in enumerate(filter(None, entries)):
            yield f"    {'' if position else 'on':<3} {entry}"
        if principal:
            yield f"    for {'anyone' if principal == '*' else principal}"
        if condition:
            yield f"    if  {condition}"


def wide(grants: Grants) -> Iterator[str]:
    """Name what a reader should stop at in grants that are new."""
    allowed = [grant for grant in grants if grant.effect == "Allow"]
    for action in dict.fromkeys(grant.action for grant in allowed):
        service, _, operation = action.partition(":")
        if action == "*" or action.startswith("everything but"):
            yield f"wide: {action if action != '*' else 'every action of every service'}"
        elif operation == "*":
            yield f"wide: every action of {service}"
    if any(grant.resource == "*" for grant in allowed):
        yield "wide: on every resource"
    if any(grant.principal in ("*", "AWS *") for grant in allowed):
        yield "wide: for anyone"


def _lambda_permission(inputs: Properties) -> Properties:
    """Write a Lambda's permission as the statement that AWS makes of it."""
    tests = (
        ("ArnLike", "AWS:SourceArn", inputs.get("sourceArn")),
        ("StringEquals", "AWS:SourceAccount", inputs.get("sourceAccount")),
    )
    return {
        "Statement": {
            "Effect": "Allow",
            "Action": inputs.get("action"),
            "Principal": inputs.get("principal"),
            "Resource": inputs.get("function"),
            "Condition": {
                operator: {key: value} for operator, key, value in tests if value is not None
            },
        }
    }


def _grants(statement: Mapping[str, Any]) -> Iterator[Grant]:
    condition = " and ".join(
        f"{operator} {key} {', '.join(_texts(values))}"
        for operator, test in sorted(_mapping(statement.get("Condition") or {}).items())
        for key, values in sorted(_mapping(test).items())
    )
    principal = _principal(statement.get("Principal"))
    if "NotPrincipal" in statement:
        principal = f"everyone but {_principal(statement['NotPrincipal'])}"
    for action in _named(statement, "Action"):
        for resource in _named(statement, "Resource") or [""]:
            yield Grant(
                effect=str(statement.get("Effect", "")),
                action=action,
                resource=resource,
                principal=principal,
                condition=condition,
            )


def _named(statement: Mapping[str, Any], key: str) -> Sequence[str]:
    # What is excepted belongs together: each alone would be nearly everything.
    if f"Not{key}" in statement:
        return [f"everything but {', '.join(_texts(statement[f'Not{key}']))}"]
    return _texts(statement.get(key))


def _principal(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ", ".join(_texts(value))
    return ", ".join(
        f"{kind} {name}"
        for kind, names in sorted(cast("Mapping[str, Any]", value).items())
        for name in _texts(names)
    )


def _texts(value: Any) -> list[str]:
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [
        entry if isinstance(entry, str) else json.dumps(entry)
        for entry in values
        if entry is not None
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UnreadableError(f"a policy's part must be an object, got {str(value)[:80]!r}")
    return cast("Mapping[str, Any]", value)
