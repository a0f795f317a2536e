"""The stacks of this repository keep every rule of the policy pack."""

import runpy
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from policy.rules import RESOURCE_RULES, STACK_RULES, UNKNOWN, Resource

ROOT = Path(__file__).parents[2]
FILES = sorted({file.name for file in ROOT.glob("Pulumi.*.yaml")} - {"Pulumi.local.yaml"})

SECRETS = ["TOKEN=arn:aws:secretsmanager:us-east-1:123456789012:secret:token-AbCdEf"]


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


@pytest.fixture(params=FILES)
def run(request, deploy):
    """Give what runs the program as one of the stacks that are for AWS."""
    config = yaml.safe_load((ROOT / request.param).read_text())["config"]
    main = str(ROOT / "__main__.py")
    return lambda **options: deploy(lambda: runpy.run_path(main), config, **options)


def test_nothing_is_found_in_a_stack(run):
    assert list(findings(as_resources(run()))) == []


def test_nothing_is_found_where_all_of_a_key_and_a_private_network_is_in_use(deploy):
    deployment = deploy.whole({"customerKey": True, "network": "private", "secrets": SECRETS})

    assert deployment.of_type("aws:kms/key:Key")
    assert list(findings(as_resources(deployment))) == []


def test_in_a_first_preview_nothing_is_wrong_and_some_is_not_known(run):
    found = list(findings(as_resources(run(preview=True))))

    assert {name for name, _ in found} >= {"no-wildcards", "tls-only", "dead-letter-queues"}
    assert [each for _, each in found if each.known] == []
