"""The network: its sizes, and the layer that whitens."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import unfold

from trainer.model import Architecture, SmallConvNet

PLAIN = Architecture(
    classes=("a", "b"), channels=1, height=8, width=8, mean=(0.5,), std=(0.25,), whitening=99
)


def noise(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize(
    ("channels", "side", "patch", "values"),
    [(1, 8, 4, 9), (3, 8, 4, 27), (3, 32, 4, 48), (3, 32, 2, 12), (3, 8, 2, 27)],
)
def test_whitened_patches_have_unit_covariance(channels, side, patch, values):
    mixed = noise(200, channels, side, side).float()
    # Neighbours alike, as in photographs, and one channel five times as strong as another.
    mixed = (2 * mixed + mixed.roll(1, dims=3)) / 3
    mixed *= torch.linspace(0.2, 1, channels).view(-1, 1, 1)
    images = mixed.to(torch.uint8)
    model = SmallConvNet(
        replace(
            PLAIN,
            channels=channels,
            height=side,
            width=side,
            mean=(0.3,) * channels,
            std=(0.02,) * channels,
            patch=patch,
        )
    )
    model.whiten(images)

    outputs = model.whitening(model.scale(images)).transpose(0, 1).flatten(1)
    half = len(outputs) // 2
    assert half == values
    assert torch.allclose(outputs[:half].cov(), torch.eye(half), atol=0.02)
    assert torch.equal(model.whitening.weight[:half], -model.whitening.weight[half:])


def test_fewer_components_are_those_that_vary_most():
    images = noise(50, 1, 8, 8)
    images[:, :, :, 4:] = images[:, :, :, :4]
    images[:, :, 1::2] = images[:, :, ::2]
    model = SmallConvNet(replace(PLAIN, whitening=2))
    model.whiten(images)

    patches = unfold(model.scale(images), 3, padding=1).transpose(0, 1).flatten(1)
    largest = torch.linalg.eigvalsh(patches.cov())[-2:].flip(0)
    lengths = model.whitening.weight[:2].flatten(1).norm(dim=1)
    assert torch.allclose(lengths, (largest + 5e-3).rsqrt(), rtol=1e-3)


def test_images_without_any_difference_whiten_to_finite_weights():
    model = SmallConvNet(PLAIN)
    model.whiten(torch.zeros((2, 1, 8, 8), dtype=torch.uint8))

    assert model.whitening.weight.isfinite().all()


@pytest.mark.parametrize(
    ("side", "patch", "left"),
    [
        *((1, 4, 1), (4, 4, 4), (8, 4, 4), (28, 4, 7), (32, 4, 4), (64, 4, 4), (224, 4, 14)),
        *((8, 2, 4), (16, 2, 3), (28, 2, 6), (32, 2, 3), (64, 2, 7)),
    ],
)
def test_network_takes_every_size(side, patch, left):
    model = SmallConvNet(
        replace(PLAIN, height=side, width=side, patch=patch, residual=(0, 1, 2), widths=(4, 6, 8))
    )
    images = noise(2, 1, side, side)
    model.whiten(images)

    assert model(images).shape == (2, 2)
    assert model.features(model.whitening(model.scale(images))).shape[2:] == (left, left)
