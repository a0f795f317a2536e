"""A key of the stack's own for everything that it keeps."""

from dataclasses import dataclass

from pulumi import ComponentResource, Output, ResourceOptions
from pulumi_aws import kms

from components import policies

DELETION_DAYS = 30
"""KMS's most: without the key, nothing of the stack can be read again."""


@dataclass(frozen=True, kw_only=True)
class EncryptionArgs:
    """Whose key it is."""

    stack: str
    resources: str
    """What the names of the stack's log groups begin with."""
    container_insights: bool
    """Whether it has that log group too."""
    scope: policies.AwsScope
    destroyable: bool
    """False protects the key, and leaves it in the account even when it is destroyed."""


class Encryption(ComponentResource):
    """Whoever may not use the key can read none of the stack's data, whatever else they may."""

    key_arn: Output[str]

    def __init__(
        self, name: str, args: EncryptionArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("pushtrain:encryption:Encryption", name, None, opts)

        key = kms.Key(
            f"{name}-key",
            description=f"Everything that pushtrain's stack {args.stack} keeps",
            enable_key_rotation=True,
            deletion_window_in_days=DELETION_DAYS,
            policy=Output.json_dumps(
                policies.stack_key(
                    args.scope, args.resources, container_insights=args.container_insights
                )
            ),
            opts=ResourceOptions(
                parent=self,
                protect=not args.destroyable,
                retain_on_delete=not args.destroyable,
            ),
        )

        self.key_arn = key.arn
        self.register_outputs({"key_arn": self.key_arn})
