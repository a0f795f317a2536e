"""What of the library needs no engine; the rest is in tests/engine."""

import contextlib
import os
from pathlib import Path

import pytest
from pulumi.automation import EngineEvent

from automation import stacks
from automation.errors import MissingCliError, OutputError, ProjectError
from automation.stacks import Stack

URN = "urn:pulumi:dev::pushtrain::pushtrain:store:ModelStore$aws:s3/bucket:Bucket::store"


def step(op, kind="resourcePreEvent", **details):
    state = {"type": "aws:s3/bucket:Bucket", "urn": URN, "custom": True}
    metadata = {"op": op, "urn": URN, "type": "aws:s3/bucket:Bucket", "new": state, **details}
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, kind: {"metadata": metadata}})


def watched(*events):
    watch = stacks._Watch(None)
    for event in events:
        watch(event)
    return watch.preview()


def test_a_machine_without_pulumi_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingCliError, match=r"no pulumi command on PATH.*get\.pulumi\.com"):
        Stack("dev").preview()


def test_a_folder_without_a_project_is_refused_before_anything_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ProjectError, match=rf"Pulumi\.yaml, got {tmp_path}"):
        Stack("dev", project=tmp_path).up()


@pytest.mark.parametrize("operation", ["preview", "up"])
def test_policy_packs_reach_the_engine_as_folders_that_it_finds(operation, monkeypatch, tmp_path):
    cli, said = tmp_path / "pulumi", tmp_path / "said.txt"
    cli.write_text(
        f'#!/bin/sh\necho "$@" >> {said}\n'
        'case "$*" in *version*) echo v3.300.0;; *) echo "{}";; esac\n'
    )
    cli.chmod(0o755)
    (tmp_path / "Pulumi.yaml").write_text("name: p\nruntime: python\n")
    (tmp_path / "rules").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(Exception):  # it misses what an engine would have answered
        getattr(Stack("dev", project=tmp_path), operation)(policy_packs=[Path("rules")])

    (asked,) = [line for line in said.read_text().splitlines() if f" {operation} " in line]
    assert f"--policy-pack {tmp_path}/rules" in asked


def test_settings_are_written_as_the_cli_writes_them():
    assert stacks._as_config(
        {"cpu": 2048, "spot": False, "data.path": "x=y", "image.args": ["a=1"], "aws:region": "r"}
    ) == {
        "pushtrain:cpu": {"value": "2048", "secret": False},
        "pushtrain:spot": {"value": "false", "secret": False},
        "pushtrain:data.path": {"value": "x=y", "secret": False},
        'pushtrain:["image.args"]': {"value": '["a=1"]', "objectValue": ["a=1"], "secret": False},
        "aws:region": {"value": "r", "secret": False},
    }


def test_a_replacement_is_one_change_and_names_what_forces_it():
    details = {"keys": ["memory"], "detailedDiff": {"memory": {"diffKind": "update-replace"}}}
    seen = watched(
        step("create-replacement", **details), step("replace", **details), step("delete-replaced")
    )

    (change,) = seen.changes
    assert (change.op, change.name, change.forced_by) == ("replace", "store", ("memory",))


def test_a_refresh_counts_what_it_found_and_not_that_it_looked():
    same = watched(step("refresh"), step("same", "resOutputsEvent"))
    found = watched(
        step("refresh"),
        step("update", "resOutputsEvent", detailedDiff={"tags": {"diffKind": "update"}}),
    )

    assert same.changes == ()
    assert [(change.op, change.properties) for change in found.changes] == [("update", ("tags",))]


def test_counts_are_by_plain_words():
    event = EngineEvent.from_json(
        {"summaryEvent": {"resourceChanges": {"same": 3, "create": 1}, "durationSeconds": 7}}
    )
    seen = watched(event)

    assert seen.counts == {"same": 3, "create": 1}
    assert seen.seconds == 7


CLI = """#!/usr/bin/env python3
import json, sys
words = sys.argv[1:]
if "version" in words:
    print("v3.272.0")
elif "output" in words:
    print(json.dumps({"bucket": "dev-models"}))
elif "config" in words:
    endpoints = json.dumps([{"s3": "http://127.0.0.1:1"}])
    values = {"aws:region": "eu-central-1", "aws:endpoints": endpoints}
    print(json.dumps({name: {"value": value, "secret": False} for name, value in values.items()}))
"""


def test_outputs_and_clients_of_a_stack_are_had_together(monkeypatch, tmp_path):
    (tmp_path / "pulumi").write_text(CLI)
    (tmp_path / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    deployed = Stack("dev").deployed()
    client = deployed.client("s3", max_pool_connections=7)

    assert (deployed.stack, deployed.output("bucket")) == ("dev", "dev-models")
    assert client.meta.region_name == "eu-central-1"
    assert client.meta.endpoint_url == "http://127.0.0.1:1"
    assert client.meta.config.max_pool_connections == 7
    with pytest.raises(OutputError, match="must have an output reconcileFunction, got none"):
        deployed.output("reconcileFunction")
    assert deployed.command("runs") == "pushtrain runs -s dev"


def test_the_region_is_the_stacks_own_else_the_environments(monkeypatch, tmp_path):
    (tmp_path / "pulumi").write_text(CLI.replace('"aws:region": "eu-central-1", ', ""))
    (tmp_path / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    own = Stack("dev", env={"AWS_REGION": "eu-west-3"})

    # Pulumi's provider looks in the same order.
    assert Stack("dev").deployed().client("logs").meta.region_name == "us-west-2"
    assert own.deployed().client("logs").meta.region_name == "eu-west-3"
    monkeypatch.delenv("AWS_REGION")
    assert Stack("dev").deployed().client("logs").meta.region_name == "us-west-1"
