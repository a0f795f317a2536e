"""Images of a stack's repository, and runs asked for of them."""

import uuid
from collections.abc import Mapping
from typing import Any, Final

from automation.aws import code_of, told_as
from automation.deployed import Deployed
from automation.errors import StackError
from automation.push import run_name
from automation.requests import Answer, Handlers, caller
from automation.runs import DIGEST, Records, RunError, Tell


class ImageError(StackError):
    """There is no such image."""


NO_IMAGE: Final = ("ImageNotFoundException", "InvalidParameterException")


def train(
    deployed: Deployed, image: str, parameters: Mapping[str, str], tell: Tell = lambda _: None
) -> Answer:
    """Ask for a run of an image that the repository has, named by tag, digest, or run."""
    digest, tag = find(deployed, image, tell)
    detail = {
        "digest": digest,
        "tag": tag,
        "parameters": dict(parameters),
        "by": caller(deployed),
        # Sent again, as boto3 may, it is still one run.
        "token": uuid.uuid4().hex,
    }
    return Handlers(deployed).ask("invokeFunction", "Train Request", detail)


def find(deployed: Deployed, image: str, tell: Tell = lambda _: None) -> tuple[str, str]:
    """Give digest and tag of an image; a run's name stands for the image that it has trained."""
    is_digest = DIGEST.fullmatch(image)
    found = _describe(deployed, {"imageDigest": image} if is_digest else {"imageTag": image})
    if found is None and not is_digest:
        try:
            record = Records(deployed).find(image, tell)
        except RunError:
            record = None
        if record:
            found = _describe(deployed, {"imageDigest": record["image"]["digest"]})
            image = record["image"]["tags"][-1]
    if found is None:
        repository = _repository(deployed)
        raise ImageError(
            f"{image!r} must be a tag or digest in {repository}, or a run of an image still there, "
            f"got none of these: {deployed.command('push')}, or aws ecr list-images "
            f"--repository-name {repository}"
        )
    digest: str = found["imageDigest"]
    # An image may have lost its last tag to a newer one; the trainer is told of some tag even so.
    tags: list[str] = found.get("imageTags") or [run_name(digest)]
    return digest, image if image in tags else tags[0]


def _describe(deployed: Deployed, image: Mapping[str, str]) -> dict[str, Any] | None:
    ecr = deployed.client("ecr")
    with told_as(ImageError):
        try:
            answer = ecr.describe_images(repositoryName=_repository(deployed), imageIds=[image])
        except ecr.exceptions.ClientError as error:
            if code_of(error) in NO_IMAGE:  # not there, or no tag could be so
                return None
            raise
    return next(iter(answer["imageDetails"]), None)


def _repository(deployed: Deployed) -> str:
    return deployed.output("repositoryUrl").partition("/")[2]
