"""The bucket that holds data, run records and models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pulumi import ComponentResource, FileAsset, Input, Output, ResourceOptions
from pulumi_aws import s3

from components.private_bucket import keep_private

DATA_KEY: Final = "data/dataset"
"""docs/run-record.md; the name of the user's file stands in the object's metadata."""


@dataclass(frozen=True, kw_only=True)
class ModelStoreArgs:
    """How long the store keeps what, and whether it may go."""

    checkpoint_retention_days: int
    old_version_retention_days: int
    destroyable: bool
    """False protects the bucket, and leaves it in the account even when destroyed."""
    data_path: Path | None
    """File to upload as the data set."""
    key_arn: Input[str] | None
    """The key that objects are encrypted with from now on; None for S3's own."""


class ModelStore(ComponentResource):
    """One private bucket with versions: what is overwritten or deleted can be brought back."""

    bucket_name: Output[str]
    bucket_arn: Output[str]

    def __init__(
        self, name: str, args: ModelStoreArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("pushtrain:store:ModelStore", name, None, opts)

        bucket = s3.Bucket(
            f"{name}-bucket",
            force_destroy=args.destroyable,
            opts=ResourceOptions(
                parent=self,
                protect=not args.destroyable,
                retain_on_delete=not args.destroyable,
            ),
        )
        ready = keep_private(
            name,
            bucket,
            parent=self,
            old_version_retention_days=args.old_version_retention_days,
            rules=[
                {
                    "id": "checkpoints",
                    "status": "Enabled",
                    "filter": {"prefix": "checkpoints/"},
                    "expiration": {"days": args.checkpoint_retention_days},
                },
                {
                    # A mark comes and goes with each run, and nobody wants an old one back: they
                    # would only lengthen the list that reconcile asks for.
                    "id": "marks-of-open-runs",
                    "status": "Enabled",
                    "filter": {"prefix": "open/"},
                    "noncurrent_version_expiration": {"noncurrent_days": 1},
                    "expiration": {"expired_object_delete_marker": True},
                },
            ],
            key_arn=args.key_arn,
        )
        if args.data_path is not None:
            s3.BucketObjectv2(
                f"{name}-data",
                bucket=bucket.bucket,
                key=DATA_KEY,
                source=FileAsset(str(args.data_path)),
                metadata={"filename": args.data_path.name},
                # A run freezes the version that it trains on, under the bucket's key if it has one.
                opts=ResourceOptions(parent=self, depends_on=ready),
            )

        self.bucket_name = bucket.bucket
        self.bucket_arn = bucket.arn
        self.register_outputs({"bucket_name": self.bucket_name, "bucket_arn": self.bucket_arn})
