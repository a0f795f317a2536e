"""What follows an attempt that is over without a model: the next one, a wait, or the end."""

import dataclasses
from datetime import UTC, datetime, timedelta

from handler import diagnosis, runs
from handler.diagnosis import Cause, End
from handler.events import rfc3339
from handler.runs import Attempt, Run

BACK_OFF_MINUTES = (5, 10, 20, 40, 60)
"""Waits before a run asks again for what it did not get; the last one holds from then on."""
_BY_CAUSE = {cause.name: cause for cause in diagnosis.CAUSES}


def settle(run: Run, attempt: Attempt, end: End) -> Run:
    """Close the run's latest attempt, and decide by the table what comes next."""
    if run["stop"]:
        end = dataclasses.replace(end, we_stopped=run["stop"]["why"])
    cause = diagnosis.find_cause(end)
    told = diagnosis.diagnose(cause, end)
    run = runs.with_attempt(run, {**attempt, "cause": cause.name, "diagnosis": told})
    ended_so = sum(each["cause"] == cause.name for each in run["attempts"])
    if ended_so >= cause.most:
        times = f", {ended_so} times" if ended_so > 1 else ""
        return runs.ended(
            run,
            cause.state,
            {"cause": cause.name, **told, "summary": f"{cause.summary}{times}"},
        )
    claimed: Run = {**run, "state": "CLAIMED", "waiting": None}
    if not cause.waits_for or (cause.provider == "next" and not _is_last(run)):
        return claimed
    rounds = (ended_so - 1) // (_providers(run) if cause.provider == "next" else 1)
    minutes = BACK_OFF_MINUTES[min(rounds, len(BACK_OFF_MINUTES) - 1)]
    not_before = rfc3339(datetime.now(UTC) + timedelta(minutes=minutes))
    return runs.waiting(
        claimed,
        {"why": cause.waits_for, "detail": told["detail"], "not_before": not_before},
    )


def refused(run: Run, number: int, refusal: str) -> Run:
    """Close an attempt that no task came of, unless another delivery had more luck with it."""
    attempt = run["attempts"][number - 1]
    if runs.open_attempt(run) is not attempt or attempt["task_arn"]:
        return run
    return settle(run, {**attempt, "failure": refusal}, End(refusal=refusal))


def stop(run: Run, stop: runs.Stop) -> Run:
    """Say why the run is to be stopped; one that has no task, and asked for none, is over."""
    stopped = runs.to_be_stopped(run, stop)
    if stopped is run or runs.open_attempt(stopped):
        return stopped
    cause = diagnosis.find_cause(End(we_stopped=stop["why"]))
    told: runs.RunDiagnosis = {
        "cause": cause.name,
        "summary": cause.summary,
        "detail": f"by {stop['by']}: {stop['reason']}; no task was at work",
        "action": cause.action,
    }
    return runs.ended(stopped, cause.state, told)


def next_provider(run: Run) -> str:
    """Return the capacity provider of the run's next attempt."""
    providers = run["wiring"]["capacity_providers"]
    if run["waiting"] or not run["attempts"]:
        return providers[0]
    last = run["attempts"][-1]
    step = 1 if _cause_of(last).provider == "next" else 0
    return providers[min(_index(run, last) + step, len(providers) - 1)]


def needs_new_definition(run: Run) -> bool:
    """Say whether ECS refused the last request: the definition named in it may be gone."""
    return bool(run["attempts"]) and run["attempts"][-1]["cause"] == "refused"


def _cause_of(attempt: Attempt) -> Cause:
    return _BY_CAUSE.get(attempt["cause"] or "", _BY_CAUSE["stopped"])


def _providers(run: Run) -> int:
    return len(run["wiring"]["capacity_providers"])


def _index(run: Run, attempt: Attempt) -> int:
    (strategy,) = attempt["request"]["capacityProviderStrategy"]
    return run["wiring"]["capacity_providers"].index(strategy["capacityProvider"])


def _is_last(run: Run) -> bool:
    return _index(run, run["attempts"][-1]) == _providers(run) - 1
