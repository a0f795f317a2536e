"""Why an attempt ended without a model: the table of causes, what follows each, and the words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from handler.runs import Diagnosis, State

_AGAIN = "Train it again with pushtrain train, or push a changed image."


@dataclass(frozen=True, kw_only=True)
class End:
    """What we, ECS and the log know of an attempt that is over."""

    refusal: str = ""
    """What RunTask answered instead of a task."""
    we_stopped: Literal["cancel", "time"] | None = None
    """The `stop` on record: ECS calls each stop on purpose UserInitiated."""
    forgotten: bool = False
    """Whether ECS knows nothing of the task any more."""
    stop_code: str | None = None
    stopped_reason: str = ""
    exit_code: int | None = None
    container_reason: str = ""
    fault: str = ""
    """What is wrong with what was published; empty if nothing was looked for."""
    log_lines: tuple[str, ...] = ()

    def says(self, *words: str) -> bool:
        """Say whether ECS or the last log lines hold any of the words."""
        text = "\n".join((self._reasons, *self.log_lines))
        return any(word in text for word in words)

    def reason_says(self, *words: str) -> bool:
        """Say whether ECS's reasons hold any of the words."""
        return any(word in self._reasons for word in words)

    @property
    def by_itself(self) -> bool:
        """Whether nobody stopped the task."""
        return not self.forgotten and self.stop_code in {None, "EssentialContainerExited"}

    @property
    def cannot_pull(self) -> bool:
        """Whether the image did not come."""
        return self.reason_says("CannotPullContainer", "CannotPullImageManifest")

    @property
    def _reasons(self) -> str:
        return f"{self.refusal}\n{self.stopped_reason}\n{self.container_reason}"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One row of the table."""

    name: str
    matches: Callable[[End], bool]
    most: int = 1
    """Attempts of one run that may end so; the last of them ends the run. 1: no retry."""
    provider: Literal["same", "next"] = "same"
    """Capacity provider of the next attempt; after the last provider it stays the last."""
    waits_for: Literal["capacity", "limit"] | None = None
    """What the run waits for before the next attempt: once there is no next provider, if one is
    asked for. After it, attempts begin with the first provider again."""
    state: State = "FAILED"
    """What the run ends in."""
    summary: str
    action: str


# The first row that matches holds. What we and Fargate did stands before the exit code that it led
# to. Each next attempt is of the same run: a trainer that kept checkpoints goes on from the last.
CAUSES: tuple[Cause, ...] = (
    Cause(
        name="cancel",
        matches=lambda end: end.we_stopped == "cancel",
        state="CANCELLED",
        summary="the run was cancelled",
        action=_AGAIN,
    ),
    Cause(
        name="time",
        matches=lambda end: end.we_stopped == "time",
        summary="the run was over its time and was stopped",
        action="See in the log whether it hangs; if it needs longer, raise the limit: "
        "pulumi config set pushtrain:maxRunMinutes. " + _AGAIN,
    ),
    Cause(
        name="user",
        matches=lambda end: end.stop_code == "UserInitiated",
        state="CANCELLED",
        summary="somebody stopped the task, but not through pushtrain",
        action=_AGAIN,
    ),
    # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html
    Cause(
        name="limit",
        matches=lambda end: end.reason_says("limit on the number of", "vCPU limit"),
        most=100,
        waits_for="limit",
        summary="the account runs as many Fargate vCPUs as its quota allows",
        action="Ask for a higher quota (Service Quotas, AWS Fargate). " + _AGAIN,
    ),
    Cause(
        name="refused",
        matches=lambda end: end.reason_says("RunTask refused the request"),
        most=3,
        waits_for="capacity",
        summary="ECS refused the request for the task",
        action="The detail says what ECS does not like: correct it, as by pulumi up. " + _AGAIN,
    ),
    Cause(
        name="capacity",
        matches=lambda end: bool(end.refusal) or end.reason_says("Capacity is unavailable"),
        most=100,
        provider="next",
        waits_for="capacity",
        summary="Fargate had no capacity for the task",
        action="Try another region, another size of task, or more zones. " + _AGAIN,
    ),
    # Some events of reclaimed tasks lack the code (aws/containers-roadmap#1565).
    Cause(
        name="spot",
        matches=lambda end: (
            end.stop_code in {"SpotInterruption", "TerminationNotice"}
            or end.reason_says("Spot Task was interrupted")
        ),
        most=5,
        provider="next",
        summary="Fargate took its capacity back",
        action="Set pushtrain:spot to false if Spot is reclaimed that often. " + _AGAIN,
    ),
    Cause(
        name="infrastructure",
        matches=lambda end: end.stop_code == "InfrastructureHealth",
        most=3,
        summary="the machine under the task failed",
        action="The image is not at fault. " + _AGAIN,
    ),
    Cause(
        name="platform",
        matches=lambda end: (
            end.says("exec format error")
            or end.reason_says("does not contain descriptor matching platform")
        ),
        summary="the image is built for another CPU architecture",
        action="Build it for the task's architecture (docker build --platform) and push it.",
    ),
    Cause(
        name="image",
        matches=lambda end: (
            end.cannot_pull
            and end.reason_says("not found", "does not exist", "manifest unknown", "NotFound")
        ),
        summary="the image is not in the repository any more",
        action="Push it again.",
    ),
    Cause(
        name="pull",
        matches=lambda end: end.cannot_pull,
        most=3,
        summary="the image could not be pulled",
        action="Check that the task's subnets and security groups reach ECR and S3, and that the "
        "execution role may pull from the repository. " + _AGAIN,
    ),
    Cause(
        name="resources",
        matches=lambda end: end.reason_says("ResourceInitializationError"),
        most=3,
        summary="the task's network, log stream or secrets could not be set up",
        action="Check that the task's subnets and security groups reach ECR, CloudWatch Logs and "
        "S3, and that the execution role may use them. " + _AGAIN,
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
        most=3,
        summary="the task never started",
        action="The reason that ECS gave says what was missing. " + _AGAIN,
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
    # Nobody that we know of told it to: a Spot reclaim whose event lacks both code and reason.
    Cause(
        name="terminated",
        matches=lambda end: end.exit_code == 143,
        most=3,
        provider="next",
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
        name="unpublished",
        matches=lambda end: end.exit_code == 0 and end.by_itself,
        summary="the trainer ended with exit code 0, but published no model that can be trusted",
        action="Let the trainer publish under PUSHTRAIN_RUN_PREFIX, manifest.json last, and push "
        "the changed image.",
    ),
    Cause(
        name="lost",
        matches=lambda end: end.forgotten,
        most=3,
        summary="the task vanished: ECS does not know it any more, and it published nothing",
        action="See in the log how far it came. " + _AGAIN,
    ),
    Cause(
        name="stopped",
        matches=lambda _end: True,
        summary="the task stopped before it published a model",
        action=_AGAIN,
    ),
)


def find_cause(end: End) -> Cause:
    """Return the row that the end falls into."""
    return next(row for row in CAUSES if row.matches(end))


def diagnose(cause: Cause, end: End) -> Diagnosis:
    """Return the end in words."""
    return {"summary": cause.summary, "detail": _detail(end), "action": cause.action}


def _detail(end: End) -> str:
    """Return all that is known of the end, for a person."""
    if end.refusal:
        return end.refusal
    facts = [
        f"stop code {end.stop_code or 'unknown'}",
        f"reason {end.stopped_reason or 'unknown'}",
        f"exit code {'none' if end.exit_code is None else end.exit_code}",
    ]
    if end.container_reason:
        facts.append(f"container: {end.container_reason}")
    lines = [end.fault] if end.fault else []
    if not end.log_lines:
        return "\n".join([*lines, "; ".join([*facts, "no log lines"])])
    return "\n".join([*lines, "; ".join(facts), "last log lines:", *end.log_lines])
