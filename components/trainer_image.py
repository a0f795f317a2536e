"""The trainer image, built and pushed by `pulumi up`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pulumi_docker as docker
from pulumi import ComponentResource, Output, ResourceOptions
from pulumi_aws import ecr

from components.build_context import content_tag
from components.image_repository import ImageRepository


@dataclass(frozen=True, kw_only=True)
class TrainerImageArgs:
    """What to build, for which processor, and where to push it."""

    context: Path
    args: Mapping[str, str]
    """Docker build arguments."""
    platform: str
    repository: ImageRepository
    registry: str
    """host:port to push to in place of the repository's own; empty for that one."""


class TrainerImage(ComponentResource):
    """Pushes the image of a context under a tag of its content: unchanged files push nothing.

    Whoever creates it makes it depend on the rest of the pipeline: its push is an event that all
    the rest is there for.
    """

    uri: Output[str]
    """Repository and digest."""
    tag: str

    def __init__(
        self, name: str, args: TrainerImageArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("pushtrain:images:TrainerImage", name, None, opts)

        self.tag = content_tag(args.context, args.args, args.platform)
        token = ecr.get_authorization_token_output(registry_id=args.repository.registry_id)
        url = (
            Output.concat(args.registry, "/", args.repository.name)
            if args.registry
            else args.repository.url
        )
        image = docker.Image(
            f"{name}-image",
            image_name=Output.concat(url, ":", self.tag),
            build=docker.DockerBuildArgs(
                context=str(args.context),
                dockerfile=str(args.context / "Dockerfile"),
                args=dict(args.args),
                # Unset, it would be the platform of whatever machine runs `pulumi up`.
                platform=args.platform,
            ),
            # On the provider instead, the token (12 hours) would be a change in every preview.
            registry=docker.RegistryArgs(
                server=url,
                username=token.user_name,
                password=Output.secret(token.password),
            ),
            opts=ResourceOptions(parent=self),
        )

        self.uri = image.repo_digest
        self.register_outputs({"uri": self.uri, "tag": self.tag})
