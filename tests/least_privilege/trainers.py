"""Trainers at work in a bucket, and each call that they make of it: ours, and others'."""

import functools
import io
import json
import signal
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from tests.handler.conftest import BUCKET
from tests.least_privilege.access import Call
from tests.trainer.conftest import colours
from trainer.config import Job, TrainingConfig
from trainer.errors import AbsentError
from trainer.report.champion import find_champion
from trainer.stop import Stop
from trainer.storage import S3Prefix
from trainer.train import run

FIRST, SECOND, OTHER = "a" * 12, "b" * 12, "c" * 12
SMALL = TrainingConfig(epochs=1, widths=(8, 8), residual=(0, 1))
WARM = TrainingConfig(epochs=3, widths=(8, 8), residual=(0, 1), warm_start="champion")
IN_PARTS = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)


@dataclass
class Bucket:
    """As much of S3 as trainers call, behind a real boto3 client, listening."""

    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[int, bytes] = field(default_factory=dict)
    breaks: str = ""
    """An operation that fails."""
    made: list[Call] = field(default_factory=list)
    made_client: Any = None
    """One for all: it takes boto3 a quarter of a second to make."""

    def client(self, service: str = "s3") -> Any:
        """Return the client whose calls come here."""
        if self.made_client:
            return self.made_client
        session: Any = boto3.Session("AKIA", "secret", region_name="us-east-1")
        client = self.made_client = session.client(service)

        def call(operation: str, params: dict[str, Any]) -> Any:
            shape = client.meta.service_model.operation_model(operation).input_shape
            faults = ParamValidator().validate(params, shape)
            assert not faults.has_errors(), faults.generate_report()
            absent = operation in ("GetObject", "HeadObject") and params["Key"] not in self.objects
            made = Call(service=service, operation=operation, params=dict(params), absent=absent)
            self.made.append(made)
            if absent or operation == self.breaks:
                code = "NoSuchKey" if absent else "InternalError"
                raise ClientError({"Error": {"Code": code}}, operation)
            return getattr(self, f"_{operation}")(params)

        client._make_api_call = call
        return client

    def read(self) -> set[str]:
        """Return the keys that were there, and were read."""
        return {
            call.params["Key"]
            for call in self.made
            if call.operation == "GetObject" and not call.absent
        }

    def _PutObject(self, params: dict[str, Any]) -> Any:  # noqa: N802 - the API's name
        body = params["Body"]
        self.objects[params["Key"]] = body if isinstance(body, bytes) else body.read()
        return {"ETag": "e"}

    def _GetObject(self, params: dict[str, Any]) -> Any:  # noqa: N802 - the API's name
        return {"Body": io.BytesIO(self.objects[params["Key"]]), "ETag": "e"}

    def _HeadObject(self, params: dict[str, Any]) -> Any:  # noqa: N802 - the API's name
        return {"ContentLength": len(self.objects[params["Key"]]), "ETag": "e"}

    def _CreateMultipartUpload(self, _params: Any) -> Any:  # noqa: N802 - the API's name
        return {"UploadId": "u"}

    def _UploadPart(self, params: dict[str, Any]) -> Any:  # noqa: N802 - the API's name
        self.parts[params["PartNumber"]] = params["Body"].read()
        return {"ETag": "e"}

    def _CompleteMultipartUpload(self, params: dict[str, Any]) -> Any:  # noqa: N802 - the API's name
        self.objects[params["Key"]] = b"".join(self.parts[at] for at in sorted(self.parts))
        return {}

    def _AbortMultipartUpload(self, _params: Any) -> Any:  # noqa: N802 - the API's name
        return {}


def record(folder: Path) -> list[Call]:
    """Let each kind of trainer do all that it can, and return the calls."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        for member, content in colours().items():
            written.writestr(member, content)
    bucket = Bucket({"data/dataset": archive.getvalue()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boto3, "client", bucket.client)
        _ours(bucket)
    _others(bucket, folder)
    return bucket.made


def _ours(bucket: Bucket) -> None:
    def train(name: str, config: TrainingConfig, stop: Stop | None = None) -> dict[str, Any]:
        run(
            Job(
                run=name,
                attempt=1,
                image_digest=f"sha256:{'0' * 64}",
                image_tag="g-1a2b3c4",
                bucket=BUCKET,
                data_key="data/dataset",
                data_version="v1",
                run_prefix=f"runs/{name}/",
                checkpoint_prefix=f"checkpoints/{name}/",
                champion_key="models/champion.json",
                metrics="dev",
                data_path=None,
                out=None,
            ),
            config,
            stop,
        )
        return json.loads(bucket.objects[f"runs/{name}/manifest.json"])

    manifest = train(FIRST, SMALL)
    champion = {
        "version": 1,
        "run": FIRST,
        "prefix": f"runs/{FIRST}/",
        "model": manifest["model"],
        "metric": "accuracy",
        "value": manifest["metrics"]["accuracy"],
        "data": manifest["data"],
    }
    bucket.objects["models/champion.json"] = json.dumps(champion).encode()
    # Each attempt of the second run is reclaimed after an epoch: the first starts from the
    # champion, the next one from what that left.
    for start in (f"runs/{FIRST}/{manifest['model']}", f"checkpoints/{SECOND}/checkpoint.pt"):
        reclaimed = Stop()
        reclaimed._signal = signal.SIGTERM
        with pytest.raises(SystemExit):
            train(SECOND, WARM, reclaimed)
        assert start in bucket.read()
    # What a report compares with; and what is absent is told from what is forbidden.
    compare = functools.partial(
        find_champion,
        S3Prefix(BUCKET, ""),
        "models/champion.json",
        test_sha256=manifest["data"]["test_sha256"],
        classes=("blue", "red"),
    )
    assert compare().figures
    del bucket.objects[f"runs/{FIRST}/metrics.json"]
    assert compare().note == "The champion left no figures of each class."
    del bucket.objects["data/dataset"]
    with pytest.raises(AbsentError):
        train(OTHER, SMALL)


def _others(bucket: Bucket, folder: Path) -> None:
    """Do what docs/contract.md says that any trainer may: as `aws s3 cp` does it, say."""
    bucket.objects["data/dataset"] = b"data"
    client, large = bucket.client(), folder / "large.bin"
    client.download_file(BUCKET, f"runs/{FIRST}/manifest.json", str(folder / "manifest.json"))
    # Without the data's version, which `aws s3 cp` has no option for.
    client.download_file(BUCKET, "data/dataset", str(folder / "copy"))
    large.write_bytes(b"x" * (6 << 20))
    keys = [
        f"runs/{OTHER}/large.bin",
        f"runs/{OTHER}/manifest.json",
        f"checkpoints/{OTHER}/large.bin",
    ]
    for key in keys:
        client.upload_file(str(large), BUCKET, key, Config=IN_PARTS)
        assert bucket.objects[key] == large.read_bytes()
    bucket.breaks = "UploadPart"
    for key in keys:
        with pytest.raises(S3UploadFailedError):
            client.upload_file(str(large), BUCKET, key, Config=IN_PARTS)
    aborted = [call for call in bucket.made if call.operation == "AbortMultipartUpload"]
    assert len(aborted) == len(keys)
