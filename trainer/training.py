"""A training under way: one step after the other, each a function of what `state` holds."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.augment import augment
from trainer.config import TrainingConfig
from trainer.data import Split
from trainer.errors import DataError
from trainer.hardware import number_format
from trainer.history import Epoch
from trainer.model import SmallConvNet
from trainer.muon import Muon


class Training:
    """Fits a model on a triangular schedule: Muon for the filters, SGD for the rest.

    Nothing in it depends on a timing, so that two with one config end with the same weights, and
    so does one that goes on from another's `state`. `config` is a resolved one.
    """

    def __init__(
        self, model: SmallConvNet, split: Split, config: TrainingConfig, device: torch.device
    ) -> None:
        model.train().to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's overloads miss it
        self.model = model
        self.config = config
        self.history: list[Epoch] = []
        self.step = 0
        """Steps made, over all epochs."""
        self.steps_per_epoch = config.steps_per_epoch(len(split.labels))
        self.steps = config.epochs * self.steps_per_epoch
        self._device = device
        self._numbers = number_format(device)
        self._forward = torch.compile(model) if config.compile else model
        self._images, self._labels = split.images.to(device), split.labels.to(device)
        self._optimizers = _optimizers(self.model, config)
        self._generator = torch.Generator(device).manual_seed(config.seed)
        self._mirrored_first = (
            torch.rand(len(split.labels), generator=self._generator, device=device) < 0.5
        )
        self._begin_epoch()

    @property
    def finished(self) -> bool:
        """Whether the schedule is at its end."""
        return self.step >= self.steps

    def advance(self) -> Epoch | None:
        """Make a step; return the epoch's figures if that was its last."""
        started = time.perf_counter()
        config = self.config
        first = self.step % self.steps_per_epoch * config.batch_size
        indices = self._order[first : first + config.batch_size]
        batch = augment(
            self._images,
            indices,
            self._generator,
            shift=bool(config.shift),
            mirrored=self._mirrored(indices) if config.mirror else None,
        )
        labels = self._labels[indices]
        with torch.autocast(
            self._device.type, self._numbers, enabled=self._numbers != torch.float32
        ):
            logits: Tensor = self._forward(batch).float()
        loss = cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        loss.backward()
        factor = triangle(self.step, self.steps)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
            optimizer.zero_grad()
        # Summed where they are: to ask a GPU for a number is to wait for it.
        self._loss += loss.detach() * len(indices)
        self._right += (logits.argmax(dim=1) == labels).sum()
        self.step += 1
        ended = self.step % self.steps_per_epoch == 0
        if ended:
            self._loss.item()  # waits for a GPU, whose time would count for the next epoch
        self._seconds += time.perf_counter() - started
        return self._end_epoch(factor) if ended else None

    def _mirrored(self, indices: Tensor) -> Tensor:
        """Mirror half of the images by chance in the first epoch, then each every second time.

        So no image is shown twice the same way in a row, as in airbench: the fewer the epochs, the
        more that helps (https://arxiv.org/abs/2404.00498, alternating flip).
        """
        odd = self.step // self.steps_per_epoch % 2 == 1
        return self._mirrored_first[indices] ^ odd

    def state(self) -> dict[str, Any]:
        """Give all that the next step depends on, as tensors, numbers, lists and dicts."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "generator": self._generator.get_state(),
            "order": self._order,
            "loss": self._loss,
            "right": self._right,
            "seconds": self._seconds,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another training of this config was."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self._generator.set_state(state["generator"])
        self._order = state["order"].to(self._device)
        self._loss, self._right = (state[name].to(self._device) for name in ("loss", "right"))
        self._seconds = state["seconds"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]

    def _begin_epoch(self) -> None:
        self._order = torch.randperm(
            len(self._labels), generator=self._generator, device=self._device
        )
        self._loss = torch.zeros((), device=self._device)
        self._right = torch.zeros((), dtype=torch.int64, device=self._device)
        self._seconds = 0.0

    def _end_epoch(self, factor: float) -> Epoch:
        seen = self.steps_per_epoch * self.config.batch_size
        number = self.step // self.steps_per_epoch
        loss = self._loss.item() / seen
        if not loss < float("inf"):
            raise DataError(
                f"loss must stay finite, got {loss} in epoch {number}: "
                f"lower learning_rate ({self.config.learning_rate})"
            )
        epoch = Epoch(
            epoch=number,
            loss=loss,
            accuracy=self._right.item() / seen,
            learning_rate=self.config.learning_rate * factor,
            seconds=self._seconds,
        )
        self.history.append(epoch)
        self._begin_epoch()
        return epoch


def triangle(step: int, steps: int) -> float:
    """Scale the rate: up over the first eighth of the steps, then down to nearly nothing."""
    peak = max(1, steps // 8)
    return min((step + 1) / peak, (steps - step) / (steps - peak + 1))


def _optimizers(model: SmallConvNet, config: TrainingConfig) -> tuple[torch.optim.Optimizer, ...]:
    """Sort the weights that learn by their shape: filters, the last layer's matrix, norms.

    The momenta, and rates near these, are airbench's (https://github.com/KellerJordan/cifar10-airbench).
    """
    filters, matrices, norms = (
        [weight for weight in model.parameters() if weight.requires_grad and weight.ndim == axes]
        for axes in (4, 2, 1)
    )
    optimizers = (
        Muon(filters, lr=config.filter_rate, momentum=0.6),
        torch.optim.SGD(
            [
                {"params": matrices, "lr": config.learning_rate},
                {"params": norms, "lr": config.norm_rate},
            ],
            momentum=0.85,
            nesterov=True,
            weight_decay=config.weight_decay,
        ),
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers
