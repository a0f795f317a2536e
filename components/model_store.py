"""The bucket that holds data, run records and models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pulumi import ComponentResource, FileAsset, Input, Output, ResourceOptions
from pulumi_aws import s3

from components import policies

DATA_KEY: Final = "data/dataset"
"""docs/run-record.md; the name of the user's file stands in the object's metadata."""
UNFINISHED_UPLOAD_DAYS: Final = 7


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
        child = ResourceOptions(parent=self)

        bucket = s3.Bucket(
            f"{name}-bucket",
            force_destroy=args.destroyable,
            opts=ResourceOptions(
                parent=self,
                protect=not args.destroyable,
                retain_on_delete=not args.destroyable,
            ),
        )
        versioning = s3.BucketVersioning(
            f"{name}-versioning",
            bucket=bucket.bucket,
            versioning_configuration={"status": "Enabled"},
            opts=child,
        )
        encryption = s3.BucketServerSideEncryptionConfiguration(
            f"{name}-encryption",
            bucket=bucket.bucket,
            rules=[
                {"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}
                if args.key_arn is None
                else {
                    "apply_server_side_encryption_by_default": {
                        "sse_algorithm": "aws:kms",
                        "kms_master_key_id": args.key_arn,
                    },
                    # One call of KMS for many objects, not one for each: each is billed.
                    "bucket_key_enabled": True,
                }
            ],
            opts=child,
        )
        public_access = s3.BucketPublicAccessBlock(
            f"{name}-private",
            bucket=bucket.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=child,
        )
        s3.BucketOwnershipControls(
            f"{name}-ownership",
            bucket=bucket.bucket,
            rule={"object_ownership": "BucketOwnerEnforced"},
            opts=child,
        )
        s3.BucketPolicy(
            f"{name}-tls-only",
            bucket=bucket.bucket,
            policy=Output.json_dumps(policies.tls_only(bucket.arn)),
            # S3 answers OperationAborted where both are changed at once.
            opts=ResourceOptions(parent=self, depends_on=[public_access]),
        )
        s3.BucketLifecycleConfiguration(
            f"{name}-lifecycle",
            bucket=bucket.bucket,
            rules=[
                {
                    "id": "checkpoints",
                    "status": "Enabled",
                    "filter": {"prefix": "checkpoints/"},
                    "expiration": {"days": args.checkpoint_retention_days},
                },
                {
                    "id": "old-versions",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "noncurrent_version_expiration": {
                        "noncurrent_days": args.old_version_retention_days
                    },
                    # Once no older version is left, that an object was deleted is forgotten too.
                    "expiration": {"expired_object_delete_marker": True},
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
                {
                    "id": "unfinished-uploads",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "abort_incomplete_multipart_upload": {
                        "days_after_initiation": UNFINISHED_UPLOAD_DAYS
                    },
                },
            ],
            # A rule on old versions is refused until the bucket has versions.
            opts=ResourceOptions(parent=self, depends_on=[versioning]),
        )
        if args.data_path is not None:
            s3.BucketObjectv2(
                f"{name}-data",
                bucket=bucket.bucket,
                key=DATA_KEY,
                source=FileAsset(str(args.data_path)),
                metadata={"filename": args.data_path.name},
                # A run freezes the version that it trains on, under the bucket's key if it has one.
                opts=ResourceOptions(parent=self, depends_on=[versioning, encryption]),
            )

        self.bucket_name = bucket.bucket
        self.bucket_arn = bucket.arn
        self.register_outputs({"bucket_name": self.bucket_name, "bucket_arn": self.bucket_arn})
