"""How good a model is, over the whole of a split."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from trainer.data import Split


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures over all images of a split."""

    accuracy: float
    """Fraction of images whose highest logit is that of their class."""
    loss: float
    """Mean cross entropy, without label smoothing."""


def evaluate(model: nn.Module, split: Split, batch_size: int = 1000) -> Evaluation:
    """Measure a model in evaluation mode; leaves it there."""
    model.eval()
    right = 0
    loss = 0.0
    with torch.inference_mode():
        for images, labels in zip(
            split.images.split(batch_size), split.labels.split(batch_size), strict=True
        ):
            logits = model(images)
            right += int((logits.argmax(dim=1) == labels).sum())
            loss += float(cross_entropy(logits, labels, reduction="sum"))
    return Evaluation(accuracy=right / len(split.labels), loss=loss / len(split.labels))
