"""The trainer itself: data in, model out, each phase in its order."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trainer import data
from trainer.checkpoint import Checkpoints, identify
from trainer.config import Job, TrainingConfig
from trainer.data import DataSet
from trainer.errors import StorageError
from trainer.evaluate import evaluate
from trainer.hardware import choose_device, describe, prepare
from trainer.history import Epoch, to_lines, to_metrics, to_tensorboard
from trainer.log import say
from trainer.model import Architecture, SmallConvNet, save_model
from trainer.phases import Phases
from trainer.publish import MANIFEST, MODEL, Publication
from trainer.report import REPORT, report_run
from trainer.stop import Stop
from trainer.storage import Folder, S3Prefix, Storage
from trainer.training import Training
from trainer.warm_start import from_champion


def run(job: Job, config: TrainingConfig, stop: Stop | None = None) -> None:
    """Download, decode, train, evaluate, publish: a failure before the end publishes nothing."""
    prepare()
    device = choose_device(config.device)
    phases = Phases()
    storage = open_storage(job)

    with tempfile.TemporaryDirectory() as folder:
        with phases.timed("download"):
            source = fetch(job, Path(folder))
            data_sha256 = data.hash_source(source)
        with phases.timed("decode"):
            # What was downloaded is gone after the run; a file of the user's is read again.
            dataset = data.load(source, data_sha256 if job.data_path else None)
            test_sha256 = dataset.test_sha256
    say(f"data: {dataset}, {phases.seconds['decode']:.1f} s")

    images, channels = dataset.train.images.shape[:2]
    config = config.resolve(images, colour=channels == 3)
    publication = Publication(storage, job)
    # The first write is the proof that the last one will be allowed.
    publication.add_json("config.json", asdict(config))

    machine = describe(device)
    checkpoints = Checkpoints(
        open_checkpoints(job),
        identity=identify(job, config, data_sha256),
        machine=machine,
        attempt=job.attempt,
        seconds=config.checkpoint_seconds,
    )
    start = begin(job, config, dataset, device, checkpoints)
    training, lineage = start.training, start.lineage
    say(
        f"training preset {config.preset}: {config.epochs} epochs of {training.steps_per_epoch} "
        f"steps on {machine['threads']} threads in {machine['number_format']}"
        + (", images also mirrored" if config.mirror else "")
    )

    if training.history:
        publication.add("metrics.jsonl", to_lines(training.history))

    def after_epoch(epoch: Epoch) -> None:
        publication.add("metrics.jsonl", to_lines(training.history))
        say(
            f"epoch {epoch.epoch}/{config.epochs}  loss {epoch.loss:.3f}  "
            f"train accuracy {epoch.accuracy:.3f}  {epoch.seconds:.1f} s"
        )
        if job.metrics:
            say(to_metrics(epoch, stack=job.metrics, run=job.run, time=time.time()))

    phases.add("train", start.seconds)
    with phases.timed("train"):
        train(start, checkpoints, stop or Stop(), after_epoch)
    model = training.model
    with phases.timed("evaluate"):
        result = evaluate(model, dataset.test)
    say(
        f"test accuracy {result.accuracy:.4f}  loss {result.loss:.3f}  "
        f"{phases.seconds['evaluate']:.1f} s"
    )

    figures = {
        **result.as_json(dataset.classes),
        "epochs": [asdict(epoch) for epoch in training.history],
    }
    facts: dict[str, Any] = {
        "data": {
            "sha256": data_sha256,
            "test_sha256": test_sha256,
            "classes": list(dataset.classes),
            "train": len(dataset.train.labels),
            "test": len(dataset.test.labels),
        },
        "config": asdict(config),
        "lineage": lineage,
        "seed": config.seed,
        "versions": {
            "python": platform.python_version(),
            **{n: version(n) for n in ("torch", "numpy", "pillow")},
        },
        "hardware": machine,
        "seconds": phases.seconds,
    }
    with phases.timed("publish"):
        publication.add(
            MODEL, save_model(model, config=asdict(config), image_digest=job.image_digest)
        )
        publication.add_json("metrics.json", figures)
        publication.add(*to_tensorboard(training.history, result.metrics()))
        page = report_run(
            job,
            dataset,
            bucket=open_bucket(job),
            probabilities=result.probabilities,
            figures=figures,
            facts=facts,
        )
        if page:
            publication.add(REPORT, page)
    publication.finish(metrics=result.metrics(), **facts)
    checkpoints.discard()
    say(f"published to {storage}, {phases.seconds['publish']:.1f} s")


@dataclass(frozen=True, kw_only=True)
class Start:
    """A training that may be at its beginning or further on."""

    training: Training
    lineage: dict[str, Any]
    """What the weights come from: `warm_start` and `resumed`, each null where there is none."""
    seconds: float = 0.0
    """Trained in earlier attempts."""


def begin(
    job: Job,
    config: TrainingConfig,
    dataset: DataSet,
    device: torch.device,
    checkpoints: Checkpoints,
) -> Start:
    """Go on from the run's checkpoint, or start from the champion or afresh."""
    torch.manual_seed(config.seed)
    found = checkpoints.find()
    if found:
        model = SmallConvNet(Architecture(**found["architecture"]))
        training = Training(model, dataset.train, config, device)
        training.restore(found["training"])
        torch.set_rng_state(found["random"])
        say(
            f"resumed at step {training.step} of {training.steps}, "
            f"from the checkpoint of attempt {found['attempt']}"
        )
        resumed = {"step": training.step, "attempt": found["attempt"]}
        lineage = {**found["lineage"], "resumed": resumed}
        return Start(training=training, lineage=lineage, seconds=found["seconds"])

    architecture = describe_architecture(dataset, config)
    model, warm_start = None, None
    if config.warm_start == "champion":
        model, warm_start = from_champion(open_bucket(job), job.champion_key, architecture)
    if model is None:
        model = SmallConvNet(architecture)
        model.whiten(dataset.train.images)
    training = Training(model, dataset.train, config, device)
    return Start(training=training, lineage={"warm_start": warm_start, "resumed": None})


