"""Time and accuracy of each preset beside the predecessor's training, on one machine in one run.

The predecessor is what this project grew out of: its network, its optimizer and its batches of 4,
as they were. One epoch of it is timed, in parts between the other trainings, so that both meet
the same machine; ten epochs, which is what it took for 75.3 %, are charged. Training time alone is
compared: data in memory, augmentation included, no test-time augmentation. Every training is a
process of its own and starts with a seed that no recipe was chosen by.
"""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer import data
from trainer.config import PRESETS
from trainer.cores import BRIEFLY_AWAKE, cores
from trainer.data import Split
from trainer.errors import DataError, TrainerError
from trainer.evaluate import evaluate
from trainer.hardware import choose_device, describe, prepare
from trainer.model import SmallConvNet
from trainer.train import describe_architecture
from trainer.training import Training

PREDECESSOR = "predecessor"
PREDECESSOR_ACCURACY = 0.753
"""Of the test set after ten epochs, as its own log had it."""
EPOCHS_CHARGED = 10
BATCH = 4
WARM_UP_STEPS = 20
FIRST_SEED = 1000
WAITS = {
    "awake": {"OMP_WAIT_POLICY": "ACTIVE"},
    "briefly awake": BRIEFLY_AWAKE,
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
}
"""How threads may wait for each other: awake is faster on a machine at rest, and many times
slower on a busy one."""
RUNS = {"quick": 5, "standard": 3, "best": 3}


def predecessor() -> nn.Module:
    """Build its network."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(2048, 512),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def time_predecessor(split: Split, steps: int, seed: int, device: torch.device) -> dict[str, Any]:
    """Time so many of its steps, each on a batch of 4, scaled to [-1, 1]."""
    torch.manual_seed(seed)
    network = predecessor().to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    order = torch.randperm(len(split.labels))
    clock = Clock(device)
    for step in range(WARM_UP_STEPS + steps):
        if step == WARM_UP_STEPS:
            clock = Clock(device)
        indices = order[torch.arange(step * BATCH, (step + 1) * BATCH) % len(order)]
        images = (split.images[indices].float() / 127.5 - 1).to(device)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), split.labels[indices].to(device))
        loss.backward()
        optimizer.step()
    return {"steps": steps, **clock.read()}


def time_preset(
    dataset: data.DataSet, name: str, seed: int, device: torch.device
) -> dict[str, Any]:
    """Train by a preset, from random weights to the end of its schedule; then measure."""
    count, channels = dataset.train.images.shape[:2]
    config = replace(PRESETS[name], seed=seed).resolve(count, colour=channels == 3)
    torch.manual_seed(seed)
    clock = Clock(device)
    model = SmallConvNet(describe_architecture(dataset, config))
    model.whiten(dataset.train.images)
    training = Training(model, dataset.train, config, device)
    while not training.finished:
        epoch = training.advance()
        if epoch:
            _tell(f"  {name} seed {seed}: epoch {epoch.epoch}/{config.epochs}, {clock.read()}")
    spent = clock.read()
    result = evaluate(model, dataset.test)
    return {"seed": seed, **spent, **result.metrics(), "config": asdict(config)}


class Clock:
    """Seconds on the wall, and of all threads of this process on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wall, self._cpu = self._now()

    def read(self) -> dict[str, float]:
        """Return the seconds since it was made."""
        wall, cpu = self._now()
        return {"seconds": round(wall - self._wall, 3), "cpu_seconds": round(cpu - self._cpu, 3)}

    def _now(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter(), time.process_time()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trainings asked for and print the table; 1 says that the data are bad."""
    parser = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("PUSHTRAIN_TEST_DATA") or None)
    parser.add_argument("--presets", default=",".join(PRESETS), metavar="NAME,...")
    parser.add_argument("--seeds", metavar="N,...", help="runs: of each preset, or one for all")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, metavar="N")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, run by run")
    parser.add_argument("--one", metavar="NAME:NUMBER", help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    presets = flags.presets.split(",")
    if unknown := [name for name in presets if name not in PRESETS]:
        parser.error(f"presets must be among {', '.join(PRESETS)}, got {', '.join(unknown)}")
    try:
        asked = [int(number) for number in (flags.seeds or "").split(",") if number]
        runs = dict(zip(presets, asked * len(presets) if len(asked) == 1 else asked, strict=True))
    except ValueError:
        runs = {}
    runs = runs if flags.seeds else {name: RUNS[name] for name in presets}
    if min(runs.values(), default=0) < 1:
        parser.error(f"seeds must be a number, or one for each preset, got {flags.seeds}")
    if flags.data is None:
        parser.error("data must be given: --data FILE or PUSHTRAIN_TEST_DATA")
    try:
        if flags.one:
            sys.stdout.write(json.dumps(_one(flags)) + "\n")
            return 0
        document = _all(flags, runs)
    except TrainerError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(table(document) + "\n")
    if flags.json:
        flags.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def _one(flags: argparse.Namespace) -> dict[str, Any]:
    """Run one training in this process."""
    name, _, number = flags.one.partition(":")
    device = choose_device(flags.device)
    if name == PREDECESSOR:
        torch.set_num_threads(cores())
        return time_predecessor(_load(flags.data).train, int(number), flags.first_seed, device)
    prepare()
    return time_preset(_load(flags.data), name, int(number), device)


def _all(flags: argparse.Namespace, runs: dict[str, int]) -> dict[str, Any]:
    """Run everything, each in a process of its own, the predecessor's epoch between the others."""
    device = choose_device(flags.device)
    steps = len(_load(flags.data).train.labels) // BATCH
    rounds = max(runs.values())

    def run(name: str, number: int, wait: dict[str, str] = BRIEFLY_AWAKE) -> dict[str, Any]:
        _tell(f"{name} {number}")
        return _start(flags, f"{name}:{number}", wait)

    # It has no setting of its own; it is charged for whichever is fastest here.
    probes = {how: run(PREDECESSOR, min(100, steps), WAITS[how]) for how in WAITS}
    fastest = min(probes, key=lambda how: probes[how]["seconds"])
    parts: list[dict[str, Any]] = []
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for number in range(rounds):
        share = steps * (number + 1) // rounds - steps * number // rounds
        parts.append(run(PREDECESSOR, share, WAITS[fastest]))
        for name, wanted in runs.items():
            # What is long, and thus done few times, comes last.
            if (done := number - (rounds - wanted)) >= 0:
                results[name].append(run(name, flags.first_seed + done))
    epoch = {name: sum(part[name] for part in parts) for name in ("seconds", "cpu_seconds")}
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": str(flags.data.name),
        "hardware": describe(device),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "predecessor": {
            "steps": steps,
            "threads_wait": fastest,
            "epoch": epoch,
            "charged": {name: EPOCHS_CHARGED * spent for name, spent in epoch.items()},
            "parts": parts,
        },
        "presets": {name: _summary(found) for name, found in results.items()},
        "runs": results,
    }


