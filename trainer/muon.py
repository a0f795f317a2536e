"""Muon, the optimizer of the convolution filters."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Gradient descent whose every step turns all directions of a filter bank by the same amount.

    After Keller Jordan, https://kellerjordan.github.io/posts/muon/, and for filters, with their
    norm fixed, https://github.com/KellerJordan/cifar10-airbench. Torch's own takes matrices only.
    """

    def __init__(self, filters: Iterable[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(filters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closure is ever passed
        """Move each filter bank along its orthogonalised momentum."""
        del closure
        for group in self.param_groups:
            momentum: float = group["momentum"]
            for filters in group["params"]:
                if filters.grad is None:
                    continue
                state: dict[str, Any] = self.state[filters]
                velocity: Tensor = state.setdefault("velocity", torch.zeros_like(filters))
                velocity.mul_(momentum).add_(filters.grad)
                ahead = filters.grad.add(velocity, alpha=momentum)  # as Nesterov does
                # A norm follows each convolution, so that the filters' own size says nothing; left
                # to grow, they would turn less and less.
                filters.mul_(len(filters) ** 0.5 / (filters.square().sum().sqrt() + 1e-7))
                filters.sub_(orthogonalise(ahead.flatten(1)).view_as(filters), alpha=group["lr"])


def orthogonalise(matrix: Tensor, steps: int = 3) -> Tensor:
    """Bring all singular values near 1 by Newton and Schulz's iteration, as Muon tunes it.

    Three steps do for training; five leave less between the largest and the smallest.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / (wide.square().sum().sqrt() + 1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        # The quintic's slope at 0 is what lifts small singular values fast.
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if len(matrix) <= matrix.shape[1] else wide.T
