"""Which runs use the `maxConcurrentRuns`: one small object, of whose two writers one wins."""

import json
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from botocore.exceptions import ClientError

from handler.store import LostRaceError, write_if
from handler.wiring import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_KEY = "slots.json"
_WRITES = 20
_LONGEST_PAUSE_SECONDS = 0.2


class SlotsError(ValueError):
    """The object that holds the slots cannot be read."""


class Slots:
    """The runs that may have a task at the same time.

    A run keeps its slot from before its first task until it is over, also while it waits for
    capacity: that lacks to the others too.
    """

    def __init__(self, s3: "S3Client", bucket: str, most: int) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._most = most

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._most > 0

    def holders(self) -> list[str]:
        """Return the runs that hold a slot."""
        return self._read()[0]

    def take(self, run: str) -> bool:
        """Give the run a slot, unless it has one; say False if none is free."""
        if not self.limited:
            return True
        return run in self._change(
            lambda holders: (
                holders if run in holders or len(holders) >= self._most else [*holders, run]
            )
        )

    def free(self, run: str) -> None:
        """Take the run's slot from it, if it has one."""
        if self.limited:
            self._change(lambda holders: [holder for holder in holders if holder != run])

    def _change(self, transition: Callable[[list[str]], list[str]]) -> list[str]:
        for _ in range(_WRITES):
            holders, etag = self._read()
            changed = transition(holders)
            if changed == holders or self._write(changed, etag):
                return changed
            time.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311 (no secret)
        raise LostRaceError(f"{self._place()} was changed by another each of {_WRITES} times")

    def _read(self) -> tuple[list[str], str | None]:
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=_KEY)
        except ClientError as error:
            if error_code(error) == "NoSuchKey":
                return [], None
            raise
        body = answer["Body"].read()
        try:
            document: object = json.loads(body)
        except (RecursionError, ValueError) as error:
            raise self._unreadable(body) from error
        if not isinstance(document, list):
            raise self._unreadable(body)
        holders = cast("list[object]", document)
        if not all(isinstance(holder, str) for holder in holders):
            raise self._unreadable(body)
        return cast("list[str]", holders), answer["ETag"]

    def _unreadable(self, body: bytes) -> SlotsError:
        return SlotsError(
            f"{self._place()} must be a JSON array of runs, got {body[:80]!r}: delete it"
        )

    def _write(self, holders: list[str], etag: str | None) -> bool:
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        return write_if(self._s3, self._bucket, _KEY, json.dumps(holders).encode(), condition)

    def _place(self) -> str:
        return f"s3://{self._bucket}/{_KEY}"
