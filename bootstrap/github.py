"""What GitHub's workflows say who they are, and a trust policy that takes it at its word only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pulumi import Input

from components.policies import Document, document

PROVIDER_URL: Final = "token.actions.githubusercontent.com"
AUDIENCE: Final = "sts.amazonaws.com"
"""What aws-actions/configure-aws-credentials asks a token for."""
BRANCH: Final = "main"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository by name and by number; GitHub uses one of two forms of it in a token.

    With the numbers where the repository was made, renamed or moved after 15 July 2026, or asked
    for it; without in all others. A number is never given twice, a name that was let go may be:
    https://docs.github.com/en/actions/reference/security/oidc#immutable-subject-claims
    """

    owner: str
    name: str
    owner_id: int
    id: int

    def pull_request(self) -> list[str]:
        """Return the subjects of a workflow that a pull request runs."""
        return self._subjects("pull_request")

    def branch(self) -> list[str]:
        """Return the subjects of a workflow on the main branch, in a job without environment."""
        return self._subjects(f"ref:refs/heads/{BRANCH}")

    def environment(self, name: str) -> list[str]:
        """Return the subjects of a job in an environment, which stands in place of the branch."""
        return self._subjects(f"environment:{name}")

    def _subjects(self, context: str) -> list[str]:
        return [
            f"repo:{self.owner}/{self.name}:{context}",
            f"repo:{self.owner}@{self.owner_id}/{self.name}@{self.id}:{context}",
        ]


def trust(provider_arn: Input[str], subjects: Sequence[str]) -> Document:
    """Let exactly these subjects take a role."""
    return document(
        {
            "Sid": "GitHub",
            "Effect": "Allow",
            "Principal": {"Federated": provider_arn},
            "Action": "sts:AssumeRoleWithWebIdentity",
            # StringEquals knows no wildcard: whatever else the repository runs is refused.
            "Condition": {
                "StringEquals": {
                    f"{PROVIDER_URL}:aud": AUDIENCE,
                    f"{PROVIDER_URL}:sub": list(subjects),
                }
            },
        }
    )
