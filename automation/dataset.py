"""A stack's data set: checked as the trainer would read it, uploaded, and told to who waits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig

from automation.aws import one_line, told_as
from automation.deployed import Deployed
from automation.errors import StackError
from automation.follow import part
from automation.requests import Handlers
from automation.runs import Records

if TYPE_CHECKING:
    from trainer.data import Description

KEY: Final = "data/dataset"
"""docs/run-record.md."""
PART_BYTES: Final = 16 * 1024 * 1024
"""S3 takes 10,000 parts: 160 GB."""
SIDE_BY_SIDE: Final = 8

OnBytes = Callable[[int], object]


class DatasetError(StackError):
    """A file that the trainer would refuse, or that could not be uploaded."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What an upload came to."""

    version_id: str
    size: int
    runs: Mapping[str, str]
    """The state now of each run that had waited for data."""

    def as_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {"version_id": self.version_id, "size": self.size, "runs": dict(self.runs)}


def check(
    file: Path, on_progress: Callable[[int, int], None] = lambda _done, _all: None
) -> "Description":
    """Read a file as the trainer would, to the last image; DatasetError says what is wrong."""
    try:
        from trainer.data import describe  # noqa: PLC0415 - numpy and Pillow may not be there
        from trainer.errors import TrainerError  # noqa: PLC0415 - as above
    except ImportError as error:
        raise DatasetError(
            f"{error.name} must be installed to read a data set, as `make setup` does: or push it "
            "with --unchecked"
        ) from error
    try:
        return describe(file, on_progress)
    except TrainerError as error:
        raise DatasetError(str(error)) from error


def push(deployed: Deployed, file: Path, on_bytes: OnBytes = lambda _: None) -> Pushed:
    """Upload a file as the data set of runs to come, and start the runs that waited for one."""
    bucket = deployed.output("bucket")
    s3 = deployed.client("s3", max_pool_connections=SIDE_BY_SIDE)
    waiting = _waiting(Records(deployed))
    size = file.stat().st_size
    with told_as(DatasetError):
        try:
            s3.upload_file(
                str(file),
                bucket,
                KEY,
                ExtraArgs={
                    "ChecksumAlgorithm": "SHA256",
                    # As metadata S3 takes ASCII alone.
                    "Metadata": {"filename": quote(file.name, safe=" ()[]{}!#$&'*+,;=@^_`~.-")},
                },
                Callback=on_bytes,
                Config=TransferConfig(
                    multipart_threshold=PART_BYTES,
                    multipart_chunksize=PART_BYTES,
                    max_concurrency=SIDE_BY_SIDE,
                ),
            )
        except S3UploadFailedError as error:
            # It hides boto3's own error, which tells what to do.
            if error.__context__ is not None:
                raise error.__context__ from error
            raise DatasetError(one_line(error)) from error
        head = s3.head_object(Bucket=bucket, Key=KEY)
    if head["ContentLength"] != size:
        raise DatasetError(
            f"{file} must stay as it is while it is uploaded, got {head['ContentLength']} of "
            f"{size} bytes: push it again"
        )
    return Pushed(
        version_id=head.get("VersionId", "null"), size=size, runs=_start(deployed, waiting)
    )


def _waiting(records: Records) -> list[str]:
    """Name the runs that wait for data: markers of open runs save reading all."""
    found, _ = records.read_all(records.open_names())
    return [
        each["run"]
        for each in reversed(found)  # the oldest first, as they are started
        if each["state"] == "WAITING" and part(each, "waiting").get("why") == "data"
    ]


def _start(deployed: Deployed, waiting: list[str]) -> dict[str, str]:
    if not waiting:
        return {}
    Handlers(deployed).ask("reconcileFunction", "Reconcile Request", {})
    now, _ = Records(deployed).read_all(waiting)
    return {each["run"]: each["state"] for each in reversed(now)}
