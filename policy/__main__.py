"""The policy pack: hands each resource to the rules, and what they find to Pulumi."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pulumi
from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyPack,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from rules import (
    RESOURCE_RULES,
    STACK_RULES,
    UNKNOWN,
    Finding,
    Resource,
    ResourceRule,
    StackRule,
)


def plain(value: Any) -> Any:
    """Return a property without the SDK's proxies, UNKNOWN where one would have raised."""
    if isinstance(value, Mapping):
        return {key: looked_up(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [looked_up(value, at) for at in range(len(value))]
    return value


def looked_up(value: Any, key: Any) -> Any:
    """Return an entry of a proxy, plain."""
    try:
        return plain(value[key])
    except UnknownValueError:
        return UNKNOWN


class Pack:
    """Keeps, until all resources have been seen, what no rule could look at."""

    def __init__(self, *, preview: bool) -> None:
        # In `up` everything is known once it is registered; what were not would fail it.
        self.unseen_level = EnforcementLevel.ADVISORY if preview else EnforcementLevel.MANDATORY
        self.unseen: defaultdict[str, set[str]] = defaultdict(set)

    def policies(self) -> list[Policy]:
        """Return the rules as policies; the last of them tells what the others could not see."""
        return [
            *(self.of_resource(rule) for rule in RESOURCE_RULES),
            *(self.of_stack(rule) for rule in STACK_RULES),
            StackValidationPolicy(
                "not-known-yet",
                "Nothing passes that no rule could look at.",
                lambda _, report: self.tell_unseen(report),
                self.unseen_level,
            ),
        ]

    def of_resource(self, rule: ResourceRule) -> ResourceValidationPolicy:
        """Let a rule look at each resource before it is made."""

        def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
            resource = Resource(
                type=args.resource_type, name=args.name, urn=args.urn, properties=plain(args.props)
            )
            self.tell(rule.name, rule.check(resource), report)

        return ResourceValidationPolicy(
            rule.name, rule.promise, validate, EnforcementLevel.MANDATORY
        )

    def of_stack(self, rule: StackRule) -> StackValidationPolicy:
        """Let a rule look at all resources together."""

        def validate(args: StackValidationArgs, report: ReportViolation) -> None:
            resources = [from_stack(each) for each in args.resources]
            self.tell(rule.name, rule.check(resources), report)

        return StackValidationPolicy(rule.name, rule.promise, validate, EnforcementLevel.MANDATORY)

    def tell(self, rule: str, found: Iterable[Finding], report: ReportViolation) -> None:
        """Report what is wrong; keep what is not known."""
        for finding in found:
            if finding.known:
                report(finding.message, finding.urn)
            else:
                self.unseen[rule].add(finding.urn.rpartition("::")[2])

    def tell_unseen(self, report: ReportViolation) -> None:
        """Name by rule what is not known yet."""
        if self.unseen:
            lines = [f"{rule}: {', '.join(sorted(names))}" for rule, names in self.unseen.items()]
            report("\n".join(["Known only in `pulumi up`, where these rules look again:", *lines]))


def from_stack(resource: PolicyResource) -> Resource:
    """Return a resource as the rules want it."""
    return Resource(
        type=resource.resource_type,
        name=resource.name,
        urn=resource.urn,
        properties=plain(resource.props),
        refers={
            key: frozenset(each.urn for each in made_of)
            for key, made_of in resource.property_dependencies.items()
        },
    )


PolicyPack(name="pushtrain", policies=Pack(preview=pulumi.runtime.is_dry_run()).policies())
