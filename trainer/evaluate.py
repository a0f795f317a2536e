"""How good a model is, over the whole of a split."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

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
        for start in range(0, len(split.labels), batch_size):
            images = split.images[start : start + batch_size]
            labels = split.labels[start : start + batch_size]
            logits = model(images)
            right += int((logits.argmax(dim=1) == labels).sum())
            loss += float(cross_entropy(logits, labels, reduction="sum"))
    return Evaluation(accuracy=right / len(split.labels), loss=loss / len(split.labels))
