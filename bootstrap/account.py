"""The whole of an account's bootstrap."""

import shlex
from collections.abc import Mapping
from typing import Final

import pulumi_aws as aws
from pulumi import ComponentResource, InvokeOptions, Output, ResourceOptions
from pulumi_aws import iam, kms, s3

from bootstrap import grants
from bootstrap.github import AUDIENCE, PROVIDER_URL, Repository, trust
from bootstrap.settings import Settings
from components import policies
from components.policies import AwsScope
from components.private_bucket import keep_private

# No name here begins as those of a stack's resources do, `pushtrain-`: a deploy role may change
# everything that is named so, and must not reach its own trust, state or key.
KEY_ALIAS: Final = "alias/bootstrap-secrets"
KEY_DELETION_DAYS: Final = 30
"""KMS's most: without the key, no stack's secrets can be read again."""
OLD_STATE_DAYS: Final = 90


class Account(ComponentResource):
    """Whatever stacks and workflows share: made once, by a person, and kept."""

    def __init__(self, name: str, settings: Settings, opts: ResourceOptions | None = None) -> None:
        super().__init__("pushtrain:bootstrap:Account", name, None, opts)
        look_up = InvokeOptions(parent=self)
        scope = AwsScope(
            partition=aws.get_partition_output(opts=look_up).partition,
            region=aws.get_region_output(opts=look_up).region,
            account=aws.get_caller_identity_output(opts=look_up).account_id,
        )
        # Kept whatever happens to this program: every stack of the account depends on them.
        kept = ResourceOptions(parent=self, protect=True, retain_on_delete=True)

        state = self._state_bucket(f"{name}-state", kept)
        key = self._secrets_key(f"{name}-secrets", scope, kept)
        account = grants.AccountScope(aws=scope, state_bucket_arn=state.arn, key_arn=key.arn)
        # Of the roles that a deployment makes, for tasks and handlers.
        work_boundary = self._policy(
            f"{name}-work-boundary",
            "The most that a role of a pushtrain stack can do",
            grants.work_boundary(account),
        )
        workflow_boundary = self._policy(
            f"{name}-workflow-boundary",
            "The most that a workflow of GitHub can do here",
            grants.workflow_boundary(account, work_boundary.arn),
        )
        provider_arn = settings.oidc_provider or (
            iam.OpenIdConnectProvider(
                f"{name}-github",
                url=f"https://{PROVIDER_URL}",
                client_id_lists=[AUDIENCE],
                # Others of the account may come to use it: it has only one for each URL.
                opts=kept,
            ).arn
        )

        owner, _, repository_name = settings.repository.partition("/")
        repository = Repository(
            owner=owner,
            name=repository_name,
            owner_id=settings.owner_id,
            id=settings.repository_id,
        )

        look = self._policy(f"{name}-look", "See what stacks are made of", grants.look(account))

        def role(
            part: str,
            description: str,
            subjects: list[str],
            rights: Mapping[str, policies.Document],
            *,
            looks: bool = True,
        ) -> iam.Role:
            made = iam.Role(
                f"{name}-{part}",
                description=description,
                assume_role_policy=Output.json_dumps(trust(provider_arn, subjects)),
                permissions_boundary=workflow_boundary.arn,
                opts=ResourceOptions(parent=self),
            )
            # Managed ones: what a deployment takes is more than a role's inline policies may hold.
            own = {
                f"{part}-{what}": self._policy(f"{name}-{part}-{what}", description, policy)
                for what, policy in rights.items()
            }
            for which, policy in (own | ({f"{part}-look": look} if looks else {})).items():
                iam.RolePolicyAttachment(
                    f"{name}-{which}-attachment",
                    role=made.name,
                    policy_arn=policy.arn,
                    opts=ResourceOptions(parent=self),
                )
            return made

        preview = role(
            "preview",
            "Previews stacks, looks for drift and reads how a run went; changes nothing",
            # A scheduled look for drift has no pull request, and what is on the main branch was
            # one.
            [*repository.pull_request(), *repository.branch()],
            grants.preview(account),
        )
        image = role(
            "image",
            "Pushes trainer images, and nothing else",
            repository.branch(),
            grants.image(account),
            looks=False,
        )
        deploys = {
            environment: role(
                f"deploy-{environment}",
                f"Deploys stack {environment}",
                repository.environment(environment),
                grants.deploy(account, environment, work_boundary.arn),
            )
            for environment in settings.environments
        }

        state_url = Output.format("s3://{0}?region={1}", state.bucket, scope.region)
        secrets_url = Output.format("awskms://{0}?region={1}", KEY_ALIAS, scope.region)
        self.outputs: dict[str, Output[str] | Output[list[str]] | dict[str, Output[str]]] = {
            "stateBucket": state.bucket,
            "state": state_url,
            "secretsProvider": secrets_url,
            "previewRole": preview.arn,
            "imageRole": image.arn,
            "deployRoles": {environment: made.arn for environment, made in deploys.items()},
            "permissionsBoundary": work_boundary.arn,
            "commands": Output.all(
                *(
                    _set_variable(settings.repository, variable, value)
                    for variable, value in (
                        ("AWS_REGION", Output.from_input(scope.region)),
                        ("PUSHTRAIN_STATE", state_url),
                        ("PUSHTRAIN_SECRETS_PROVIDER", secrets_url),
                        ("PUSHTRAIN_PREVIEW_ROLE", preview.arn),
                        ("PUSHTRAIN_IMAGE_ROLE", image.arn),
                    )
                ),
                *(
                    _set_variable(
                        settings.repository, "PUSHTRAIN_DEPLOY_ROLE", made.arn, environment
                    )
                    for environment, made in deploys.items()
                ),
            ),
        }
        self.register_outputs(self.outputs)

    def _policy(self, name: str, description: str, policy: policies.Document) -> iam.Policy:
        return iam.Policy(
            name,
            description=description,
            policy=Output.json_dumps(policy),
            opts=ResourceOptions(parent=self),
        )

    def _state_bucket(self, name: str, kept: ResourceOptions) -> s3.Bucket:
        """Make the bucket of Pulumi's state, where an older one can be brought back."""
        bucket = s3.Bucket(name, opts=kept)
        # S3's own key: the secrets in a state are encrypted with the account's before they come.
        # Each operation's lock leaves a mark that it was deleted, which goes too.
        keep_private(name, bucket, parent=self, old_version_retention_days=OLD_STATE_DAYS)
        return bucket

    def _secrets_key(self, name: str, scope: AwsScope, kept: ResourceOptions) -> kms.Key:
        """Make the key that Pulumi encrypts each stack's own key with."""
        key = kms.Key(
            f"{name}-key",
            description="Secrets in the state and the settings of Pulumi's stacks",
            enable_key_rotation=True,
            deletion_window_in_days=KEY_DELETION_DAYS,
            policy=Output.json_dumps(
                policies.document(policies.account_decides("PoliciesOfTheAccountDecide", scope))
            ),
            opts=kept,
        )
        kms.Alias(
            f"{name}-alias",
            # A name of its own, since stack files hold it.
            name=KEY_ALIAS,
            target_key_id=key.key_id,
            opts=ResourceOptions(parent=self),
        )
        return key


def _set_variable(
    repository: str, name: str, value: Output[str], environment: str = ""
) -> Output[str]:
    """Return the command that tells GitHub's workflows a value."""
    place = f"--repo {repository}" + (f" --env {environment}" if environment else "")
    return value.apply(lambda known: f"gh variable set {name} {place} --body {shlex.quote(known)}")
