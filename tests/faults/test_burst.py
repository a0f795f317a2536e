"""Many pushes at once, while a part of all calls fails: each is trained exactly once."""

import json

import pytest

from bench import burst

pytestmark = pytest.mark.localcloud


def check(result, pushes):
    assert result.runs == result.succeeded == pushes
    assert result.doubles == result.losses == 0
    assert result.errors > 0


def test_a_burst_under_errors_loses_and_doubles_nothing():
    result = burst.burst(25, error_percent=5, seed=1)

    check(result, 25)
    assert "25 in" in burst.table(result)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_hundred_pushes_under_errors_lose_and_double_nothing(capsys):
    code = burst.main(["-n", "500", "--errors", "5", "--json"])
    result = json.loads(capsys.readouterr().out)

    assert code == 0
    assert result["succeeded"] == 500
    assert result["doubles"] == result["losses"] == 0
