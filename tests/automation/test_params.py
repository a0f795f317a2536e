"""`pushtrain params`: what is set, what stays, and what no run could take."""

import json

import pytest

from handler import wiring as handlers_wiring

pytestmark = pytest.mark.localcloud

NAME = "/pushtrain/dev/training"


@pytest.fixture
def ssm(place, wiring):
    client = place.cloud.client("ssm")
    client.put_parameter(Name="/pushtrain/dev/wiring", Value=json.dumps(wiring), Type="String")
    return client


def own(ssm):
    try:
        return json.loads(ssm.get_parameter(Name=NAME)["Parameter"]["Value"])
    except ssm.exceptions.ParameterNotFound:
        return None


def test_what_is_not_named_stays(place, ssm):
    place.pushtrain("params", "set", "epochs=5", "lr=1e-3", "-s", "dev")
    code, out, _ = place.pushtrain("params", "set", "lr=2e-3", "note=a=b c", "-s", "dev")

    assert code == 0
    assert own(ssm) == {"epochs": "5", "lr": "2e-3", "note": "a=b c"}
    assert "epochs  5      params set, over 2 of the stack" in out


def test_the_handler_reads_what_was_set(place, ssm, wiring):
    place.pushtrain("params", "set", "epochs=5", "lr=1e-3", "-s", "dev")

    assert handlers_wiring.load_parameters(ssm, wiring) == {"epochs": "5", "lr": "1e-3"}


def test_get_says_where_each_is_from(place, ssm):
    place.pushtrain("params", "set", "lr=1e-3", "-s", "dev")
    _, out, _ = place.pushtrain("params", "get", "-s", "dev")
    _, document, _ = place.pushtrain("params", "get", "-s", "dev", "--json")
    _, value, _ = place.pushtrain("params", "get", "lr", "-s", "dev")

    assert [line.split(None, 2) for line in out.splitlines()[1:]] == [
        ["epochs", "2", "the stack"],
        ["lr", "1e-3", "params set"],
    ]
    assert json.loads(document) == {
        "name": NAME,
        "own": {"lr": "1e-3"},
        "defaults": {"epochs": "2"},
        "effective": {"epochs": "2", "lr": "1e-3"},
    }
    assert value == "1e-3\n"
    assert own(ssm) == {"lr": "1e-3"}


def test_a_parameter_that_is_not_there_is_one_line(place, ssm):
    code, out, err = place.pushtrain("params", "get", "lr", "-s", "dev")

    assert (code, out, own(ssm)) == (1, "", None)
    assert err.startswith("error: parameter must be one of epochs, got 'lr'")


def test_the_last_one_takes_the_parameter_with_it(place, ssm):
    place.pushtrain("params", "set", "epochs=5", "lr=1", "-s", "dev")
    place.pushtrain("params", "unset", "lr", "-s", "dev")
    left = own(ssm)
    code, out, _ = place.pushtrain("params", "unset", "epochs", "-s", "dev", "--json")

    assert left == {"epochs": "5"}
    assert (code, own(ssm)) == (0, None)
    assert json.loads(out)["effective"] == {"epochs": "2"}


def test_unset_refuses_what_is_not_set_and_changes_nothing(place, ssm):
    place.pushtrain("params", "set", "lr=1", "-s", "dev")
    code, _, err = place.pushtrain("params", "unset", "lr", "epochs", "-s", "dev")

    assert code == 1
    assert err == "error: epochs must be set by pushtrain params set -s dev, got lr\n"
    assert own(ssm) == {"lr": "1"}


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("Epochs=5", "the name 'Epochs' must match [a-z][a-z0-9_]*"),
        ("learning-rate=1", "the name 'learning-rate' must match"),
        ("2nd=1", "the name '2nd' must match"),
        ("epochs", "a parameter must be NAME=VALUE, got 'epochs'"),
        (f"note={'x' * 8000}", "must fit into 8192 characters of RunTask overrides"),
        (f"note={'x' * 4096}", "parameters must fit into 4096 bytes of JSON"),
    ],
)
def test_what_no_run_could_take_is_refused_before_it_is_written(place, ssm, pair, said):
    place.pushtrain("params", "set", "lr=1", "-s", "dev")
    code, out, err = place.pushtrain("params", "set", pair, "-s", "dev")

    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert own(ssm) == {"lr": "1"}


def test_a_pair_given_twice_is_refused(place, ssm):
    code, _, err = place.pushtrain("params", "set", "lr=1", "lr=2", "-s", "dev")

    assert (code, own(ssm)) == (1, None)
    assert err == "error: a parameter must be given once, got lr twice\n"


def test_what_somebody_wrote_by_hand_is_refused_with_the_handlers_words(place, ssm):
    ssm.put_parameter(Name=NAME, Value="epochs: 5", Type="String")
    code, _, err = place.pushtrain("params", "get", "-s", "dev")

    assert code == 1
    assert f"{NAME} must be JSON, got 'epochs: 5'" in err
    assert len(err.splitlines()) == 1


def test_a_stack_without_its_wiring_is_told_to_be_deployed(place):
    code, _, err = place.pushtrain("params", "get", "-s", "dev")

    assert code == 1
    assert "/pushtrain/dev/wiring must be a JSON object" in err
    assert "pushtrain up -s dev" in err
