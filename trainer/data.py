"""Data sets: found out by their bytes, decoded once, kept in memory as bytes."""

# Torch and numpy leave parts of their interface untyped.
# pyright: reportUnknownMemberType=false

import io
import pickle
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from trainer.errors import DataError
from trainer.hardware import cores
from trainer.log import say

SPLITS = ("train", "test")
_LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}

Pixels = NDArray[np.uint8]


class Split(NamedTuple):
    """The images of one part, uint8 (N, C, H, W), and a class number for each."""

    images: Tensor
    labels: Tensor

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


def hash_source(path: Path) -> str:
    """Give the SHA-256 of a file, or of a folder's names and files in order."""
    if not path.is_dir():
        try:
            with path.open("rb") as file:
                return file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
    total = sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(
            f"{sha256(file.read_bytes()).hexdigest()}  {file.relative_to(path)}\n".encode()
        )
    return total.hexdigest()


def load(path: Path) -> DataSet:
    """Read a data set whatever its format, or refuse it by name."""
    try:
        if path.is_dir():
            return _from_class_folders(_listing(path), lambda name: (path / name).read_bytes())
        with path.open("rb") as file:
            start = file.read(512)
        if start[:2] == b"PK":
            return _from_zip(path)
        if start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar":
            return _from_cifar_batches(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    raise DataError(
        f"data must be a zip of class folders, an npz or the CIFAR-10 python batches, "
        f"got {path.name}, which begins with {start[:4]!r}"
    )


def decode(data: bytes, name: str) -> Pixels:
    """Decode an image to grey (H, W) or RGB (H, W, 3), upright."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{name} must have 8 bits a channel, got mode {image.mode}")
            mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
            # In place, and converted only if need be: each copy costs as much as a small JPEG.
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (
            "its bytes are of no image format"
            if isinstance(error, Image.UnidentifiedImageError)
            else error
        )
        raise DataError(f"{name} must be an image: {reason}") from error


def fit(pixels: Pixels, channels: int, height: int, width: int) -> Pixels:
    """Bring a decoded image to (height, width, channels)."""
    if pixels.shape[:2] != (height, width):
        pixels = np.asarray(
            Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        )
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], channels, axis=2)
    return pixels if channels == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def _listing(folder: Path) -> list[str]:
    """Name a folder's contents as a zip does: folders end with a slash."""
    found = sorted(folder.rglob("*"))
    return [p.relative_to(folder).as_posix() + ("/" if p.is_dir() else "") for p in found]


def _from_zip(path: Path) -> DataSet:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith(".npy") for name in names):
                return _from_npz(path)
            return _from_class_folders(names, archive.read)
    # RuntimeError is how zipfile says that a member is encrypted.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path.name} must be a whole zip archive: {error}") from error


def _from_class_folders(names: Iterable[str], read: Callable[[str], bytes]) -> DataSet:
    classes, members = _sort_into_classes(names)
    everything = [name for split in SPLITS for name, _ in members[split]]
    pixels = _decode_all(everything, read)

    height, width = (_median([image.shape[axis] for image in pixels]) for axis in (0, 1))
    channels = 3 if any(image.ndim == 3 for image in pixels) else 1
    odd = sum(image.shape[:2] != (height, width) for image in pixels)
    if odd:
        say(f"resized {odd:,} of {len(pixels):,} images to the median size, {height}x{width}")
    images = np.empty((len(pixels), height, width, channels), np.uint8)
    for index, image in enumerate(pixels):
        images[index] = fit(image, channels, height, width)
    labels = np.array([label for split in SPLITS for _, label in members[split]])
    border = len(members["train"])
    return _check(classes, (images[:border], labels[:border]), (images[border:], labels[border:]))


def _sort_into_classes(
    names: Iterable[str],
) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int]]]]:
    """Find each image's split and class from its name; refuse what has no clear place."""
    found: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    roots: set[str] = set()
    ignored = 0
    for name in sorted(names):
        path = name.replace("\\", "/")
        # Not by pathlib, which takes as long for a name as half a small image does.
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts or path.startswith("/") or ".." in parts or parts[0][1:2] == ":":
            raise DataError(f"names must stay inside the data set, got {name!r}")
        if any(part.startswith(".") or part in _LITTER for part in parts):
            continue
        depth = 0 if parts[0] in SPLITS else 1
        is_folder = name.endswith("/")
        if len(parts) == depth or parts[depth] not in SPLITS:
            ignored += not is_folder
            continue
        roots.add("/".join(parts[:depth]))
        split, rest = parts[depth], parts[depth + 1 :]
        if is_folder:
            if len(rest) == 1:
                found[split].setdefault(rest[0], [])
            continue
        if len(rest) != 2:
            raise DataError(f"images must lie in {split}/<class>/, got {name}")
        found[split].setdefault(rest[0], []).append(name)
    if len(roots) > 1:
        raise DataError(
            f"train and test must lie side by side, got {' and '.join(sorted(map(repr, roots)))}"
        )
    if ignored:
        say(f"ignored {ignored:,} files outside of train/ and test/")
    return _check_classes(found)


def _check_classes(
    found: dict[str, dict[str, list[str]]],
) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int]]]]:
    for split in SPLITS:
        if not found[split]:
            raise DataError(f"data must hold {split}/<class>/ folders with images, got no {split}/")
    train, test = (found[split].keys() for split in SPLITS)
    for lonely, present, missing in ((train - test, *SPLITS), (test - train, *reversed(SPLITS))):
        if lonely:
            lost = ", ".join(sorted(lonely))
            raise DataError(
                f"each class must be in train and test, "
                f"got {lost} in {present}/ but not in {missing}/"
            )
    classes = tuple(sorted(train))
    for split in SPLITS:
        for name in classes:
            if not found[split][name]:
                raise DataError(f"each class must have an image, got none in {split}/{name}/")
    numbered = {
        split: [
            (file, number) for number, name in enumerate(classes) for file in found[split][name]
        ]
        for split in SPLITS
    }
    return classes, numbered


