"""Sum up what the CPU image of the trainer weighs, compressed, where it cannot be built.

`python requirements/image_size.py LOCK` reads a pylock.toml of trainer/requirements.txt for the
image's Python, which holds the size of every wheel, and writes trainer-image-size.json beside this
file; `compile.sh` calls it. A registry holds layers gzipped, as wheels are zipped: what is in a
wheel comes to about the same in a layer.
"""

import json
import sys
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

from packaging.tags import cpython_tags
from packaging.utils import parse_wheel_filename

PYTHON = (3, 13)
BUDGET = 350_000_000
ESTIMATES = {
    # Docker Hub's figure for linux/amd64, rounded up.
    "python:3.13-slim": 45_000_000,
    # The CPU wheels of the releases before have 175 to 185 MB.
    "torch, from PyTorch's own index": 200_000_000,
    # gzip -6 of what the imports that the Dockerfile names left, measured with Python 3.11.
    "bytecode": 24_500_000,
    "code and account": 500_000,
}


def main(lock: Path) -> None:
    """Write the sum, and print it."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "any"]
    tags = [*cpython_tags(PYTHON, platforms=platforms)]
    order = {str(tag): rank for rank, tag in enumerate(tags)}
    wheels = {
        package["name"]: _best(package, order)
        for package in tomllib.loads(lock.read_text("utf-8"))["packages"]
    }
    total = sum(wheels.values()) + sum(ESTIMATES.values())
    pins = Path(__file__).parents[1] / "trainer/requirements.txt"
    document = {
        "pins": sha256(pins.read_bytes()).hexdigest(),
        "budget": BUDGET,
        "total": total,
        "estimates": ESTIMATES,
        "wheels": wheels,
    }
    target = Path(__file__).with_name("trainer-image-size.json")
    target.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    sys.stdout.write(
        f"trainer image: {total / 1e6:.0f} of {BUDGET / 1e6:.0f} MB compressed, "
        f"{sum(ESTIMATES.values()) / 1e6:.0f} of them estimated\n"
    )


def _best(package: dict[str, Any], order: dict[str, int]) -> int:
    """Give the size of the wheel that pip would take."""
    found: list[tuple[int, int]] = []
    for wheel in package["wheels"]:
        name = wheel.get("name") or wheel["url"].rpartition("/")[2]
        ranks = [order[str(tag)] for tag in parse_wheel_filename(name)[3] if str(tag) in order]
        if ranks:
            found.append((min(ranks), wheel["size"]))
    # Pure Python's tags are not cpython_tags' business.
    plain = [wheel["size"] for wheel in package["wheels"] if "-none-any.whl" in wheel["url"]]
    return min(found)[1] if found else plain[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
