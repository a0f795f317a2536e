"""The trainer image: what is built, where it goes, and that it goes last."""

import pytest

from components.build_context import content_tag

IMAGE = "pushtrain-trainer-image"
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


def test_image_is_built_of_the_context_that_is_set(dev, context):
    build = dev.inputs(IMAGE)["build"]

    assert build["context"] == str(context)
    assert build["dockerfile"] == str(context / "Dockerfile")


def test_build_arguments_reach_the_build_and_the_tag(dev, deploy):
    deployment = deploy.whole({"image.args": ["BASE=scratch", "TORCH_INDEX=https://x/?a=b"]})

    assert deployment.inputs(IMAGE)["build"]["args"] == {
        "BASE": "scratch",
        "TORCH_INDEX": "https://x/?a=b",
    }
    assert deployment.inputs(IMAGE)["imageName"] != dev.inputs(IMAGE)["imageName"]


def test_image_is_tagged_by_its_content(dev, context):
    tag = content_tag(context, {}, "linux/amd64")

    assert dev.inputs(IMAGE)["imageName"] == (
        f"{REGISTRY}/pushtrain-images-repository-0a1b2c3:{tag}"
    )


def test_image_of_another_processor_has_another_tag(dev, deploy):
    other = deploy.whole({"architecture": "arm64"})

    assert other.inputs(IMAGE)["imageName"] != dev.inputs(IMAGE)["imageName"]


def test_registry_password_is_a_secret(dev):
    image = dev.one(IMAGE)

    assert image.inputs["registry"] == {
        "server": f"{REGISTRY}/pushtrain-images-repository-0a1b2c3",
        "username": "AWS",
        "password": "registry-password",
    }
    # A secret inside makes the whole of the input one.
    assert image.secrets & {"registry", "registry.password"}


def test_no_other_resource_is_told_the_password(dev):
    told = [made.name for made in dev.registrations if "registry-password" in str(made.inputs)]

    assert told == [IMAGE]


@pytest.mark.parametrize("with_data", [False, True])
def test_push_comes_after_everything_else(deploy, context, with_data):
    deployment = deploy.whole({"data.path": str(context / "train.py") if with_data else ""})
    component, image = deployment.one("pushtrain-trainer"), deployment.one(IMAGE)
    rest = {made.urn for made in deployment.registrations if made.custom} - {image.urn}

    # A resource waits for its parent, and that one for all of these.
    assert image.parent == component.urn
    assert rest <= component.dependencies
    assert deployment.registrations[-1] is image
    assert with_data == any("store-data" in urn for urn in component.dependencies)


def test_image_is_pushed(dev):
    assert dev.inputs(IMAGE)["skipPush"] is False


def test_where_ci_builds_nothing_is_built_or_exported(deploy):
    deployment = deploy.whole({"image.build": False, "image.context": "/no/such"})

    assert deployment.of_type("docker:index/image:Image") == []
    assert "image" not in deployment.exports
    assert deployment.inputs("pushtrain-images-repository")["imageTagMutability"] == "IMMUTABLE"


def test_image_goes_to_the_registry_that_is_set_under_the_repositorys_name(dev, deploy):
    local = deploy.whole({"image.registry": "127.0.0.1:4566"}).inputs(IMAGE)
    tag = dev.inputs(IMAGE)["imageName"].rpartition(":")[2]

    assert local["imageName"] == f"127.0.0.1:4566/pushtrain-images-repository-0a1b2c3:{tag}"
    assert local["registry"]["server"] == "127.0.0.1:4566/pushtrain-images-repository-0a1b2c3"
