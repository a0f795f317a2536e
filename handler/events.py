"""Read the events of ECR and ECS, or say why they are none of ours."""

import re
import reprlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

IMAGE_TYPES = frozenset(
    {
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.index.v1+json",
    }
)
"""Artifact media types that ECR gives for something that can run."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
# Signatures and attestations carry an image's media type, under a tag made of their subject's
# digest (the OCI referrers tag schema; cosign adds .sig, .att or .sbom).
_REFERRER_TAG = re.compile(r"sha256-[0-9a-f]{64}(\..*)?")
RUN = re.compile(r"[0-9a-f]{12}(?:-[1-9][0-9]{0,5})?")
"""A run's name: 12 digits of its image's digest, and the number of an asked-for repeat."""
_STARTED_BY = re.compile(rf"(?P<run>{RUN.pattern})-a(?P<attempt>[1-9][0-9]{{0,5}})")


class NotOursError(Exception):
    """A well-formed event that asks nothing of this stack: a retry could not change that."""


class MalformedEventError(ValueError):
    """An event that its sender never sends like this: it belongs in the on-failure queue."""


@dataclass(frozen=True, kw_only=True)
class Push:
    """One tagged image that reached the registry."""

    repository: str
    digest: str
    tag: str
    time: str
    event_id: str
    account: str
    region: str


@dataclass(frozen=True, kw_only=True)
class Container:
    """How one container of a stopped task ended."""

    name: str
    exit_code: int | None
    """None also when the container never started: ECS then leaves it out."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class StoppedTask:
    """One task of a run that has come to its end."""

    run: str
    attempt: int
    cluster: str
    task_arn: str
    containers: tuple[Container, ...]
    """Empty when the task failed before it had any."""
    stop_code: str | None
    stopped_reason: str | None
    pull_started_at: str | None
    started_at: str | None
    stopped_at: str | None
    forgotten: bool = False
    """Whether ECS knows nothing of the task any more, so that no more than this can be said."""

    def container(self, name: str) -> Container:
        """Return the container of that name, or one that never started."""
        for container in self.containers:
            if container.name == name:
                return container
        return Container(name=name, exit_code=None, reason="")


def parse_push(event: object) -> Push:
    """Return the tagged push that an ECR event reports; repository and account are its own."""
    envelope = _envelope(event, source="aws.ecr", kind="ECR Image Action")
    detail = _object(envelope.get("detail"), "detail")
    action, result = _text(detail, "action-type"), _text(detail, "result")
    if (action, result) != ("PUSH", "SUCCESS"):
        raise NotOursError(f"{_short(action)} with result {_short(result)} is no successful push")
    repository = _text(detail, "repository-name")
    digest = _text(detail, "image-digest")
    if not DIGEST.fullmatch(digest):
        raise MalformedEventError(
            f"image-digest must be sha256: and 64 hex digits, got {_short(digest)}"
        )
    # An untagged manifest (a part of an index, an attestation) arrives with an empty tag.
    tag = _optional_text(detail, "image-tag")
    if not tag:
        raise NotOursError(f"{digest} was pushed without a tag")
    if not TAG.fullmatch(tag):
        raise MalformedEventError(f"image-tag must be one that ECR can hold, got {_short(tag)}")
    if _REFERRER_TAG.fullmatch(tag):
        raise NotOursError(f"tag {tag} holds a signature or attestation of another image")
    media_type = _optional_text(detail, "artifact-media-type")
    if media_type and media_type not in IMAGE_TYPES:
        raise NotOursError(f"an artifact of type {_short(media_type)} is no image")
    return Push(
        repository=repository,
        digest=digest,
        tag=tag,
        time=_text(envelope, "time"),
        event_id=_text(envelope, "id"),
        account=_text(envelope, "account"),
        region=_text(envelope, "region"),
    )


def parse_stopped_task(event: object) -> StoppedTask:
    """Return the end of a run's task that an ECS event reports."""
    envelope = _envelope(event, source="aws.ecs", kind="ECS Task State Change")
    return parse_task(envelope.get("detail"))


def parse_task(task: object) -> StoppedTask:
    """Return the same from ECS's description of the task, its times as text."""
    detail = _object(task, "detail")
    status = _text(detail, "lastStatus")
    if status != "STOPPED":
        raise NotOursError(f"a task that is {_short(status)} has not ended")
    started_by = _optional_text(detail, "startedBy")
    ours = parse_started_by(started_by)
    if not ours:
        raise NotOursError(f"the task was started by {_short(started_by)}, which is no run")
    run, attempt = ours
    return StoppedTask(
        run=run,
        attempt=attempt,
        cluster=_text(detail, "clusterArn"),
        task_arn=_text(detail, "taskArn"),
        containers=_containers(detail.get("containers")),
        stop_code=_optional_text(detail, "stopCode") or None,
        stopped_reason=_optional_text(detail, "stoppedReason") or None,
        pull_started_at=_time(detail, "pullStartedAt"),
        started_at=_time(detail, "startedAt"),
        stopped_at=_time(detail, "stoppedAt"),
    )


def parse_started_by(text: str) -> tuple[str, int] | None:
    """Return the run and the attempt that a task was started by, or None if it was no run."""
    ours = _STARTED_BY.fullmatch(text)
    return (ours["run"], int(ours["attempt"])) if ours else None


def _envelope(event: object, *, source: str, kind: str) -> dict[str, Any]:
    envelope = _object(event, "the event")
    found = _text(envelope, "source"), _text(envelope, "detail-type")
    if found != (source, kind):
        raise NotOursError(f"{_short(found[1])} of {_short(found[0])} is not {kind} of {source}")
    return envelope


def _containers(value: object) -> tuple[Container, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise MalformedEventError(f"containers must be an array, got {_short(value)}")
    containers: list[Container] = []
    for item in cast("list[object]", value):
        container = _object(item, "a container")
        exit_code = container.get("exitCode")
        if exit_code is not None and type(exit_code) is not int:
            raise MalformedEventError(f"exitCode must be an integer, got {_short(exit_code)}")
        containers.append(
            Container(
                name=_text(container, "name"),
                exit_code=exit_code,
                reason=_optional_text(container, "reason"),
            )
        )
    return tuple(containers)


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedEventError(f"{what} must be an object, got {_short(value)}")
    return cast("dict[str, Any]", value)


def _text(document: dict[str, Any], key: str) -> str:
    value = _optional_text(document, key)
    if not value:
        raise MalformedEventError(f"{key} must be there, got {_short(document.get(key))}")
    return value


def _optional_text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedEventError(f"{key} must be a string, got {_short(value)}")
    return value


def _time(document: dict[str, Any], key: str) -> str | None:
    value = _optional_text(document, key)
    if not value:
        return None
    try:
        return rfc3339(datetime.fromisoformat(value))
    except (OverflowError, ValueError) as error:
        raise MalformedEventError(f"{key} must be a time, got {_short(value)}") from error


def rfc3339(time: datetime) -> str:
    """Return the time as the run record writes it; without a zone it is UTC."""
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    return zoned.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 100


def _short(value: object) -> str:
    return _repr.repr(value)
