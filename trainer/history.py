"""The course of a training, epoch by epoch."""

# TensorboardX has no types.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

import json
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one pass over the training images came to, on images as shifted as they were shown."""

    epoch: int
    """From 1."""
    loss: float
    """Mean training loss, label smoothing included."""
    accuracy: float
    """Fraction of training images answered rightly while learning."""
    learning_rate: float
    """At the last step."""
    seconds: float


def to_lines(epochs: list[Epoch]) -> bytes:
    """One JSON document a line, oldest first."""
    return "".join(json.dumps(asdict(epoch)) + "\n" for epoch in epochs).encode()


def to_metrics(epoch: Epoch, *, stack: str, run: str, time: float) -> str:
    """Give the line of a log that CloudWatch takes the epoch's metrics out of.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    A loss that is no number any more is no metric either.
    """
    values = {"TrainingLoss": epoch.loss, "TrainingAccuracy": epoch.accuracy}
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    directive = {
        "Namespace": "pushtrain",
        "Dimensions": [["stack"]],
        "Metrics": [{"Name": name, "Unit": "None"} for name in finite],
    }
    metadata = {"Timestamp": int(time * 1000), "CloudWatchMetrics": [directive]}
    return json.dumps(
        {"_aws": metadata, "stack": stack, "run": run, "epoch": epoch.epoch, **finite}
    )


def to_tensorboard(epochs: list[Epoch], test: dict[str, float]) -> tuple[str, bytes]:
    """Give the name and bytes of an event file that TensorBoard shows as curves."""
    from tensorboardX import SummaryWriter  # noqa: PLC0415 - a second that training need not wait for

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for epoch in epochs:
                writer.add_scalar("train/loss", epoch.loss, epoch.epoch)
                writer.add_scalar("train/accuracy", epoch.accuracy, epoch.epoch)
                writer.add_scalar("train/learning_rate", epoch.learning_rate, epoch.epoch)
            for name, value in test.items():
                writer.add_scalar(f"test/{name}", value, len(epochs))
        (file,) = Path(folder).iterdir()
        return file.name, file.read_bytes()
