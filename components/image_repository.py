"""The registry whose pushes are trained."""

from dataclasses import dataclass
from typing import Final

from pulumi import ComponentResource, Output, ResourceOptions
from pulumi_aws import ecr

UNTAGGED_DAYS: Final = 30
"""Longer than any run: a retry pulls by digest, and the digest may have lost its tag by then."""


@dataclass(frozen=True, kw_only=True)
class ImageRepositoryArgs:
    """Whether tags may move, and whether images may go."""

    immutable_tags: bool
    """Where Pulumi builds, tags must be able to move: an interrupted `up` pushes its tag again."""
    destroyable: bool
    """False protects the repository, and leaves it in the account even when it is destroyed."""


class ImageRepository(ComponentResource):
    """Keeps every tagged image, since a model's record names its digest."""

    name: Output[str]
    url: Output[str]
    arn: Output[str]
    registry_id: Output[str]

    def __init__(
        self, name: str, args: ImageRepositoryArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("pushtrain:images:ImageRepository", name, None, opts)

        repository = ecr.Repository(
            f"{name}-repository",
            force_delete=args.destroyable,
            image_tag_mutability="IMMUTABLE" if args.immutable_tags else "MUTABLE",
            image_scanning_configuration={"scan_on_push": True},
            encryption_configurations=[{"encryption_type": "AES256"}],
            opts=ResourceOptions(
                parent=self,
                protect=not args.destroyable,
                retain_on_delete=not args.destroyable,
            ),
        )
        ecr.LifecyclePolicy(
            f"{name}-expiry",
            repository=repository.name,
            policy=Output.json_dumps(
                {
                    "rules": [
                        {
                            "rulePriority": 1,
                            "description": "Images that lost their tag to a newer one",
                            "selection": {
                                "tagStatus": "untagged",
                                "countType": "sinceImagePushed",
                                "countUnit": "days",
                                "countNumber": UNTAGGED_DAYS,
                            },
                            "action": {"type": "expire"},
                        }
                    ]
                }
            ),
            opts=ResourceOptions(parent=self),
        )

        self.name = repository.name
        self.url = repository.repository_url
        self.arn = repository.arn
        self.registry_id = repository.registry_id
        self.register_outputs(
            {"name": self.name, "url": self.url, "arn": self.arn, "registry_id": self.registry_id}
        )
