"""What every workflow must be, whoever writes the next one."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github").rglob("*.yml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
SECRET_ROLES = {"PUSHTRAIN_PREVIEW_ROLE", "PUSHTRAIN_DEPLOY_ROLE", "PUSHTRAIN_IMAGE_ROLE"}
READ = {"contents": "read"}
OIDC = {**READ, "id-token": "write"}
PERMISSIONS = {
    ("ci", "check"): READ,
    ("ci", "test"): READ,
    ("ci", "engine"): READ,
    ("ci", "docker"): READ,
    ("preview", "preview"): {**OIDC, "pull-requests": "write"},
    ("preview", "without-credentials"): READ,
    ("deploy", "dev"): {"contents": "write", "id-token": "write"},
    ("deploy", "prod"): {"contents": "write", "id-token": "write"},
    ("deploy-stack", "deploy"): OIDC,
    ("deploy-stack", "comment"): {"contents": "write"},
    ("destroy", "destroy"): OIDC,
    ("drift", "drift"): {**OIDC, "issues": "write"},
    ("image", "plan"): OIDC,
    ("image", "image"): OIDC,
    ("image", "follow"): OIDC,
    ("image", "comment"): {"contents": "write", "pull-requests": "write"},
}


def jobs(workflows):
    return {
        (workflow, name): job
        for workflow, document in workflows.items()
        for name, job in document["jobs"].items()
    }


def steps(workflows):
    return [step for job in jobs(workflows).values() for step in job.get("steps", [])]


def test_all_six_are_there_and_what_they_share(workflows):
    assert set(workflows) == {
        "ci", "preview", "deploy", "deploy-stack", "image", "drift", "destroy",
    }  # fmt: skip


def test_a_job_may_do_what_it_needs_and_nothing_is_given_to_all(workflows):
    assert [document["permissions"] for document in workflows.values()] == [{}] * len(workflows)
    assert {name: job["permissions"] for name, job in jobs(workflows).items()} == PERMISSIONS


def test_each_permission_has_its_reason_beside_it():
    lines = [
        line.strip()
        for file in FILES
        if file.name != "dependabot.yml"
        for line in file.read_text("utf-8").splitlines()
        if re.match(r"\s+(contents|id-token|pull-requests|issues|actions|packages): ", line)
    ]

    assert lines
    assert [line for line in lines if not re.search(r": (read|write) # \w", line)] == []


def test_who_may_write_to_the_repository_has_no_credentials_and_runs_one_script(workflows):
    for job in jobs(workflows).values():
        if job["permissions"].get("contents") == "write" and "uses" not in job:
            assert "id-token" not in job["permissions"]
            assert [step["name"] for step in job["steps"]] == ["Checkout", "Comment"]


def test_actions_are_pinned_by_hash_with_their_version_beside():
    used = [
        line.partition("uses:")[2].strip()
        for file in FILES
        for line in file.read_text("utf-8").splitlines()
        if re.match(r"\s*(- )?uses:", line)
    ]

    assert len(used) > 20
    assert [one for one in used if not one.startswith("./") and not PINNED.fullmatch(one)] == []
    versions = {one.partition("@")[0]: one for one in used}
    assert {one for one in used if not one.startswith("./")} == {
        one for one in versions.values() if not one.startswith("./")
    }, "one version of each action"


def test_what_starts_a_workflow(workflows):
    assert {name: set(document["on"]) for name, document in workflows.items()} == {
        "ci": {"pull_request", "push"},
        "preview": {"pull_request"},
        "deploy": {"push", "workflow_dispatch"},
        "deploy-stack": {"workflow_call"},
        "image": {"push", "workflow_dispatch"},
        "drift": {"schedule", "workflow_dispatch"},
        "destroy": {"workflow_dispatch"},
    }
    for document in workflows.values():
        assert document["on"].get("push", {"branches": ["main"]})["branches"] == ["main"]


def test_a_preview_comes_with_every_push_and_for_all_that_the_program_is_made_of(workflows):
    asked = workflows["preview"]["on"]["pull_request"]

    assert "types" not in asked  # GitHub's own: opened, reopened and each push
    for path in ("__main__.py", "Pulumi*.yaml", "components/**", "handler/**", "trainer/**"):
        assert path in asked["paths"]
        assert path in workflows["deploy"]["on"]["push"]["paths"]
    assert workflows["image"]["on"]["push"]["paths"] == ["trainer/**"]


def test_nothing_of_a_fork_gets_credentials(workflows):
    for (workflow, name), job in jobs(workflows).items():
        if "pull_request" not in workflows[workflow]["on"]:
            continue
        if job["permissions"] != READ:
            condition = " ".join(job["if"].split())
            assert condition.startswith(
                "github.event.pull_request.head.repo.full_name == github.repository && "
            ), name
            assert "||" not in condition
        text = yaml.safe_dump(job)
        assert "secrets." not in text
        if job["permissions"] == READ:
            assert not [role for role in SECRET_ROLES if role in text]
            assert "github.token" not in text


def test_what_has_credentials_runs_from_main_or_is_a_preview(workflows):
    for (workflow, name), job in jobs(workflows).items():
        if "id-token" in job["permissions"] and workflow not in ("preview", "deploy-stack"):
            first = job.get("needs") is None
            assert not first or "github.ref == 'refs/heads/main'" in job["if"], name


def test_deploys_are_in_the_environment_of_their_stack(workflows):
    deploy = workflows["deploy-stack"]["jobs"]["deploy"]
    destroy = workflows["destroy"]["jobs"]["destroy"]

    assert deploy["environment"] == destroy["environment"] == "${{ inputs.stack }}"
    assert workflows["deploy"]["jobs"]["prod"]["needs"] == "dev"
    assert [job["with"]["stack"] for job in workflows["deploy"]["jobs"].values()] == ["dev", "prod"]


def test_one_stack_is_changed_by_one_job_at_a_time_and_none_is_cut_off(workflows):
    changing = [
        workflows["deploy-stack"]["jobs"]["deploy"],
        workflows["destroy"]["jobs"]["destroy"],
    ]

    assert [job["concurrency"] for job in changing] == [
        {"group": "stack-${{ inputs.stack }}", "cancel-in-progress": False}
    ] * 2
    for name in ("preview", "drift"):
        assert "${{ matrix.stack }}" in workflows[name]["jobs"][name]["concurrency"]["group"]
    assert workflows["image"]["concurrency"]["cancel-in-progress"] is False


def test_each_job_has_an_end_and_a_fixed_runner(workflows):
    for name, job in jobs(workflows).items():
        if "uses" in job:
            continue
        assert 0 < job["timeout-minutes"] < 360, name
        assert "latest" not in job["runs-on"], name


def test_no_token_is_left_in_the_clone(workflows):
    checkouts = [s for s in steps(workflows) if s.get("uses", "").startswith("actions/checkout")]

    assert checkouts
    assert all(step["with"] == {"persist-credentials": False} for step in checkouts)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_is_pasted_into_a_script(file):
    document = yaml.safe_load(file.read_text("utf-8"))
    all_jobs = [*document.get("jobs", {}).values(), document.get("runs", {})]

    for step in [step for job in all_jobs for step in job.get("steps", [])]:
        assert "${{" not in step.get("run", "")


def test_no_secret_is_used_nor_a_trigger_that_lends_a_fork_ours():
    for file in FILES:
        text = file.read_text("utf-8")
        assert "pull_request_target" not in text
        assert "workflow_run" not in text
        assert "secrets." not in text
        assert not re.search(r"AKIA|aws-secret-access-key|set -x", text)


def test_a_pipe_fails_where_any_part_of_it_does(workflows):
    for name, document in workflows.items():
        if any("run" in step for job in document["jobs"].values() for step in job.get("steps", [])):
            assert document["defaults"] == {"run": {"shell": "bash"}}, name


def test_no_mutable_tag_is_pushed(workflows):
    text = yaml.safe_dump(workflows["image"])

    assert "latest" not in text
    assert "--provenance=false" in text
    order = [step["name"] for step in workflows["image"]["jobs"]["image"]["steps"]]
    assert order.index("Build") < order.index("Scan") < order.index("Credentials")
    assert order.index("Credentials") < order.index("Push")


def test_outputs_of_a_stack_stay_out_of_logs(workflows):
    (up,) = [s for s in steps(workflows) if 'pushtrain up -s "$STACK" --yes' in s.get("run", "")]

    assert "> outputs.json" in up["run"]
    assert "cat outputs.json" not in up["run"]


def test_the_cli_is_that_of_the_pins(workflows):
    action = yaml.safe_load((ROOT / ".github/actions/setup/action.yml").read_text("utf-8"))
    (cli,) = [s for s in action["runs"]["steps"] if s.get("uses", "").startswith("pulumi/actions")]

    pins = (ROOT / "requirements.txt").read_text("utf-8")

    assert cli["with"] == {"pulumi-version": "${{ steps.pins.outputs.pulumi }}"}
    assert re.search(r"^pulumi==\d+\.\d+\.\d+ ", pins, re.MULTILINE)
    runs = [step.get("run", "") for step in steps(workflows)]
    assert any("pytest -m docker" in text for text in runs)
    assert any("pytest -m engine" in text for text in runs)


def test_dependabot_waits_a_week_and_knows_all_that_is_pinned():
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text("utf-8"))["updates"]

    assert {each["package-ecosystem"] for each in updates} == {
        "github-actions", "pip", "docker", "gomod",
    }  # fmt: skip
    assert all(each["cooldown"]["default-days"] >= 7 for each in updates)
    (pip,) = [each for each in updates if each["package-ecosystem"] == "pip"]
    for folder in pip["directories"]:
        assert list((ROOT / folder.strip("/")).glob("*.txt")), folder
