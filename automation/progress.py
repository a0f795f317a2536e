"""What an operation does, told on stderr as its events come."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Self

from pulumi.automation import EngineEvent
from pulumi.automation.events import DiagnosticEvent, StepEventMetadata
from rich.console import Console
from rich.markup import escape

from automation.stacks import PLAIN_OPS, QUIET_OPS, Change, Preview

STYLES: Final = {"create": "green", "update": "yellow", "replace": "magenta", "delete": "red"}
DONE: Final = {
    "create": "created",
    "update": "updated",
    "replace": "replaced",
    "delete": "deleted",
    "same": "unchanged",
}
NAMED_OPS: Final = ("replace", "delete")
"""What may lose something, and is therefore named once more at the end."""
MOST_LAST_LINE: Final = 60


def short_type(token: str) -> str:
    """Return a type as Pulumi itself shows it: aws:s3/bucket:Bucket is aws:s3:Bucket."""
    package, module, name = token.split(":")
    return f"{package}:{module.partition('/')[0]}:{name}"


@dataclass(frozen=True)
class _Step:
    op: str
    began: float


class Progress:
    """Tells of each resource as it comes or goes: live on a terminal, else in plain lines."""

    def __init__(self, title: str) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._status = self.console.status(title) if self.console.is_terminal else None
        self._title = title
        self._began = time.monotonic()
        self._steps: dict[str, _Step] = {}
        self._told: set[str] = set()
        self._last_line = ""

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def __call__(self, event: EngineEvent) -> None:
        """Take an event of the engine."""
        if event.resource_pre_event:
            step = event.resource_pre_event.metadata
            if op := _op(step):
                self._steps[step.urn] = _Step(op, time.monotonic())
        elif event.res_outputs_event:
            self._tell_done(event.res_outputs_event.metadata)
        elif event.res_op_failed_event:
            step = event.res_op_failed_event.metadata
            self._steps.pop(step.urn, None)
            self._line("failed", "red", f"{short_type(step.type)} {_name(step.urn)}")
        elif event.diagnostic_event:
            self._tell_diagnostic(event.diagnostic_event)
        elif violation := event.policy_event:
            self._tell_once("policy", f"{violation.policy_name}: {violation.message.strip()}")
        self._show()

    def _tell_done(self, step: StepEventMetadata) -> None:
        began = self._steps.pop(step.urn, None)
        # A replacement is three steps, and told of once, when the new one is there.
        if (op := _op(step)) and not (op == "replace" and step.op.value != "create-replacement"):
            seconds = time.monotonic() - began.began if began else 0
            self._last_line = ""
            text = f"{short_type(step.type)} {_name(step.urn)}"
            self._line(op, STYLES.get(op, "bold"), f"{text}  {seconds:.1f} s")

    def _tell_diagnostic(self, diagnostic: DiagnosticEvent) -> None:
        message = diagnostic.message.strip()
        if diagnostic.ephemeral:
            self._last_line = message.splitlines()[-1] if message else ""
        elif diagnostic.severity in ("warning", "info"):
            self._tell_once(diagnostic.severity, message)

    def _tell_once(self, what: str, message: str) -> None:
        if message and message not in self._told:
            self._told.add(message)
            self._line(what, "yellow" if what == "warning" else "bold", message)

    def _line(self, what: str, style: str, text: str) -> None:
        seconds = time.monotonic() - self._began
        self.console.print(f"[dim]{seconds:6.1f} s[/]  [{style}]{what:<8}[/] {escape(text)}")

    def _show(self) -> None:
        if self._status:
            names = ", ".join(_name(urn) for urn in list(self._steps)[:3])
            more = f" and {len(self._steps) - 3} more" if len(self._steps) > 3 else ""
            line = f"  [dim]{escape(self._last_line[:MOST_LAST_LINE])}[/]"
            self._status.update(f"{self._title} {names}{more}{line}")


def summary(result: Preview, *, planned: bool = False) -> str:
    """Say what an operation has changed, or would: counts, then what was replaced or deleted."""
    counts = Counter(change.op for change in result.changes)
    counts["same"] = result.counts.get("same", 0)
    words = [
        f"{count} {f'to {op}' if planned and op != 'same' else DONE.get(op, op)}"
        for op, count in counts.items()
        if count
    ]
    lines = [f"{', '.join(words) or 'nothing there'} in {result.seconds:.0f} s"]
    named = [change for change in result.changes if change.op in NAMED_OPS]
    lines += [f"  {line}" for line in described(named)] if planned or counts["replace"] else []
    return "\n".join(lines)


def described(changes: Sequence[Change]) -> list[str]:
    """Give a line for each change: what, and which properties."""
    return [
        f"{change.op:<8} {short_type(change.type)} {change.name}"
        + (f"  ({', '.join(change.forced_by or change.properties)})" if change.properties else "")
        for change in changes
    ]


def as_json(result: Preview) -> dict[str, object]:
    """Return a result as the --json option prints it."""
    return {
        "changes": changes_as_json(result.changes),
        "counts": dict(result.counts),
        "seconds": result.seconds,
    }


def changes_as_json(changes: Sequence[Change]) -> list[dict[str, object]]:
    """Return changes as the --json option prints them."""
    return [{**asdict(change), "name": change.name} for change in changes]


def _op(step: StepEventMetadata) -> str | None:
    """Return what a step does to a resource in the account; none if nothing, or no such."""
    state = step.new or step.old
    op = PLAIN_OPS.get(step.op, step.op.value)
    of_account = state and state.custom and not step.type.startswith("pulumi:")
    return op if of_account and op not in QUIET_OPS else None


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]
