"""The registry: scanned, encrypted, kept."""

import pytest

from components.image_repository import ImageRepository, ImageRepositoryArgs


@pytest.fixture
def made(deploy):
    """Return a function that deploys a repository alone."""

    def make(*, immutable_tags=False, destroyable=False):
        args = ImageRepositoryArgs(
            immutable_tags=immutable_tags, destroyable=destroyable, key_arn=None
        )
        return deploy(lambda: ImageRepository("images", args))

    return make


def test_images_are_scanned_and_encrypted(made):
    repository = made().inputs("images-repository")

    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    assert repository["encryptionConfigurations"] == [{"encryptionType": "AES256"}]


@pytest.mark.parametrize(("immutable", "mutability"), [(True, "IMMUTABLE"), (False, "MUTABLE")])
def test_tags_move_only_where_pulumi_builds(made, immutable, mutability):
    repository = made(immutable_tags=immutable).inputs("images-repository")

    assert repository["imageTagMutability"] == mutability


def test_only_untagged_images_expire_and_after_any_run(made):
    policy = made().document("images-expiry", "policy")

    assert [rule["selection"] for rule in policy["rules"]] == [
        {
            "tagStatus": "untagged",
            "countType": "sinceImagePushed",
            "countUnit": "days",
            "countNumber": 30,
        }
    ]
    assert policy["rules"][0]["action"] == {"type": "expire"}


@pytest.mark.parametrize("destroyable", [True, False])
def test_images_go_only_with_a_destroyable_stack(made, destroyable):
    repository = made(destroyable=destroyable).one("images-repository")

    assert repository.inputs["forceDelete"] is destroyable
    assert repository.protect is not destroyable
    assert repository.retain_on_delete is not destroyable
