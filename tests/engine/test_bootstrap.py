"""The bootstrap program through the real engine: made once, and left alone after that."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "repository": "octo/mnist",
    "ownerId": 123456,
    "repositoryId": 456789,
    "environments": ["dev"],
}

# The provider waits for a minute until a bucket's lifecycle rules hold.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pulumi(bench):
    """Run the CLI on a copy of the program, at the bench's cloud."""
    folder = bench.folder / "bootstrap"
    shutil.copytree(ROOT / "bootstrap", folder, ignore=shutil.ignore_patterns("__pycache__"))
    project = yaml.safe_load((folder / "Pulumi.yaml").read_text())
    project["runtime"]["options"]["virtualenv"] = sys.prefix
    (folder / "Pulumi.yaml").write_text(yaml.safe_dump(project))
    local = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text())["config"]
    config = {key: value for key, value in local.items() if key.startswith("aws:")}
    services = [*config["aws:endpoints"][0], "kms"]
    config["aws:endpoints"] = [dict.fromkeys(services, bench.url)]
    config |= {f"pushtrain-bootstrap:{key}": value for key, value in SETTINGS.items()}
    (folder / "Pulumi.account.yaml").write_text(yaml.safe_dump({"config": config}))

    def run(*args):
        done = subprocess.run(
            ["pulumi", *args, "--non-interactive"],
            env={**os.environ, **bench.environment, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    run("stack", "init", "account")
    run("up", "--yes", "--skip-preview", "--stack", "account")
    return run


def test_an_account_is_made_once(pulumi, bench):
    outputs = json.loads(pulumi("stack", "output", "--json", "--stack", "account"))
    (provider,) = bench.client("iam").list_open_id_connect_providers()["OpenIDConnectProviderList"]
    name = outputs["deployRoles"]["dev"].rpartition("/")[2]
    role = bench.client("iam").get_role(RoleName=name)["Role"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]

    assert trust["Principal"] == {"Federated": provider["Arn"]}
    assert trust["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"] == [
        "repo:octo/mnist:environment:dev",
        "repo:octo@123456/mnist@456789:environment:dev",
    ]
    assert "bootstrap-workflow-boundary" in role["PermissionsBoundary"]["PermissionsBoundaryArn"]
    state = bench.client("s3").get_bucket_versioning(Bucket=outputs["stateBucket"])
    assert state["Status"] == "Enabled"


def test_a_second_look_changes_nothing(pulumi):
    pulumi("preview", "--expect-no-changes", "--stack", "account")
