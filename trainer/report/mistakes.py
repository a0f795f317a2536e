"""The answers that were wrong with the most confidence: where data and model disagree most."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import base64
import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from trainer.data import Split

_SIDE = 128
"""Pixels; larger pictures are shown smaller, so that a page of them stays small."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One wrong answer."""

    picture: str
    """A data URI."""
    true: str
    answer: str
    confidence: float
    """Probability of the answer."""
    share: float
    """Probability of the true class."""
    number: int
    """Of the image, in the test split's order."""


def worst_mistakes(
    split: Split, probabilities: Tensor, classes: tuple[str, ...], most: int = 24
) -> list[Mistake]:
    """Give the wrong answers, the most confident first."""
    confidence, answers = probabilities.max(dim=1)
    wrong = (answers != split.labels).nonzero()[:, 0]
    # Stable, so that equal models write equal reports.
    order = confidence[wrong].argsort(descending=True, stable=True)[:most]
    return [
        Mistake(
            picture=_data_uri(split.images[number]),
            true=classes[int(split.labels[number])],
            answer=classes[int(answers[number])],
            confidence=float(confidence[number]),
            share=float(probabilities[number, split.labels[number]]),
            number=number,
        )
        for number in (int(index) for index in wrong[order])
    ]


def _data_uri(pixels: Tensor) -> str:
    rows = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows.copy())
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