def train(
    start: Start, checkpoints: Checkpoints, stop: Stop, after_epoch: Callable[[Epoch], None]
) -> None:
    """Make the steps that are left; leave a checkpoint behind now and then, and at the end.

    The last one lets a retry of whatever fails after the training go on from there.
    """
    training = start.training
    started = time.perf_counter()
    with stop.deferred():
        while not training.finished:
            epoch = training.advance()
            if epoch:
                after_epoch(epoch)
            if not (stop.requested or training.finished or checkpoints.due()):
                continue
            saved = checkpoints.save(
                training,
                lineage=start.lineage,
                seconds=start.seconds + time.perf_counter() - started,
            )
            if stop.requested:
                what = "checkpoint" if saved else "no checkpoint"
                stop.end(f"{what} at step {training.step} of {training.steps}, nothing published")


def describe_architecture(dataset: DataSet, config: TrainingConfig) -> Architecture:
    """Fit the network to the set: its classes, size, and the scale of its pixels."""
    _, channels, height, width = dataset.train.images.shape
    # A few thousand images tell the scale, taken evenly, since classes come one after the other.
    some = dataset.train.images[:: max(1, len(dataset.train.images) // 2000)]
    moments = [torch.std_mean(some[:, c] / 255) for c in range(channels)]
    return Architecture(
        classes=dataset.classes,
        channels=channels,
        height=height,
        width=width,
        mean=tuple(float(mean) for _, mean in moments),
        std=tuple(float(std) or 1.0 for std, _ in moments),
        patch=config.patch,
        whitening=config.whitening,
        widths=config.widths,
        residual=config.residual,
    )


def open_storage(job: Job) -> Storage:
    """Find where the run publishes."""
    if job.out is not None:
        if (job.out / MANIFEST).exists():
            raise StorageError(f"out must not hold a published run, got {job.out}: name another")
        return Folder(job.out)
    return S3Prefix(job.bucket or "", job.run_prefix or "")


def open_bucket(job: Job) -> Storage | None:
    """Give the stack's whole bucket to a run that has one."""
    return S3Prefix(job.bucket, "") if job.bucket else None


def open_checkpoints(job: Job) -> Storage:
    """Find where the run keeps its checkpoint."""
    if job.out is not None:
        return Folder(job.out / "checkpoints")
    return S3Prefix(job.bucket or "", job.checkpoint_prefix or f"checkpoints/{job.run}/")


def fetch(job: Job, folder: Path) -> Path:
    """Bring the data here, unless a path was given."""
    if job.data_path is not None:
        return job.data_path
    target = folder / "dataset"
    bucket = S3Prefix(job.bucket or "", "")
    started = time.perf_counter()
    bucket.download(job.data_key or "", job.data_version, target)
    megabytes = target.stat().st_size / 1e6
    say(
        f"downloaded {bucket}{job.data_key}: {megabytes:.1f} MB, "
        f"{time.perf_counter() - started:.1f} s"
    )
    return target
