"""What may be asked of IAM around a stack: what its code asks, and what is one step beside that."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from tests.least_privilege.access import Access, Policies, arn

KINDS = (
    (r"runs/[^/]*/run\.json", "the record of a run"),
    (r"runs/[^/]*/manifest\.json", "the manifest of a run"),
    (r"runs/[^/]*/.*", "a file of a run"),
    (r"checkpoints/[^/]*/.*", "a checkpoint of a run"),
    (r"open/.*", "the mark of a run"),
    (r"task-definition/dev-[^/]{12}:.*", "the definition of an image"),
    (r"task/dev/.*", "a task of the cluster"),
    (r"prod-us-east-1-starport-layer-bucket/.*", "a layer of an image"),
    (r"log-stream:.*", "a stream of the log"),
)
"""Names that differ from run to run, of which IAM can say no more than a wildcard does, and what
all of one kind are called. What is not of a kind is itself."""
PREFIXES = ("checkpoints/", "open/", "runs/")
"""Folders of which each name may be listed, or be told to be absent."""
OURS = "pushtrain-"
"""What all that the stack makes is called with: a key's policy cannot name what comes after it."""
_OURS = (arn("logs", f"log-group:{OURS}"), arn("cloudwatch", f"alarm:{OURS}"))
_KINDS = tuple((re.compile(rf"(.*[:/])?(?:{pattern})"), called) for pattern, called in KINDS)


def kind(name: str) -> str:
    """Return what a resource is called, whichever run or task it is of."""
    for pattern, called in _KINDS:
        if found := pattern.fullmatch(name):
            return f"{found[1] or ''}{called}"
    return name


def _circumstance(key: str, value: Any) -> Any:
    if key == "s3:prefix":
        return next((folder for folder in PREFIXES if value.startswith(folder)), value)
    # ECS does not say for which of its resources it takes a role, or not always.
    if key == "aws:SourceArn" and value.startswith(arn("ecs", "")):
        return arn("ecs", "*")
    return next((f"{known}*" for known in _OURS if known in value), value)


@dataclass(frozen=True)
class Right:
    """A kind of access: what least privilege is measured in."""

    action: str
    resource: str
    context: tuple[tuple[str, Any], ...]
    principal: str

    @classmethod
    def of(cls, access: Access) -> "Right":
        """Return the kind of an access."""
        context = tuple(
            (key, _circumstance(key, value))
            for key, value in sorted(access.context.items())
            # Whatever is not plain is as one should come.
            if key != "aws:SecureTransport" or value == "false"
        )
        return cls(access.action, kind(access.resource), context, access.principal)

    def __str__(self) -> str:
        return str(Access(self.action, self.resource, dict(self.context), self.principal))


class World:
    """The accesses that roles are asked about, each role about the others' and their neighbours."""

    def __init__(self, needed: Mapping[str, Iterable[Access]]) -> None:
        self.needed = {
            role: {Right.of(access) for access in accesses} for role, accesses in needed.items()
        }
        one_of_each = {Right.of(access): access for each in needed.values() for access in each}
        near = {
            Right.of(other): other
            for access in one_of_each.values()
            for other in neighbours(access)
        }
        crossed = {
            Right.of(other): other
            for access in one_of_each.values()
            for other in _of_same_service(access, one_of_each.values())
        }
        self.accesses = crossed | near | one_of_each

    def allowed(self, policies: Policies, action: str = "") -> set[Right]:
        """Return all that the policies allow, or all of one action."""
        return {
            right
            for right, access in self.accesses.items()
            if (not action or right.action == action) and policies.allow(access)
        }

    def notices(self, role: str, policies: Policies, actions: Iterable[str]) -> bool:
        """Say whether policies differ, in these actions, from what the role needs."""
        wanted = self.needed[role]
        return any(
            policies.allow(access) != (right in wanted)
            for right, access in self.accesses.items()
            if any(fnmatchcase(right.action, action) for action in actions)
        )


def _of_same_service(access: Access, others: Iterable[Access]) -> Iterator[Access]:
    """Ask for each action on each resource of its service: object, bucket, task, definition."""
    service = access.action.partition(":")[0]
    for other in others:
        # An action that knows no resource is asked of none.
        if other.action.partition(":")[0] == service and access.resource != "*":
            yield replace(access, resource=other.resource)


