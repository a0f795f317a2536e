"""The run record and its transitions, which are pure."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

from handler import cost
from handler.cost import Cost
from handler.events import rfc3339
from handler.wiring import Data, Wiring

State = Literal["WAITING", "CLAIMED", "STARTED", "SUCCEEDED", "FAILED", "CANCELLED"]
FINAL: frozenset[State] = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
VERSION = 1


class DigestClashError(ValueError):
    """Two images whose digests share the 12 digits that name a run."""


class Image(TypedDict):
    """The image that the run trains."""

    repository: str
    uri: str
    digest: str
    tags: list[str]


class Repeat(TypedDict):
    """Who asked for another run of an image that has one."""

    of: str
    by: str
    at: str
    token: str


class Waiting(TypedDict):
    """What a run waits for, and until when at least."""

    why: Literal["data", "capacity", "limit"]
    detail: str
    not_before: str | None


class Stop(TypedDict):
    """Why we stop a task; ECS calls each stop on purpose UserInitiated."""

    why: Literal["cancel", "time"]
    by: str
    reason: str
    at: str


class Diagnosis(TypedDict):
    """How it ended, in words, and what to do about it."""

    summary: str
    detail: str
    action: str


class RunDiagnosis(Diagnosis):
    """How the run ended, with the row of the recovery table that decided it."""

    cause: str


class Rival(TypedDict):
    """The champion that a model was compared with."""

    run: str
    value: float | None


class Promotion(TypedDict):
    """Whether the model became the champion, and why."""

    decision: Literal["promoted", "kept"]
    reason: str
    metric: str
    value: float | None
    champion: Rival | None
    at: str


class Attempt(TypedDict):
    """One RunTask request and what came of it."""

    number: int
    request: dict[str, Any]
    task_arn: str | None
    failure: str | None
    requested_at: str
    pull_started_at: str | None
    """When Fargate began to bill the task; None also where ECS does not know."""
    started_at: str | None
    stopped_at: str | None
    exit_code: int | None
    stop_code: str | None
    stopped_reason: str | None
    log_stream: str | None
    cause: str | None
    diagnosis: Diagnosis | None


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
    repeat: Repeat | None
    waiting: Waiting | None
    stop: Stop | None
    attempts: list[Attempt]
    metrics: dict[str, float]
    diagnosis: RunDiagnosis | None
    promotion: Promotion | None
    cost: Cost | None
    """Once the run is over."""
    notified_at: str | None


def now() -> str:
    """Return the time as a run record writes it."""
    return rfc3339(datetime.now(UTC))


def name_of(digest: str, number: int = 1) -> str:
    """Return the name of the first run of that image, or of its asked-for repeat."""
    first = digest.removeprefix("sha256:")[:12]
    return first if number == 1 else f"{first}-{number}"


def prefix(run: str) -> str:
    """Return where a run's objects lie."""
    return f"runs/{run}/"


def log_stream(wiring: Wiring, task_arn: str) -> str:
    """Return the stream that the awslogs driver names for the training container."""
    return f"{wiring['log_stream_prefix']}/{wiring['container']}/{task_arn.rsplit('/', 1)[-1]}"


# What a record says.


def is_final(run: Run) -> bool:
    """Say whether the run is over: no transition leaves that."""
    return run["state"] in FINAL


def may_start(run: Run) -> bool:
    """Say whether a task of the run is still to be started."""
    return run["state"] in {"WAITING", "CLAIMED"}


def is_due(run: Run, time: str) -> bool:
    """Say whether a task of the run may be started at that time."""
    not_before = run["waiting"]["not_before"] if run["waiting"] else None
    return may_start(run) and (not_before is None or not_before <= time)


def open_attempt(run: Run) -> Attempt | None:
    """Return the attempt whose request is to be sent, or whose task is at work."""
    if not run["attempts"]:
        return None
    last = run["attempts"][-1]
    return None if last["failure"] or last["stopped_at"] else last


# Each transition returns the record it was given, itself, where nothing is left for it to do.


