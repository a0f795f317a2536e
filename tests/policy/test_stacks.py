"""The stacks of this repository keep every rule of the policy pack."""

from typing import Any

import pulumi
import pytest

from policy.rules import RESOURCE_RULES, STACK_RULES, UNKNOWN, Resource


def as_resources(deployment) -> list[Resource]:
    """Return what the pack is given: in a preview, what AWS will say is unknown."""
    return [
        Resource(
            type=made.typ,
            name=made.name,
            urn=made.urn,
            properties=with_unknowns({**made.outputs, **made.inputs}),
            refers=made.refers,
        )
        for made in deployment.registrations
        if made.custom
    ]


def with_unknowns(value: Any) -> Any:
    if isinstance(value, pulumi.output.Unknown):
        return UNKNOWN
    if isinstance(value, dict):
        return {key: with_unknowns(item) for key, item in value.items()}
    return [with_unknowns(item) for item in value] if isinstance(value, list) else value


def findings(resources):
    for rule in RESOURCE_RULES:
        for resource in resources:
            yield from ((rule.name, found) for found in rule.check(resource))
    for rule in STACK_RULES:
        yield from ((rule.name, found) for found in rule.check(resources))


@pytest.fixture(scope="module")
def resources(dev):
    return as_resources(dev)


def test_nothing_is_found_in_the_stack(resources):
    assert list(findings(resources)) == []


def test_in_a_first_preview_nothing_is_wrong_and_some_is_not_known(deploy):
    found = list(findings(as_resources(deploy.whole(preview=True))))

    assert {name for name, _ in found} >= {"no-wildcards", "tls-only", "dead-letter-queues"}
    assert [each for _, each in found if each.known] == []
