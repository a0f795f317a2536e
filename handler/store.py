"""The run records in the stack's bucket: of two writers one wins, and the other reads again."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from handler.runs import VERSION, Run, prefix
from handler.wiring import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# 409: S3 met another conditional write of this object while it judged ours.
LOST_RACES = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
"""What S3 answers to a conditional write that came second."""
_OPEN = "open/"
_WRITES = 10


class RecordError(ValueError):
    """A run record that this code cannot read."""


class LostRaceError(RuntimeError):
    """Another writer was faster each time; the next delivery goes on."""


def write_if(  # noqa: PLR0913 (what S3 wants to know of an object)
    s3: "S3Client",
    bucket: str,
    key: str,
    body: bytes,
    condition: dict[str, str],
    *,
    lost: frozenset[str] = LOST_RACES,
) -> bool:
    """Write a JSON object if `IfMatch` or `IfNoneMatch` holds; say False to who came second."""
    try:
        s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=body,
            ContentType="application/json",
            **cast("Any", condition),
        )
    except ClientError as error:
        if error_code(error) in lost:
            return False
        raise
    return True


class RunStore:
    """The records in the stack's bucket."""

    def __init__(self, s3: "S3Client", bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def find(self, run: str) -> Run | None:
        """Return the run's record, or None if nobody claimed it."""
        found = self._read(run)
        return found[0] if found else None

    def claim(self, run: Run) -> Run:
        """Create the record, or return the one of whoever was faster.

        The mark comes first: a run that is not over is then always among the open ones.
        """
        self._s3.put_object(Bucket=self._bucket, Key=f"{_OPEN}{run['run']}", Body=b"")
        for _ in range(_WRITES):
            if self._write(run, IfNoneMatch="*"):
                return run
            if found := self.find(run["run"]):
                return found
        raise LostRaceError(f"{self._place(run['run'])} could be neither created nor read")

    def change(self, run: str, transition: Callable[[Run], Run]) -> Run:
        """Apply the transition to the newest record, again after each lost race."""
        for _ in range(_WRITES):
            found = self._read(run)
            if not found:
                raise RecordError(f"{self._place(run)} must exist, got nothing: it was deleted")
            record, etag = found
            changed = transition(record)
            if changed is record or self._write(changed, IfMatch=etag):
                return changed
        raise LostRaceError(f"{self._place(run)} was changed by another each of {_WRITES} times")

    def open_runs(self, beginning: str = "") -> dict[str, datetime]:
        """Return the marked runs whose names begin so, and when each was marked."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{_OPEN}{beginning}"
        )
        now = datetime.now(UTC)
        return {
            entry.get("Key", "").removeprefix(_OPEN): entry.get("LastModified", now)
            for page in pages
            for entry in page.get("Contents", [])
        }

    def unmark(self, run: str) -> None:
        """Take the run from the open ones: its end is on record and told."""
        self._s3.delete_object(Bucket=self._bucket, Key=f"{_OPEN}{run}")

    def _read(self, run: str) -> tuple[Run, str] | None:
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=f"{prefix(run)}run.json")
        except ClientError as error:
            if error_code(error) == "NoSuchKey":
                return None
            raise
        return self._parse(run, answer["Body"].read()), answer["ETag"]

    def _parse(self, run: str, body: bytes) -> Run:
        place = self._place(run)
        try:
            document: object = json.loads(body)
        except (RecursionError, ValueError) as error:
            raise RecordError(
                f"{place} must be JSON, got {body[:80]!r}: restore its version before"
            ) from error
        record = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        version = record.get("version")
        if version != VERSION:
            raise RecordError(
                f"{place} must have version {VERSION}, got {version!r:.80}: "
                "deploy the pushtrain that wrote it"
            )
        if missing := sorted(Run.__required_keys__ - record.keys()):
            raise RecordError(f"{place} must have {', '.join(missing)}, got none")
        return cast("Run", record)

    def _write(self, run: Run, **condition: str) -> bool:
        body = json.dumps(run, indent=1, allow_nan=False).encode()
        return write_if(self._s3, self._bucket, f"{prefix(run['run'])}run.json", body, condition)

    def _place(self, run: str) -> str:
        return f"s3://{self._bucket}/{prefix(run)}run.json"
