"""The policy pack through the real engine: what breaks a rule is stopped, and the stack passes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACK = ROOT / "policy"


@pytest.fixture(scope="module")
def stack(bench):
    if not (PACK / ".venv/bin/python").exists():
        pytest.skip("no environment for the policy pack; make it: make extras")
    bench.stack("policy", **{"image.build": False}).create()
    return bench


def run(bench, *command):
    """Run a command of the CLI with the pack; give its exit code, violations and steps."""
    log = bench.folder / "events.jsonl"
    log.unlink(missing_ok=True)
    options = ["--policy-pack", PACK, "--event-log", log]
    done = subprocess.run(
        ["pulumi", *command, "-s", "policy", "--non-interactive", *options],
        env={**os.environ, **bench.environment, "PULUMI_DEBUG_COMMANDS": "true"},
        cwd=bench.project,
        check=False,
        capture_output=True,
        text=True,
    )
    events = [json.loads(line) for line in log.read_text().splitlines()]
    violations = [event["policyEvent"] for event in events if "policyEvent" in event]
    assert any("summaryEvent" in event for event in events), done.stdout + done.stderr
    sys.stdout.write(done.stdout + done.stderr)  # shown where a test fails
    return done.returncode, {
        (each["enforcementLevel"], each["policyName"], name)
        for each in violations
        for name in [each.get("resourceUrn", "").rpartition("::")[2]]
    }


def test_a_preview_of_what_breaks_a_rule_fails_and_names_the_resource(stack):
    network = stack.project / "components/network.py"
    kept = network.read_text()
    network.write_text(
        kept.replace("map_public_ip_on_launch=False", "map_public_ip_on_launch=True")
    )
    code, violations = run(stack, "preview")
    network.write_text(kept)

    assert code != 0
    assert {found for found in violations if found[0] == "mandatory"} == {
        ("mandatory", "no-public-access", f"pushtrain-network-public-us-east-1{zone}")
        for zone in "ab"
    }


def test_a_first_preview_passes_and_says_what_it_could_not_look_at(stack):
    code, violations = run(stack, "preview")

    assert code == 0
    assert {found[:2] for found in violations} == {("advisory", "not-known-yet")}


def test_our_own_command_hands_the_pack_on(stack):
    with stack.pushtrain("preview", "-s", "policy", "--policy-pack", str(PACK)) as command:
        _, told = command.communicate(timeout=600)

    assert command.returncode == 0, told
    assert "not-known-yet" in told


def test_up_looks_at_all_of_it_and_passes(stack):
    code, violations = run(stack, "up", "--yes", "--skip-preview")

    assert code == 0
    assert violations == set()


def test_once_it_is_there_a_preview_knows_everything(stack):
    code, violations = run(stack, "preview")

    assert code == 0
    assert violations == set()
