"""Bring a run on its way: data, a slot, a request on record, a task."""

import functools

from handler import recovery, runs, tasks, wiring
from handler.definitions import Template
from handler.runs import Run
from handler.slots import Slots
from handler.store import RunStore
from handler.wiring import Clients, Wiring


def advance(run: Run, store: RunStore, clients: Clients, wires: Wiring) -> Run:
    """Return the run's record once it is as far as it can come now.

    Any number of deliveries may do this at once, and each may die after any call: every step is
    one change of the record, and whoever comes next goes on from the last one.
    """
    slots = Slots(clients.s3, wires["bucket"], wires["max_concurrent_runs"])
    while runs.is_due(run, runs.now()):
        if not run["data"]:
            data = wiring.find_data(clients.s3, run["wiring"])
            if not data:
                break
            run = store.change(run["run"], functools.partial(runs.supplied, data=data))
        elif runs.open_attempt(run):
            run = _place(run, store, clients)
        elif slots.take(run["run"]):
            run = _open_attempt(run, store, clients)
        else:
            return store.change(run["run"], functools.partial(_wait_for_slot, wires=wires))
    if runs.is_final(run):
        # It may have ended while it was given a slot.
        slots.free(run["run"])
    return run


def _wait_for_slot(run: Run, wires: Wiring) -> Run:
    most = wires["max_concurrent_runs"]
    detail = f"{most} runs are at work, which is the limit (pushtrain:maxConcurrentRuns)"
    return runs.waiting(run, {"why": "limit", "detail": detail, "not_before": None})


def _open_attempt(run: Run, store: RunStore, clients: Clients) -> Run:
    # Later attempts keep the definition of the one before: a second one may have been registered
    # by a delivery that lost the race, and goes when the run ends.
    definition = (
        Template.read(clients.ecs, run["wiring"]).pin(clients.ecs, run)
        if not run["attempts"] or recovery.needs_new_definition(run)
        else run["attempts"][-1]["request"]["taskDefinition"]
    )

    def build(newest: Run, number: int) -> dict[str, object]:
        return tasks.build_request(
            newest, number, task_definition=definition, provider=recovery.next_provider(newest)
        )

    return store.change(run["run"], functools.partial(runs.attempted, build=build))


def _place(run: Run, store: RunStore, clients: Clients) -> Run:
    """Send the open attempt's request, and return the record with the answer in it."""
    attempt = run["attempts"][-1]
    number, cluster = attempt["number"], run["wiring"]["cluster"]
    task_arn, refusal = tasks.run_task(clients.ecs, attempt["request"])
    if refusal:
        return store.change(
            run["run"], functools.partial(recovery.refused, number=number, refusal=refusal)
        )
    run = store.change(
        run["run"], functools.partial(runs.started, number=number, task_arn=task_arn)
    )
    if run["attempts"][number - 1]["task_arn"] != task_arn:
        # Our request started a task after its failure was recorded and the run went on without.
        reason = f"attempt {number} was given up before it started"
        tasks.stop_task(clients.ecs, cluster, task_arn, reason)
    elif run["stop"] and not runs.is_final(run):
        tasks.stop_task(clients.ecs, cluster, task_arn, run["stop"]["reason"])
    return run
