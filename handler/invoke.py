"""Lambda for pushes: starts exactly one run for an image, however often it is told of it."""

import functools
import itertools
from typing import Any

from handler import events, requests, runs, tasks, wiring
from handler.advance import advance
from handler.definitions import Template
from handler.events import NotOursError, Push
from handler.requests import TrainRequest
from handler.runs import DigestClashError, Run
from handler.store import RunStore
from handler.tasks import ParametersError
from handler.wiring import Clients, Wiring


def handler(event: object, _context: object) -> dict[str, Any]:
    """Take one `ECR Image Action` event, or a `Train Request`."""
    return wiring.report(lambda: deliver(event, wiring.clients()))


def deliver(event: object, clients: Clients) -> dict[str, Any]:
    """Bring the pushed image's run, or the one asked for, as far as it can come now.

    A crash after any call leaves a record from which the next delivery, or reconcile, goes on.
    """
    try:
        asked = requests.detail_of(event, requests.TRAIN)
        if asked is not None:
            return _train(requests.train_request(asked), clients)
        push, wires = _read(event, clients)
    except NotOursError as refusal:
        return {"outcome": "refused", "reason": str(refusal)}
    store = RunStore(clients.s3, wires["bucket"])
    run = store.find(runs.name_of(push.digest)) or store.claim(
        _freeze(push.digest, push.tag, wires, clients)
    )
    _check_digest(run, push.digest)
    if push.tag not in run["image"]["tags"]:
        run = store.change(run["run"], functools.partial(runs.tagged, tag=push.tag))
    return _start(run, store, clients, wires)


def _read(event: object, clients: Clients) -> tuple[Push, Wiring]:
    push = events.parse_push(event)
    wires = wiring.load_wiring(clients.ssm)
    if push.repository != wires["repository"]:
        raise NotOursError(f"repository {push.repository[:256]} is not {wires['repository']}")
    return push, wires


def _train(request: TrainRequest, clients: Clients) -> dict[str, Any]:
    """Start the run that was asked for with this token: the image's first, or a repeat of it."""
    wires = wiring.load_wiring(clients.ssm)
    store = RunStore(clients.s3, wires["bucket"])
    for number in itertools.count(1):
        name = runs.name_of(request.digest, number)
        try:
            run = store.find(name) or store.claim(_asked_for(request, number, wires, clients))
        except ParametersError as error:
            raise NotOursError(str(error)) from error
        _check_digest(run, request.digest)
        if run["repeat"] and run["repeat"]["token"] == request.token:
            return _start(run, store, clients, wires)
    raise AssertionError("there is always a next number")


def _asked_for(request: TrainRequest, number: int, wires: Wiring, clients: Clients) -> Run:
    run = _freeze(
        request.digest, request.tag, wires, clients, number=number, more=request.parameters
    )
    of = runs.name_of(request.digest)
    return {
        **run,
        "repeat": {"of": of, "by": request.by, "at": runs.now(), "token": request.token},
    }


def _freeze(  # noqa: PLR0913 (all that a run is made of)
    digest: str,
    tag: str,
    wires: Wiring,
    clients: Clients,
    *,
    number: int = 1,
    more: dict[str, str] | None = None,
) -> Run:
    """Return the record of a new run: what is set later does not change it."""
    run = runs.claimed(
        image={
            "repository": wires["repository"],
            "uri": Template.read(clients.ecs, wires).image_uri(digest),
            "digest": digest,
            "tags": [tag],
        },
        parameters=wiring.load_parameters(clients.ssm, wires) | (more or {}),
        wiring=wires,
        data=wiring.find_data(clients.s3, wires),
        number=number,
    )
    # Parameters that do not fit are refused while they can still be changed.
    tasks.build_overrides(run, number=1)
    return run


def _check_digest(run: Run, digest: str) -> None:
    if run["image"]["digest"] != digest:
        raise DigestClashError(
            f"{digest} and {run['image']['digest']} must differ in their first 12 digits, "
            f"got {run['run']} for both: push an image that differs"
        )


def _start(run: Run, store: RunStore, clients: Clients, wires: Wiring) -> dict[str, Any]:
    known = not runs.may_start(run)
    run = advance(run, store, clients, wires)
    attempt = run["attempts"][-1] if run["attempts"] else None
    outcomes = {"STARTED": "started", "WAITING": "waiting"}
    return {
        "outcome": "known" if known else outcomes.get(run["state"], "ended"),
        "run": run["run"],
        "state": run["state"],
        "attempt": attempt["number"] if attempt else None,
        "task_arn": attempt["task_arn"] if attempt else None,
    }
