"""What waits for a run's end in CI, against commands and a GitHub that say what a test wants."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLLOW = Path(__file__).parents[2] / ".github/scripts/follow.py"
SHOW = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path({folder!r})
assert sys.argv[1:] == ["runs", "show", "3f2a", "-s", "dev", "--json"], sys.argv
with (folder / "tokens").open("a") as file:
    token = pathlib.Path(os.environ["AWS_WEB_IDENTITY_TOKEN_FILE"])
    if token.exists():
        file.write(token.read_text() + "\\n")
answers = json.loads((folder / "answers").read_text())
answer = answers.pop(0) if len(answers) > 1 else answers[0]
(folder / "answers").write_text(json.dumps(answers))
if answer.isupper():
    print(json.dumps({{"record": {{"state": answer}}}}))
else:
    sys.exit("look up\\nerror: " + answer)
"""


@pytest.fixture
def follow(hub, tmp_path):
    """Follow a run of which the command says one thing after the other, the last for ever."""
    hub.program("pushtrain", SHOW.format(python=sys.executable, folder=str(tmp_path)))

    def run(*answers, minutes="5", **environment):
        (tmp_path / "answers").write_text(json.dumps(answers))
        done = subprocess.run(
            [sys.executable, FOLLOW, "dev", "3f2a", "--minutes", minutes],
            env=hub.environment(
                PUSHTRAIN_FOLLOW_SECONDS="0.01",
                AWS_WEB_IDENTITY_TOKEN_FILE=str(tmp_path / "token"),
                **environment,
            ),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_it_ends_well_whatever_came_of_the_run_and_tells_each_state_once(follow, end):
    assert follow("CLAIMED", "STARTED", "STARTED", end) == (0, ["CLAIMED", "STARTED", end], "")


def test_a_run_that_is_not_there_yet_is_waited_for(follow):
    code, said, _ = follow("no run 3f2a", "no run 3f2a", "SUCCEEDED")

    assert code == 0
    assert said == ["error: no run 3f2a", "SUCCEEDED"]


def test_time_is_up_and_the_report_says_what_there_is(follow):
    code, said, _ = follow("STARTED", minutes="0.0001")

    assert code == 0
    assert said == ["STARTED", "not ended within 0.0001 minutes"]


def test_each_look_has_a_token_of_its_own_that_nobody_else_reads(follow, tokens, tmp_path):
    code, said, _ = follow("CLAIMED", "STARTED", "SUCCEEDED", **tokens.environment)

    assert code == 0
    assert "token" not in "".join(said)
    assert (tmp_path / "tokens").read_text().split() == ["token-1", "token-2", "token-3"]
    assert tokens.requests == [("/token?job=1&audience=sts.amazonaws.com", "bearer the-job")] * 3
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("broken", [b"", b'{"val', b"<html>".ljust(20)])
def test_a_token_that_cannot_be_had_now_is_asked_for_again(follow, tokens, broken):
    tokens.broken[1] = broken
    code, said, error = follow("SUCCEEDED", **tokens.environment)

    assert (code, error) == (0, "")
    assert len(said) == 2
    assert said[1] == "SUCCEEDED"


def test_outside_of_github_no_token_is_asked_for(follow, tmp_path):
    assert follow("SUCCEEDED", ACTIONS_ID_TOKEN_REQUEST_URL="")[0] == 0
    assert not (tmp_path / "token").exists()
