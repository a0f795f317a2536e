"""Progress in plain lines, and the words at the end."""

import pytest
from pulumi.automation import EngineEvent

from automation import progress
from automation.progress import Progress
from automation.stacks import Change, Preview

PREFIX = "urn:pulumi:dev::pushtrain::"


def event(kind, op, typ="aws:s3/bucket:Bucket", name="store", custom=True):
    urn = f"{PREFIX}{typ}::{name}"
    state = {"type": typ, "urn": urn, "custom": custom}
    metadata = {"op": op, "urn": urn, "type": typ, "new": state}
    return EngineEvent.from_json({kind: {"metadata": metadata}})


def diagnostic(severity, message, *, ephemeral=False):
    said = {"severity": severity, "message": message, "ephemeral": ephemeral}
    return EngineEvent.from_json({"diagnosticEvent": said})


def lines(capsys, *events):
    with Progress("up") as watch:
        for each in events:
            watch(each)
    captured = capsys.readouterr()
    assert captured.out == ""
    return [" ".join(line.split()[2:]) for line in captured.err.splitlines()]


def test_a_resource_is_told_when_it_is_there(capsys):
    told = lines(capsys, event("resourcePreEvent", "create"), event("resOutputsEvent", "create"))

    assert told == ["create aws:s3:Bucket store 0.0 s"]


@pytest.mark.parametrize("op", ["same", "refresh", "read"])
def test_what_stays_is_not_told(capsys, op):
    assert lines(capsys, event("resourcePreEvent", op), event("resOutputsEvent", op)) == []


def test_components_and_providers_are_not_told(capsys):
    component = event("resOutputsEvent", "create", "pushtrain:store:ModelStore", custom=False)
    provider = event("resOutputsEvent", "create", "pulumi:providers:aws")

    assert lines(capsys, component, provider) == []


def test_a_replacement_is_told_once(capsys):
    ops = ("create-replacement", "replace", "delete-replaced")
    told = lines(capsys, *(event("resOutputsEvent", op) for op in ops))

    assert told == ["replace aws:s3:Bucket store 0.0 s"]


def test_a_failure_is_told_where_it_happens(capsys):
    told = lines(capsys, event("resourcePreEvent", "create"), event("resOpFailedEvent", "create"))

    assert told == ["failed aws:s3:Bucket store"]


def test_a_warning_is_told_once_and_errors_are_left_to_the_end(capsys):
    warning = diagnostic("warning", "old [plugin]\n")
    told = lines(capsys, warning, warning, diagnostic("error", "broken"), diagnostic("debug", "x"))

    assert told == ["warning old [plugin]"]


def test_passing_lines_of_a_build_are_not_kept(capsys):
    assert lines(capsys, diagnostic("info", "Step 1/3", ephemeral=True)) == []


def change(op, name, **details):
    typ = "aws:s3/bucket:Bucket"
    return Change(urn=f"{PREFIX}{typ}::{name}", type=typ, op=op, **details)


def result(*changes):
    return Preview(changes=changes, counts={"same": 9, "create": 1}, seconds=3)


def test_summary_counts_and_names_what_was_replaced():
    told = progress.summary(
        result(change("create", "a"), change("replace", "b", forced_by=("x",), properties=("x",)))
    )

    assert told == ("1 created, 1 replaced, 9 unchanged in 3 s\n  replace  aws:s3:Bucket b  (x)")


def test_summary_of_a_preview_speaks_of_what_is_to_come():
    told = progress.summary(result(change("delete", "a")), planned=True)

    assert told == "1 to delete, 9 unchanged in 3 s\n  delete   aws:s3:Bucket a"


def test_json_has_all_of_a_change():
    (found,) = progress.changes_as_json([change("update", "a", properties=("tags",))])

    assert found["name"] == "a"
    assert found["op"] == "update"
    assert found["properties"] == ("tags",)
