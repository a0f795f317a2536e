"""What of the library needs no engine; the rest is in tests/engine."""

import pytest
from pulumi.automation import EngineEvent

from automation import stacks
from automation.errors import MissingCliError, ProjectError
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


def test_settings_are_written_as_the_cli_writes_them():
    assert stacks._as_config(
        {"cpu": 2048, "spot": False, "data.path": "x=y", "parameters": ["a=1"], "aws:region": "r"}
    ) == {
        "pushtrain:cpu": {"value": "2048", "secret": False},
        "pushtrain:spot": {"value": "false", "secret": False},
        "pushtrain:data.path": {"value": "x=y", "secret": False},
        "pushtrain:parameters": {"value": '["a=1"]', "objectValue": ["a=1"], "secret": False},
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
