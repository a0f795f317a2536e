"""The network, and the one file that holds all that is needed to use it again."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from trainer.errors import DataError

FORMAT = "pushtrain-1"
"""Of the model file; a reader refuses another."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the network is built from, as the model file keeps it."""

    classes: tuple[str, ...]
    channels: int
    """1 for grey, 3 for RGB."""
    height: int
    width: int
    mean: tuple[float, ...]
    """Of the training images for each channel, on a scale of 0 to 1."""
    std: tuple[float, ...]
    """As `mean`; a channel that never changes counts as 1."""
    widths: tuple[int, ...] = (32, 64, 96)
    """Filters of each block."""


class SmallConvNet(nn.Module):
    """Three blocks of convolution, batch norm and ReLU: bytes in, a logit for each class out."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        layers: list[nn.Module] = []
        channels = architecture.channels
        side = min(architecture.height, architecture.width)
        for number, width in enumerate(architecture.widths):
            # Halved while there is detail to spare, so that 32 pixels end as 4 and 8 as 4: the
            # first time by stride, since work at full size costs as much as all the rest.
            halve = side >= 8
            if number == 0 and side >= 16:
                layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False))
            else:
                layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
                if halve:
                    layers.append(nn.MaxPool2d(2))
            side = side // 2 if halve else side
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, len(architecture.classes))
        self.mean: Tensor
        self.std: Tensor
        # Kept by the architecture, hence not among the weights.
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (architecture.mean, architecture.std))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to logits (N, classes)."""
        scaled = (images.float() / 255 - self.mean) / self.std
        return self.head(self.features(scaled).mean(dim=(2, 3)))


def save_model(model: SmallConvNet, **facts: Any) -> bytes:
    """Pack the weights, and beside them whatever `load_model` and a curious reader need."""
    header = {
        "format": FORMAT,
        "architecture": json.dumps(asdict(model.architecture)),
        **{name: json.dumps(fact) for name, fact in facts.items()},
    }
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    return save_tensors(weights, header)


def load_model(body: bytes, source: str) -> SmallConvNet:
    """Rebuild a published model, ready to predict."""
    try:
        weights = load_tensors(body)
        # The format: the header's length in 8 bytes, then the header in JSON.
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]
        if header["format"] != FORMAT:
            raise DataError(f"{source} must be of format {FORMAT}, got {header['format']}")
        kept: dict[str, Any] = json.loads(header["architecture"])
        for name in ("classes", "mean", "std", "widths"):
            kept[name] = tuple(kept[name])
        model = SmallConvNet(Architecture(**kept))
        model.load_state_dict(weights)
    # RuntimeError is how torch says that weights and network differ.
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{source} must be a model that the trainer published: {error}") from error
    return model.eval()
