"""The commands of runs on a deployed stack: what they start, stop, repair and see is real.

One story, told in the order of its tests; the trainer is a script, so that each run takes a second.
"""

import json
import time
import types
from typing import Any

import pytest

from automation import cli, redrive
from automation.commands import shared
from automation.deployed import Deployed
from localcloud import Cloud
from localcloud.deployer import deploy
from localcloud.image import build

pytestmark = pytest.mark.localcloud

DOCKERFILE = 'FROM python:3.13-slim\nCOPY train.py /\nENTRYPOINT ["python", "/train.py"]\n'
TRAINER = """
import hashlib, json, os, sys, time
import boto3

e = os.environ
mode = e.get("PUSHTRAIN_PARAM_MODE", "learn")
print("trains to", mode, flush=True)
while mode == "hang":
    time.sleep(0.1)
if mode == "fail":
    sys.exit("no such mode")
s3, bucket, prefix = boto3.client("s3"), e["PUSHTRAIN_BUCKET"], e["PUSHTRAIN_RUN_PREFIX"]
model = b"a model"
entry = {"size": len(model), "sha256": hashlib.sha256(model).hexdigest()}
manifest = {
    "version": 1,
    "run": e["PUSHTRAIN_RUN"],
    "files": {"model.bin": entry},
    "model": "model.bin",
    "metrics": {"accuracy": float(e["PUSHTRAIN_PARAM_ACCURACY"])},
    "data": {"sha256": "d" * 64, "test_sha256": "d" * 64, "classes": 2, "train": 1, "test": 1},
}
s3.put_object(Bucket=bucket, Key=prefix + "model.bin", Body=model)
s3.put_object(Bucket=bucket, Key=prefix + "manifest.json", Body=json.dumps(manifest).encode())
"""


class Loop:
    """A stack whose first image was pushed with it, and words for what a user does."""

    def __init__(self, cloud, root, folder):
        self.cloud = cloud
        self.folder = folder
        (folder / "Dockerfile").write_text(DOCKERFILE)
        (folder / "train.py").write_text(TRAINER)
        settings = {"image.context": str(folder), "parameters": ["accuracy=0.5"]}
        self.deployment = deploy(cloud, root, "dev", settings)
        self.outputs = self.deployment.outputs
        self.first = self.run_of(self.outputs["image"].rpartition("@")[2])
        self.capsys: Any = None

    def client(self, service, **_options):
        return self.cloud.client(service)

    def deployed(self, name, _project):
        session = types.SimpleNamespace(client=self.client)
        return Deployed(stack=name, outputs=self.outputs, session=session)

    @staticmethod
    def run_of(digest):
        return digest.removeprefix("sha256:")[:12]

    def push(self, tag, mark):
        """Push an image that differs by the mark, as Docker would; give its run."""
        (self.folder / "train.py").write_text(f"{TRAINER}\n# {mark}\n")
        with self.cloud.registry() as registry:
            digest = registry.push(build(self.folder), self.outputs["repositoryUrl"], tag)
        return self.run_of(digest)

    def pushtrain(self, *words, expect=0):
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([*words, "-s", "dev"])
        out, err = self.capsys.readouterr()
        assert (end.value.code or 0) == expect, f"{words}: {out}\n{err}"
        return out, err

    def until_it_says(self, run, text):
        ends = time.monotonic() + 120
        while text not in self.pushtrain("logs", run)[0]:
            assert time.monotonic() < ends, f"{run} does not say {text}"
            time.sleep(0.1)

    def record(self, run):
        return json.loads(self.pushtrain("runs", "show", run, "--json")[0])["record"]


@pytest.fixture(scope="module")
def story(root, tmp_path_factory):
    with Cloud() as cloud:
        yield Loop(cloud, root, tmp_path_factory.mktemp("trainer"))


@pytest.fixture
def loop(story, capsys, monkeypatch):
    monkeypatch.setattr(shared, "deployed", story.deployed)
    monkeypatch.setattr(redrive, "WAIT_SECONDS", 0)  # this SQS is one machine
    story.capsys = capsys
    return story


def test_data_that_is_pushed_starts_the_run_that_waits_for_it(loop, tmp_path):
    loop.cloud.settle()
    waiting, _ = loop.pushtrain("runs")
    (tmp_path / "data.bin").write_bytes(b"data")
    out, _ = loop.pushtrain("data", "push", str(tmp_path / "data.bin"), "--unchecked")
    lines, _ = loop.pushtrain("logs", loop.first, "-f")
    row = json.loads(loop.pushtrain("runs", "--json")[0])

    assert "WAITING (data)" in waiting
    assert f"run {loop.first}: STARTED" in out
    assert lines == "trains to learn\n"
    assert [(each["run"], each["state"], each["accuracy"]) for each in row] == [
        (loop.first, "SUCCEEDED", 0.5)
    ]
    assert row[0]["cost"]["usd"] > 0


