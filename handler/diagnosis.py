"""Why a task ended without a model, in words, and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass

from handler.runs import RunDiagnosis, State

_AGAIN = "A digest trains only once: push a changed image to train again."


@dataclass(frozen=True, kw_only=True)
class End:
    """What ECS and the log say of a task that stopped."""

    stop_code: str | None
    stopped_reason: str
    exit_code: int | None
    container_reason: str
    log_lines: tuple[str, ...]

    def says(self, *words: str) -> bool:
        """Say whether ECS or the last log lines hold any of the words."""
        text = "\n".join((self.stopped_reason, self.container_reason, *self.log_lines))
        return any(word in text for word in words)

    def reason_says(self, *words: str) -> bool:
        """Say whether ECS's reasons hold any of the words."""
        text = f"{self.stopped_reason}\n{self.container_reason}"
        return any(word in text for word in words)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One row of the table."""

    name: str
    matches: Callable[[End], bool]
    summary: str
    action: str
    state: State = "FAILED"


# The first row that matches holds; what Fargate did stands before the exit code that it led to.
CAUSES: tuple[Cause, ...] = (
    Cause(
        name="user",
        matches=lambda end: end.stop_code == "UserInitiated",
        summary="somebody stopped the task",
        action=_AGAIN,
        state="CANCELLED",
    ),
    Cause(
        name="spot",
        # Some events of reclaimed tasks lack the code (aws/containers-roadmap#1565).
        matches=lambda end: (
            end.stop_code in {"SpotInterruption", "TerminationNotice"}
            or end.reason_says("Spot Task was interrupted")
        ),
        summary="Fargate took its Spot capacity back",
        action=f"The image is not at fault. {_AGAIN}",
    ),
    Cause(
        name="infrastructure",
        matches=lambda end: end.stop_code == "InfrastructureHealth",
        summary="the machine under the task failed",
        action=f"The image is not at fault. {_AGAIN}",
    ),
    Cause(
        name="pull",
        matches=lambda end: end.reason_says("CannotPullContainer", "CannotPullImageManifest"),
        summary="the image could not be pulled",
        action="Check that the image is still in the repository, that it is built for the task's "
        "CPU architecture, and that the task's subnets and security groups reach ECR and S3. "
        + _AGAIN,
    ),
    Cause(
        name="resources",
        matches=lambda end: end.reason_says("ResourceInitializationError"),
        summary="the task's network, log stream or secrets could not be set up",
        action="Check that the task's subnets and security groups reach ECR, CloudWatch Logs and "
        f"S3, and that the execution role may use them. {_AGAIN}",
    ),
    Cause(
        name="architecture",
        matches=lambda end: end.says("exec format error"),
        summary="the image is built for another CPU architecture",
        action="Build it for the task's architecture (docker build --platform) and push it.",
    ),
    Cause(
        name="command",
        matches=lambda end: (
            end.exit_code in {126, 127}
            or end.reason_says("CannotStartContainer", "CannotCreateContainer")
        ),
        summary="the image's entry point could not be run",
        action="Check ENTRYPOINT and CMD with docker run, and push the corrected image.",
    ),
    Cause(
        name="start",
        matches=lambda end: (
            end.stop_code == "TaskFailedToStart"
            or (end.exit_code is None and end.stop_code == "EssentialContainerExited")
        ),
        summary="the task never started",
        action=f"The reason that ECS gave says what was missing. {_AGAIN}",
    ),
    Cause(
        name="memory",
        matches=lambda end: end.reason_says("OutOfMemory"),
        summary="the task ran out of memory",
        action="Give the task more memory, or train with smaller batches. " + _AGAIN,
    ),
    Cause(
        name="killed",
        matches=lambda end: end.exit_code == 137,
        summary="the trainer was killed, most likely for want of memory (exit code 137)",
        action="Give the task more memory, or train with smaller batches. " + _AGAIN,
    ),
    Cause(
        name="crash",
        matches=lambda end: end.exit_code in {134, 139},
        summary="the trainer crashed in native code",
        action="Check that the image's packages are built for its CPU and fit each other. "
        + _AGAIN,
    ),
    Cause(
        name="terminated",
        matches=lambda end: end.exit_code == 143,
        summary="the trainer was told to stop, and did (exit code 143)",
        action=_AGAIN,
    ),
    Cause(
        name="exit",
        matches=lambda end: bool(end.exit_code),
        summary="the trainer failed",
        action="The last log lines say why: correct it and push the changed image.",
    ),
    Cause(
        name="stopped",
        matches=lambda _end: True,
        summary="the task stopped before it published a model",
        action=_AGAIN,
    ),
)


def diagnose(end: End) -> tuple[State, RunDiagnosis]:
    """Return the state that a run without a model ends in, and why."""
    cause = next(row for row in CAUSES if row.matches(end))
    return cause.state, {
        "cause": cause.name,
        "summary": cause.summary,
        "detail": describe(end),
        "action": cause.action,
    }


def unpublished(end: End, fault: str) -> RunDiagnosis:
    """Return the diagnosis of a trainer that ended well and left no sound model."""
    return {
        "cause": "unpublished",
        "summary": "the trainer ended with exit code 0, but published no model that can be trusted",
        "detail": f"{fault}\n{describe(end)}",
        "action": "Let the trainer publish under PUSHTRAIN_RUN_PREFIX, manifest.json last, and "
        "push the changed image.",
    }


def describe(end: End) -> str:
    """Return all that is known of the end, for a person."""
    facts = [
        f"stop code {end.stop_code or 'unknown'}",
        f"reason {end.stopped_reason or 'unknown'}",
        f"exit code {'none' if end.exit_code is None else end.exit_code}",
    ]
    if end.container_reason:
        facts.append(f"container: {end.container_reason}")
    if not end.log_lines:
        return "; ".join([*facts, "no log lines"])
    return "\n".join(["; ".join(facts), "last log lines:", *end.log_lines])
