"""The runs of a stack: reading their records, and finding the one that is meant."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

from botocore.exceptions import ClientError

from automation.aws import code_of, told_as
from automation.deployed import Deployed
from automation.errors import StackError
from automation.follow import Record

NEWEST_VERSION: Final = 1
"""Of the record's format, docs/run-record.md."""
READERS: Final = 32
RUN_NAME: Final = re.compile(r"[0-9a-f]{12}(-[1-9][0-9]*)?")
RUN_PREFIX: Final = re.compile(r"[0-9a-f]{1,12}|[0-9a-f]{12}-[0-9]*")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
MOST_NAMED: Final = 10
"""Of runs in an error, so that it can still be read."""

Tell = Callable[[str], object]


class RunError(StackError):
    """A run that is not there, is not the only one meant, or cannot be read."""


class Records:
    """The run records in a stack's bucket; nothing here writes."""

    def __init__(self, deployed: Deployed) -> None:
        self.bucket = deployed.output("bucket")
        self._s3 = deployed.client("s3", max_pool_connections=READERS)
        self._deployed = deployed

    def names(self, prefix: str = "") -> list[str]:
        """Name the runs that begin so, by one listing of folders."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"runs/{prefix}", Delimiter="/"
        )
        with told_as(RunError):
            return [
                folder["Prefix"].split("/")[1]
                for page in pages
                for folder in page.get("CommonPrefixes", ())
            ]

    def open_names(self) -> list[str]:
        """Name the runs that have not ended: each has a marker until its end is told."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix="open/"
        )
        with told_as(RunError):
            return [
                entry["Key"].removeprefix("open/")
                for page in pages
                for entry in page.get("Contents", ())
            ]

    def read(self, run: str) -> Record | None:
        """Give a run's record, None where there is none."""
        body = self.document(f"runs/{run}/run.json")
        return None if body is None else _checked(run, body)

    def read_all(
        self, names: Sequence[str], on_read: Callable[[], object] = lambda: None
    ) -> tuple[list[Record], list[RunError]]:
        """Give the records of these runs, the newest first, and what is wrong with the others."""
        records: list[Record] = []
        faults: list[RunError] = []
        with ThreadPoolExecutor(READERS) as pool:
            for found in pool.map(self._read_or_fault, names):
                on_read()
                if isinstance(found, RunError):
                    faults.append(found)
                elif found is not None:
                    records.append(found)
        return sorted(records, key=lambda each: each["created_at"], reverse=True), faults

    def find(self, name: str, tell: Tell = lambda _: None) -> Record:
        """Give the run of this id, unique prefix of one, digest or tag; RunError where none is it.

        Of several runs with a tag it is the newest, and `tell` hears so.
        """
        if RUN_NAME.fullmatch(name) and (record := self.read(name)):
            return record
        if RUN_PREFIX.fullmatch(name) and (names := self.names(name)):
            return self._only(name, names)
        digest = DIGEST.fullmatch(name)
        names = self.names(name[7:19] if digest else "")
        records, faults = self.read_all(names)
        found = [
            each
            for each in records
            if (each["image"]["digest"] == name if digest else name in each["image"]["tags"])
        ]
        if not found:
            raise RunError(self._not_found(name, names, faults))
        if len(found) > 1:
            others = ", ".join(each["run"] for each in found[1 : MOST_NAMED + 1])
            tell(f"{name} is {found[0]['run']}, the newest of its runs; the others: {others}")
        return found[0]

    def manifest(self, run: str) -> dict[str, Any] | None:
        """Give what a run says that it has published, None where it published nothing."""
        return self.parsed(f"runs/{run}/manifest.json")

    def champion(self) -> dict[str, Any] | None:
        """Give the document that names the best model, None while there is none."""
        return self.parsed("models/champion.json")

    def document(self, key: str) -> bytes | None:
        """Give an object's bytes, None where there is none."""
        with told_as(RunError):
            try:
                return self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            except ClientError as error:
                if code_of(error) in {"NoSuchKey", "404"}:
                    return None
                raise

    def parsed(self, key: str) -> dict[str, Any] | None:
        """Give the JSON object that lies there, None where there is none."""
        body = self.document(key)
        if body is None:
            return None
        try:
            found: object = json.loads(body)
        except ValueError as error:
            raise UnreadableError(f"{key} must be JSON, got {body[:60]!r}") from error
        return cast("dict[str, Any]", found) if isinstance(found, dict) else None

    def _read_or_fault(self, run: str) -> Record | RunError | None:
        try:
            return self.read(run)
        except UnreadableError as error:
            return error

    def _only(self, prefix: str, names: Sequence[str]) -> Record:
        if len(names) == 1:
            record = self.read(names[0])
            if record is None:
                raise RunError(f"run {names[0]} must have a record, got none: it was deleted")
            return record
        records, _ = self.read_all(names[:MOST_NAMED])
        known = [f"{each['run']} ({each['state']}, {each['image']['tags'][0]})" for each in records]
        raise RunError(
            f"{prefix} must be one run, got {_listed(known, len(names))}: give more of it"
        )

    def _not_found(self, name: str, names: Sequence[str], faults: Sequence[RunError]) -> str:
        list_them = self._deployed.command("runs")
        hidden = f"; {len(faults)} records could not be read" if faults else ""
        known = f"{len(names)} runs" if names else "no runs"
        return (
            f"{name!r} must be a run's id, a prefix of one, or a tag, got none of these among "
            f"{known}{hidden}: {list_them}"
        )


class UnreadableError(RunError):
    """A record that this pushtrain cannot read."""


def _listed(known: Iterable[str], total: int) -> str:
    shown = list(known)
    more = f" and {total - len(shown)} more" if total > len(shown) else ""
    return ", ".join(shown) + more


def _checked(run: str, body: bytes) -> Record:
    place = f"runs/{run}/run.json"
    try:
        document: object = json.loads(body)
    except (RecursionError, ValueError) as error:
        raise UnreadableError(
            f"{place} must be JSON, got {body[:60]!r}: restore its version before"
        ) from error
    record = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    version = record.get("version")
    if version != NEWEST_VERSION:
        raise UnreadableError(
            f"{place} must have version {NEWEST_VERSION}, got {version!r:.80}: it was written by "
            "a newer pushtrain: update yours"
        )
    needed = ("run", "state", "image", "created_at", "attempts", "wiring", "parameters")
    if missing := [field for field in needed if field not in record]:
        raise UnreadableError(f"{place} must have {', '.join(missing)}, got none")
    return record
