"""Whom to tell how a run ended."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_aws import sns

from components import policies


@dataclass(frozen=True, kw_only=True)
class NoticesArgs:
    """The subscribers that the stack keeps; others may subscribe to the topic beside them."""

    emails: Sequence[str]
    webhooks: Sequence[str]
    """https URLs."""
    key_arn: Input[str] | None
    """The key of the messages; None for SNS's own encrypted disks."""
    alarms: bool
    """True lets the stack's alarms tell the topic."""
    resources: str
    """What the names of the stack's alarms begin with."""
    scope: policies.AwsScope


class Notices(ComponentResource):
    """A topic that each end of a run is told to; every subscriber has to confirm once."""

    topic_arn: Output[str]

    def __init__(self, name: str, args: NoticesArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("pushtrain:notices:Notices", name, None, opts)
        child = ResourceOptions(parent=self)

        # No KMS key by default. SNS keeps a message on encrypted disks, for minutes, and mails it
        # as plain text; a key adds to that who may publish. AWS's own (alias/aws/sns) has a policy
        # that nobody can change, and CloudWatch alarms could never publish here; one of ours is
        # 1 $ a month: https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html
        topic = sns.Topic(f"{name}-topic", kms_master_key_id=args.key_arn, opts=child)
        sns.TopicPolicy(
            f"{name}-tls-only",
            arn=topic.arn,
            policy=Output.json_dumps(
                policies.tls_only_topic(
                    topic.arn,
                    policies.alarms_to_topic(topic.arn, args.scope, args.resources)
                    if args.alarms
                    else None,
                )
            ),
            opts=child,
        )
        # A subscriber is named for what it is, since each new name is another mail to confirm:
        # whoever takes one out of the list leaves the others as they are.
        for address in args.emails:
            sns.TopicSubscription(
                f"{name}-email-{address}",
                topic=topic.arn,
                protocol="email",
                endpoint=address,
                opts=child,
            )
        for url in args.webhooks:
            sns.TopicSubscription(
                f"{name}-webhook-{webhook_name(url)}",
                topic=topic.arn,
                protocol="https",
                # Whoever knows the URL may post to it.
                endpoint=Output.secret(url),
                opts=child,
            )

        self.topic_arn = topic.arn
        self.register_outputs({"topic_arn": self.topic_arn})


def webhook_name(url: str) -> str:
    """Return a name that tells webhooks of one host apart and no secret."""
    digest = hashlib.sha256(url.encode()).hexdigest()
    return f"{urlsplit(url).hostname}-{digest[:8]}"
