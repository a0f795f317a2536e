"""Lambda for stopped tasks: verifies what a run published, and records how it ended."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handler import diagnosis, events, manifest, runs, tasks, wiring
from handler.diagnosis import End
from handler.events import NotOursError, StoppedTask
from handler.manifest import ManifestError, Publication
from handler.runs import Attempt, Run, RunDiagnosis, State
from handler.store import RunStore
from handler.wiring import Clients, Wiring

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

_LOG_LINES = 20
_LINE_LENGTH = 500
_BY_ITSELF = frozenset({None, "EssentialContainerExited"})
"""Stop codes of a task that nobody stopped."""


class UnknownTaskError(LookupError):
    """A task that says it belongs to a run, of which no record knows."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a run ended."""

    state: State
    diagnosis: RunDiagnosis
    metrics: dict[str, float]


def handler(event: object, _context: object) -> dict[str, Any]:
    """Take one `ECS Task State Change` event."""
    return wiring.report(lambda: deliver(event, wiring.clients()))


def deliver(event: object, clients: Clients) -> dict[str, Any]:
    """Record the end of the run that the stopped task belongs to.

    The definition goes before the record is final, so that a retry repairs a crash in between.
    """
    try:
        stop, wires = _read(event, clients)
    except NotOursError as refusal:
        return {"outcome": "refused", "reason": str(refusal)}
    store = RunStore(clients.s3, wires["bucket"])
    run = store.find(stop.run)
    if not run or stop.attempt > len(run["attempts"]):
        raise UnknownTaskError(
            f"{stop.task_arn} must be a task on record, got no attempt {stop.attempt} of run "
            f"{stop.run}: see who started it"
        )
    if run["state"] in runs.FINAL:
        tasks.retire(clients.ecs, run)
        return _outcome("known", run, stop)
    if not (refusal := _refusal(run, stop)):
        verdict = _judge(run, stop, clients)
        tasks.retire(clients.ecs, run)
        run = store.change(run["run"], functools.partial(_close, stop=stop, verdict=verdict))
        refusal = _refusal(run, stop)
    if refusal:
        return _outcome("refused", run, stop) | {"reason": refusal}
    return _outcome("ended", run, stop)


def _read(event: object, clients: Clients) -> tuple[StoppedTask, Wiring]:
    stop = events.parse_stopped_task(event)
    wires = wiring.load_wiring(clients.ssm)
    if stop.cluster != wires["cluster"]:
        raise NotOursError(f"cluster {stop.cluster[:256]} is not {wires['cluster']}")
    return stop, wires


def _refusal(run: Run, stop: StoppedTask) -> str:
    """Say why the task does not speak for the run; empty if it does."""
    if stop.attempt != len(run["attempts"]):
        return f"attempt {stop.attempt} was followed by attempt {len(run['attempts'])}"
    recorded = run["attempts"][-1]["task_arn"]
    if recorded not in {None, stop.task_arn}:
        return f"the task of attempt {stop.attempt} is {recorded}, not {stop.task_arn}"
    return ""


def _judge(run: Run, stop: StoppedTask, clients: Clients) -> Verdict:
    container = stop.container(run["wiring"]["container"])
    by_itself = stop.stop_code in _BY_ITSELF
    fault = ""
    if container.exit_code == 0:
        publication = Publication(clients.s3, run)
        try:
            published = publication.verify()
            # Files of a trainer that was stopped half-way are no publication.
            if published is None and by_itself and publication.adopt(stop.attempt):
                published = publication.verify()
            if published is not None:
                return Verdict(
                    state="SUCCEEDED",
                    diagnosis={
                        "cause": "success",
                        "summary": f"published {len(published['files'])} files, all verified",
                        "detail": "",
                        "action": "",
                    },
                    metrics=manifest.metrics_of(published),
                )
            fault = f"nothing was published under {runs.prefix(run['run'])}"
        except ManifestError as error:
            fault = str(error)
    end = End(
        stop_code=stop.stop_code,
        stopped_reason=stop.stopped_reason or "",
        exit_code=container.exit_code,
        container_reason=container.reason,
        log_lines=_log_lines(clients.logs, run["wiring"], stop.task_arn),
    )
    if fault and by_itself:
        return Verdict(state="FAILED", diagnosis=diagnosis.unpublished(end, fault), metrics={})
    state, reason = diagnosis.diagnose(end)
    return Verdict(state=state, diagnosis=reason, metrics={})


def _log_lines(logs: "CloudWatchLogsClient", wires: Wiring, task_arn: str) -> tuple[str, ...]:
    try:
        answer = logs.get_log_events(
            logGroupName=wires["log_group"],
            logStreamName=runs.log_stream(wires, task_arn),
            limit=_LOG_LINES,
            startFromHead=False,
        )
    except logs.exceptions.ResourceNotFoundException:
        return ()  # the task never got as far as a log
    return tuple(event.get("message", "")[:_LINE_LENGTH] for event in answer["events"])


def _close(run: Run, stop: StoppedTask, verdict: Verdict) -> Run:
    if _refusal(run, stop):
        return run
    attempt: Attempt = {
        **run["attempts"][-1],
        "task_arn": stop.task_arn,
        "failure": None,
        "started_at": stop.started_at,
        "stopped_at": stop.stopped_at or runs.now(),
        "exit_code": stop.container(run["wiring"]["container"]).exit_code,
        "stop_code": stop.stop_code,
        "stopped_reason": stop.stopped_reason,
        "log_stream": runs.log_stream(run["wiring"], stop.task_arn),
    }
    return runs.ended(run, attempt, verdict.state, verdict.diagnosis, verdict.metrics)


def _outcome(outcome: str, run: Run, stop: StoppedTask) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "run": run["run"],
        "state": run["state"],
        "attempt": stop.attempt,
        "task_arn": stop.task_arn,
    }
