"""Starting from the champion's weights instead of from random ones."""

import json
from dataclasses import asdict
from typing import Any

from trainer.errors import AbsentError, DataError
from trainer.log import say
from trainer.model import Architecture, SmallConvNet, load_model
from trainer.storage import Storage


def from_champion(
    bucket: Storage | None, key: str | None, wanted: Architecture
) -> tuple[SmallConvNet | None, dict[str, Any]]:
    """Load the champion if it is of the architecture wanted; say what came of it.

    The second of the pair goes into the manifest: which run the weights are of, or why of none.
    """
    model, facts = None, {"run": None, "image_digest": None, "reason": ""}
    if bucket is None or key is None:
        facts["reason"] = "no champion is known here: PUSHTRAIN_CHAMPION_KEY is not set"
    elif (body := bucket.find(key)) is None:
        facts["reason"] = f"there is no champion yet: no {key} in the bucket"
    else:
        model, facts = _load(bucket, key, body, wanted)
    start = f"from the champion, run {facts['run']}" if model else "fresh"
    say(f"warm start: {start}" + (f": {facts['reason']}" if facts["reason"] else ""))
    return model, facts


def _load(
    bucket: Storage, key: str, body: bytes, wanted: Architecture
) -> tuple[SmallConvNet | None, dict[str, Any]]:
    try:
        champion: dict[str, Any] = json.loads(body)
        run, name = str(champion["run"]), champion["model"]
        prefix = champion["prefix"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{key} must be the record of a champion: {error!r}") from error
    nobody = {"run": None, "image_digest": None}
    if not name:
        return None, {**nobody, "reason": f"run {run} named no model file"}
    try:
        model = load_model(bucket.get(f"{prefix}{name}"), f"{prefix}{name}")
    except (AbsentError, DataError) as error:
        return None, {**nobody, "reason": str(error)}
    differences = [
        f"{field} {theirs} there and {mine} here"
        for field, mine in asdict(wanted).items()
        # The scale of pixels moves a little with every new image, and comes with the weights.
        if field not in ("mean", "std") and (theirs := getattr(model.architecture, field)) != mine
    ]
    if differences:
        return None, {**nobody, "reason": f"run {run} differs: {', '.join(differences)}"}
    return model, {"run": run, "image_digest": champion.get("image_digest"), "reason": ""}
