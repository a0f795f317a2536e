"""From a file to a data set, or to a description of what it would be."""

import time
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from trainer.data.cache import WORTH_IMAGES, read_cache, write_cache
from trainer.data.cifar import read_cifar_batches
from trainer.data.dataset import SPLITS, Arrays, DataSet, Facts, hash_split
from trainer.data.folders import Progress, read_class_folders
from trainer.data.npz import is_npz, read_npz
from trainer.data.sources import Folder, Zip
from trainer.errors import DataError
from trainer.log import say

_SAY_EVERY_SECONDS = 5.0


def hash_source(path: Path) -> str:
    """Give the SHA-256 of a file, or of a folder's names and files in order."""
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                return file_digest(file, "sha256").hexdigest()
        total = sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(
                f"{sha256(file.read_bytes()).hexdigest()}  {file.relative_to(path)}\n".encode()
            )
        return total.hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def load(path: Path, keep_as: str | None = None) -> DataSet:
    """Read a data set whatever its format, or refuse it by name.

    `keep_as` is the hash of a file that will be read again: what took long to decode is kept
    beside it under that hash.
    """
    arrays = read_cache(path, keep_as) if keep_as else None
    if arrays is None:
        arrays = read(path, _say_progress())
        if keep_as and len(arrays.train[0]) + len(arrays.test[0]) >= WORTH_IMAGES:
            write_cache(path, keep_as, arrays)
    for line in remarks(arrays):
        say(line)
    return arrays.to_dataset()


def read(path: Path, progress: Progress) -> Arrays:
    """Read the arrays of a data set by what its first bytes say it is."""
    try:
        if path.is_dir():
            return read_class_folders(Folder(path), "folder of class folders", progress)
        with path.open("rb") as file:
            start = file.read(512)
        if start[:2] == b"PK":
            archive = Zip(path)
            if is_npz(archive.names()):
                return read_npz(path)
            return read_class_folders(archive, "zip of class folders", progress)
        if start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar":
            return read_cifar_batches(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    raise DataError(
        f"data must be a zip of class folders, an npz or the CIFAR-10 python batches, "
        f"got {path.name}, which begins with {start[:4]!r}"
    )


def remarks(arrays: Arrays) -> list[str]:
    """Say what of the images is not as it was in the file."""
    facts, (_, height, width, _) = arrays.facts, arrays.train[0].shape
    images = len(arrays.train[0]) + len(arrays.test[0])
    lines: list[str] = []
    if facts.resized:
        lines.append(
            f"resized {facts.resized:,} of {images:,} images, {_size(facts.smallest)} to "
            f"{_size(facts.largest)}, to the median size, {height}x{width}"
        )
    if facts.recoloured:
        lines.append(f"made {facts.recoloured:,} grey images RGB, as the others are")
    if facts.ignored:
        lines.append(f"ignored {facts.ignored:,} files outside of train/ and test/")
    return lines


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _say_progress() -> Progress:
    """Write a line every few seconds: quick sets need none."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _SAY_EVERY_SECONDS:
            last = time.monotonic()
            say(f"decoded {done:,} of {total:,} images")

    return progress


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a training would make of a file."""

    format: str
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    """By split and class."""
    height: int
    width: int
    channels: int
    """1 is grey, 3 is RGB."""
    facts: Facts
    remarks: tuple[str, ...]
    """What would be changed or left out, a sentence each."""
    test_sha256: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def describe(path: Path, progress: Progress = lambda _done, _total: None) -> Description:
    """Read a data set as a training would, down to the last image; DataError says why not."""
    arrays = read(path, progress)
    _, height, width, channels = arrays.train[0].shape
    return Description(
        format=arrays.facts.format,
        classes=arrays.classes,
        counts={
            split: dict(zip(arrays.classes, arrays.counts[split], strict=True)) for split in SPLITS
        },
        height=height,
        width=width,
        channels=channels,
        facts=arrays.facts,
        remarks=tuple(remarks(arrays)),
        test_sha256=hash_split(*arrays.test),
    )
