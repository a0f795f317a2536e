"""What makes a bucket one that nobody but its account gets into, and loses nothing at once."""

from collections.abc import Sequence
from typing import Final

from pulumi import Input, Output, Resource, ResourceOptions
from pulumi_aws import s3

from components import policies

UNFINISHED_UPLOAD_DAYS: Final = 7


def keep_private(  # noqa: PLR0913 - what a bucket is kept by
    name: str,
    bucket: s3.Bucket,
    *,
    parent: Resource,
    old_version_retention_days: int,
    rules: Sequence[s3.BucketLifecycleConfigurationRuleArgsDict] = (),
    key_arn: Input[str] | None = None,
) -> list[Resource]:
    """Give a bucket versions, encryption, no way in from outside and an end of what is old.

    rules: more of its lifecycle. key_arn: what objects are encrypted with; None for S3's own key.
    Returned is what has to be there before an object comes: versions and encryption.
    """
    child = ResourceOptions(parent=parent)
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
            if key_arn is None
            else {
                "apply_server_side_encryption_by_default": {
                    "sse_algorithm": "aws:kms",
                    "kms_master_key_id": key_arn,
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
        opts=ResourceOptions(parent=parent, depends_on=[public_access]),
    )
    s3.BucketLifecycleConfiguration(
        f"{name}-lifecycle",
        bucket=bucket.bucket,
        rules=[
            *rules,
            {
                "id": "old-versions",
                "status": "Enabled",
                "filter": {"prefix": ""},
                "noncurrent_version_expiration": {"noncurrent_days": old_version_retention_days},
                # Once no older version is left, that an object was deleted is forgotten too.
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
        opts=ResourceOptions(parent=parent, depends_on=[versioning]),
    )
    return [versioning, encryption]
