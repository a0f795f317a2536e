"""The bucket: private, with versions, and kept unless the stack may be destroyed."""

import pytest

from components.model_store import ModelStore, ModelStoreArgs


@pytest.fixture
def made(deploy):
    """Return a function that deploys a store alone."""

    def make(*, destroyable=False, data_path=None):
        args = ModelStoreArgs(
            checkpoint_retention_days=3,
            old_version_retention_days=7,
            destroyable=destroyable,
            data_path=data_path,
            key_arn=None,
        )
        return deploy(lambda: ModelStore("store", args))

    return make


def test_overwritten_models_can_be_brought_back(made):
    versioning = made().inputs("store-versioning")

    assert versioning["versioningConfiguration"] == {"status": "Enabled"}


def test_objects_are_encrypted(made):
    (rule,) = made().inputs("store-encryption")["rules"]

    assert rule["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "AES256"}


def test_nothing_is_public_and_no_acl_counts(made):
    store = made()
    access = store.inputs("store-private")

    assert {key: access[key] for key in access if key != "bucket"} == {
        "blockPublicAcls": True,
        "blockPublicPolicy": True,
        "ignorePublicAcls": True,
        "restrictPublicBuckets": True,
    }
    assert store.inputs("store-ownership")["rule"] == {"objectOwnership": "BucketOwnerEnforced"}


def test_checkpoints_old_versions_marks_and_unfinished_uploads_expire_and_nothing_else(made):
    assert made().inputs("store-lifecycle")["rules"] == [
        {
            "id": "checkpoints",
            "status": "Enabled",
            "filter": {"prefix": "checkpoints/"},
            "expiration": {"days": 3},
        },
        {
            "id": "marks-of-open-runs",
            "status": "Enabled",
            "filter": {"prefix": "open/"},
            "noncurrentVersionExpiration": {"noncurrentDays": 1},
            "expiration": {"expiredObjectDeleteMarker": True},
        },
        {
            "id": "old-versions",
            "status": "Enabled",
            "filter": {"prefix": ""},
            "noncurrentVersionExpiration": {"noncurrentDays": 7},
            "expiration": {"expiredObjectDeleteMarker": True},
        },
        {
            "id": "unfinished-uploads",
            "status": "Enabled",
            "filter": {"prefix": ""},
            "abortIncompleteMultipartUpload": {"daysAfterInitiation": 7},
        },
    ]


def test_every_setting_of_the_bucket_is_on_the_bucket(made):
    store = made()
    settings = [made for made in store.registrations if made.custom and "bucket" in made.inputs]

    assert len(settings) == 6
    assert {made.inputs["bucket"] for made in settings} == {"store-bucket-0a1b2c3"}


@pytest.mark.parametrize("destroyable", [True, False])
def test_models_go_only_with_a_destroyable_stack(made, destroyable):
    bucket = made(destroyable=destroyable).one("store-bucket")

    assert bucket.inputs["forceDestroy"] is destroyable
    assert bucket.protect is not destroyable
    assert bucket.retain_on_delete is not destroyable


def test_without_a_data_path_no_data_is_uploaded(made):
    assert made().of_type("aws:s3/bucketObjectv2:BucketObjectv2") == []


def test_data_is_uploaded_where_the_contract_says_and_has_a_version(made, context):
    store = made(data_path=context / "train.py")
    data = store.one("store-data")

    assert data.inputs["key"] == "data/dataset"
    assert data.inputs["metadata"] == {"filename": "train.py"}
    assert data.inputs["source"].path == str(context / "train.py")
    assert store.one("store-versioning").urn in data.dependencies
