"""Classify images with a model of the stack: the champion, or a run's own."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automation.deployed import Deployed
from automation.errors import StackError
from automation.runs import Records


class PredictError(StackError):
    """There is no model, or it cannot be used here."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model makes of an image."""

    image: Path
    ranking: list[tuple[str, float]]
    """All classes with their probabilities, the likeliest first."""

    def as_json(self, run: str) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        classes = [{"class": name, "probability": share} for name, share in self.ranking]
        return {"image": str(self.image), "run": run, "classes": classes}


def choose(records: Records, deployed: Deployed, run: str | None) -> str:
    """Give the run whose model is meant: that one, or the champion's."""
    if run is not None:
        return records.find(run)["run"]
    champion = records.champion()
    if champion is None:
        raise PredictError(
            "the stack must have a champion, got none: give --run, or "
            + deployed.command("promote RUN")
        )
    return champion["run"]


def fetch(records: Records, run: str, folder: Path) -> Path:
    """Copy a run's model to a folder; its hash must be that of the manifest."""
    manifest = records.manifest(run) or {}
    name = manifest.get("model")
    if not isinstance(name, str):
        raise PredictError(f"run {run} must name its model in its manifest, got none")
    body = records.document(f"runs/{run}/{name}")
    expected = manifest.get("files", {}).get(name, {}).get("sha256")
    if body is None or hashlib.sha256(body).hexdigest() != expected:
        raise PredictError(f"{name} of run {run} must be as its manifest says, got another file")
    file = folder / Path(name).name
    file.write_bytes(body)
    return file


def predict(model: Path, images: Sequence[Path]) -> Iterator[Answer]:
    """Classify image after image; PredictError names the one that is none."""
    try:
        from trainer.errors import TrainerError  # noqa: PLC0415 - torch may not be there
        from trainer.predict import open_model  # noqa: PLC0415 - as above
        from trainer.predict import predict as classify  # noqa: PLC0415 - as above
    except ImportError as error:
        raise PredictError(
            f"{error.name} must be installed to use a model here: pip install -r "
            "requirements/torch.txt, or make setup"
        ) from error
    try:
        opened = open_model(str(model))
        for image in images:
            yield Answer(image=image, ranking=classify(opened, image))
    except TrainerError as error:
        # Where the copy lay is nobody's business.
        raise PredictError(str(error).replace(str(model), model.name)) from error
