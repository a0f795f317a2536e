"""The end of a task, and of its run: what it published, what follows, who is told."""

import dataclasses
import functools
from datetime import UTC, datetime
from typing import Any

from handler import champion, definitions, log, manifest, metrics, notices, recovery, runs
from handler.diagnosis import End
from handler.events import StoppedTask
from handler.manifest import ManifestError, Publication
from handler.runs import Attempt, Promotion, Run
from handler.slots import Slots
from handler.store import RecordError, RunStore
from handler.wiring import Clients, Wiring


def refusal(run: Run, stop: StoppedTask) -> str:
    """Say why the task does not speak for the run; empty if it does."""
    if stop.attempt != len(run["attempts"]):
        return f"attempt {stop.attempt} was followed by attempt {len(run['attempts'])}"
    recorded = run["attempts"][-1]["task_arn"]
    if recorded not in {None, stop.task_arn}:
        return f"the task of attempt {stop.attempt} is {recorded}, not {stop.task_arn}"
    return ""


def record(run: Run, stop: StoppedTask, store: RunStore, clients: Clients) -> Run:
    """Put the end of the run's latest attempt on record, and what follows it."""
    container = stop.container(run["wiring"]["container"])
    end = End(
        forgotten=stop.forgotten,
        stop_code=stop.stop_code,
        stopped_reason=stop.stopped_reason or "",
        exit_code=container.exit_code,
        container_reason=container.reason,
    )
    if end.exit_code == 0 or end.forgotten:
        try:
            published = _published(run, stop, end, clients)
        except ManifestError as error:
            end = dataclasses.replace(end, fault=str(error))
        else:
            if published is not None:
                promotion = champion.promote(clients.s3, run, published)
                succeed = functools.partial(
                    _succeed, stop=stop, published=published, promotion=promotion
                )
                return store.change(run["run"], succeed)
            fault = f"nothing was published under {runs.prefix(run['run'])}"
            end = dataclasses.replace(end, fault=fault)
    tail = log.tail(clients.logs, run["wiring"], stop.task_arn)
    end = dataclasses.replace(end, log_lines=tail.lines)
    return store.change(run["run"], functools.partial(_fail, stop=stop, end=end))


def finish(run: Run, store: RunStore, clients: Clients, wires: Wiring) -> Run:
    """Tell of the end that is on record, and take the run from the open ones.

    A crash leaves the mark, by which reconcile finds the run and does this again: the notice is
    sent at least once, and so are the metrics. They come last before the record says so: a topic
    that refuses the notice time and again makes no more ends than there were.
    """
    if not run["notified_at"]:
        if not _has_open_sibling(run, store):
            definitions.retire(clients.ecs, run)
        Slots(clients.s3, wires["bucket"], wires["max_concurrent_runs"]).free(run["run"])
        notices.send(clients, run, wires["topic"])
        metrics.say(wires, lambda: metrics.of_end(run, datetime.now(UTC)))
        run = store.change(run["run"], runs.notified)
    store.unmark(run["run"])
    return run


def _published(run: Run, stop: StoppedTask, end: End, clients: Clients) -> dict[str, Any] | None:
    publication = Publication(clients.s3, run)
    published = publication.verify()
    # Files of a trainer that was stopped half-way are no publication.
    if published is None and end.by_itself and publication.adopt(stop.attempt):
        published = publication.verify()
    return published


def _is_news(run: Run, stop: StoppedTask) -> bool:
    return (
        not runs.is_final(run) and not refusal(run, stop) and not run["attempts"][-1]["stopped_at"]
    )


def _succeed(run: Run, stop: StoppedTask, published: dict[str, Any], promotion: Promotion) -> Run:
    if not _is_news(run, stop):
        return run
    told: runs.RunDiagnosis = {
        "cause": "success",
        "summary": f"published {len(published['files'])} files, all verified",
        "detail": "",
        "action": "",
    }
    return runs.ended(
        runs.with_attempt(run, _stopped(run, stop)),
        "SUCCEEDED",
        told,
        manifest.metrics_of(published),
        promotion,
        stored_bytes=manifest.size_of(published),
    )


def _fail(run: Run, stop: StoppedTask, end: End) -> Run:
    if not _is_news(run, stop):
        return run
    return recovery.settle(run, _stopped(run, stop), end)


def _stopped(run: Run, stop: StoppedTask) -> Attempt:
    return {
        **run["attempts"][-1],
        "task_arn": stop.task_arn,
        "failure": None,
        "pull_started_at": stop.pull_started_at,
        "started_at": stop.started_at,
        "stopped_at": stop.stopped_at or runs.now(),
        "exit_code": stop.container(run["wiring"]["container"]).exit_code,
        "stop_code": stop.stop_code,
        "stopped_reason": stop.stopped_reason,
        "log_stream": runs.log_stream(run["wiring"], stop.task_arn),
    }


def _has_open_sibling(run: Run, store: RunStore) -> bool:
    """Say whether another run of the image may still need its definition."""
    for name in store.open_runs(runs.name_of(run["image"]["digest"])):
        if name != run["run"]:
            try:
                sibling = store.find(name)
            except RecordError:
                return True
            if not sibling or not runs.is_final(sibling):
                return True
    return False
