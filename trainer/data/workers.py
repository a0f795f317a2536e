"""Decoding on all cores, in processes: most of a small image's time is Pillow's Python.

Threads would take turns at that, and multiprocessing's workers outlive a parent that is killed.
"""

# Numpy leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO, cast

import numpy as np

from trainer.cores import cores
from trainer.data.dataset import Pixels
from trainer.data.images import decode_some
from trainer.data.sources import Source
from trainer.errors import DataError

_CHUNK_FILES = 500
_CHUNK_BYTES = 2 * 1024**2
"""Of files: a worker holds a chunk's pixels until it is through with it."""
_WORTH_WORKERS = 8
"""Chunks; for fewer, a worker takes longer to start than the images to decode."""


def decode_all(source: Source, sizes: Sequence[tuple[str, int]]) -> Generator[list[Pixels]]:
    """Decode files, given with their sizes, in order and chunk by chunk."""
    chunks = list(_chunks(sizes))
    if cores() == 1 or len(chunks) < _WORTH_WORKERS:
        yield from (decode_some(source, chunk) for chunk in chunks)
        return
    workers = [_Worker(source) for _ in range(cores())]
    free: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def decode_in_worker(chunk: list[str]) -> list[Pixels]:
        worker = free.get()
        try:
            return worker.decode(chunk)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(len(workers))
    try:
        yield from pool.map(decode_in_worker, chunks)
    finally:
        # Who stops reading, for a bad image or a signal, waits for no chunk.
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.end()
        pool.shutdown()


def _chunks(sizes: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    chunk: list[str] = []
    total = 0
    for name, size in sizes:
        chunk.append(name)
        total += size
        if len(chunk) == _CHUNK_FILES or total > _CHUNK_BYTES:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


class _Worker:
    """The trainer's end of a worker."""

    def __init__(self, source: Source) -> None:
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(  # noqa: S603 - a module of ours
            [sys.executable, "-m", "trainer.data.worker", source.kind, os.fspath(source.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )

    def decode(self, names: list[str]) -> list[Pixels]:
        """Have a chunk decoded."""
        to, back = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        try:
            to.write(json.dumps(names).encode() + b"\n")
            to.flush()
            head = json.loads(back.readline())
            if "error" in head:
                raise DataError(head["error"])
            return [
                np.frombuffer(back.read(math.prod(shape)), np.uint8).reshape(shape)
                for shape in head["shapes"]
            ]
        # It is gone, and nothing, or not all of it, came back.
        except (BrokenPipeError, ValueError) as error:
            raise DataError(
                f"images from {names[0]} on must decode in the memory that there is: "
                f"a worker ended with {self._process.wait()}"
            ) from error

    def end(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            # What is left in the buffer for a process that is gone cannot be written.
            with contextlib.suppress(BrokenPipeError):
                cast("IO[bytes]", stream).close()