def _start(flags: argparse.Namespace, one: str, wait: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.train", "--one", one, "--data", str(flags.data)]
    command += ["--device", flags.device, "--first-seed", str(flags.first_seed)]
    done = subprocess.run(  # noqa: S603 - this file itself
        command,
        env={**os.environ, **wait},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TrainerError(f"{one} must end well, got exit code {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    _tell("  " + ", ".join(f"{name} {found[name]}" for name in found if name != "config"))
    return found


def _load(path: Path) -> data.DataSet:
    dataset = data.load(path, data.hash_source(path))
    _, channels, height, width = dataset.train.images.shape
    if (channels, height, width, len(dataset.classes)) != (3, 32, 32, 10):
        raise DataError(f"data must be CIFAR-10, which the predecessor was made for, got {dataset}")
    return dataset


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Give means over the seeds; the deviation is that of a single run."""
    accuracies = [run["accuracy"] for run in runs]
    return {
        "n": len(runs),
        "seeds": [run["seed"] for run in runs],
        "accuracy": statistics.fmean(accuracies),
        "accuracy_deviation": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "seconds": statistics.fmean(run["seconds"] for run in runs),
        "cpu_seconds": statistics.fmean(run["cpu_seconds"] for run in runs),
        "epochs": runs[0]["config"]["epochs"],
    }


def table(document: dict[str, Any]) -> str:
    """Set the figures side by side, as Markdown that is also legible as it is."""
    hardware, before = document["hardware"], document["predecessor"]
    charged = before["charged"]
    rows = [
        ("training", "epochs", "n", "test accuracy", "seconds", "of it", "CPU seconds", "of it"),
        (
            PREDECESSOR,
            f"{EPOCHS_CHARGED} (1 timed)",
            "",
            f"{PREDECESSOR_ACCURACY:.1%} (its log)",
            f"{charged['seconds']:.1f}",
            "1",
            f"{charged['cpu_seconds']:.1f}",
            "1",
        ),
    ]
    for name, found in document["presets"].items():
        spread = found["accuracy_deviation"]
        rows.append(
            (
                name,
                str(found["epochs"]),
                str(found["n"]),
                f"{found['accuracy']:.2%}" + (f" ± {100 * spread:.2f}" if spread else ""),
                f"{found['seconds']:.1f}",
                f"1/{charged['seconds'] / found['seconds']:.1f}",
                f"{found['cpu_seconds']:.1f}",
                f"1/{charged['cpu_seconds'] / found['cpu_seconds']:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    seeds = max((found["seeds"] for found in document["presets"].values()), key=len)
    versions = ", ".join(f"{name} {text}" for name, text in document["versions"].items())
    device = "" if hardware["device"] == "cpu" else f", {hardware['device']}"
    machine = (
        f"{hardware['processor']}, {hardware['threads']} threads{device}, "
        f"{hardware['number_format']}; {versions}; seeds {', '.join(map(str, seeds))}; "
        f"{document['data']}; {document['measured_at']}"
    )
    rule = (
        "Training time only, data in memory, augmentation included, accuracy at the end of the "
        "schedule, no test-time augmentation."
    )
    return "\n".join([*lines, "", machine, rule])


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
