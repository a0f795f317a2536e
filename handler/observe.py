"""Lambda for stopped tasks: verifies what a run published, and brings the run on or to its end."""

import functools
from typing import Any

from handler import champion, ending, events, requests, runs, wiring
from handler.advance import advance
from handler.champion import PromotionRefusedError
from handler.events import NotOursError, StoppedTask
from handler.manifest import ManifestError, Publication
from handler.requests import RunRequest
from handler.runs import Run
from handler.store import RunStore
from handler.wiring import Clients, Wiring


class UnknownTaskError(LookupError):
    """A task that says it belongs to a run, of which no record knows."""


def handler(event: object, _context: object) -> dict[str, Any]:
    """Take one `ECS Task State Change` event, or a `Promote Request`."""
    return wiring.report(lambda: deliver(event, wiring.clients()))


def deliver(event: object, clients: Clients) -> dict[str, Any]:
    """Record the end of the task, and do what follows it, even if an earlier delivery did not.

    A crash after any call leaves a record from which the next delivery, or reconcile, goes on.
    """
    try:
        asked = requests.detail_of(event, requests.PROMOTE)
        if asked is not None:
            return _promote(requests.run_request(asked), clients)
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
    return end_of_task(run, stop, store, clients, wires)


def end_of_task(
    run: Run, stop: StoppedTask, store: RunStore, clients: Clients, wires: Wiring
) -> dict[str, Any]:
    """Record the end of a task of the run, and say what became of the run."""
    known = runs.is_final(run) or bool(run["attempts"][stop.attempt - 1]["stopped_at"])
    refusal = "" if known else ending.refusal(run, stop)
    if not known and not refusal:
        run = ending.record(run, stop, store, clients)
        refusal = ending.refusal(run, stop)
    run = advance(run, store, clients, wires)
    # The end of a later attempt's task tells of the run, and may just be at it.
    last = not any(attempt["task_arn"] for attempt in run["attempts"][stop.attempt :])
    if runs.is_final(run) and last and not run["notified_at"]:
        run = ending.finish(run, store, clients, wires)
    outcome = {
        "outcome": "refused" if refusal else "known" if known else "ended",
        "run": run["run"],
        "state": run["state"],
        "attempt": stop.attempt,
        "task_arn": stop.task_arn,
    }
    return outcome | ({"reason": refusal} if refusal else {})


def _promote(request: RunRequest, clients: Clients) -> dict[str, Any]:
    """Make the run's model the champion, if it is one that can be."""
    wires = wiring.load_wiring(clients.ssm)
    store = RunStore(clients.s3, wires["bucket"])
    run = store.find(request.run)
    if not run:
        raise NotOursError(f"{request.run} must be a run of this stack, got none of that name")
    try:
        published = Publication(clients.s3, run).verify() or {}
        promotion = champion.override(
            clients.s3, run, published, by=request.by, reason=request.reason
        )
    except (ManifestError, PromotionRefusedError) as refusal:
        raise NotOursError(str(refusal)) from refusal
    run = store.change(run["run"], functools.partial(runs.promoted, promotion=promotion))
    return {
        "outcome": promotion["decision"],
        "run": run["run"],
        "state": run["state"],
        "reason": promotion["reason"],
    }


def _read(event: object, clients: Clients) -> tuple[StoppedTask, Wiring]:
    stop = events.parse_stopped_task(event)
    wires = wiring.load_wiring(clients.ssm)
    if stop.cluster != wires["cluster"]:
        raise NotOursError(f"cluster {stop.cluster[:256]} is not {wires['cluster']}")
    return stop, wires
