"""A static analyser's findings in the production stack are those that docs/security.md accepts."""

import fnmatch
import json
import re
import runpy
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.policy import terraform

ROOT = Path(__file__).parents[2]
CHECKOV = ROOT / ".venv/checkov/bin/checkov"
ROW = re.compile(r"\| (CKV\w+) \| (.+?) \| (.+) \|")
UNCHECKED = {
    "aws_cloudwatch_dashboard",
    "aws_cloudwatch_event_rule",
    "aws_cloudwatch_event_target",
    "aws_default_security_group",
    "aws_ecr_lifecycle_policy",
    "aws_ecs_cluster_capacity_providers",
    "aws_internet_gateway",
    "aws_cloudwatch_metric_alarm",
    "aws_lambda_function_event_invoke_config",
    "aws_route_table_association",
    "aws_s3_bucket_server_side_encryption_configuration",
    "aws_s3_bucket_versioning",
    "aws_sns_topic_policy",
    "aws_vpc_endpoint",
}
"""Types that no check is for by themselves; a misspelt type would be one too."""


@pytest.fixture(scope="module")
def accepted():
    """Give the rows of the table: check, and pattern of resource names."""
    rows = ROW.findall((ROOT / "docs/security.md").read_text())
    assert all(len(reason) > 20 for *_, reason in rows)
    return [(check, name.strip("`")) for check, names, _ in rows for name in names.split(", ")]


@pytest.fixture(scope="module")
def resources(deploy):
    """Give each AWS resource of the production stack, by its address in Terraform."""
    config = yaml.safe_load((ROOT / "Pulumi.prod.yaml").read_text())["config"]
    main = str(ROOT / "__main__.py")
    deployment = deploy(lambda: runpy.run_path(main), config, stack="prod")
    return {
        terraform.address(made): made
        for made in deployment.registrations
        if made.typ.startswith("aws:")
    }


@pytest.fixture(scope="module")
def results(resources, tmp_path_factory):
    """Give check and address of what failed, and of what passed."""
    if not CHECKOV.exists():
        pytest.skip("no checkov; get it: make extras")
    folder = tmp_path_factory.mktemp("terraform")
    (folder / "main.tf").write_text(terraform.written(resources.values()))
    options = ["--framework", "terraform", "--output", "json", "--compact", "--skip-download"]
    done = subprocess.run(
        [CHECKOV, "--directory", folder, *options], capture_output=True, text=True, check=False
    )
    answer = json.loads(done.stdout)
    assert answer["summary"]["parsing_errors"] == 0
    return {
        outcome: {(each["check_id"], each["resource"]) for each in found}
        for outcome in ("failed", "passed")
        for found in [answer["results"][f"{outcome}_checks"]]
    }


@pytest.fixture(scope="module")
def findings(resources, results):
    """Give check and logical name of what failed."""
    return {(check, resources[address].name) for check, address in results["failed"]}


def is_about(row, finding):
    return row[0] == finding[0] and fnmatch.fnmatchcase(finding[1], row[1])


def test_each_finding_has_a_written_reason(findings, accepted):
    assert {
        finding for finding in findings if not any(is_about(row, finding) for row in accepted)
    } == set()


def test_no_reason_is_left_of_what_is_no_longer_found(findings, accepted):
    assert {
        row for row in accepted if not any(is_about(row, finding) for finding in findings)
    } == set()


def test_every_type_is_one_that_the_analyser_knows(resources, results):
    looked_at = {address.partition(".")[0] for found in results.values() for _, address in found}
    types = {address.partition(".")[0] for address in resources}

    assert types - looked_at <= UNCHECKED


def test_connections_between_resources_are_seen(results):
    # CKV2_AWS_6: a bucket has a public access block, which is another resource.
    assert ("CKV2_AWS_6", "aws_s3_bucket.pushtrain_store_bucket") in results["passed"]
