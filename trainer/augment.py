"""Batches as the network is shown them: gathered, shifted, mirrored."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import torch
from torch import Tensor


def augment(
    images: Tensor,
    indices: Tensor,
    generator: torch.Generator,
    *,
    shift: bool,
    mirrored: Tensor | None,
) -> Tensor:
    """Gather a batch, each image shifted by up to a 16th of its side, its edge repeated.

    So 32 pixels move by 2 and 8 by none, where a shift would lose a stroke. `mirrored` says which
    of the batch are turned round. All of it happens where the images are, on a GPU too;
    `generator` must be of that device.
    """
    height, width = images.shape[2:]
    count, device = len(indices), images.device

    def lines(size: int) -> Tensor:
        most = size // 16 if shift else 0
        by = torch.randint(-most, most + 1, (count, 1), generator=generator, device=device)
        return (torch.arange(size, device=device) + by).clamp_(0, size - 1)

    rows, columns = lines(height), lines(width)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    # Indexed with channels last, which is how they lie in memory and how the network wants them.
    pixels = images.permute(0, 2, 3, 1)
    return pixels[indices[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
