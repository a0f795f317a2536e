"""What a person may ask of the functions by invoking them; docs/run-record.md."""

import reprlib
from dataclasses import dataclass
from typing import Any, cast

from handler.events import DIGEST, RUN, TAG, NotOursError
from handler.wiring import PARAMETER_NAME

SOURCE = "pushtrain"
TRAIN = "Train Request"
CANCEL = "Cancel Request"
PROMOTE = "Promote Request"
RECONCILE = "Reconcile Request"

_LONGEST = 1000
"""Characters of any text in a request that are kept."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Another run of an image."""

    digest: str
    tag: str
    parameters: dict[str, str]
    by: str
    token: str


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """Something to be done with one run."""

    run: str
    by: str
    reason: str


def detail_of(event: object, kind: str) -> dict[str, Any] | None:
    """Return what is asked for, or None if the event is no request of that kind."""
    if not isinstance(event, dict):
        return None
    envelope = cast("dict[str, Any]", event)
    if (envelope.get("source"), envelope.get("detail-type")) != (SOURCE, kind):
        return None
    detail = envelope.get("detail")
    if not isinstance(detail, dict):
        raise NotOursError(f"detail must be an object, got {reprlib.repr(detail)}")
    return cast("dict[str, Any]", detail)


def train_request(detail: dict[str, Any]) -> TrainRequest:
    """Return the request, or refuse what cannot be one."""
    digest, tag = _text(detail, "digest"), _text(detail, "tag")
    if not DIGEST.fullmatch(digest):
        raise NotOursError(f"digest must be sha256: and 64 hex digits, got {reprlib.repr(digest)}")
    if not TAG.fullmatch(tag):
        raise NotOursError(f"tag must be one that ECR can hold, got {reprlib.repr(tag)}")
    return TrainRequest(
        digest=digest,
        tag=tag,
        parameters=_parameters(detail.get("parameters", {})),
        by=_text(detail, "by"),
        token=_text(detail, "token"),
    )


def run_request(detail: dict[str, Any]) -> RunRequest:
    """Return the request, or refuse what cannot be one."""
    run = _text(detail, "run")
    if not RUN.fullmatch(run):
        raise NotOursError(f"run must be the name of a run, got {reprlib.repr(run)}")
    reason = _text(detail, "reason") if detail.get("reason") else "no reason given"
    return RunRequest(run=run, by=_text(detail, "by"), reason=reason)


def _parameters(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise NotOursError(f"parameters must be an object, got {reprlib.repr(value)}")
    parameters = cast("dict[str, object]", value)
    for name, text in parameters.items():
        if not PARAMETER_NAME.fullmatch(name):
            raise NotOursError(
                f"a parameter's name must match [a-z][a-z0-9_]*, got {reprlib.repr(name)}"
            )
        if not isinstance(text, str):
            raise NotOursError(f"{name[:80]} must be a string, got {reprlib.repr(text)}")
    return cast("dict[str, str]", parameters)


def _text(detail: dict[str, Any], key: str) -> str:
    value = detail.get(key)
    if not isinstance(value, str) or not value:
        raise NotOursError(f"{key} must be a text, got {reprlib.repr(value)}")
    return value[:_LONGEST]
