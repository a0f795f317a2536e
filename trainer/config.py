"""Parameters and surroundings of a run: a flag beats the environment, which beats the default.

Standard library alone, since the first log line waits for this module.
"""

import argparse
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from trainer.errors import ConfigError

PARAMETER = "PUSHTRAIN_PARAM_"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that decides what is learnt; each field is a parameter and a flag."""

    epochs: int | None = None
    """Passes over the training images; by default 2, or as many as make 60 steps: a small
    set needs the steps, and has the time for them."""
    batch_size: int = 500
    """Images a step; a set smaller than that is one batch."""
    filter_rate: float = 0.24
    """Muon's learning rate for the convolution filters at the schedule's peak."""
    learning_rate: float = 0.3
    """SGD's, for all other weights, at the schedule's peak after a quarter of the steps."""
    weight_decay: float = 5e-4
    """L2 penalty on the weights that SGD moves; the filters' norm is fixed."""
    label_smoothing: float = 0.2
    """Share of the target spread over all classes; the training loss alone knows it."""
    mirror: bool = False
    """Show half of the images mirrored; off, since a mirrored digit or letter is none."""
    seed: int = 0
    """Start of every random choice: same seed, same kind of CPU, same threads, same weights."""

    def __post_init__(self) -> None:
        rules = (
            ("epochs", "be at least 1", self.epochs is None or self.epochs >= 1),
            ("batch_size", "be at least 1", self.batch_size >= 1),
            ("filter_rate", "be above 0 and at most 10", 0 < self.filter_rate <= 10),
            ("learning_rate", "be above 0 and at most 10", 0 < self.learning_rate <= 10),
            ("weight_decay", "be at least 0 and below 1", 0 <= self.weight_decay < 1),
            ("label_smoothing", "be at least 0 and below 1", 0 <= self.label_smoothing < 1),
            ("seed", "be at least 0 and below 2**63", 0 <= self.seed < 2**63),
        )
        faults = [
            f"{name} must {rule}, got {getattr(self, name)}" for name, rule, ok in rules if not ok
        ]
        if faults:
            raise ConfigError("; ".join(faults))

    def steps_per_epoch(self, images: int) -> int:
        """Count whole batches; what is left over waits for another epoch's order."""
        return max(1, images // self.batch_size)

    def resolve(self, images: int) -> "TrainingConfig":
        """Settle what depends on the number of training images."""
        resolved = replace(self, batch_size=min(self.batch_size, images))
        return replace(resolved, epochs=resolved.epochs_for(images))

    def epochs_for(self, images: int) -> int:
        """Give the epochs asked for, or else those that the set's size calls for."""
        return self.epochs or max(2, -(-60 // self.steps_per_epoch(images)))


@dataclass(frozen=True, kw_only=True)
class Job:
    """Where a run's data lie, where it publishes, and what it is called."""

    run: str
    attempt: int
    image_digest: str | None
    image_tag: str | None
    bucket: str | None
    data_key: str | None
    data_version: str | None
    run_prefix: str | None
    data_path: Path | None
    out: Path | None

    def __str__(self) -> str:
        """Say in one line what runs: the first of the log."""
        image = f"image {self.image_digest}" if self.image_digest else "no image"
        tag = f", tag {self.image_tag}" if self.image_tag else ""
        return f"run {self.run} attempt {self.attempt}: {image}{tag}"


class _Parser(argparse.ArgumentParser):
    """Refuses as everything here does: in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; values stay text, so that both ways in are read alike."""
    parser = _Parser(
        prog="python -m trainer",
        description="Train on a set of images and publish the model.",
        epilog=f"Each parameter may also be set as {PARAMETER}<NAME>; a flag beats it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="zip, npz, CIFAR-10 tar or folder"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="publish here instead of to S3")
    for field in fields(TrainingConfig):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, dest=field.name, metavar=_kind(field.type).upper())
    return parser.parse_args(argv)


def read_job(flags: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Job:
    """Take from the environment what the flags leave open."""
    attempt = environ.get("PUSHTRAIN_ATTEMPT") or "1"
    if not attempt.isdecimal() or int(attempt) < 1:
        raise ConfigError(f"PUSHTRAIN_ATTEMPT must be a whole number from 1, got {attempt!r}")
    return Job(
        # A run outside of AWS has no image to be named after.
        run=environ.get("PUSHTRAIN_RUN") or secrets.token_hex(6),
        attempt=int(attempt),
        image_digest=environ.get("PUSHTRAIN_IMAGE_DIGEST") or None,
        image_tag=environ.get("PUSHTRAIN_IMAGE_TAG") or None,
        bucket=environ.get("PUSHTRAIN_BUCKET") or None,
        data_key=environ.get("PUSHTRAIN_DATA_KEY") or None,
        data_version=environ.get("PUSHTRAIN_DATA_VERSION") or None,
        run_prefix=environ.get("PUSHTRAIN_RUN_PREFIX") or None,
        data_path=flags.data,
        out=flags.out,
    )


def check_job(job: Job) -> None:
    """Refuse a run that has nothing to read or nowhere to publish."""
    if job.data_path is None and not (job.bucket and job.data_key):
        raise ConfigError(
            "data must be given: --data FILE, or PUSHTRAIN_BUCKET and PUSHTRAIN_DATA_KEY"
        )
    if job.out is None and not (job.bucket and job.run_prefix):
        raise ConfigError(
            "out must be given: --out DIR, or PUSHTRAIN_BUCKET and PUSHTRAIN_RUN_PREFIX"
        )


def read_config(
    flags: argparse.Namespace, environ: Mapping[str, str] = os.environ
) -> TrainingConfig:
    """Build the config; a parameter that nobody knows is a typing mistake, so it is refused."""
    kinds = {field.name: _kind(field.type) for field in fields(TrainingConfig)}
    given = {
        name.removeprefix(PARAMETER).lower(): text
        for name, text in sorted(environ.items())
        if name.startswith(PARAMETER)
    }
    unknown = sorted(given.keys() - kinds.keys())
    if unknown:
        raise ConfigError(f"parameter must be one of {', '.join(kinds)}, got {', '.join(unknown)}")
    given |= {name: getattr(flags, name) for name in kinds if getattr(flags, name) is not None}
    values: dict[str, Any] = {name: _read(name, kinds[name], text) for name, text in given.items()}
    return TrainingConfig(**values)


def _kind(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation)).split(" ")[0]


def _read(name: str, kind: str, text: str) -> float | bool:
    rule = {"bool": "true or false", "float": "a number", "int": "a whole number"}[kind]
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.strip().lower()]
        return int(text) if kind == "int" else float(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{name} must be {rule}, got {text!r}") from error
