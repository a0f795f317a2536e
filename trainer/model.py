"""The network, and the one file that holds all that is needed to use it again."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import json
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.functional import unfold

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
    patch: int = 4
    """Side of the patches that the first layer whitens, of images of at least 16 pixels."""
    whitening: int = 16
    """Patch components the first layer sees, at most as many as a patch has values."""
    widths: tuple[int, ...] = (64, 128, 128)
    """Filters of each block."""
    residual: tuple[int, ...] = (0, 0, 0)
    """Convolutions behind each block whose output is added to their input."""


class Residual(nn.Module):
    """A convolution that adds to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Give the input and what is made of it, added."""
        return features + self.change(features)


class SmallConvNet(nn.Module):
    """A fixed layer that whitens patches, then three blocks that learn: bytes in, logits out.

    The design is Keller Jordan's, https://github.com/KellerJordan/cifar10-airbench, made smaller
    for a CPU: the whitening may have stride 2, and a block has one convolution, with as many
    residual ones behind it as are asked for.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        side = min(architecture.height, architecture.width)
        # At half size where there is detail to spare: at full size the work costs as much as all
        # the rest. Few pixels are looked at one by one.
        size = architecture.patch if side >= 16 else 3
        stride = 2 if size == 4 else 1
        components = min(architecture.whitening, architecture.channels * size**2)
        channels = 2 * components
        self.whitening = nn.Conv2d(
            architecture.channels, channels, size, stride, padding=(size - 1) // 2, bias=False
        )
        self.whitening.weight.requires_grad = False
        layers: list[nn.Module] = [nn.ReLU(inplace=True)]
        side //= stride
        for width, more in zip(architecture.widths, architecture.residual, strict=True):
            layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            if side >= 8:  # so that 32 pixels end as 4, or as 3 with patches of 2, and 8 as 4
                layers.append(nn.MaxPool2d(2))
                side //= 2
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [Residual(width) for _ in range(more)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, len(architecture.classes), bias=False)
        self.mean: Tensor
        self.std: Tensor
        # Kept by the architecture, hence not among the weights.
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (architecture.mean, architecture.std))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to logits (N, classes)."""
        features: Tensor = self.features(self.whitening(self.scale(images)))
        # Maxima over the image are large: logits begin near 0 only when made smaller.
        return self.head(features.amax(dim=(2, 3))) / 8

    def scale(self, images: Tensor) -> Tensor:
        """Bring bytes to mean 0 and deviation 1."""
        return (images.float() / 255 - self.mean) / self.std

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer from images alone: uncorrelated outputs of variance 1."""
        size, stride = self.whitening.kernel_size[0], self.whitening.stride[0]
        padding = (size - 1) // 2
        # A quarter of a million patches tell enough; images are taken evenly, since classes may
        # come one after the other.
        per_image = -(-images.shape[2] // stride) * -(-images.shape[3] // stride)
        some = images[:: max(1, len(images) * per_image // 250_000)]
        patches = unfold(self.scale(some), size, padding=padding, stride=stride).double()
        covariance = patches.transpose(0, 1).flatten(1).cov()
        variances, components = cast("tuple[Tensor, Tensor]", torch.linalg.eigh(covariance))
        # The floor keeps small what hardly ever varies, such as a border that is always black.
        filters = (components / (variances.clamp(min=0) + 5e-3).sqrt()).T.flip(0)
        weight = self.whitening.weight
        filters = filters[: len(weight) // 2]
        # With both signs, since a ReLU follows.
        weight.copy_(torch.cat([filters, -filters]).view_as(weight))


def save_model(model: SmallConvNet, **facts: Any) -> bytes:
    """Pack the weights, and beside them whatever `load_model` and a curious reader need."""
    header = {
        "format": FORMAT,
        "architecture": json.dumps(asdict(model.architecture)),
        **{name: json.dumps(fact) for name, fact in facts.items()},
    }
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    body = save_tensors(weights, header)
    # The library writes its header in an order of chance; equal models are equal files here.
    size = int.from_bytes(body[:8], "little")
    text = json.dumps(json.loads(body[8 : 8 + size]), sort_keys=True, separators=(",", ":"))
    text += " " * (-len(text) % 8)  # tensors begin at a multiple of 8, as they did
    return len(text).to_bytes(8, "little") + text.encode() + body[8 + size :]


def load_model(body: bytes, source: str) -> SmallConvNet:
    """Rebuild a published model, ready to predict."""
    try:
        weights = load_tensors(body)
        # The format: the header's length in 8 bytes, then the header in JSON.
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]
        if header["format"] != FORMAT:
            raise DataError(f"{source} must be of format {FORMAT}, got {header['format']}")
        kept: dict[str, Any] = json.loads(header["architecture"])
        for name in ("classes", "mean", "std", "widths", "residual"):
            kept[name] = tuple(kept[name])
        model = SmallConvNet(Architecture(**kept))
        model.load_state_dict(weights)
    # RuntimeError is how torch says that weights and network differ.
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{source} must be a model that the trainer published: {error}") from error
    return model.eval()
