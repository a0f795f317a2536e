"""Lambda for pushes: starts exactly one task for an image, however often it is told of it."""

import functools
from typing import Any

from handler import events, runs, tasks, wiring
from handler.events import NotOursError, Push
from handler.runs import DigestClashError, Run
from handler.store import RunStore
from handler.tasks import Template
from handler.wiring import Clients, Wiring


def handler(event: object, _context: object) -> dict[str, Any]:
    """Take one `ECR Image Action` event."""
    return wiring.report(lambda: deliver(event, wiring.clients()))


def deliver(event: object, clients: Clients) -> dict[str, Any]:
    """Bring the pushed image's run as far as it can come now.

    A crash after any call leaves a record from which the next delivery goes on.
    """
    try:
        push, wires = _read(event, clients)
    except NotOursError as refusal:
        return {"outcome": "refused", "reason": str(refusal)}
    store = RunStore(clients.s3, wires["bucket"])
    run = store.find(runs.name_of(push.digest)) or store.claim(_freeze(push, wires, clients))
    if run["image"]["digest"] != push.digest:
        raise DigestClashError(
            f"{push.digest} and {run['image']['digest']} must differ in their first 12 digits, "
            f"got {run['run']} for both: push an image that differs"
        )
    if push.tag not in run["image"]["tags"]:
        run = store.change(run["run"], functools.partial(runs.tagged, tag=push.tag))
    return _go_on(run, store, clients)


def _read(event: object, clients: Clients) -> tuple[Push, Wiring]:
    push = events.parse_push(event)
    wires = wiring.load_wiring(clients.ssm)
    if push.repository != wires["repository"]:
        raise NotOursError(f"repository {push.repository[:256]} is not {wires['repository']}")
    return push, wires


def _freeze(push: Push, wires: Wiring, clients: Clients) -> Run:
    """Return the record of a new run: what is set later does not change it."""
    run = runs.claimed(
        image={
            "repository": push.repository,
            "uri": Template.read(clients.ecs, wires).image_uri(push.digest),
            "digest": push.digest,
            "tags": [push.tag],
        },
        parameters=wiring.load_parameters(clients.ssm, wires),
        wiring=wires,
        data=wiring.find_data(clients.s3, wires),
    )
    # Parameters that do not fit are refused while they can still be changed.
    tasks.build_overrides(run, number=1)
    return run


def _go_on(run: Run, store: RunStore, clients: Clients) -> dict[str, Any]:
    if not runs.may_start(run):
        return _outcome("known", run)
    if not run["data"]:
        data = wiring.find_data(clients.s3, run["wiring"])
        if not data:
            return _outcome("waiting", run)
        run = store.change(run["run"], functools.partial(runs.supplied, data=data))
    if not runs.open_attempt(run):
        run = _open_attempt(run, store, clients)
    if not runs.may_start(run):
        return _outcome("known", run)
    return _outcome("started", tasks.place(clients.ecs, store, run))


def _open_attempt(run: Run, store: RunStore, clients: Clients) -> Run:
    # Later attempts keep the first one's definition: a second one may have been registered
    # by a delivery that lost the race, and goes when the run ends.
    definition = (
        run["attempts"][0]["request"]["taskDefinition"]
        if run["attempts"]
        else Template.read(clients.ecs, run["wiring"]).pin(clients.ecs, run)
    )
    build = functools.partial(tasks.build_request, task_definition=definition)
    return store.change(run["run"], functools.partial(runs.attempted, build=build))


def _outcome(outcome: str, run: Run) -> dict[str, Any]:
    attempt = run["attempts"][-1] if run["attempts"] else None
    return {
        "outcome": outcome,
        "run": run["run"],
        "state": run["state"],
        "attempt": attempt["number"] if attempt else None,
        "task_arn": attempt["task_arn"] if attempt else None,
    }