def test_the_first_model_is_the_champion_and_its_story_says_so(loop):
    loop.cloud.settle()
    out, _ = loop.pushtrain("runs", "show", loop.first)

    assert "the champion" in out
    assert "promoted" in out
    assert "model.bin  7 bytes" in out


def test_train_repeats_an_image_with_other_parameters(loop):
    tag = loop.record(loop.first)["image"]["tags"][0]
    out, _ = loop.pushtrain("train", tag, "--set", "accuracy=0.4", "--follow")
    run = out.strip()
    record = loop.record(run)

    assert run == f"{loop.first}-2"
    assert record["parameters"] == {"accuracy": "0.4"}
    assert record["repeat"]["of"] == loop.first
    assert record["metrics"] == {"accuracy": 0.4}
    assert record["promotion"]["decision"] == "kept"


def test_promote_overrides_the_metric(loop):
    loop.cloud.settle()
    out, _ = loop.pushtrain("promote", f"{loop.first}-2", "--reason", "smaller")
    again, _ = loop.pushtrain("promote", loop.first)

    assert out == f"promoted: run {loop.first}-2, before it {loop.first}\n"
    assert again == f"promoted: run {loop.first}, before it {loop.first}-2\n"


def test_a_run_that_hangs_is_cancelled_for_good(loop):
    run = loop.pushtrain("train", loop.first, "--set", "mode=hang")[0].strip()
    loop.until_it_says(run, "trains to hang")
    loop.pushtrain("cancel", run, "--reason", "wrong data")
    _, err = loop.pushtrain("logs", run, "-f", expect=1)
    loop.cloud.settle()
    record = loop.record(run)

    assert f"error: run {run} CANCELLED" in err
    assert record["state"] == "CANCELLED"
    assert record["stop"]["reason"] == "wrong data"
    assert len(record["attempts"]) == 1
    loop.pushtrain("cancel", run)  # once more changes nothing
    assert loop.record(run) == record


def test_params_hold_for_the_next_push_and_a_failure_is_explained(loop):
    loop.pushtrain("params", "set", "mode=fail")
    run = loop.push("g-bad", "one that fails")
    loop.cloud.settle()
    rows, err = loop.pushtrain("runs", "--state", "FAILED")
    told, steps = loop.pushtrain("runs", "show", "g-bad")
    loop.pushtrain("params", "unset", "mode")

    assert rows.splitlines()[1].startswith(run)
    assert f"why: pushtrain runs show {run} -s dev" in err
    assert "no such mode" in told
    assert "mode=fail" in told
    assert "pushtrain train g-bad -s dev" in steps


def test_a_push_that_its_handler_failed_on_is_redriven_once_the_cause_is_gone(loop):
    ssm, name = loop.client("ssm"), loop.outputs["trainingParameter"]
    ssm.put_parameter(Name=name, Value="epochs: 5", Type="String", Overwrite=True)
    run = loop.push("g-lost", "one whose push fails")
    loop.cloud.settle()
    listed, _ = loop.pushtrain("redrive", "--dry-run")
    failed, _ = loop.pushtrain("redrive", expect=1)
    ssm.delete_parameter(Name=name)
    redriven, err = loop.pushtrain("redrive")
    loop.pushtrain("logs", run, "-f")
    _, empty = loop.pushtrain("redrive")

    assert "push, failed: push of " in listed
    assert "g-lost" in listed
    assert "must be JSON, got 'epochs: 5'" in failed
    assert f"now: started {run} STARTED" in redriven
    assert err == "1 redriven, 0 failed again\n"
    assert loop.record("g-lost")["state"] == "SUCCEEDED"
    assert empty == "no event has failed\n"


def test_all_runs_are_in_the_table_and_each_has_a_story(loop):
    loop.cloud.settle()
    rows = json.loads(loop.pushtrain("runs", "--json")[0])

    assert sorted(each["state"] for each in rows) == [
        *("CANCELLED", "FAILED"),
        *("SUCCEEDED", "SUCCEEDED", "SUCCEEDED"),
    ]
    for each in rows:
        out, _ = loop.pushtrain("runs", "show", each["run"])
        assert each["state"] in out
        assert "notice" in out
