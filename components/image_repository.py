"""The registry whose pushes are trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_aws import ecr

from components.outputs import after

UNTAGGED_DAYS: Final = 30
"""Longer than any run: a retry pulls by digest, and the digest may have lost its tag by then."""


@dataclass(frozen=True, kw_only=True)
class ImageRepositoryArgs:
    """Whether tags may move, and whether images may go."""

    immutable_tags: bool
    """Where Pulumi builds, tags must be able to move: an interrupted `up` pushes its tag again."""
    destroyable: bool
    """False protects the repository, and leaves it in the account even when it is destroyed."""
    key_arn: Input[str] | None
    """The key of the images, for good; None for ECR's own."""


class ImageRepository(ComponentResource):
    """Keeps every tagged image, since a model's record names its digest."""

    name: Output[str]
    url: Output[str]
    arn: Output[str]
    registry_id: Output[str]
    key_arn: Output[str] | None
    """The key, for whoever encrypts more with it: known once it may be used for the images."""

    def __init__(
        self, name: str, args: ImageRepositoryArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("pushtrain:images:ImageRepository", name, None, opts)

        wanted = "AES256" if args.key_arn is None else "KMS"
        repository = ecr.Repository(
            f"{name}-repository",
            force_delete=args.destroyable,
            image_tag_mutability="IMMUTABLE" if args.immutable_tags else "MUTABLE",
            image_scanning_configuration={"scan_on_push": True},
            encryption_configurations=[
                {"encryption_type": wanted}
                if args.key_arn is None
                else {"encryption_type": wanted, "kms_key": args.key_arn}
            ],
            opts=ResourceOptions(
                parent=self,
                # ECR cannot change it, so another one would replace the repository, images and all.
                # It stays as it was made, and what it is then is compared with what it shall be.
                ignore_changes=["encryptionConfigurations"],
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

        # Whoever gets its name or address gets it only if it is encrypted as it shall be.
        as_wanted = repository.encryption_configurations.apply(
            lambda found: _as_made(found, wanted)
        )
        self.name = after(repository.name, as_wanted)
        self.url = after(repository.repository_url, as_wanted)
        self.key_arn = (
            None if args.key_arn is None else after(Output.from_input(args.key_arn), as_wanted)
        )
        self.arn = repository.arn
        self.registry_id = repository.registry_id
        self.register_outputs(
            {"name": self.name, "url": self.url, "arn": self.arn, "registry_id": self.registry_id}
        )


def _as_made(
    found: Sequence[ecr.outputs.RepositoryEncryptionConfiguration] | None, wanted: str
) -> None:
    """Refuse a key for images that are there already, or images without the key they have."""
    made = next((each.encryption_type for each in found or ()), None) or "AES256"
    if made != wanted:
        had, key = ("a", "true") if made == "KMS" else ("no", "false")
        raise ValueError(
            f"customerKey must stay {key} for this stack, whose images were made with {had} key "
            f"of its own: ECR would replace the repository and delete them "
            f"(pulumi config set pushtrain:customerKey {key}); docs/production.md, "
            '"A key for a stack that has images", has the way round'
        )
