"""Where image files are read from: a zip or a folder, alike."""

import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Protocol

from trainer.data.limits import check_archive, check_image_member
from trainer.errors import DataError

# RuntimeError is how zipfile says that a member is encrypted.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


class Source(Protocol):
    """Files by name."""

    kind: str
    path: Path

    def names(self) -> list[str]:
        """Name all contents; folders end with a slash."""
        ...

    def size(self, name: str) -> int:
        """Give a file's size in bytes, or refuse the file for it."""
        ...

    def read(self, name: str) -> bytes:
        """Read a file."""
        ...


class Folder:
    """A folder of class folders."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Name all contents as a zip does."""
        found = sorted(self.path.rglob("*"))
        return [p.relative_to(self.path).as_posix() + ("/" if p.is_dir() else "") for p in found]

    def size(self, name: str) -> int:
        """Give a file's size."""
        return (self.path / name).stat().st_size

    def read(self, name: str) -> bytes:
        """Read a file."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {self.path / name}: {error.strerror}") from error


class Zip:
    """A zip of class folders."""

    kind = "zip"

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def archive(self) -> zipfile.ZipFile:
        """Open the zip; refuse one that is broken or a bomb."""
        try:
            archive = zipfile.ZipFile(self.path)
        except _BROKEN as error:
            raise self._broken(error) from error
        check_archive(archive, self.path)
        return archive

    def names(self) -> list[str]:
        """Name all members."""
        return self.archive.namelist()

    def size(self, name: str) -> int:
        """Give a member's declared size."""
        member = self.archive.getinfo(name)
        check_image_member(member)
        return member.file_size

    def read(self, name: str) -> bytes:
        """Read a member."""
        try:
            return self.archive.read(name)
        except _BROKEN as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> DataError:
        return DataError(f"{self.path.name} must be a whole zip archive: {error}")


SOURCES: dict[str, type[Zip | Folder]] = {"folder": Folder, "zip": Zip}
"""By what a worker is told."""
