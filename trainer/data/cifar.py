"""The CIFAR-10 python batches, as their makers give them out: pickles in a tar."""

# Numpy leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import Arrays, Facts, Pixels
from trainer.data.limits import MIB
from trainer.errors import DataError

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_META = "batches.meta"
MOST_BYTES = 1024 * MIB
"""Of all that the tar unpacks to; the real one has 178 MiB."""


def read_cifar_batches(path: Path) -> Arrays:
    """Read the batches; their pickles may build arrays and call nothing."""
    try:
        with tarfile.open(path) as archive:
            batches = _batches(archive)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{path.name} must be a whole tar archive: {error}") from error
    try:
        classes = tuple(name.decode() for name in batches[_META][b"label_names"])
        train, test = _join(batches[name] for name in _TRAIN), _join([batches[_TEST]])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path.name} must be the CIFAR-10 python batches: {error!r}") from error
    facts = Facts(format="CIFAR-10 python batches", smallest=(32, 32), largest=(32, 32))
    return Arrays(classes=classes, train=train, test=test, facts=facts)


def _batches(archive: tarfile.TarFile) -> dict[str, dict[bytes, Any]]:
    wanted = {*_TRAIN, _TEST, _META}
    found: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        # Before the next one is looked for, which unpacks all of this one.
        if member.offset_data + member.size > MOST_BYTES:
            raise DataError(f"a tar must unpack to at most {MOST_BYTES // MIB} MiB, got more")
        name = PurePosixPath(member.name).name
        if member.isfile() and name in wanted and found.setdefault(name, member) is not member:
            raise DataError(f"names must be unique, got {name} twice")
    if missing := sorted(wanted - found.keys()):
        raise DataError(f"a tar must be the CIFAR-10 python batches, got no {missing[0]}")
    return {name: _unpickle(archive.extractfile(member), name) for name, member in found.items()}


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
