"""Decoded images beside the data they came from, so that a second training need not decode."""

# Numpy leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import contextlib
import json
import os
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from trainer.data.dataset import Arrays, Facts
from trainer.errors import DataError
from trainer.log import say

VERSION = 1
"""Of what decoding comes to: a change of it, or of the file, makes older caches worthless."""
WORTH_IMAGES = 5_000
"""Fewer are decoded within a second or two, and leave no file."""


def cache_of(source: Path) -> Path:
    """Name the cache of a data file: one, and in plain sight."""
    return source.with_name(f"{source.name}.decoded.npz")


def read_cache(source: Path, sha256: str) -> Arrays | None:
    """Give what was decoded of a file with this hash before; None sends one to the file itself."""
    path = cache_of(source)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            head = json.loads(str(found["head"]))
            if (head["version"], head["sha256"]) != (VERSION, sha256):
                say(f"decoding anew: {path.name} is of other data")
                return None
            arrays = Arrays(
                classes=tuple(head["classes"]),
                train=(found["x_train"], found["y_train"]),
                test=(found["x_test"], found["y_test"]),
                facts=Facts(**head["facts"]),
            )
    except FileNotFoundError:
        return None
    # Whatever is wrong with it: the data themselves are there to be read.
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        NotImplementedError,
        DataError,
    ) as error:
        say(f"decoding anew: {path.name} is damaged ({error})")
        return None
    say(f"read what was decoded before from {path}")
    return arrays


def write_cache(source: Path, sha256: str, arrays: Arrays) -> None:
    """Keep what was decoded, whole or not at all; where that cannot be, go on without."""
    path = cache_of(source)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    head = {
        "version": VERSION,
        "sha256": sha256,
        "classes": arrays.classes,
        "facts": asdict(arrays.facts),
    }
    try:
        with part.open("wb") as file:
            np.savez(
                file,
                head=np.array(json.dumps(head)),
                x_train=arrays.train[0],
                y_train=arrays.train[1],
                x_test=arrays.test[0],
                y_test=arrays.test[1],
            )
        part.replace(path)
    except OSError as error:
        say(f"decoded images are not kept beside the data: {error.strerror or error}")
    else:
        say(
            f"kept the decoded images as {path}, {path.stat().st_size / 1e6:.0f} MB: "
            "delete it freely"
        )
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
