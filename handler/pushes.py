"""Pushes whose event was lost: images in the repository that no run knows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from handler.events import IMAGE_TYPES, rfc3339
from handler.wiring import Clients, Wiring

if TYPE_CHECKING:
    from mypy_boto3_ecr.type_defs import ImageDetailTypeDef

WINDOW = timedelta(days=7)
"""How far it looks back: who deletes records of old runs does not want them trained again."""


def on_record(
    clients: Clients, wires: Wiring, event_takes: timedelta
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Return the digest of each image that trains, and its pushes as their events would have been.

    Only of those whose event had time enough to come. The repository is the stack's own, so all
    that is in it was pushed since the stack exists.
    """
    time = datetime.now(UTC)
    pages = clients.ecr.get_paginator("describe_images").paginate(
        repositoryName=wires["repository"], filter={"tagStatus": "TAGGED"}
    )
    for page in pages:
        for image in page["imageDetails"]:
            age = time - image.get("imagePushedAt", time)
            tags = [tag for tag in image.get("imageTags", []) if _trains(tag, wires)]
            if tags and event_takes < age < WINDOW:
                yield image.get("imageDigest", ""), [_push_event(image, t, wires) for t in tags]


def _trains(tag: str, wires: Wiring) -> bool:
    return not wires["tag_prefixes"] or tag.startswith(tuple(wires["tag_prefixes"]))


def _push_event(image: "ImageDetailTypeDef", tag: str, wires: Wiring) -> dict[str, Any]:
    _, _, _, region, account, _ = wires["cluster"].split(":", 5)
    manifest_type = image.get("imageManifestMediaType", "")
    # An index is an artifact of no type but that of its manifest.
    artifact_type = image.get("artifactMediaType") or (
        manifest_type if manifest_type in IMAGE_TYPES else None
    )
    return {
        "version": "0",
        "id": f"reconcile-{image.get('imageDigest', '')}",
        "detail-type": "ECR Image Action",
        "source": "aws.ecr",
        "account": account,
        "region": region,
        "time": rfc3339(image.get("imagePushedAt", datetime.now(UTC))),
        "resources": [],
        "detail": {
            "action-type": "PUSH",
            "result": "SUCCESS",
            "repository-name": wires["repository"],
            "image-digest": image.get("imageDigest", ""),
            "image-tag": tag,
            "manifest-media-type": manifest_type,
            "artifact-media-type": artifact_type,
        },
    }
