"""Metrics as lines of the log: CloudWatch takes them out by itself, and no role needs a right.

A line that is nothing but such a JSON document is one, which is why the functions' log format is
Text, where Lambda hands on stdout as it is:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from handler import runs
from handler.manifest import is_number
from handler.runs import Run
from handler.wiring import Wiring

NAMESPACE: Final = "pushtrain"
DIMENSION: Final = "stack"
_MOST: Final = 2.0**360
"""Of a value, on either side of 0, according to the reference of PutMetricData."""
_LONGEST: Final = 255
"""Characters of a metric's name, according to the same."""
_ENDS: Final = {
    "SUCCEEDED": "RunsSucceeded",
    "FAILED": "RunsFailed",
    "CANCELLED": "RunsCancelled",
}
_TAKEN: Final = {
    *_ENDS.values(),
    *("RunSeconds", "CostUsd", "AttemptsSpot", "AttemptsOnDemand"),
    *("OpenRuns", "HoursWithoutModel", "TrainingLoss", "TrainingAccuracy"),
    *(DIMENSION, "_aws", "run", "state", "image_tag"),
}
"""Names with a meaning of their own, which no champion metric gets: an alarm may hang on them."""
_HOUR: Final = timedelta(hours=1)

Metric = tuple[str, str, object]
"""Name, unit, value."""


def say(wires: Wiring, tell: Callable[[], Mapping[str, Any]]) -> None:
    """Write the document to the log if the stack has metrics.

    It raises nothing: no metric is no reason for a run not to end.
    """
    if not wires.get("metrics"):
        return
    try:
        print(json.dumps(tell(), allow_nan=False))  # noqa: T201 (a Lambda's log is its stdout)
    except Exception as error:  # noqa: BLE001 (see above)
        with contextlib.suppress(Exception):
            print(json.dumps({"outcome": "no metrics", "reason": repr(error)}))  # noqa: T201


def of_end(run: Run, time: datetime) -> dict[str, Any]:
    """Tell of a run that is over.

    The time is the telling's: an alarm may look past a metric that comes with an older one.
    """
    wiring = run["wiring"]
    ended = datetime.fromisoformat(run["ended_at"] or run["updated_at"])
    providers = [
        strategy["capacityProvider"]
        for attempt in run["attempts"]
        for strategy in attempt["request"]["capacityProviderStrategy"]
    ]
    cost: Mapping[str, Any] = run.get("cost") or {}
    champion = wiring["champion_metric"]
    value = None if champion in _TAKEN else run["metrics"].get(champion)
    facts = {"run": run["run"], "state": run["state"]}
    if run["image"]["tags"]:
        facts["image_tag"] = run["image"]["tags"][0]
    return _document(
        wiring["stack"],
        time,
        [
            (_ENDS[run["state"]], "Count", 1),
            ("RunSeconds", "Seconds", (ended - _claimed_at(run)).total_seconds()),
            ("CostUsd", "None", cost.get("usd")),
            ("AttemptsSpot", "Count", providers.count("FARGATE_SPOT")),
            ("AttemptsOnDemand", "Count", providers.count("FARGATE")),
            (champion, "None", value),
        ],
        facts,
    )


def of_round(wires: Wiring, found: Iterable[Run], time: datetime) -> dict[str, Any]:
    """Tell of the runs that a round of reconcile found open.

    One that waits for data counts: a push without a model is one, and nobody else tells of it.
    """
    waits = [time - _claimed_at(run) for run in found if not runs.is_final(run)]
    return _document(
        wires["stack"],
        time,
        [
            ("OpenRuns", "Count", len(waits)),
            ("HoursWithoutModel", "None", max(waits, default=timedelta()) / _HOUR),
        ],
        {},
    )


def _claimed_at(run: Run) -> datetime:
    return datetime.fromisoformat(run["created_at"])


def _document(
    stack: str, time: datetime, metrics: Iterable[Metric], facts: Mapping[str, str]
) -> dict[str, Any]:
    """Return the document; a metric that CloudWatch would not take is left out."""
    members: dict[str, Any] = {DIMENSION: stack, **facts}
    units: list[dict[str, str]] = []
    for name, unit, value in metrics:
        if 0 < len(name) <= _LONGEST and _is_value(value):
            members[name] = value
            units.append({"Name": name, "Unit": unit})
    directive = {"Namespace": NAMESPACE, "Dimensions": [[DIMENSION]], "Metrics": units}
    return {
        "_aws": {"Timestamp": int(time.timestamp() * 1000), "CloudWatchMetrics": [directive]},
        **members,
    }


def _is_value(value: object) -> bool:
    return is_number(value) and isinstance(value, int | float) and abs(value) <= _MOST
