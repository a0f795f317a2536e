"""What every format comes to: arrays that were checked, then tensors."""

# Numpy leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "test")

Pixels = NDArray[np.uint8]


class Split(NamedTuple):
    """The images of one part, uint8 (N, C, H, W), and a class number for each."""

    images: "Tensor"
    labels: "Tensor"

    def __str__(self) -> str:
        return f"{len(self.labels):,} images"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What the trainer learns from and is measured on."""

    classes: tuple[str, ...]
    train: Split
    test: Split

    def __str__(self) -> str:
        _, channels, height, width = self.train.images.shape
        return (
            f"{len(self.train.labels):,} train and {len(self.test.labels):,} test images of "
            f"{len(self.classes)} classes, {height}x{width} {'RGB' if channels == 3 else 'grey'}"
        )

    @cached_property
    def test_sha256(self) -> str:
        """Tell test splits apart by what a model sees of them, whatever file they came in."""
        images = self.test.images.permute(0, 2, 3, 1).contiguous().numpy()
        return hash_split(images, self.test.labels.numpy())


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found on the way to the arrays."""

    format: str
    smallest: tuple[int, int]
    """Height and width of the image with the fewest pixels, as of the next."""
    largest: tuple[int, int]
    resized: int = 0
    """Images brought to the median size."""
    recoloured: int = 0
    """Grey images made RGB, since others have colours."""
    ignored: int = 0
    """Files outside of train/ and test/."""


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A data set before torch: images as uint8 (N, H, W, C), labels as class numbers."""

    classes: tuple[str, ...]
    train: tuple[Pixels, NDArray[np.int64]]
    test: tuple[Pixels, NDArray[np.int64]]
    facts: Facts
    counts: dict[str, tuple[int, ...]] = field(init=False, compare=False)
    """Images of each class, by split."""

    def __post_init__(self) -> None:
        """Refuse a set that could be read but not learnt from, whatever its format."""
        check_names(self.classes)
        if len(self.classes) < 2:
            found = ", ".join(self.classes) or "none"
            raise DataError(f"data must have at least 2 classes, got {found}")
        shapes = [images.shape[1:] for images, _ in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"train and test images must be of one shape, got {shapes[0]} and {shapes[1]}"
            )
        if 0 in self.train[0].shape:
            raise DataError(f"images must have pixels, got shape {shapes[0]}")
        counts = {
            name: self._count(name, *split)
            for name, split in zip(SPLITS, (self.train, self.test), strict=True)
        }
        object.__setattr__(self, "counts", counts)

    def _count(self, split: str, images: Pixels, labels: NDArray[np.int64]) -> tuple[int, ...]:
        if len(images) != len(labels):
            raise DataError(
                f"{split} must have a label for each image, got {len(images)} and {len(labels)}"
            )
        most = len(self.classes) - 1
        wrong = labels[(labels < 0) | (labels > most)]
        if len(wrong):
            raise DataError(f"labels in {split} must lie in 0..{most}, got {wrong[0]}")
        counts = np.bincount(labels, minlength=len(self.classes))
        for name, count in zip(self.classes, counts, strict=True):
            if not count:
                raise DataError(f"each class must have an image, got none of {name} in {split}")
        return tuple(int(count) for count in counts)

    def to_dataset(self) -> DataSet:
        """Hand the arrays over to torch, without a copy."""
        import torch  # noqa: PLC0415 - seconds that only a training has to spend

        # Rows of channels, as convolutions on a CPU like them.
        train, test = (
            Split(
                torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2),
                torch.from_numpy(labels),
            )
            for images, labels in (self.train, self.test)
        )
        return DataSet(classes=self.classes, train=train, test=test)


def hash_split(images: Pixels, labels: NDArray[np.int64]) -> str:
    """Hash a split's shape, labels and pixels; images as (N, H, W, C)."""
    total = sha256(repr(images.shape).encode())
    total.update(np.ascontiguousarray(labels, dtype="<i8").data)
    total.update(np.ascontiguousarray(images).data)
    return total.hexdigest()


def check_names(classes: Iterable[str]) -> None:
    """Refuse class names that a reader of logs and reports could not tell apart."""
    known: dict[str, str] = {}
    counts = Counter(classes)
    for name in counts:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise DataError(f"class names must be of printable characters, got {name!r}")
        spelling = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if not spelling:
            raise DataError(f"class names must not be blank, got {name!r}")
        other = known.setdefault(spelling, name)
        if other != name or counts[name] > 1:
            raise DataError(
                "class names must differ by more than case, blanks or the encoding of accents, "
                f"got {other!r} and {name!r}"
            )
