"""Where a run reads and publishes: a prefix in S3 or a folder, behind one small face."""

# boto3-stubs know one client only where the others are not installed.
# pyright: reportUnknownMemberType=false

import contextlib
import mimetypes
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from trainer.errors import AbsentError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ABSENT = ("404", "NoSuchKey")
_HINTS = {
    "403": "the credentials must allow it",
    "404": "there is no such object or bucket",
    "AccessDenied": "the credentials must allow it",
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "NoSuchVersion": "there is no such version of the object",
}


class Storage(Protocol):
    """What publishing and predicting need of a place."""

    def put(self, name: str, body: bytes) -> None:
        """Write a whole object: a reader sees all of it or none."""
        ...

    def get(self, name: str) -> bytes:
        """Read a whole object."""
        ...

    def find(self, name: str) -> bytes | None:
        """Read a whole object, or give None where there is none."""
        ...

    def remove(self, name: str) -> None:
        """Free the place of an object that has served its time."""
        ...


class Folder:
    """A folder as the place of a run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return f"{self._path}/"

    def put(self, name: str, body: bytes) -> None:
        """Write beside, then rename, which replaces in one step."""
        target = self._path / name
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(body)
            part.replace(target)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror}") from error

    def get(self, name: str) -> bytes:
        """Read a file."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError as error:
            raise AbsentError(f"cannot read {self._path / name}: {error.strerror}") from error
        except OSError as error:
            raise StorageError(f"cannot read {self._path / name}: {error.strerror}") from error

    def find(self, name: str) -> bytes | None:
        """Read a file, if it is there."""
        with contextlib.suppress(AbsentError):
            return self.get(name)
        return None

    def remove(self, name: str) -> None:
        """Delete a file, and the folder if that was all in it."""
        with contextlib.suppress(OSError):
            (self._path / name).unlink()
            self._path.rmdir()


class S3Prefix:
    """A prefix of a bucket as the place of a run."""

    def __init__(self, bucket: str, prefix: str, client: "S3Client | None" = None) -> None:
        self._bucket = bucket
        self._prefix = prefix
        with _in_one_line(f"cannot use s3://{bucket}"):
            self._client: S3Client = client or boto3.client("s3")

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    def put(self, name: str, body: bytes) -> None:
        """Write an object; S3 shows it when it is whole."""
        # So that a browser shows a report instead of saving it.
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        with _in_one_line(f"cannot write {self}{name}"):
            self._client.put_object(
                Bucket=self._bucket, Key=f"{self._prefix}{name}", Body=body, ContentType=kind
            )

    def get(self, name: str) -> bytes:
        """Read an object."""
        with _in_one_line(f"cannot read {self}{name}"):
            answer = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}{name}")
            return answer["Body"].read()

    def find(self, name: str) -> bytes | None:
        """Read an object, if it is there."""
        with contextlib.suppress(AbsentError):
            return self.get(name)
        return None

    def remove(self, name: str) -> None:
        """Leave it to the bucket's lifecycle rule: a task may not delete."""

    def download(self, name: str, version: str | None, target: Path) -> None:
        """Copy an object to a file, in parallel parts when it is large."""
        extra = {"VersionId": version} if version else {}
        with _in_one_line(f"cannot read {self}{name}" + (f" version {version}" if version else "")):
            self._client.download_file(
                self._bucket, f"{self._prefix}{name}", os.fspath(target), ExtraArgs=extra
            )


@contextlib.contextmanager
def _in_one_line(what: str) -> Generator[None]:
    """Turn what AWS refused into one line that names the bucket and the key."""
    try:
        yield
    except NoCredentialsError as error:
        raise StorageError(f"{what}: no AWS credentials were found") from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        kind = AbsentError if code in _ABSENT else StorageError
        raise kind(f"{what}: {_HINTS.get(code, error)} ({code})") from error
    except BotoCoreError as error:
        raise StorageError(f"{what}: {error}") from error
