"""Image files to pixels."""

# Numpy leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from trainer.data.dataset import Pixels
from trainer.data.limits import MOST_PIXELS, check_decoded
from trainer.data.sources import Source
from trainer.errors import DataError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
"""Pillow knows more, some of which start other programs or are hardly ever meant."""


def decode(data: bytes, name: str) -> Pixels:
    """Decode an image to grey (H, W) or RGB (H, W, 3), upright, on white where transparent."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"{name} must have at most {MOST_PIXELS:,} pixels, "
                    f"got {image.width}x{image.height}"
                )
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{name} must have 8 bits a channel, got mode {image.mode}")
            # In place, and only if need be: each copy costs as much as a small JPEG.
            if image.format != "JPEG" or not image.info.keys().isdisjoint(("exif", "xmp")):
                ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_opaque(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (
            "its bytes are of no image format"
            if isinstance(error, Image.UnidentifiedImageError)
            else error
        )
        raise DataError(f"{name} must be an image: {reason}") from error


def _opaque(image: Image.Image) -> Image.Image:
    """Give an image in grey or RGB; what was transparent becomes white."""
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, with_alpha)
    return image if image.mode == mode else image.convert(mode)


def fit(pixels: Pixels, channels: int, height: int, width: int) -> Pixels:
    """Bring a decoded image to (height, width, channels)."""
    if pixels.shape[:2] != (height, width):
        pixels = np.asarray(
            Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        )
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], channels, axis=2)
    return pixels if channels == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def decode_some(source: Source, names: Sequence[str]) -> list[Pixels]:
    """Decode files one after the other."""
    images: list[Pixels] = []
    total = 0
    for name in names:
        images.append(decode(source.read(name), name))
        total += images[-1].size
        check_decoded(total)
    return images
