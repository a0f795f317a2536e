"""The bootstrap program under Pulumi's mocks."""

import runpy

import pytest
import yaml

SETTINGS = {
    "repository": "octo/mnist",
    "ownerId": 123456,
    "repositoryId": 456789,
    "environments": ["dev", "prod"],
}


@pytest.fixture(scope="session")
def bootstrap(deploy, root):
    """Run bootstrap/__main__.py with the settings of its Pulumi.yaml, and these over them."""
    project = yaml.safe_load((root / "bootstrap/Pulumi.yaml").read_text())
    defaults = {key: declared["default"] for key, declared in project["config"].items()}

    def run(**settings):
        given = {**defaults, **SETTINGS, **settings}
        return deploy(
            lambda: runpy.run_path(str(root / "bootstrap/__main__.py")),
            {f"pushtrain-bootstrap:{key}": value for key, value in given.items()},
        )

    return run


@pytest.fixture(scope="session")
def account(bootstrap):
    """A whole account, as a first bootstrap makes it."""
    return bootstrap()