def neighbours(access: Access) -> Iterator[Access]:
    """Change one thing at a time: a part of the resource, of the circumstances, or who asks."""
    for resource in beside(access.resource) if access.resource != "*" else ():
        yield replace(access, resource=resource)
    for key, value in access.context.items():
        rest = {other: kept for other, kept in access.context.items() if other != key}
        yield replace(access, context=rest)
        if key == "aws:SecureTransport":
            yield replace(access, context={**rest, key: "false"})
        many = isinstance(value, tuple)
        for other in [("stranger",), (*value, "stranger")] if many else beside(value):
            yield replace(access, context={**rest, key: other})
    if access.principal:
        yield replace(access, principal="stranger.amazonaws.com")


def beside(name: str) -> Iterator[str]:
    """Yield names that differ in one part: another region, bucket, folder, stack, account, key."""
    parts = re.split(r"([:/])", name)
    for at in range(0, len(parts), 2):
        for other in {"stranger", f"{parts[at]}-2", parts[at][:-1], ""} - {parts[at]}:
            yield "".join([*parts[:at], other, *parts[at + 1 :]])
    # A stack whose name begins like this one's.
    yield name.replace("task-definition/dev-", "task-definition/dev-2-")
    yield f"{name}-2"
    yield f"{name}/stranger"
    yield "*"


# Mutations

WILD = ("ArnEquals", "ArnLike", "StringLike")
"""The operators whose values may hold wildcards."""


@dataclass(frozen=True)
class Mutation:
    """One thing that is wrong with a policy."""

    what: str
    document: Mapping[str, Any]
    actions: frozenset[str]
    """Those that it may change the answer to."""


def mutations(document: Mapping[str, Any]) -> Iterator[Mutation]:
    """Yield each way to take something from a policy, and to widen something in it."""
    statements = document["Statement"]
    for at, statement in enumerate(statements):
        before, after = statements[:at], statements[at + 1 :]
        actions = frozenset(_list(statement["Action"]))
        yield Mutation(f"{statement['Sid']}: gone", {"Statement": [*before, *after]}, actions)
        for what, changes in _changes(statement):
            changed = {"Statement": [*before, {**statement, **changes}, *after]}
            yield Mutation(f"{statement['Sid']}: {what}", changed, actions)


def _changes(statement: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in ("Action", "Resource"):
        for value, left in _each(statement[key]):
            if left:
                yield f"without {value}", {key: left}
    # A Deny of more than it was for is noticed where what it denies is needed.
    for value, left in _each(statement["Resource"]) if statement["Effect"] == "Allow" else ():
        for wider in widenings(value):
            yield f"{value} as {wider}", {"Resource": [*left, wider]}
    for what, condition in _conditions(statement.get("Condition", {})):
        yield what, {"Condition": condition}


def _conditions(conditions: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for operator, tests in conditions.items():
        others = {name: value for name, value in conditions.items() if name != operator}
        for key, wanted in tests.items():
            rest = {name: value for name, value in tests.items() if name != key}
            yield f"whatever {key}", others | ({operator: rest} if rest else {})
            for value, left in _each(wanted):
                if left:
                    yield f"without {key} {value}", {**others, operator: {**rest, key: left}}
                for wider in widenings(value) if operator in WILD else ():
                    changed = {**others, operator: {**rest, key: [*left, wider]}}
                    yield f"{key} {value} as {wider}", changed


def _each(values: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Yield each value, and the others."""
    listed = _list(values)
    for value in listed:
        yield value, [other for other in listed if other != value]


def widenings(pattern: str) -> Iterator[str]:
    """Yield the same pattern, but cut off after each of its parts, and without what it counts."""
    if pattern == "*":
        return
    yield "*"
    if "?" in pattern:
        yield re.sub(r"\?+", "*", pattern)
    for cut in re.finditer(r"[:/]", pattern):
        wider = f"{pattern[: cut.end()]}*"
        # `log-group:NAME:*` is what AWS itself writes of a group's streams.
        if wider != pattern and not pattern.removeprefix(wider[:-1]).startswith("log-stream:"):
            yield wider


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
