"""How good a model is, over the whole of a split: in a run, and of a published run afterwards."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainer import data
from trainer.data import DataSet, Split
from trainer.errors import DataError, TrainerError
from trainer.hardware import choose_device, prepare
from trainer.model import SmallConvNet
from trainer.predict import open_model


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures over all images of a split."""

    accuracy: float
    """Fraction of images whose highest logit is that of their class."""
    loss: float
    """Mean cross entropy, without label smoothing."""
    confusion: tuple[tuple[int, ...], ...]
    """Images by their class, in rows, and by the class answered, in columns."""
    probabilities: Tensor
    """Of each class, for each image (N, classes)."""

    def metrics(self) -> dict[str, float]:
        """Give what can be compared as one number."""
        return {"accuracy": self.accuracy, "loss": self.loss}

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Give all figures, each class by its name."""
        per_class = {
            name: {
                "images": sum(row),
                "right": row[number],
                "accuracy": row[number] / sum(row) if sum(row) else None,
            }
            for number, (name, row) in enumerate(zip(classes, self.confusion, strict=True))
        }
        return {
            **self.metrics(),
            "classes": list(classes),
            "per_class": per_class,
            "confusion": [list(row) for row in self.confusion],
        }


def evaluate(model: nn.Module, split: Split, batch_size: int = 1000) -> Evaluation:
    """Measure a model in evaluation mode, in float32; leaves it there."""
    model.eval()
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        starts = range(0, len(split.labels), batch_size)
        batches = (split.images[start : start + batch_size] for start in starts)
        answers = torch.cat([model(images.to(device)).float().cpu() for images in batches])
        loss = cross_entropy(answers.double(), split.labels).item()
        classes = answers.shape[1]
        pairs = split.labels * classes + answers.argmax(dim=1)
        confusion = pairs.bincount(minlength=classes**2).view(classes, classes)
    counts = cast("list[list[int]]", confusion.tolist())
    return Evaluation(
        accuracy=int(confusion.trace()) / len(split.labels),
        loss=loss,
        confusion=tuple(tuple(row) for row in counts),
        probabilities=answers.softmax(dim=1),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures of a published run anew; 1 says that the run or the data are bad."""
    parser = argparse.ArgumentParser(prog="python -m trainer.evaluate", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder, s3://BUCKET/PREFIX/ or model file")
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="the data set")
    parser.add_argument("--json", action="store_true", help="all figures as one JSON document")
    flags = parser.parse_args(argv)
    try:
        prepare()
        model = open_model(flags.run)
        dataset = data.load(flags.data)
        _check(model, dataset, flags.run)
        result = evaluate(model.to(choose_device("auto")), dataset.test)
    except TrainerError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    figures = result.as_json(dataset.classes)
    if flags.json:
        text = json.dumps({**figures, "test_sha256": dataset.test_sha256}, indent=2)
    else:
        text = _table(figures, dataset.test_sha256)
    sys.stdout.write(f"{text}\n")
    return 0


def _check(model: SmallConvNet, dataset: DataSet, source: str) -> None:
    kind = model.architecture
    if kind.classes != dataset.classes:
        raise DataError(
            f"data must have the model's classes, {', '.join(kind.classes)}, "
            f"got {', '.join(dataset.classes)}"
        )
    found = tuple(dataset.test.images.shape[1:])
    if found != (kind.channels, kind.height, kind.width):
        raise DataError(
            f"images must be of {source}'s shape, "
            f"{(kind.channels, kind.height, kind.width)}, got {found}"
        )


def _table(figures: dict[str, Any], test_sha256: str) -> str:
    width = max(map(len, figures["classes"]))
    accuracy, loss = figures["accuracy"], figures["loss"]
    lines = [
        f"accuracy {accuracy:.4f}  loss {loss:.4f}  test data {test_sha256[:12]}",
        *(
            f"{name:{width}}  {row['accuracy']:.4f}  {row['right']:,} of {row['images']:,}"
            for name, row in figures["per_class"].items()
        ),
        "confusion, a row for each class, a column for each answer:",
    ]
    digits = len(str(max(max(row) for row in figures["confusion"])))
    for name, row in zip(figures["classes"], figures["confusion"], strict=True):
        lines.append(f"{name:{width}}  " + " ".join(f"{count:{digits}}" for count in row))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
