"""A person's word that a run is to be stopped: it is not tried again."""

import functools
from typing import Any

from handler import ending, recovery, runs, tasks
from handler.advance import advance
from handler.requests import RunRequest
from handler.store import RunStore
from handler.wiring import Clients, Wiring


def cancel(request: RunRequest, clients: Clients, wires: Wiring) -> dict[str, Any]:
    """Write down why, then stop the task; a run without one is over at once."""
    store = RunStore(clients.s3, wires["bucket"])
    run = store.find(request.run)
    if not run:
        reason = f"{request.run} must be a run of this stack, got none of that name"
        return {"outcome": "refused", "run": request.run, "state": None, "reason": reason}
    if runs.is_final(run):
        reason = f"the run is over: {run['state']}"
        return {"outcome": "known", "run": run["run"], "state": run["state"], "reason": reason}
    stop: runs.Stop = {
        "why": "cancel",
        "by": request.by,
        "reason": request.reason,
        "at": runs.now(),
    }
    run = store.change(run["run"], functools.partial(recovery.stop, stop=stop))
    attempt = runs.open_attempt(run)
    if attempt and not runs.is_final(run):
        if attempt["task_arn"]:
            tasks.stop_task(
                clients.ecs,
                run["wiring"]["cluster"],
                attempt["task_arn"],
                f"cancelled by {request.by}",
            )
        else:
            # The request may have been sent: only RunTask can say which task came of it, and it
            # is stopped then.
            run = advance(run, store, clients, wires)
    if runs.is_final(run):
        run = ending.finish(run, store, clients, wires)
    outcome = "stopping" if not runs.is_final(run) else "cancelled"
    return {"outcome": outcome, "run": run["run"], "state": run["state"]}
