"""What a stopped training goes on from: one object, whole or not there, of this very run."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import io
import json
import pickle
import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch

from trainer.config import Job, TrainingConfig
from trainer.errors import StorageError
from trainer.log import say
from trainer.storage import Storage
from trainer.training import Training

CHECKPOINT: Final = "checkpoint.pt"
FORMAT: Final = "pushtrain-checkpoint-1"
_NOT_LEARNT: Final = ("checkpoint_seconds",)
"""Fields of a config that may differ between two attempts, since no weight depends on them."""


class Checkpoints:
    """The newest checkpoint of a run, kept in one place.

    `identity` is what must be the same for a training to go on; `machine` is what should be, for
    it to end with the same bits. One is due `seconds` after the last.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        identity: dict[str, Any],
        machine: dict[str, Any],
        attempt: int,
        seconds: int,
    ) -> None:
        self._storage = storage
        self._attempt = attempt
        self._identity = identity
        self._machine = machine
        self._seconds = seconds
        self._saved_at = time.monotonic()

    def find(self) -> dict[str, Any] | None:
        """Read the checkpoint; say why if there is one that cannot be used."""
        body = self._storage.find(CHECKPOINT)
        if body is None:
            return None
        try:
            document = unpack(body)
            self._check(document["identity"])
        except RefusedError as error:
            say(f"checkpoint refused, training starts fresh: {error}")
            return None
        self._compare_machines(document["machine"])
        return document

    def save(self, training: Training, **facts: Any) -> bool:
        """Write the checkpoint over the one before; say so if that fails, for training goes on."""
        document = {
            "identity": self._identity,
            "machine": self._machine,
            "attempt": self._attempt,
            "architecture": asdict(training.model.architecture),
            "training": training.state(),
            "random": torch.get_rng_state(),
            **facts,
        }
        try:
            self._storage.put(CHECKPOINT, pack(document))
        except StorageError as error:
            say(f"checkpoint not saved: {error}")
            return False
        finally:
            self._saved_at = time.monotonic()
        return True

    def due(self) -> bool:
        """Tell whether the last one is too old to lose what came after it."""
        return time.monotonic() - self._saved_at >= self._seconds

    def discard(self) -> None:
        """Remove what a published run has no use for."""
        self._storage.remove(CHECKPOINT)

    def _check(self, found: dict[str, Any]) -> None:
        mine, theirs = self._identity, dict(found)
        # Field by field, so that the log names the one that differs.
        config: dict[str, Any] = mine["config"]
        kept: dict[str, Any] = theirs.get("config", {})
        for name in sorted({*config, *kept}):
            _same(name, config.get(name), kept.get(name))
        for name in sorted({*mine, *theirs}):
            _same(name, mine.get(name), theirs.get(name))

    def _compare_machines(self, found: dict[str, Any]) -> None:
        differences = [
            f"{name} {found.get(name)}, now {mine}"
            for name, mine in self._machine.items()
            if found.get(name) != mine
        ]
        if differences:
            say(
                "the checkpoint is from another kind of machine, so the weights will not be "
                f"bit-identical to an unbroken training's: {'; '.join(differences)}"
            )


class RefusedError(ValueError):
    """A checkpoint that this training cannot go on from."""


def identify(job: Job, config: TrainingConfig, data_sha256: str) -> dict[str, Any]:
    """Name all that decides what a training computes, but for the machine.

    The run's name is not among it: the checkpoint lies under it, and without AWS it is any.
    """
    learnt = {name: value for name, value in asdict(config).items() if name not in _NOT_LEARNT}
    return {
        "image_digest": job.image_digest,
        "code": code_sha256(),
        "torch": str(torch.__version__),
        "data": data_sha256,
        # As JSON gives it back, so that both sides compare alike.
        "config": json.loads(json.dumps(learnt)),
    }


def code_sha256() -> str:
    """Hash the trainer's own sources: without an image, nothing else tells that they changed."""
    folder = Path(__file__).parent
    total = sha256()
    for file in sorted(folder.rglob("*.py")):
        total.update(f"{file.relative_to(folder).as_posix()}\n".encode() + file.read_bytes())
    return total.hexdigest()


def pack(document: dict[str, Any]) -> bytes:
    """Give the bytes of a checkpoint, with their own hash in front."""
    buffer = io.BytesIO()
    torch.save(document, buffer)
    body = buffer.getvalue()
    return f"{FORMAT}\n{sha256(body).hexdigest()}\n".encode() + body


def unpack(content: bytes) -> dict[str, Any]:
    """Read the bytes of a checkpoint; nothing in them is ever run."""
    kind, _, rest = content.partition(b"\n")
    if kind != FORMAT.encode():
        raise RefusedError(f"format must be {FORMAT}, got {kind[:40]!r}")
    digest, _, body = rest.partition(b"\n")
    if digest != sha256(body).hexdigest().encode():
        raise RefusedError("it is damaged: its bytes are not those that were written")
    try:
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise RefusedError(f"it cannot be read: {error}") from error


def _same(name: str, mine: Any, other: Any) -> None:
    if mine != other:
        raise RefusedError(f"{name} is {mine}, the checkpoint's {other}")