def claimed(
    *,
    image: Image,
    parameters: dict[str, str],
    wiring: Wiring,
    data: Data | None,
    number: int = 1,
) -> Run:
    """Return the first record of a run; without data it waits for them."""
    time = now()
    place = f"s3://{wiring['bucket']}/{wiring['data_key']}"
    waiting: Waiting = {"why": "data", "detail": f"nothing is at {place}", "not_before": None}
    return {
        "version": VERSION,
        "run": name_of(image["digest"], number),
        "state": "CLAIMED" if data else "WAITING",
        "image": image,
        "created_at": time,
        "updated_at": time,
        "ended_at": None,
        "parameters": parameters,
        "data": data,
        "wiring": wiring,
        "repeat": None,
        "waiting": None if data else waiting,
        "stop": None,
        "attempts": [],
        "metrics": {},
        "diagnosis": None,
        "promotion": None,
        "cost": None,
        "notified_at": None,
    }


def tagged(run: Run, tag: str) -> Run:
    """Add a tag that the image was pushed under, in any state."""
    if tag in run["image"]["tags"]:
        return run
    image: Image = {**run["image"], "tags": [*run["image"]["tags"], tag]}
    return {**run, "image": image, "updated_at": now()}


def supplied(run: Run, data: Data) -> Run:
    """Freeze the data that the run has waited for."""
    if run["data"] or is_final(run):
        return run
    return {**run, "state": "CLAIMED", "data": data, "waiting": None, "updated_at": now()}


def waiting(run: Run, waiting: Waiting) -> Run:
    """Let the run wait, unless a task of it is requested or at work."""
    if not may_start(run) or open_attempt(run) or run["waiting"] == waiting:
        return run
    return {**run, "state": "WAITING", "waiting": waiting, "updated_at": now()}


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
        "pull_started_at": None,
        "started_at": None,
        "stopped_at": None,
        "exit_code": None,
        "stop_code": None,
        "stopped_reason": None,
        "log_stream": None,
        "cause": None,
        "diagnosis": None,
    }
    return {
        **run,
        "state": "CLAIMED",
        "waiting": None,
        "attempts": [*run["attempts"], attempt],
        "updated_at": now(),
    }


def started(run: Run, number: int, task_arn: str) -> Run:
    """Record the task of the latest attempt, unless the run has one, or has ended already.

    RunTask may answer two deliveries of one request differently: the task that is there outweighs
    the failure that was recorded, until a later attempt is open.
    """
    if not may_start(run) or number != len(run["attempts"]):
        return run
    attempt = run["attempts"][-1]
    if attempt["stopped_at"]:
        return run
    told: Attempt = {
        **attempt,
        "task_arn": task_arn,
        "failure": None,
        "log_stream": log_stream(run["wiring"], task_arn),
        "cause": None,
        "diagnosis": None,
    }
    return {**with_attempt(run, told), "state": "STARTED", "waiting": None}


def to_be_stopped(run: Run, stop: Stop) -> Run:
    """Say why the run's task is going to be stopped; the first to say so is the one on record."""
    if is_final(run) or run["stop"]:
        return run
    return {**run, "stop": stop, "updated_at": now()}


def with_attempt(run: Run, attempt: Attempt) -> Run:
    """Replace the attempt of that number."""
    attempts = [attempt if a["number"] == attempt["number"] else a for a in run["attempts"]]
    return {**run, "attempts": attempts, "updated_at": now()}


def ended(  # noqa: PLR0913 (all that an end brings)
    run: Run,
    state: State,
    diagnosis: RunDiagnosis,
    metrics: dict[str, float] | None = None,
    promotion: Promotion | None = None,
    *,
    stored_bytes: int = 0,
) -> Run:
    """Close the run, unless it is closed."""
    if is_final(run):
        return run
    time = now()
    return {
        **run,
        "state": state,
        "updated_at": time,
        "ended_at": time,
        "waiting": None,
        "metrics": metrics or {},
        "diagnosis": diagnosis,
        "promotion": promotion,
        "cost": cost.of_run(run, time, stored_bytes),
    }


def promoted(run: Run, promotion: Promotion) -> Run:
    """Record what a person decided about the model of a run that succeeded."""
    return {**run, "promotion": promotion, "updated_at": now()}


def notified(run: Run) -> Run:
    """Record that the notice of the end was sent."""
    if run["notified_at"]:
        return run
    time = now()
    return {**run, "notified_at": time, "updated_at": time}
