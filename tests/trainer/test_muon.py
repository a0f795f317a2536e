"""The optimizer of the filters."""

import pytest
import torch
from torch import nn

from trainer.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(64, 216), (216, 64), (32, 32), (1, 9)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_singular_values_come_near_1_whatever_the_gradient_s_size(shape, size):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * size

    values = torch.linalg.svdvals(orthogonalise(matrix, steps=5))

    # Where Newton and Schulz's iteration with these factors ends: about 0.68 to 1.13.
    assert values.max() < 1.2
    assert values.median() > 0.65


def test_directions_stay_what_they_were():
    left, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
    right, _ = torch.linalg.qr(torch.randn(8, 5, generator=torch.Generator().manual_seed(1)))
    matrix = left @ torch.diag(torch.tensor([5.0, 4, 3, 2, 1])) @ right.T

    inner = left.T @ orthogonalise(matrix, steps=5) @ right

    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-4)
    assert inner.diagonal().min() > 0.65


def test_a_step_is_exact():
    filters = nn.Parameter(torch.tensor([[[[3.0, 4.0]]], [[[0.0, 12.0]]]]))
    optimizer = Muon([filters], lr=0.1, momentum=0.5)
    gradients = (
        torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]]),
        torch.tensor([[[[0.0, 1.0]]], [[[1.0, 0.0]]]]),
    )
    expected = filters.detach().clone()
    velocity = torch.zeros_like(expected)
    for gradient in gradients:
        filters.grad = gradient
        optimizer.step()
        velocity = 0.5 * velocity + gradient
        expected *= 2**0.5 / expected.norm()
        expected -= 0.1 * orthogonalise((gradient + 0.5 * velocity).view(2, 2)).view(2, 1, 1, 2)

    assert torch.allclose(filters, expected)


def test_no_gradient_moves_nothing():
    filters = nn.Parameter(torch.ones(2, 1, 1, 2))
    Muon([filters], lr=0.1, momentum=0.5).step()

    assert torch.equal(filters, torch.ones(2, 1, 1, 2))
