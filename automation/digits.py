"""The demo's own data set: real handwritten digits that come with scikit-learn."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs] - it has none

TEST_EVERY = 5
"""One image of so many is for the test: 360 of 1797."""
BRIGHTEST = 16
"""The data set's own scale."""


def write_digits(file: Path) -> None:
    """Write a zip of `train/<digit>/*.png` and `test/<digit>/*.png`, 8x8 pixels, grey."""
    digits = cast("Any", load_digits())
    pixels = np.rint(digits.images * (255 / BRIGHTEST)).astype(np.uint8)
    with zipfile.ZipFile(file, "w") as archive:  # PNG is compressed already
        for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
            part = "train" if number % TEST_EVERY else "test"
            png = BytesIO()
            Image.fromarray(image).save(png, "png")
            archive.writestr(f"{part}/{label}/{number:04}.png", png.getvalue())
