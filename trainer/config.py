"""Parameters and surroundings of a run: a flag beats the environment, which beats the default.

Standard library alone, since the first log line waits for this module.
"""

import argparse
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from trainer.errors import ConfigError

PARAMETER: Final = "PUSHTRAIN_PARAM_"
PRESET_NAMES: Final = ("quick", "standard", "best")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that decides what is learnt; each field is a parameter and a flag."""

    preset: str = "quick"
    """Where the values come from that are not given; `PRESETS` shows them."""
    seed: int = 0
    """Start of every random choice: same seed, same kind of CPU, same threads, same weights."""
    warm_start: str = "none"
    """`champion` starts from the champion's weights, if they fit."""

    epochs: int = 2
    """Passes over the training images."""
    least_steps: int = 0
    """A set so small that `epochs` are fewer steps than these gets more epochs; 0 where epochs
    are given, which are then kept."""
    batch_size: int = 500
    """Images a step; a set smaller than that is one batch."""
    filter_rate: float = 0.12
    """Muon's learning rate for the convolution filters at the schedule's peak."""
    learning_rate: float = 0.67
    """SGD's, for the last layer, at the schedule's peak after an eighth of the steps."""
    norm_rate: float = 0.05
    """SGD's, for the scales and shifts of the norms, likewise."""
    weight_decay: float = 5e-4
    """L2 penalty on the weights that SGD moves; the filters' norm is fixed."""
    label_smoothing: float = 0.2
    """Share of the target spread over all classes; the training loss alone knows it."""
    shift: bool | None = None
    """Show images shifted by up to a 16th of their side; by default where each is shown more
    than 5 times, since what is seen a few times is not learnt by heart."""
    mirror: bool | None = False
    """Show half of the images mirrored. By default off in `quick`; in the longer presets on
    for images in colour, off for grey ones: digits and letters mirrored are none."""

    patch: int = 4
    """Side of the patches that the first layer whitens: 4 looks at every second pixel, which is
    four times less work for all that follows, 2 at every one. Images under 16 pixels have 3."""
    whitening: int = 16
    """Components of a patch that the first layer keeps, at most as many as it has values."""
    widths: tuple[int, ...] = (64, 128, 128)
    """Filters of each block."""
    residual: tuple[int, ...] = (0, 0, 0)
    """Convolutions behind each block whose output is added to their input."""

    device: str = "auto"
    """`cuda`, `cpu`, or whichever there is."""
    compile: bool = False
    """Let torch.compile fuse the network; needs a compiler, which the image has not."""
    checkpoint_seconds: int = 60
    """Between two checkpoints; it changes nothing of what is learnt."""

    def __post_init__(self) -> None:
        rules = (
            ("preset", f"be one of {', '.join(PRESET_NAMES)}", self.preset in PRESET_NAMES),
            ("seed", "be at least 0 and below 2**63", 0 <= self.seed < 2**63),
            ("warm_start", "be none or champion", self.warm_start in ("none", "champion")),
            ("epochs", "be at least 1", self.epochs >= 1),
            ("least_steps", "be at least 0", self.least_steps >= 0),
            ("batch_size", "be at least 1", self.batch_size >= 1),
            ("filter_rate", "be above 0 and at most 10", 0 < self.filter_rate <= 10),
            ("learning_rate", "be above 0 and at most 10", 0 < self.learning_rate <= 10),
            ("norm_rate", "be above 0 and at most 10", 0 < self.norm_rate <= 10),
            ("weight_decay", "be at least 0 and below 1", 0 <= self.weight_decay < 1),
            ("label_smoothing", "be at least 0 and below 1", 0 <= self.label_smoothing < 1),
            ("patch", "be 2 or 4", self.patch in (2, 4)),
            ("whitening", "be at least 1", self.whitening >= 1),
            ("widths", "be numbers of at least 1", min(self.widths, default=0) >= 1),
            ("residual", "be numbers of at least 0", min(self.residual, default=0) >= 0),
            ("residual", "be as many as widths", len(self.residual) == len(self.widths)),
            ("device", "be auto, cpu or cuda", self.device in ("auto", "cpu", "cuda")),
            ("checkpoint_seconds", "be at least 1", self.checkpoint_seconds >= 1),
        )
        faults = [
            f"{name} must {rule}, got {_write(getattr(self, name))}"
            for name, rule, ok in rules
            if not ok
        ]
        if faults:
            raise ConfigError("; ".join(faults))

    def steps_per_epoch(self, images: int) -> int:
        """Count whole batches; what is left over waits for another epoch's order."""
        return max(1, images // self.batch_size)

    def resolve(self, images: int, *, colour: bool) -> "TrainingConfig":
        """Settle what depends on the training images."""
        fitting = replace(self, batch_size=min(self.batch_size, images))
        epochs = max(self.epochs, -(-self.least_steps // fitting.steps_per_epoch(images)))
        return replace(
            fitting,
            epochs=epochs,
            least_steps=0,
            shift=epochs > 5 if self.shift is None else self.shift,
            mirror=colour if self.mirror is None else self.mirror,
        )


PRESETS: Final = {
    # A first look at whether anything can be learnt.
    "quick": TrainingConfig(
        preset="quick",
        epochs=2,
        least_steps=120,
        batch_size=250,
        patch=4,
        whitening=12,
        widths=(32, 96, 128),
        residual=(0, 0, 0),
        mirror=False,
    ),
    # For every day: at full size, a convolution more in each block.
    "standard": TrainingConfig(
        preset="standard",
        epochs=4,
        least_steps=200,
        batch_size=500,
        filter_rate=0.17,
        patch=2,
        whitening=12,
        widths=(24, 96, 128),
        residual=(1, 1, 1),
        shift=False,
        mirror=None,
    ),
    # For the model that is kept: wider, and longer.
    "best": TrainingConfig(
        preset="best",
        epochs=7,
        least_steps=400,
        batch_size=500,
        filter_rate=0.17,
        patch=2,
        whitening=12,
        widths=(32, 128, 192),
        residual=(1, 1, 1),
        shift=True,
        mirror=None,
    ),
}


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
    checkpoint_prefix: str | None
    champion_key: str | None
    metrics: str | None
    """The stack that the log's metrics are of; None for no metrics."""
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
        checkpoint_prefix=environ.get("PUSHTRAIN_CHECKPOINT_PREFIX") or None,
        champion_key=environ.get("PUSHTRAIN_CHAMPION_KEY") or None,
        metrics=environ.get("PUSHTRAIN_METRICS") or None,
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
    if "epochs" in values:
        values.setdefault("least_steps", 0)
    # An unknown preset is refused by the config, together with whatever else is wrong.
    preset = PRESETS.get(values.get("preset", "quick"), PRESETS["quick"])
    return replace(preset, **values)


def _kind(annotation: Any) -> str:
    return re.split(r"\W", str(getattr(annotation, "__name__", annotation)))[0]


def _read(name: str, kind: str, text: str) -> float | bool | str | tuple[int, ...]:
    rule = {
        "bool": "true or false",
        "float": "a number",
        "int": "a whole number",
        "tuple": "whole numbers with commas between",
    }
    try:
        match kind:
            case "bool":
                return {"true": True, "false": False}[text.strip().lower()]
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "tuple":
                return tuple(int(part) for part in text.split(","))
            case _:
                return text.strip()
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{name} must be {rule[kind]}, got {text!r}") from error


def _write(value: Any) -> str:
    """Show a value as one would give it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - any tuple will do
