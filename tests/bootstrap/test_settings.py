"""The account's settings: what is refused, how it is said, and that nothing is registered then."""

import pytest

from bootstrap.settings import SettingsError

SET = "pulumi config set pushtrain-bootstrap"
WRITE = 'write pushtrain-bootstrap:environments: ["dev", "prod"] into the stack file'
PROVIDER = "oidc-provider/token.actions.githubusercontent.com"


def refusal(bootstrap, deploy, **settings):
    with pytest.raises(SettingsError) as caught:
        bootstrap(**settings)
    assert deploy.latest.registrations == []
    return str(caught.value).split("\n  - ")[1:]


def test_nothing_is_guessed(bootstrap, deploy):
    empty = {"repository": "", "ownerId": 0, "repositoryId": 0, "environments": []}

    assert refusal(bootstrap, deploy, **empty) == [
        f"repository must be OWNER/NAME of a repository, got '': {SET}:repository <owner>/<name>",
        (
            f"ownerId must be the number that GitHub gives, got 0: "
            f"{SET}:ownerId $(gh api repos/<owner>/<name> --jq .owner.id)"
        ),
        (
            f"repositoryId must be the number that GitHub gives, got 0: "
            f"{SET}:repositoryId $(gh api repos/<owner>/<name> --jq .id)"
        ),
        f"environments must name 1 to 10 environments, got []: {WRITE}",
    ]


@pytest.mark.parametrize(
    "repository",
    ["mnist", "octo/", "/mnist", "octo/mnist/", "octo/*", "octo/mnist:x", "octo@1/mnist", "-o/m"],
)
def test_a_repository_is_an_owner_and_a_name(bootstrap, deploy, repository):
    (line,) = refusal(bootstrap, deploy, repository=repository)

    assert line.startswith("repository must be OWNER/NAME of a repository")


@pytest.mark.parametrize("number", [-1, "many"])
def test_numbers_are_githubs(bootstrap, deploy, number):
    assert len(refusal(bootstrap, deploy, ownerId=number, repositoryId=number)) == 2


@pytest.mark.parametrize("name", ["", "*", "dev?", "a:b", "a b", "a.b", "x" * 101])
def test_an_environment_is_named_as_its_stack(bootstrap, deploy, name):
    (line,) = refusal(bootstrap, deploy, environments=[name])

    assert line == (
        "environments must be named as stacks are (letters, digits, hyphens and underscores), "
        f"got {name!r}: {WRITE}"
    )


def test_an_environment_has_one_role(bootstrap, deploy):
    (line,) = refusal(bootstrap, deploy, environments=["dev", "dev"])

    assert line == "environments must name each once, got 'dev': take one out of the stack file"


def test_environments_are_counted(bootstrap, deploy):
    (line,) = refusal(bootstrap, deploy, environments=[f"e{at}" for at in range(11)])

    assert line.startswith("environments must name 1 to 10 environments")


@pytest.mark.parametrize(
    "arn",
    [
        "token.actions.githubusercontent.com",
        f"arn:aws:iam::1234:{PROVIDER}",
        f"arn:aws:iam::123456789012:{PROVIDER}/enterprise",
        "arn:aws:iam::123456789012:oidc-provider/tokenXactions.githubusercontent.com",
    ],
)
def test_a_provider_is_githubs(bootstrap, deploy, arn):
    assert refusal(bootstrap, deploy, oidcProvider=arn) == [
        (
            "oidcProvider must be empty, or the ARN of the identity provider "
            f"token.actions.githubusercontent.com, got {arn!r}: "
            "aws iam list-open-id-connect-providers lists the account's"
        )
    ]


def test_a_misspelt_setting_is_refused(bootstrap, deploy):
    assert refusal(bootstrap, deploy, environment=["dev"]) == [
        (
            "environment must be a setting that Pulumi.yaml knows (environments?), "
            "got '[\"dev\"]': pulumi config rm pushtrain-bootstrap:environment"
        )
    ]


def test_every_setting_is_declared_with_a_default(bootstrap):
    # The fixture gives the defaults of Pulumi.yaml: one that is read and not declared is refused.
    assert bootstrap(ownerId=1, repositoryId=1).registrations
