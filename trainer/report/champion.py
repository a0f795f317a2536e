"""The model that this one is held against, as far as it can be read."""

import json
from dataclasses import dataclass, replace
from typing import Any

from trainer.errors import TrainerError
from trainer.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Champion:
    """What is known of the champion; a report is written whatever that is."""

    run: str | None = None
    promoted_at: str = ""
    metric: str = ""
    value: float | None = None
    figures: dict[str, Any] | None = None
    """Its metrics.json, where it has the same test data and classes."""
    note: str = ""
    """Why there is no comparison, or not all of one."""


def find_champion(
    bucket: Storage | None, key: str | None, *, test_sha256: str, classes: tuple[str, ...]
) -> Champion:
    """Read the champion and its figures; never fail a run for them."""
    if bucket is None or not key:
        return Champion(note="No champion is known here: this run is not part of a stack.")
    try:
        body = bucket.find(key)
        if body is None:
            return Champion(note="There is no champion yet.")
        return _read(bucket, json.loads(body), test_sha256, classes)
    except TrainerError as error:
        return Champion(note=f"The champion could not be read: {error}.")
    # Whatever else was written there.
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Champion(note=f"{key} is no record of a champion: {error!r}.")


def _read(
    bucket: Storage, record: dict[str, Any], test_sha256: str, classes: tuple[str, ...]
) -> Champion:
    value = record["value"]
    champion = Champion(
        run=str(record["run"]),
        promoted_at=str(record.get("promoted_at", "")),
        metric=str(record["metric"]),
        value=None if value is None else float(value),
    )
    theirs = record["data"]["test_sha256"]
    if theirs != test_sha256:
        lack = "was tested on other data" if theirs else "does not say what it was tested on"
        note = f"The champion {lack}, so figures of the two mean little side by side."
        return replace(champion, note=note)
    body = bucket.find(f"{record['prefix']}metrics.json")
    found: Any = json.loads(body) if body else {}
    if "per_class" not in found:
        return replace(champion, note="The champion left no figures of each class.")
    if tuple(found["classes"]) != classes:
        return replace(champion, note="The champion knows other classes.")
    return replace(champion, figures=_figures(found, classes))


def _figures(found: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """Take what the report shows, and see that it is what it should be."""
    return {
        "accuracy": float(found["accuracy"]),
        "per_class": {
            name: {"accuracy": float(found["per_class"][name]["accuracy"])} for name in classes
        },
        "epochs": [
            {name: float(epoch[name]) for name in ("epoch", "loss", "accuracy")}
            for epoch in found["epochs"]
        ],
    }
