"""Class folders: `train/<class>/*` and `test/<class>/*`, images of any size and kind."""

# Numpy leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable

import numpy as np

from trainer.data.dataset import SPLITS, Arrays, Facts, Pixels
from trainer.data.images import fit
from trainer.data.limits import check_decoded
from trainer.data.names import sort_into_classes
from trainer.data.sources import Source
from trainer.data.workers import decode_all

Progress = Callable[[int, int], None]
"""Is told how many images of how many are decoded."""


def read_class_folders(source: Source, format_name: str, progress: Progress) -> Arrays:
    """Decode all images and bring them to one size and one number of channels."""
    layout = sort_into_classes(source.names())
    files = [name for split in SPLITS for name, _ in layout.members[split]]
    decoded: list[Pixels] = []
    total = 0
    for chunk in decode_all(source, [(name, source.size(name)) for name in files]):
        decoded += chunk
        total += sum(image.size for image in chunk)
        check_decoded(total)
        progress(len(decoded), len(files))

    shapes = [image.shape for image in decoded]
    height, width = (_median([shape[axis] for shape in shapes]) for axis in (0, 1))
    channels = max(3 if len(shape) == 3 else 1 for shape in shapes)
    check_decoded(len(files) * height * width * channels)
    by_area = sorted((shape[0] * shape[1], shape[0], shape[1]) for shape in set(shapes))
    facts = Facts(
        format=format_name,
        smallest=by_area[0][1:],
        largest=by_area[-1][1:],
        resized=sum(shape[:2] != (height, width) for shape in shapes),
        recoloured=sum(len(shape) == 2 for shape in shapes) if channels == 3 else 0,
        ignored=layout.ignored,
    )
    images = np.empty((len(files), height, width, channels), np.uint8)
    # From the end, each one let go of at once: both would be twice the memory.
    for index in reversed(range(len(files))):
        images[index] = fit(decoded.pop(), channels, height, width)
    labels = np.array([label for split in SPLITS for _, label in layout.members[split]], np.int64)
    border = len(layout.members["train"])
    return Arrays(
        classes=layout.classes,
        train=(images[:border], labels[:border]),
        test=(images[border:], labels[border:]),
        facts=facts,
    )


def _median(sizes: list[int]) -> int:
    return sorted(sizes)[len(sizes) // 2]
