import pytest

from localcloud import Cloud, async_lambda
from tests.faults.stage import Stage


@pytest.fixture(scope="module")
def cast(tmp_path_factory):
    """Deploy the stack, once for all rows; its Lambdas try again without waiting."""
    with pytest.MonkeyPatch.context() as patch, Cloud() as cloud:
        patch.setattr(async_lambda, "RETRY_SECONDS", 0.01)
        yield Stage(cloud, tmp_path_factory.mktemp("stage"))


@pytest.fixture
def stage(cast):
    cast.clear()
    yield cast
    cast.faults.clear()
