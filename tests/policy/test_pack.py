"""The pack as the engine talks to it: the real SDK in its own environment, over gRPC."""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc

from policy.rules import RESOURCE_RULES, STACK_RULES

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "policy/.venv/bin/python"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
SIGNATURE, SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"
ADVISORY, MANDATORY = analyzer_pb2.ADVISORY, analyzer_pb2.MANDATORY
QUEUE = "aws:sqs/queue:Queue"
BUCKET = "aws:s3/bucket:Bucket"
BLOCK = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
ROLE_POLICY = "aws:iam/rolePolicy:RolePolicy"


@contextlib.contextmanager
def running(*, preview):
    """Run the pack as the language host does."""
    if not PYTHON.exists():
        pytest.skip("no environment for the policy pack; make it: make extras")
    told = {"PROJECT": "pushtrain", "STACK": "dev", "DRY_RUN": str(preview).lower()}
    with subprocess.Popen(
        [PYTHON, "-u", "-m", "pulumi.policy", "127.0.0.1:1", ROOT / "policy"],
        cwd=ROOT / "policy",
        env={**os.environ, **{f"PULUMI_{key}": value for key, value in told.items()}},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
                yield analyzer_pb2_grpc.AnalyzerStub(channel)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def in_preview():
    with running(preview=True) as pack:
        yield pack


@pytest.fixture(scope="module")
def in_up():
    with running(preview=False) as pack:
        yield pack


def urn(kind, name):
    return f"urn:pulumi:dev::pushtrain::{kind}::{name}"


def looked_at(pack, kind, name="it", **properties):
    """Give level, rule and message of what is said of a resource before it is made."""
    request = analyzer_pb2.AnalyzeRequest(type=kind, name=name, urn=urn(kind, name))
    request.properties.update(properties)
    return said(pack.Analyze(request))


def looked_at_together(pack, *resources):
    """Give what is said of a stack of (kind, properties, made of)."""
    request = analyzer_pb2.AnalyzeStackRequest()
    for kind, properties, made_of in resources:
        resource = request.resources.add(type=kind, name="it", urn=urn(kind, "it"))
        resource.properties.update(properties)
        for key, other in made_of.items():
            resource.propertyDependencies[key].urns.append(urn(other, "it"))
    return said(pack.AnalyzeStack(request))


def said(response):
    return [(each.enforcementLevel, each.policyName, each.message) for each in response.diagnostics]


@pytest.mark.parametrize(("preview", "last"), [(True, ADVISORY), (False, MANDATORY)])
def test_every_rule_is_mandatory_and_in_up_also_that_all_is_known(preview, last):
    with running(preview=preview) as pack:
        policies = pack.GetAnalyzerInfo(empty_pb2.Empty()).policies

    assert {each.name: each.enforcementLevel for each in policies} == {
        **{rule.name: MANDATORY for rule in (*RESOURCE_RULES, *STACK_RULES)},
        "not-known-yet": last,
    }


def test_what_breaks_a_rule_is_told_and_what_keeps_it_is_not(in_up):
    ((level, rule, message),) = looked_at(in_up, QUEUE)

    assert (level, rule) == (MANDATORY, "encryption")
    assert message.endswith("\nset sqsManagedSseEnabled or kmsMasterKeyId")
    assert looked_at(in_up, QUEUE, sqsManagedSseEnabled=True) == []


def test_lists_and_nested_properties_come_through(in_up):
    inside: dict[str, Any] = {
        "ingress": [{"cidrBlocks": ["10.0.0.0/8"]}, {"cidrBlocks": ["0.0.0.0/0"]}]
    }
    ((_, rule, message),) = looked_at(in_up, "aws:ec2/securityGroup:SecurityGroup", **inside)

    assert rule == "no-public-access"
    assert message.endswith("got 0.0.0.0/0")


def test_a_secret_is_looked_into(in_up):
    document = (
        '{"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::b"}]}'
    )
    secret = {SIGNATURE: SECRET, "value": document}
    ((_, rule, _),) = looked_at(in_up, ROLE_POLICY, policy=secret)

    assert rule == "no-wildcards"


def test_a_bucket_and_its_block_are_matched_by_what_the_engine_knows_in_a_preview(in_up):
    bucket = (BUCKET, {"bucket": UNKNOWN}, {})
    block = (BLOCK, {"bucket": UNKNOWN}, {"bucket": BUCKET})
    other = (BLOCK, {"bucket": UNKNOWN}, {})

    def is_private(*resources):
        return "buckets-private" not in {
            rule for _, rule, _ in looked_at_together(in_up, *resources)
        }

    assert is_private(bucket, block)
    assert not is_private(bucket, other)
    assert not is_private(bucket)


@pytest.mark.parametrize(("pack", "level"), [("in_preview", ADVISORY), ("in_up", MANDATORY)])
def test_what_is_not_known_is_told_at_the_end_and_fails_an_up(pack, level, request):
    pack = request.getfixturevalue(pack)
    before = looked_at_together(pack)
    quiet = looked_at(pack, ROLE_POLICY, "rights", policy=UNKNOWN)
    ((told, rule, message),) = looked_at_together(pack)

    assert before == quiet == []
    assert (told, rule) == (level, "not-known-yet")
    assert "\nno-wildcards: rights" in message
