"""Trainers that are not ours: pushed, trained and observed on the embedded cloud."""

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import joblib
import jsonschema
import pytest

from automation.digits import write_digits
from localcloud import Cloud
from localcloud.deployer import deploy
from localcloud.image import build

pytestmark = pytest.mark.localcloud

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCHEMA = json.loads((ROOT / "docs/run-record.schema.json").read_text("utf-8"))


class Stack:
    """A deployed stack with the digits as its data."""

    def __init__(self, cloud, outputs):
        self.cloud = cloud
        self.outputs = outputs
        self.s3 = cloud.client("s3")

    def push(self, context, tag):
        with self.cloud.registry() as registry:
            return registry.push(build(context), self.outputs["repositoryUrl"], tag)

    def get(self, digest, name):
        key = f"runs/{digest.rpartition(':')[2][:12]}/{name}"
        return self.s3.get_object(Bucket=self.outputs["bucket"], Key=key)["Body"].read()

    def end(self, digest):
        """Wait for a run's end, and give its record."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            try:
                record = json.loads(self.get(digest, "run.json"))
            except self.s3.exceptions.NoSuchKey:
                record = {"state": None}
            if record["state"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
                return record
            time.sleep(0.1)
        return pytest.fail("no end after 240 s")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    write_digits(folder / "digits.zip")
    with Cloud() as cloud:
        given = {
            "data.path": str(folder / "digits.zip"),
            "image.context": str(EXAMPLES / "sklearn"),
        }
        yield Stack(cloud, deploy(cloud, ROOT, "dev", given).outputs)


def test_scikit_learn_leaves_a_model_and_its_accuracy(stack):
    digest = stack.outputs["image"]
    record = stack.end(digest)

    assert record["state"] == "SUCCEEDED", record["diagnosis"]
    assert record["metrics"]["accuracy"] > 0.9
    manifest = json.loads(stack.get(digest, "manifest.json"))
    jsonschema.validate(manifest, {**SCHEMA, "$ref": "#/$defs/manifest"})
    model = joblib.load(io.BytesIO(stack.get(digest, manifest["model"])))
    assert list(model.classes_) == list("0123456789")


@pytest.mark.skipif(shutil.which("unzip") is None, reason="examples/shell wants unzip here")
def test_shell_script_leaves_plain_files_and_a_manifest_is_written_for_it(stack):
    digest = stack.push(EXAMPLES / "shell", "g-shell")
    record = stack.end(digest)

    assert record["state"] == "SUCCEEDED", record["diagnosis"]
    assert set(json.loads(stack.get(digest, "manifest.json"))["files"]) == {
        "metrics.json",
        "model.txt",
    }
    # Of the digits' test images, 35 of 360 are of the class with the most training images.
    assert stack.get(digest, "model.txt").decode().strip() in set("0123456789")
    assert 0.05 < json.loads(stack.get(digest, "metrics.json"))["accuracy"] < 0.2


def test_exit_0_with_nothing_published_has_failed(stack, tmp_path):
    (tmp_path / "Dockerfile").write_text('FROM alpine:3\nENTRYPOINT ["sh", "-c", "echo done"]\n')
    record = stack.end(stack.push(tmp_path, "g-nothing"))

    assert record["state"] == "FAILED"
    assert record["attempts"][-1]["exit_code"] == 0
    said = record["diagnosis"]["summary"] + record["diagnosis"]["detail"]
    assert "published" in said
    assert record["diagnosis"]["action"]


def test_what_the_examples_start_from_is_pinned_and_lint_is_content():
    for tool, files in (
        ("hadolint", EXAMPLES.glob("*/Dockerfile")),
        ("shellcheck", EXAMPLES.glob("*/*.sh")),
    ):
        command = [str(Path(sys.executable).with_name(tool)), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout == ""


def test_the_one_of_scikit_learn_has_40_lines():
    text = (EXAMPLES / "sklearn/train.py").read_text("utf-8")
    code = [line for line in text.splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 40
