"""What a run leaves behind, and in which order."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import boto3
import jsonschema
import pytest
from botocore.exceptions import NoCredentialsError
from botocore.stub import Stubber

import trainer.train
from trainer.config import TrainingConfig
from trainer.data import load
from trainer.errors import StorageError
from trainer.publish import commit
from trainer.storage import Folder, S3Prefix
from trainer.train import run

PREFIX = "runs/0123456789ab/"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/run-record.schema.json").read_text("utf-8"))
QUICK = TrainingConfig(epochs=2)


@pytest.fixture
def s3_job(make_job, fake_s3, colour_zip, monkeypatch):
    """A job as on AWS, whose bucket holds the colours."""
    fake_s3.objects["bucket", "data/dataset"] = colour_zip.read_bytes()
    monkeypatch.setattr(boto3, "client", lambda _: fake_s3)
    return make_job(
        bucket="bucket", data_key="data/dataset", data_version="v7", run_prefix=PREFIX, out=None
    )


def test_run_reads_its_version_and_publishes_the_manifest_last(s3_job, fake_s3, colour_zip):
    run(s3_job, QUICK)

    manifest = json.loads(fake_s3.objects["bucket", f"{PREFIX}manifest.json"])
    jsonschema.validate(manifest, {**SCHEMA, "$ref": "#/$defs/manifest"})
    assert fake_s3.asked == [("bucket", "data/dataset", {"VersionId": "v7"})]
    assert fake_s3.order[0] == f"{PREFIX}config.json"
    assert fake_s3.order.index(f"{PREFIX}manifest.json") == len(fake_s3.order) - 1
    published = {key.removeprefix(PREFIX) for _, key in fake_s3.objects if key.startswith(PREFIX)}
    assert published == {*manifest["files"], "manifest.json"}
    for name, facts in manifest["files"].items():
        body = fake_s3.objects["bucket", PREFIX + name]
        assert facts == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert (manifest["git_sha"], manifest["dirty"]) == ("1a2b3c4", False)
    assert manifest["data"]["test_sha256"] == load(colour_zip).test_sha256
    assert set(manifest["metrics"]) == {"accuracy", "loss"}
    assert manifest["lineage"] == {"warm_start": None, "resumed": None}
    assert manifest["data"]["sha256"] == hashlib.sha256(colour_zip.read_bytes()).hexdigest()
    assert manifest["data"]["test_sha256"] == load(colour_zip).test_sha256
    assert manifest["data"]["classes"] == ["blue", "red"]
    assert (manifest["data"]["train"], manifest["data"]["test"]) == (24, 8)
    assert manifest["config"]["epochs"] == 2
    assert set(manifest["seconds"]) == {"download", "decode", "train", "evaluate", "publish"}
    assert {name.split(".")[0] for name in published} == {
        "config",
        "events",
        "manifest",
        "metrics",
        "model",
        "report",
    }
    assert fake_s3.kinds[f"{PREFIX}report.html"] == "text/html"
    assert fake_s3.kinds[f"{PREFIX}metrics.json"] == "application/json"
    assert len(fake_s3.objects["bucket", f"{PREFIX}metrics.jsonl"].splitlines()) == 2


def test_no_failed_write_leaves_a_manifest_and_a_retry_publishes_the_same(
    s3_job, fake_s3, monkeypatch
):
    run(s3_job, QUICK)
    writes = [key for key in fake_s3.order if key.startswith(PREFIX)]
    model = fake_s3.objects["bucket", f"{PREFIX}model.safetensors"]
    plain = fake_s3.put_object
    for failing in range(len(writes)):
        fake_s3.order.clear()
        for key in [key for key in fake_s3.objects if key[1].startswith((PREFIX, "checkpoints/"))]:
            del fake_s3.objects[key]

        def put(failing=failing, **request):
            done = [key for key in fake_s3.order if key.startswith(PREFIX)]
            if len(done) == failing and request["Key"].startswith(PREFIX):
                raise NoCredentialsError
            plain(**request)

        monkeypatch.setattr(fake_s3, "put_object", put)
        with pytest.raises(
            StorageError, match=r"cannot write s3://bucket/runs/.*: no AWS credentials"
        ):
            run(s3_job, QUICK)

        assert ("bucket", f"{PREFIX}manifest.json") not in fake_s3.objects

        monkeypatch.setattr(fake_s3, "put_object", plain)
        run(replace(s3_job, attempt=2), QUICK)

        manifest = json.loads(fake_s3.objects["bucket", f"{PREFIX}manifest.json"])
        assert {*manifest["files"]} >= {"config.json", "metrics.jsonl", "model.safetensors"}
        assert fake_s3.objects["bucket", f"{PREFIX}model.safetensors"] == model


def test_training_waits_for_the_proof_of_writing(s3_job, fake_s3, monkeypatch):
    def refuse(**_):
        raise NoCredentialsError

    monkeypatch.setattr(fake_s3, "put_object", refuse)
    monkeypatch.setattr(trainer.train, "train", lambda *_: pytest.fail("trained"))

    with pytest.raises(
        StorageError, match=r"cannot write s3://bucket/runs/0123456789ab/config\.json"
    ):
        run(s3_job, QUICK)


@pytest.fixture
def stubbed():
    client = boto3.client(
        "s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    with Stubber(client) as stub:
        yield client, stub


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "AccessDenied",
            r"cannot write s3://bucket/runs/r/x: the credentials must allow it \(AccessD",
        ),
        ("NoSuchBucket", r"cannot write s3://bucket/runs/r/x: there is no such bucket"),
        ("SlowDown", r"cannot write s3://bucket/runs/r/x: An error occurred \(SlowDown\)"),
    ],
)
def test_refused_write_names_bucket_and_key(stubbed, code, message):
    client, stub = stubbed
    stub.add_client_error("put_object", code)

    with pytest.raises(StorageError, match=message):
        S3Prefix("bucket", "runs/r/", client).put("x", b"")


@pytest.mark.parametrize(("code", "hint"), [("403", "must allow it"), ("404", "no such object")])
def test_refused_download_names_bucket_key_and_version(stubbed, tmp_path, code, hint):
    client, stub = stubbed
    stub.add_client_error("head_object", code)

    with pytest.raises(
        StorageError, match=f"cannot read s3://bucket/data/dataset version v1: .*{hint}"
    ):
        S3Prefix("bucket", "", client).download("data/dataset", "v1", tmp_path / "x")


def test_folder_write_replaces_in_one_step(tmp_path):
    Folder(tmp_path).put("a/b", b"1")
    Folder(tmp_path).put("a/b", b"2")

    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert Folder(tmp_path).get("a/b") == b"2"


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError, match=r"cannot write .*file/x: "):
        Folder(tmp_path / "file").put("x", b"")


@pytest.mark.parametrize(
    ("tag", "sha", "dirty"),
    [
        ("g-1a2b3c4d5e6f", "1a2b3c4d5e6f", False),
        ("g-1a2b3c4d5e6f-dirty-0123abc", "1a2b3c4d5e6f", True),
        ("c-1a2b3c4", None, None),
        ("g-latest", None, None),
        (None, None, None),
    ],
)
def test_only_a_git_tag_names_a_commit(tag, sha, dirty):
    assert commit(tag) == {"git_sha": sha, "dirty": dirty}