def _decode_all(names: Sequence[str], read: Callable[[str], bytes]) -> list[Pixels]:
    """Decode on all cores: Pillow lets go of the interpreter while it works."""

    def decode_some(some: Sequence[str]) -> list[Pixels]:
        return [decode(read(name), name) for name in some]

    chunks = [names[start : start + 500] for start in range(0, len(names), 500)]
    images: list[Pixels] = []
    with ThreadPoolExecutor(cores()) as pool:
        for chunk in pool.map(decode_some, chunks):
            images += chunk
            if len(images) % 20_000 == 0:
                say(f"decoded {len(images):,} of {len(names):,} images")
    return images


def _median(sizes: list[int]) -> int:
    return sorted(sizes)[len(sizes) // 2]


def _from_npz(path: Path) -> DataSet:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except ValueError as error:
        raise DataError(f"{path.name} must hold plain arrays: {error}") from error
    missing = [n for n in ("x_train", "y_train", "x_test", "y_test") if n not in found]
    if missing:
        raise DataError(
            f"an npz must hold x_train, y_train, x_test and y_test, got no {missing[0]}"
        )
    for split in SPLITS:
        images, labels = found[f"x_{split}"], found[f"y_{split}"]
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
                f"y_{split} must be {len(images)} whole numbers, "
                f"got {labels.dtype} of {labels.shape}"
            )
    pairs = [
        (
            found[f"x_{s}"].reshape(*found[f"x_{s}"].shape[:3], -1),
            found[f"y_{s}"].reshape(-1).astype(np.int64),
        )
        for s in SPLITS
        if len(found[f"x_{s}"])
    ]
    if len(pairs) < 2:
        raise DataError("x_train and x_test must each hold an image, got an empty one")
    if "classes" in found:
        classes = tuple(str(name) for name in found["classes"].reshape(-1))
    else:
        classes = tuple(str(number) for number in range(int(pairs[0][1].max()) + 1))
    return _check(classes, pairs[0], pairs[1])


class _PlainUnpickler(pickle.Unpickler):
    """Reads arrays, bytes, lists and dicts, and calls nothing else a pickle may name."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return self._ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is not allowed") from None


def _from_cifar_batches(path: Path) -> DataSet:
    try:
        with tarfile.open(path) as archive:
            files = {PurePosixPath(m.name).name: m for m in archive.getmembers() if m.isfile()}
            wanted = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]
            missing = [name for name in wanted if name not in files]
            if missing:
                raise DataError(f"a tar must be the CIFAR-10 python batches, got no {missing[0]}")
            batches = {name: _unpickle(archive.extractfile(files[name]), name) for name in wanted}
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{path.name} must be a whole tar archive: {error}") from error
    meta = batches.pop("batches.meta")
    try:
        classes = tuple(name.decode() for name in meta[b"label_names"])
        splits = [_join(batches[n] for n in wanted[:5]), _join([batches["test_batch"]])]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path.name} must be the CIFAR-10 python batches: {error!r}") from error
    return _check(classes, splits[0], splits[1])


def _unpickle(file: IO[bytes] | None, name: str) -> dict[bytes, Any]:
    try:
        return _PlainUnpickler(io.BytesIO(file.read() if file else b""), encoding="bytes").load()
    # A damaged pickle may raise nearly anything.
    except Exception as error:
        raise DataError(f"{name} must be a CIFAR-10 batch: {error}") from error


def _join(batches: Iterable[dict[bytes, Any]]) -> tuple[Pixels, NDArray[np.int64]]:
    parts = list(batches)
    images = np.concatenate([np.asarray(part[b"data"], np.uint8) for part in parts])
    labels = np.concatenate([np.asarray(part[b"labels"], np.int64) for part in parts])
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _check(
    classes: tuple[str, ...],
    train: tuple[Pixels, NDArray[np.int64]],
    test: tuple[Pixels, NDArray[np.int64]],
) -> DataSet:
    """Refuse a set that could be read but not learnt from, whatever its format."""
    if len(classes) < 2:
        raise DataError(f"data must have at least 2 classes, got {', '.join(classes) or 'none'}")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"train and test images must be of one shape, "
            f"got {train[0].shape[1:]} and {test[0].shape[1:]}"
        )
    if 0 in train[0].shape:
        raise DataError(f"images must have pixels, got shape {train[0].shape[1:]}")
    splits: dict[str, Split] = {}
    for name, (images, labels) in zip(SPLITS, (train, test), strict=True):
        if len(images) != len(labels):
            raise DataError(
                f"{name} must have a label for each image, got {len(images)} and {len(labels)}"
            )
        wrong = labels[(labels < 0) | (labels >= len(classes))]
        if len(wrong):
            raise DataError(f"labels in {name} must lie in 0..{len(classes) - 1}, got {wrong[0]}")
        counts: Counter[int] = Counter(labels.tolist())
        for number, class_name in enumerate(classes):
            if not counts[number]:
                raise DataError(
                    f"each class must have an image, got none of {class_name} in {name}"
                )
        # Rows of channels, as convolutions on a CPU like them.
        nhwc = torch.from_numpy(np.ascontiguousarray(images))
        splits[name] = Split(nhwc.permute(0, 3, 1, 2), torch.from_numpy(labels))
    return DataSet(classes=classes, train=splits["train"], test=splits["test"])
