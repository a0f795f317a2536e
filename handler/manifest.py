"""What a run published: read its manifest, hold every file against it."""

import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from handler import runs
from handler.runs import Run
from handler.wiring import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

VERSION = 1

_OWN = frozenset({"run.json", "manifest.json"})
_CHUNK = 1024 * 1024
_LONGEST = 8 * _CHUNK
"""Bytes of a manifest that are read; ours have a few thousand."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestError(ValueError):
    """What the run published is not what its manifest says."""


class Publication:
    """The objects under one run's prefix."""

    def __init__(self, s3: "S3Client", run: Run) -> None:
        self._s3 = s3
        self._run = run
        self._bucket = run["wiring"]["bucket"]
        self._prefix = runs.prefix(run["run"])

    def verify(self) -> dict[str, Any] | None:
        """Return the manifest once every file it names has been read, or None without one."""
        manifest = self._read()
        if manifest is None:
            return None
        for name, (size, sha256) in _files(manifest, self._run["run"]).items():
            found = self._open(name)
            if not found:
                raise ManifestError(f"{name} must be there, got nothing")
            if found["ContentLength"] != size:
                raise ManifestError(f"{name} must have {size} bytes, got {found['ContentLength']}")
            if (actual := _digest(found)) != sha256:
                raise ManifestError(f"{name} must have SHA-256 {sha256}, got {actual}")
        return manifest

    def adopt(self, attempt: int) -> bool:
        """Write a manifest for a trainer that only left files; without any, say False."""
        files: dict[str, dict[str, Any]] = {}
        for name in self._names():
            found = self._open(name)
            if found:
                files[name] = {"size": found["ContentLength"], "sha256": _digest(found)}
        if not files:
            return False
        manifest = {
            "version": VERSION,
            "run": self._run["run"],
            "attempt": attempt,
            "image_digest": self._run["image"]["digest"],
            "files": files,
        }
        try:
            self._s3.put_object(
                Bucket=self._bucket,
                Key=f"{self._prefix}manifest.json",
                Body=json.dumps(manifest, indent=1).encode(),
                ContentType="application/json",
                IfNoneMatch="*",
            )
        except ClientError as error:
            # Another delivery, or the trainer itself, was faster: that manifest is verified then.
            if error_code(error) != "PreconditionFailed":
                raise
        return True

    def _names(self) -> list[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        names = [
            entry.get("Key", "").removeprefix(self._prefix)
            for page in pages
            for entry in page.get("Contents", [])
        ]
        # The console makes a folder an object whose name ends in a slash.
        return [n for n in names if not n.endswith("/") and n not in _OWN | {"config.json", ""}]

    def _read(self) -> dict[str, Any] | None:
        found = self._open("manifest.json")
        if not found:
            return None
        if found["ContentLength"] > _LONGEST:
            raise ManifestError(
                f"manifest.json must be at most {_LONGEST} bytes, got {found['ContentLength']}"
            )
        body = found["Body"].read()
        try:
            manifest: object = json.loads(body)
        except (RecursionError, ValueError) as error:
            raise ManifestError(f"manifest.json must be JSON, got {body[:80]!r}") from error
        return _object(manifest, "manifest.json")

    def _open(self, name: str) -> "GetObjectOutputTypeDef | None":
        try:
            return self._s3.get_object(Bucket=self._bucket, Key=f"{self._prefix}{name}")
        except ClientError as error:
            if error_code(error) == "NoSuchKey":
                return None
            raise


def is_number(value: object) -> bool:
    """Say whether it is a number that floats can hold; JSON's true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def metrics_of(manifest: dict[str, Any]) -> dict[str, float]:
    """Return the manifest's metrics, those that are numbers."""
    metrics = manifest.get("metrics")
    if not isinstance(metrics, dict):
        return {}
    return {
        name: value
        for name, value in cast("dict[str, Any]", metrics).items()
        if type(value) is int or (isinstance(value, float) and math.isfinite(value))
    }


def size_of(manifest: dict[str, Any]) -> int:
    """Return the bytes of the files that a verified manifest names."""
    return sum(entry["size"] for entry in manifest["files"].values())


def _files(manifest: dict[str, Any], run: str) -> dict[str, tuple[int, str]]:
    version = manifest.get("version")
    if type(version) is not int or version != VERSION:
        raise ManifestError(f"manifest.json must have version {VERSION}, got {version!r:.80}")
    if manifest.get("run") != run:
        raise ManifestError(f"manifest.json must name run {run}, got {manifest.get('run')!r:.80}")
    files = _object(manifest.get("files"), "files in manifest.json")
    if not files:
        raise ManifestError("manifest.json must name at least one file, got none")
    return {name: _file(name, entry) for name, entry in files.items()}


def _file(name: str, entry: object) -> tuple[int, str]:
    short = f"{name!r:.200}"
    if name in _OWN or "\\" in name or any(part in {"", ".", ".."} for part in name.split("/")):
        raise ManifestError(
            f"a file's name must be a relative path to something published, got {short}"
        )
    fields = _object(entry, short)
    size, sha256 = fields.get("size"), fields.get("sha256")
    if type(size) is not int or size < 0:
        raise ManifestError(f"{short} must have a size of 0 or more bytes, got {size!r:.80}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ManifestError(f"{short} must have a SHA-256 of 64 hex digits, got {sha256!r:.80}")
    return size, sha256


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ManifestError(f"{what} must be a JSON object, got {value!r:.80}")
    return cast("dict[str, Any]", value)


def _digest(found: "GetObjectOutputTypeDef") -> str:
    digest = hashlib.sha256()
    for chunk in found["Body"].iter_chunks(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
