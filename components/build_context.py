"""The files a Docker build would send, and the tag that names their content."""

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from docker.utils.build import exclude_paths

BUILD_TAG_PREFIX: Final = "c-"
"""Begins each tag that this program pushes, a hash of the content; CI's `g-` is a git commit."""
TAG_DIGITS: Final = 16
ARCHITECTURES: Final[Mapping[str, str]] = MappingProxyType(
    {"x86_64": "linux/amd64", "arm64": "linux/arm64"}
)
"""The image platform of each processor architecture."""


def context_files(context: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name in the context, path) of each file that .dockerignore lets through, by name."""
    for name in sorted(
        exclude_paths(str(context), ignore_patterns(context, context / "Dockerfile"))
    ):
        path = context / name
        if path.is_symlink() or path.is_file():
            yield Path(name).as_posix(), path


def content_tag(context: Path, args: Mapping[str, str], platform: str) -> str:
    """Return the tag for this context, built with these arguments for this platform.

    Names, contents, link targets and the executable bit count; owner, times and the other mode bits
    do not, since they differ from one checkout to the next.
    """
    digest = hashlib.sha256()
    for name, path in context_files(context):
        if path.is_symlink():
            kind, content = "link", str(path.readlink()).encode()
        else:
            kind = "executable" if path.stat().st_mode & stat.S_IXUSR else "file"
            content = path.read_bytes()
        entry = json.dumps([name, kind, hashlib.sha256(content).hexdigest()])
        digest.update(entry.encode())
    digest.update(json.dumps([sorted(args.items()), platform]).encode())
    return BUILD_TAG_PREFIX + digest.hexdigest()[:TAG_DIGITS]


def ignore_patterns(context: Path, dockerfile: Path) -> list[str]:
    """Return what keeps files out of a build: the Dockerfile's own patterns, or the context's."""
    own = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    file = own if own.is_file() else context / ".dockerignore"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
