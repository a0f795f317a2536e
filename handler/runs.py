"""The run record: its transitions, which are pure, and its store, which lets one writer win."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from botocore.exceptions import ClientError

from handler.events import rfc3339
from handler.wiring import Data, Wiring, error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

State = Literal["WAITING", "CLAIMED", "STARTED", "SUCCEEDED", "FAILED", "CANCELLED"]
FINAL: frozenset[State] = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
VERSION = 1

_WRITES = 10


class RecordError(ValueError):
    """A run record that this code cannot read."""


class DigestClashError(ValueError):
    """Two images whose digests share the 12 digits that name a run."""


class LostRaceError(RuntimeError):
    """Another writer was faster each time; the next delivery goes on."""


class Image(TypedDict):
    """The image that the run trains."""

    repository: str
    uri: str
    digest: str
    tags: list[str]


class Waiting(TypedDict):
    """What a run waits for, and until when at least."""

    why: Literal["data", "capacity", "limit"]
    not_before: str | None


class Attempt(TypedDict):
    """One RunTask request and what came of it."""

    number: int
    request: dict[str, Any]
    task_arn: str | None
    failure: str | None
    requested_at: str
    started_at: str | None
    stopped_at: str | None
    exit_code: int | None
    stop_code: str | None
    stopped_reason: str | None
    log_stream: str | None


class Diagnosis(TypedDict):
    """How the run ended, in words, and what to do about it."""

    summary: str
    detail: str
    action: str


class Run(TypedDict):
    """One run record, as docs/run-record.md has it."""

    version: int
    run: str
    state: State
    image: Image
    created_at: str
    updated_at: str
    ended_at: str | None
    parameters: dict[str, str]
    data: Data | None
    wiring: Wiring
    waiting: Waiting | None
    attempts: list[Attempt]
    metrics: dict[str, float]
    diagnosis: Diagnosis | None


def now() -> str:
    """Return the time as a run record writes it."""
    return rfc3339(datetime.now(UTC))


def name_of(digest: str) -> str:
    """Return the name of the first run of that image."""
    return digest.removeprefix("sha256:")[:12]


def prefix(run: str) -> str:
    """Return where a run's objects lie."""
    return f"runs/{run}/"


# Each transition returns the record it was given, itself, where nothing is left for it to do.


def claimed(*, image: Image, parameters: dict[str, str], wiring: Wiring, data: Data | None) -> Run:
    """Return the first record of a run; without data it waits for them."""
    time = now()
    return {
        "version": VERSION,
        "run": name_of(image["digest"]),
        "state": "CLAIMED" if data else "WAITING",
        "image": image,
        "created_at": time,
        "updated_at": time,
        "ended_at": None,
        "parameters": parameters,
        "data": data,
        "wiring": wiring,
        "waiting": None if data else {"why": "data", "not_before": None},
        "attempts": [],
        "metrics": {},
        "diagnosis": None,
    }


def tagged(run: Run, tag: str) -> Run:
    """Add a tag that the image was pushed under, in any state."""
    if tag in run["image"]["tags"]:
        return run
    image: Image = {**run["image"], "tags": [*run["image"]["tags"], tag]}
    return {**run, "image": image, "updated_at": now()}


def supplied(run: Run, data: Data) -> Run:
    """Freeze the data that the run has waited for."""
    if run["data"]:
        return run
    return {**run, "state": "CLAIMED", "data": data, "waiting": None, "updated_at": now()}


def may_start(run: Run) -> bool:
    """Say whether a task of the run is still to be started."""
    return run["state"] in {"WAITING", "CLAIMED"}


def open_attempt(run: Run) -> Attempt | None:
    """Return the attempt whose request is to be sent, or sent again."""
    if not run["attempts"]:
        return None
    last = run["attempts"][-1]
    return None if last["failure"] or last["stopped_at"] else last


def attempted(run: Run, build: Callable[[Run, int], dict[str, Any]]) -> Run:
    """Open the next attempt with the request that is built for its number."""
    if not may_start(run) or open_attempt(run):
        return run
    number = len(run["attempts"]) + 1
    attempt: Attempt = {
        "number": number,
        "request": build(run, number),
        "task_arn": None,
        "failure": None,
        "requested_at": now(),
        "started_at": None,
        "stopped_at": None,
        "exit_code": None,
        "stop_code": None,
        "stopped_reason": None,
        "log_stream": None,
    }
    return {
        **run,
        "state": "CLAIMED",
        "waiting": None,
        "attempts": [*run["attempts"], attempt],
        "updated_at": now(),
    }


def not_placed(run: Run, number: int, failure: str) -> Run:
    """Close an attempt that no task came of, unless another delivery had more luck with it."""
    attempt = run["attempts"][number - 1]
    if not may_start(run) or attempt["task_arn"] or attempt["failure"]:
        return run
    return _with_attempt(run, {**attempt, "failure": failure})


def started(run: Run, number: int, task_arn: str) -> Run:
    """Record the task of the latest attempt, unless the run has one, or has ended already.

    RunTask may answer two deliveries of one request differently: the task that is there outweighs
    the failure that was recorded, until a later attempt is open.
    """
    if not may_start(run) or number != len(run["attempts"]):
        return run
    attempt = run["attempts"][-1]
    stream = log_stream(run["wiring"], task_arn)
    told: Attempt = {**attempt, "task_arn": task_arn, "failure": None, "log_stream": stream}
    return {**_with_attempt(run, told), "state": "STARTED", "waiting": None}


def ended(
    run: Run, attempt: Attempt, state: State, diagnosis: Diagnosis, metrics: dict[str, float]
) -> Run:
    """Close the run with its latest attempt, unless it is closed."""
    if run["state"] in FINAL:
        return run
    closed = _with_attempt(run, attempt)
    return {
        **closed,
        "state": state,
        "ended_at": closed["updated_at"],
        "waiting": None,
        "metrics": metrics,
        "diagnosis": diagnosis,
    }


def log_stream(wiring: Wiring, task_arn: str) -> str:
    """Return the stream that the awslogs driver names for the training container."""
    return f"{wiring['log_stream_prefix']}/{wiring['container']}/{task_arn.rsplit('/', 1)[-1]}"


def _with_attempt(run: Run, attempt: Attempt) -> Run:
    attempts = [attempt if a["number"] == attempt["number"] else a for a in run["attempts"]]
    return {**run, "attempts": attempts, "updated_at": now()}


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
        """Create the record, or return the one of whoever was faster."""
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
        try:
            self._s3.put_object(
                Bucket=self._bucket,
                Key=f"{prefix(run['run'])}run.json",
                Body=json.dumps(run, indent=1, allow_nan=False).encode(),
                ContentType="application/json",
                **cast("Any", condition),
            )
        except ClientError as error:
            # 409: S3 met another conditional write of this object while it judged ours.
            if error_code(error) in {"PreconditionFailed", "ConditionalRequestConflict"}:
                return False
            raise
        return True

    def _place(self, run: str) -> str:
        return f"s3://{self._bucket}/{prefix(run)}run.json"
