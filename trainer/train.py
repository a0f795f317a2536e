"""The trainer itself: data in, model out, each phase in its order."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import contextlib
import platform
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer import data
from trainer.config import Job, TrainingConfig
from trainer.cores import cores
from trainer.data import DataSet, Split
from trainer.errors import DataError, StorageError
from trainer.evaluate import evaluate
from trainer.hardware import describe, number_format
from trainer.history import Epoch, to_lines, to_tensorboard
from trainer.log import say
from trainer.model import Architecture, SmallConvNet, save_model
from trainer.muon import Muon
from trainer.publish import MANIFEST, MODEL, Publication
from trainer.storage import Folder, S3Prefix, Storage


def run(job: Job, config: TrainingConfig) -> None:
    """Download, decode, train, evaluate, publish: a failure before the end publishes nothing."""
    torch.set_num_threads(cores())
    seconds: dict[str, float] = {}
    storage = open_storage(job)

    with tempfile.TemporaryDirectory() as folder:
        with timed(seconds, "download"):
            source = fetch(job, Path(folder))
            data_sha256 = data.hash_source(source)
        with timed(seconds, "decode"):
            # What was downloaded is gone after the run; a file of the user's is read again.
            dataset = data.load(source, data_sha256 if job.data_path else None)
    say(f"data: {dataset}, {seconds['decode']:.1f} s")

    config = config.resolve(len(dataset.train.labels))
    publication = Publication(storage, job)
    # The first write is the proof that the last one will be allowed.
    publication.add_json("config.json", asdict(config))

    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(mode=True)
    model = SmallConvNet(describe_architecture(dataset))
    machine = describe()
    say(
        f"training {config.epochs} epochs on {machine['threads']} threads "
        f"in {machine['number_format']}"
    )
    history: list[Epoch] = []

    def after_epoch(epoch: Epoch) -> None:
        history.append(epoch)
        publication.add("metrics.jsonl", to_lines(history))
        say(
            f"epoch {epoch.epoch}/{config.epochs}  loss {epoch.loss:.3f}  "
            f"train accuracy {epoch.accuracy:.3f}  {epoch.seconds:.1f} s"
        )

    with timed(seconds, "train"):
        train(model, dataset.train, config, after_epoch)
    with timed(seconds, "evaluate"):
        result = asdict(evaluate(model, dataset.test))
    say(
        f"test accuracy {result['accuracy']:.4f}  loss {result['loss']:.3f}  "
        f"{seconds['evaluate']:.1f} s"
    )

    with timed(seconds, "publish"):
        publication.add(
            MODEL, save_model(model, config=asdict(config), image_digest=job.image_digest)
        )
        publication.add_json(
            "metrics.json", {**result, "epochs": [asdict(epoch) for epoch in history]}
        )
        publication.add(*to_tensorboard(history, result))
    publication.finish(
        metrics=result,
        data={
            "sha256": data_sha256,
            "test_sha256": dataset.test_sha256,
            "classes": list(dataset.classes),
            "train": len(dataset.train.labels),
            "test": len(dataset.test.labels),
        },
        config=asdict(config),
        seed=config.seed,
        versions={
            "python": platform.python_version(),
            **{n: version(n) for n in ("torch", "numpy", "pillow")},
        },
        hardware=machine,
        seconds=seconds,
    )
    say(f"published to {storage}, {seconds['publish']:.1f} s")


def train(
    model: SmallConvNet, split: Split, config: TrainingConfig, after_epoch: Callable[[Epoch], None]
) -> None:
    """Fit a model on a triangular schedule: Muon for the filters, SGD for the rest."""
    model.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's overloads miss it
    model.whiten(split.images)
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    optimizers = (
        Muon([w for w in learnt if w.ndim == 4], lr=config.filter_rate, momentum=0.6),
        torch.optim.SGD(
            [w for w in learnt if w.ndim != 4],
            lr=config.learning_rate,
            momentum=0.85,
            nesterov=True,
            weight_decay=config.weight_decay,
        ),
    )
    numbers = number_format()
    images = len(split.labels)
    epochs = config.epochs_for(images)
    steps = config.steps_per_epoch(images)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: triangle(step, epochs * steps))
        for optimizer in optimizers
    ]
    generator = torch.Generator().manual_seed(config.seed)
    # Images seen only a few times are not learnt by heart: shifting them would slow learning.
    shift = epochs > 5

    for number in range(1, epochs + 1):
        started = time.perf_counter()
        loss_sum = right = seen = 0.0
        order = torch.randperm(images, generator=generator)
        for step in range(steps):
            indices = order[step * config.batch_size : (step + 1) * config.batch_size]
            batch = augment(split.images, indices, generator, shift=shift, mirror=config.mirror)
            labels = split.labels[indices]
            with torch.autocast("cpu", numbers, enabled=numbers != torch.float32):
                logits = model(batch).float()
            loss = cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
            loss.backward()
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            loss_sum += loss.item() * len(indices)
            right += (logits.argmax(dim=1) == labels).sum().item()
            seen += len(indices)
        if not loss_sum < float("inf"):
            raise DataError(
                f"loss must stay finite, got {loss_sum / seen} in epoch {number}: "
                f"lower learning_rate ({config.learning_rate})"
            )
        after_epoch(
            Epoch(
                epoch=number,
                loss=loss_sum / seen,
                accuracy=right / seen,
                learning_rate=config.learning_rate * triangle(number * steps - 1, epochs * steps),
                seconds=time.perf_counter() - started,
            )
        )


def triangle(step: int, steps: int) -> float:
    """Scale the rate: up over the first quarter of the steps, then down to nearly nothing."""
    peak = max(1, steps // 4)
    return min((step + 1) / peak, (steps - step) / (steps - peak + 1))


def augment(
    images: Tensor, indices: Tensor, generator: torch.Generator, *, shift: bool, mirror: bool
) -> Tensor:
    """Gather a batch, each image shifted by up to a 16th of its side, its edge repeated.

    So 32 pixels move by 2 and 8 by none, where a shift would lose a stroke.
    """
    height, width = images.shape[2:]
    count = len(indices)

    def lines(size: int) -> Tensor:
        most = size // 16 if shift else 0
        by = torch.randint(-most, most + 1, (count, 1), generator=generator)
        return (torch.arange(size) + by).clamp_(0, size - 1)

    rows, columns = lines(height), lines(width)
    if mirror:
        turned = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(turned, width - 1 - columns, columns)
    # Indexed with channels last, which is how they lie in memory and how the network wants them.
    pixels = images.permute(0, 2, 3, 1)
    return pixels[indices[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def describe_architecture(dataset: DataSet) -> Architecture:
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
    )


def open_storage(job: Job) -> Storage:
    """Find where the run publishes."""
    if job.out is not None:
        if (job.out / MANIFEST).exists():
            raise StorageError(f"out must not hold a published run, got {job.out}: name another")
        return Folder(job.out)
    return S3Prefix(job.bucket or "", job.run_prefix or "")


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


@contextlib.contextmanager
def timed(seconds: dict[str, float], phase: str) -> Generator[None]:
    """Note how long a phase took."""
    started = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - started, 3)
