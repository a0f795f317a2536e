"""Arrays of numpy: `x_train`, `y_train`, `x_test`, `y_test`, and `classes` if they have names."""

# Numpy leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import SPLITS, Arrays, Facts
from trainer.data.limits import check_archive, check_decoded
from trainer.errors import DataError

_WANTED = ("x_train", "y_train", "x_test", "y_test")


def is_npz(names: list[str]) -> bool:
    """Tell an npz from a zip of images by its members' names."""
    return any(name.endswith(".npy") for name in names)


def read_npz(path: Path) -> Arrays:
    """Read the arrays; nothing in them is ever unpickled."""
    found = _read(path)
    for split in SPLITS:
        _check_split(split, found[f"x_{split}"], found[f"y_{split}"])
    pairs = [
        (
            found[f"x_{split}"].reshape(*found[f"x_{split}"].shape[:3], -1),
            found[f"y_{split}"].reshape(-1).astype(np.int64),
        )
        for split in SPLITS
        if len(found[f"x_{split}"])
    ]
    if len(pairs) < 2:
        raise DataError("x_train and x_test must each hold an image, got an empty one")
    if "classes" in found:
        classes = tuple(str(name) for name in found["classes"].reshape(-1))
    else:
        classes = tuple(str(number) for number in range(int(pairs[0][1].max()) + 1))
    size = pairs[0][0].shape[1:3]
    facts = Facts(format="npz", smallest=size, largest=size)
    return Arrays(classes=classes, train=pairs[0], test=pairs[1], facts=facts)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path)
            names = [member.filename for member in archive.infolist()]
            wanted = {f"{name}.npy" for name in (*_WANTED, "classes")}
            check_decoded(sum(m.file_size for m in archive.infolist() if m.filename in wanted))
        missing = [name for name in _WANTED if f"{name}.npy" not in names]
        if missing:
            raise DataError(
                f"an npz must hold x_train, y_train, x_test and y_test, got no {missing[0]}"
            )
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (*_WANTED, "classes") if name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path.name} must be a whole zip archive: {error}") from error
    # What numpy raises for a header that is none, or that promises more than there is.
    except (ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise DataError(f"{path.name} must hold plain arrays: {error}") from error


def _check_split(split: str, images: NDArray[Any], labels: NDArray[Any]) -> None:
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:] not in ((), (1,), (3,))
    ):
        raise DataError(
            f"x_{split} must be uint8 of shape N, H, W or N, H, W, 1 or 3, "
            f"got {images.dtype} of {images.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.size != len(images):
        raise DataError(
            f"y_{split} must be {len(images)} whole numbers, got {labels.dtype} of {labels.shape}"
        )
