"""Classify image files with a published model: answers on stdout, talk on stderr."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.data import decode, fit
from trainer.errors import ConfigError, DataError, TrainerError
from trainer.model import SmallConvNet, load_model
from trainer.publish import MODEL
from trainer.storage import Folder, S3Prefix


def main(argv: Sequence[str] | None = None) -> int:
    """Print the likeliest classes of each image; 1 says that an image or the model is bad."""
    parser = argparse.ArgumentParser(prog="python -m trainer.predict", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--model",
        required=True,
        metavar="FILE|DIR|s3://BUCKET/PREFIX/",
        help="what a run published",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document a line")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="this many classes")
    flags = parser.parse_args(argv)
    try:
        if flags.top < 1:
            raise ConfigError(f"top must be at least 1, got {flags.top}")
        model = open_model(flags.model)
        for path in flags.images:
            ranking = predict(model, path)[: flags.top]
            if flags.json:
                answer = [{"class": name, "probability": share} for name, share in ranking]
                line = json.dumps({"image": str(path), "classes": answer})
            else:
                line = f"{path}: " + ", ".join(f"{name} {share:.1%}" for name, share in ranking)
            sys.stdout.write(f"{line}\n")
    except TrainerError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def open_model(where: str) -> SmallConvNet:
    """Read a model from a file, a run's folder or a run's prefix."""
    if where.startswith("s3://"):
        bucket, _, prefix = where.removeprefix("s3://").partition("/")
        name = prefix if prefix.endswith(".safetensors") else f"{prefix.rstrip('/')}/{MODEL}"
        body = S3Prefix(bucket, "").get(name)
    else:
        path = Path(where)
        path = path / MODEL if path.is_dir() else path
        body = Folder(path.parent).get(path.name)
    return load_model(body, where)


def predict(model: SmallConvNet, path: Path) -> list[tuple[str, float]]:
    """Rank all classes for an image, the likeliest first."""
    kind = model.architecture
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    pixels = fit(decode(content, str(path)), kind.channels, kind.height, kind.width)
    with torch.inference_mode():
        logits = model(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
    shares: list[float] = logits.softmax(dim=1)[0].tolist()
    return sorted(zip(kind.classes, shares, strict=True), key=lambda pair: -pair[1])


if __name__ == "__main__":
    sys.exit(main())
