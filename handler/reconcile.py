"""Lambda of the schedule: what the events did not bring to its end, it does.

It looks at the runs that are not over, and without any makes one call. Two of it at once are
harmless: each step is one that any other delivery could take as well.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from handler import cancel, ending, invoke, living, metrics, pushes, requests, runs, wiring
from handler.advance import advance
from handler.events import NotOursError
from handler.runs import Run
from handler.slots import Slots
from handler.store import RunStore
from handler.wiring import Clients, Wiring

ROUND = timedelta(minutes=5)
"""Between two rounds; the schedule in components/ has the same."""
_CLAIM_TAKES = timedelta(hours=1)
"""After which a mark without a record is one of a claim that came to nothing."""


def handler(event: object, _context: object) -> dict[str, Any]:
    """Take one scheduled event, a `Reconcile Request` or a `Cancel Request`."""
    return wiring.report(lambda: deliver(event, wiring.clients()))


def deliver(event: object, clients: Clients) -> dict[str, Any]:
    """Make a round, or cancel a run."""
    try:
        asked = requests.detail_of(event, requests.CANCEL)
        if asked is not None:
            request = requests.run_request(asked)
            return cancel.cancel(request, clients, wiring.load_wiring(clients.ssm))
        hourly = _is_hourly(event)
    except NotOursError as refusal:
        return {"outcome": "refused", "reason": str(refusal)}
    return Round(clients, wiring.load_wiring(clients.ssm)).make(hourly=hourly)


def _is_hourly(event: object) -> bool:
    """Say whether this round looks for lost pushes and stray tasks too: an hour's first does."""
    asked = requests.detail_of(event, requests.RECONCILE)
    if asked is not None:
        return asked.get("pushes") is True
    envelope = cast("dict[str, Any]", event) if isinstance(event, dict) else {}
    if envelope.get("detail-type") != "Scheduled Event":
        raise NotOursError("the event is neither of the schedule nor a request")
    try:
        time = datetime.fromisoformat(envelope.get("time", ""))
    except (TypeError, ValueError) as error:
        raise NotOursError("time must be there in an event of the schedule") from error
    return timedelta(minutes=time.minute) < ROUND


class Round:
    """One look at all that is not over."""

    def __init__(self, clients: Clients, wires: Wiring) -> None:
        self._clients = clients
        self._wires = wires
        self._store = RunStore(clients.s3, wires["bucket"])
        self._changed: list[dict[str, str]] = []
        self._errors: list[Exception] = []

    def make(self, *, hourly: bool) -> dict[str, Any]:
        """Bring each open run on as far as it can come; one that fails holds up no other."""
        marked = self._store.open_runs()
        found: list[Run] = []
        for name, since in marked.items():
            self._try(lambda name=name, since=since: self._find(name, since, found))
        # Before all that can fail: the round that comes to nothing is the one to know of.
        metrics.say(self._wires, lambda: metrics.of_round(self._wires, found, datetime.now(UTC)))
        self._try(lambda: self._free_leaked_slots(found))
        known = living.describe(self._clients.ecs, found)
        # The longest waiting first: slots are given in this order.
        for run in sorted(found, key=lambda run: run["created_at"]):
            task = known.get(run["attempts"][-1]["task_arn"] or "") if run["attempts"] else None
            self._try(lambda run=run, task=task: self._attend(run, task))
        if hourly:
            self._try(self._deliver_lost_pushes)
            self._try(self._stop_strays)
        if self._errors:
            words = "; ".join(f"{type(error).__name__}: {error}" for error in self._errors)
            raise ExceptionGroup(words, self._errors)
        return {"outcome": "reconciled", "open": len(marked), "changed": self._changed}

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 (raised again once the others had their turn)
            self._errors.append(error)

    def _find(self, name: str, since: datetime, found: list[Run]) -> None:
        run = self._store.find(name)
        if run:
            found.append(run)
        elif datetime.now(UTC) - since > _CLAIM_TAKES:
            self._store.unmark(name)

    def _free_leaked_slots(self, found: list[Run]) -> None:
        """Free the slots of runs that ended while they were given one, if anybody waits for it."""
        slots = Slots(self._clients.s3, self._wires["bucket"], self._wires["max_concurrent_runs"])
        waits = any(run["waiting"] and run["waiting"]["why"] == "limit" for run in found)
        if not slots.limited or not waits:
            return
        for name in slots.holders():
            self._try(lambda name=name: self._free_if_over(name, slots))

    def _free_if_over(self, name: str, slots: Slots) -> None:
        run = self._store.find(name)
        if not run or runs.is_final(run):
            slots.free(name)

    def _attend(self, run: Run, task: living.Task | None) -> None:
        before = run["updated_at"]
        if not runs.is_final(run):
            run = living.attend(run, task, self._store, self._clients)
            run = advance(run, self._store, self._clients, self._wires)
        if runs.is_final(run):
            run = ending.finish(run, self._store, self._clients, self._wires)
        if run["updated_at"] != before:
            self._changed.append({"run": run["run"], "state": run["state"]})

    def _stop_strays(self) -> None:
        living.stop_strays(self._store, self._clients, self._wires)

    def _deliver_lost_pushes(self) -> None:
        for digest, events in pushes.on_record(self._clients, self._wires, ROUND):
            self._try(lambda digest=digest, events=events: self._deliver(digest, events))

    def _deliver(self, digest: str, events: list[dict[str, Any]]) -> None:
        if self._store.find(runs.name_of(digest)):
            return
        for event in events:
            outcome = invoke.deliver(event, self._clients)
            if outcome["outcome"] != "refused":
                self._changed.append({"run": outcome["run"], "state": outcome["state"]})
