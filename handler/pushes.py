"""Pushes whose event was lost: images in the repository that no run knows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from handler import invoke, runs
from handler.events import IMAGE_TYPES, rfc3339
from handler.store import RunStore
from handler.wiring import Clients, Wiring

if TYPE_CHECKING:
    from mypy_boto3_ecr.type_defs import ImageDetailTypeDef

WINDOW = timedelta(days=7)
"""How far it looks back: who deletes records of old runs does not want them trained again."""


def deliver_lost(
    clients: Clients, store: RunStore, wires: Wiring, event_takes: timedelta
) -> Iterator[dict[str, Any]]:
    """Deliver each as its event would have been, once that event had time enough to come.

    The repository is the stack's own, so all that is in it was pushed since the stack exists.
    """
    time = datetime.now(UTC)
    pages = clients.ecr.get_paginator("describe_images").paginate(
        repositoryName=wires["repository"], filter={"tagStatus": "TAGGED"}
    )
    for page in pages:
        for image in page["imageDetails"]:
            age = time - image.get("imagePushedAt", time)
            if not event_takes < age < WINDOW:
                continue
            tags = [tag for tag in image.get("imageTags", []) if _trains(tag, wires)]
            if tags and not store.find(runs.name_of(image.get("imageDigest", ""))):
                for tag in tags:
                    outcome = invoke.deliver(_push_event(image, tag, wires), clients)
                    if outcome["outcome"] != "refused":
                        yield outcome


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
