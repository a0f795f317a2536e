"""The account's settings, checked as a whole before any resource exists."""

import re
from dataclasses import dataclass
from typing import Final, Self

from bootstrap.github import PROVIDER_URL
from components.settings import STACK_NAME, Reader, SettingsError

NAMESPACE: Final = "pushtrain-bootstrap"

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}/[A-Za-z0-9._-]{1,100}")
"""No wildcard of a policy, and no `@` or `:`, which stand between the parts of a subject."""
PROVIDER_ARN = re.compile(
    rf"arn:aws[a-z-]*:iam::[0-9]{{12}}:oidc-provider/{re.escape(PROVIDER_URL)}"
)
MOST_ENVIRONMENTS: Final = 10


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Whom the account trusts; the fields say no defaults because Pulumi.yaml holds them."""

    repository: str
    """OWNER/NAME."""
    owner_id: int
    repository_id: int
    environments: tuple[str, ...]
    """Each is also the name of the one stack that it deploys."""
    oidc_provider: str
    """ARN; empty creates one."""

    @classmethod
    def load(cls) -> Self:
        """Read the configuration; raise SettingsError naming every fault and its mend."""
        reader = Reader(NAMESPACE)
        settings = cls(
            repository=reader.value("repository", str),
            owner_id=reader.value("ownerId", int),
            repository_id=reader.value("repositoryId", int),
            environments=reader.strings("environments"),
            oidc_provider=reader.value("oidcProvider", str),
        )
        reader.refuse_unknown()
        settings._check(reader)
        reader.raise_faults()
        return settings

    def _check(self, reader: Reader) -> None:
        if not REPOSITORY.fullmatch(self.repository):
            mend = reader.set_to("repository", "<owner>/<name>")
            reader.fault("repository", "be OWNER/NAME of a repository", self.repository, mend)
        for key, number, query in (
            ("ownerId", self.owner_id, ".owner.id"),
            ("repositoryId", self.repository_id, ".id"),
        ):
            if number < 1:
                mend = reader.set_to(key, f"$(gh api repos/<owner>/<name> --jq {query})")
                reader.fault(key, "be the number that GitHub gives", number, mend)
        self._check_environments(reader)
        if self.oidc_provider and not PROVIDER_ARN.fullmatch(self.oidc_provider):
            rule = f"be empty, or the ARN of the identity provider {PROVIDER_URL}"
            mend = "aws iam list-open-id-connect-providers lists the account's"
            reader.fault("oidcProvider", rule, self.oidc_provider, mend)

    def _check_environments(self, reader: Reader) -> None:
        key, given = "environments", self.environments
        mend = reader.write_list(key, ["dev", "prod"])
        if not 1 <= len(given) <= MOST_ENVIRONMENTS:
            reader.fault(key, f"name 1 to {MOST_ENVIRONMENTS} environments", list(given), mend)
        for name in given:
            if not STACK_NAME.fullmatch(name):
                rule = "be named as stacks are (letters, digits, hyphens and underscores)"
                reader.fault(key, rule, name, mend)
            if given.count(name) > 1:
                reader.fault(key, "name each once", name, "take one out of the stack file")


__all__ = ["Settings", "SettingsError"]
