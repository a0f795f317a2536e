"""A key for images that are there already, on the real engine: refused, and nothing is touched."""

import pytest

from automation.errors import OperationError


def test_a_key_never_replaces_a_repository_with_its_images(bench):
    stack = bench.stack("keyless", **{"image.build": False, "customerKey": False})
    stack.create()
    outputs = stack.up().outputs
    ecr = bench.client("ecr")
    before = ecr.describe_repositories()["repositories"]
    keyed = bench.stack("keyless", **{"image.build": False, "customerKey": True})

    with pytest.raises(OperationError, match=r"customerKey must stay false .*docs/production\.md"):
        keyed.preview()
    with pytest.raises(OperationError, match=r"customerKey must stay false .*docs/production\.md"):
        keyed.up()
    unchanged = (
        bench.client("s3").get_bucket_encryption(Bucket=outputs["bucket"]),
        bench.client("logs").describe_log_groups()["logGroups"],
    )
    bench.stack("keyless", **{"image.build": False, "customerKey": False}).up()

    assert "aws:kms" not in str(unchanged)
    assert "kmsKeyId" not in str(unchanged)
    assert len(before) == 1
    assert ecr.describe_repositories()["repositories"] == before
    keys = bench.client("kms").list_keys()["Keys"]
    states = [bench.client("kms").describe_key(KeyId=key["KeyId"]) for key in keys]
    assert all(state["KeyMetadata"]["KeyState"] == "PendingDeletion" for state in states)
