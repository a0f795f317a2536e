"""How much a file may unpack to: what is above is a mistake or a bomb, and is refused by name.

The default task has 8 GiB; a set that fills half of it leaves a training the other half.
"""

import zipfile
from pathlib import Path

from trainer.errors import DataError

MIB = 1024**2
GIB = 1024**3

MOST_MEMBERS = 1_000_000
MOST_MEMBER_BYTES = 256 * MIB
"""Of one image file, unpacked."""
MOST_UNPACKED_BYTES = 8 * GIB
"""Of all files together."""
MOST_RATIO = 200
"""Unpacked to packed, for members above 1 MiB: images are packed already, and hardly shrink."""
MOST_PIXELS = 50_000_000
"""Of one image."""
MOST_DECODED_BYTES = 4 * GIB
"""Of all images together, a byte for each pixel and channel."""


def check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a zip by what it says of itself; a member that lies is caught when it is read.

    Zipfile never unpacks more of a member than its declared size, and then checks its CRC.
    """
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise DataError(
            f"{path.name} must hold at most {MOST_MEMBERS:,} files, got {len(members):,}"
        )
    # Members that overlap are how a small zip claims to be a huge one, each of them harmless.
    packed, size = sum(member.compress_size for member in members), path.stat().st_size
    if packed > size:
        raise DataError(f"members of {path.name} must not overlap: {packed:,} bytes in {size:,}")
    unpacked = sum(member.file_size for member in members)
    if unpacked > MOST_UNPACKED_BYTES:
        raise DataError(
            f"{path.name} must unpack to at most {gib(MOST_UNPACKED_BYTES)}, got {gib(unpacked)}"
        )


def check_image_member(member: zipfile.ZipInfo) -> None:
    """Refuse an image file that is too large, or shrank too well to be one."""
    if member.file_size > MOST_MEMBER_BYTES:
        raise DataError(
            f"{member.filename} must unpack to at most {MOST_MEMBER_BYTES // MIB} MiB, "
            f"got {member.file_size / MIB:,.0f}"
        )
    if member.file_size > MIB and member.file_size > MOST_RATIO * member.compress_size:
        raise DataError(
            f"{member.filename} must unpack to at most {MOST_RATIO} times its packed size, "
            f"got {member.compress_size:,} bytes that become {member.file_size:,}"
        )


def check_decoded(size: int) -> None:
    """Refuse more pixels than a training has room for."""
    if size > MOST_DECODED_BYTES:
        raise DataError(
            f"images must decode to at most {gib(MOST_DECODED_BYTES)} together: "
            "make them smaller, or fewer"
        )


def gib(size: float) -> str:
    """Write a size as people do."""
    return f"{size / GIB:,.1f} GiB"
