"""`pushtrain logs`: lines in order, across attempts, and to the end of the run."""

import json
import threading
import time

import pytest

from automation.commands import runs
from automation.follow import TaskLog, lines

pytestmark = pytest.mark.localcloud

SECONDS = 60


@pytest.fixture
def two_attempts(place, records):
    """A run whose first attempt has failed, and whose second goes on."""
    first = records.attempt(1, stopped_at=records.at(60), stop_code="SpotInterruption")
    run = records.make(attempts=[first, records.attempt(2, 61)])
    place.put(run)
    place.log(first["log_stream"], "epoch 1", "SIGTERM")
    place.log(run["attempts"][1]["log_stream"], "resumed", "epoch 2")
    return run


def test_lines_of_all_attempts_go_to_stdout_in_order(place, two_attempts):
    code, out, err = place.pushtrain("logs", two_attempts["run"], "-s", "dev")

    assert code == 0
    assert out == "epoch 1\nSIGTERM\nresumed\nepoch 2\n"
    assert err == "attempt 2:\n"


def test_one_attempt_alone(place, two_attempts):
    _, out, _ = place.pushtrain("logs", two_attempts["run"], "-s", "dev", "--attempt", "1")

    assert out == "epoch 1\nSIGTERM\n"


def test_an_attempt_that_is_not_there_is_one_line(place, two_attempts):
    code, _, err = place.pushtrain("logs", two_attempts["run"], "-s", "dev", "--attempt", "3")

    assert (code, err) == (1, "error: attempt must be one of 2, got 3\n")


def test_lines_as_json_say_when_and_of_which_attempt(place, two_attempts):
    _, out, _ = place.pushtrain("logs", two_attempts["run"], "-s", "dev", "--json")
    documents = [json.loads(line) for line in out.splitlines()]

    assert [each["attempt"] for each in documents] == [1, 1, 2, 2]
    assert documents[0] == {"attempt": 1, "at": "2027-01-15T08:00:00.000Z", "text": "epoch 1"}


def test_a_run_without_a_stream_yet_says_how_to_wait(place, records):
    place.put(records.make(attempts=[records.attempt()]))
    code, out, err = place.pushtrain("logs", "3f2a", "-s", "dev")

    assert (code, out) == (0, "")
    assert "nothing written yet" in err
    assert "pushtrain logs 3f2a0c11d2e4 -f -s dev" in err


def test_a_log_of_many_pages_is_read_whole(place, records):
    run = records.succeeded()
    place.put(run)
    stream = run["attempts"][0]["log_stream"]
    place.log(stream, *(f"line {number}" for number in range(9000)))
    place.cloud.client("logs").put_log_events(
        logGroupName="dev-training",
        logStreamName=stream,
        logEvents=[
            {"timestamp": 1_800_000_100_000 + number, "message": f"more {number}"}
            for number in range(9000)
        ],
    )
    _, out, _ = place.pushtrain("logs", "3f2a", "-s", "dev")

    assert len(out.splitlines()) == 18000
    assert out.splitlines()[-1] == "more 8999"


def test_following_goes_on_through_attempts_and_ends_with_the_run(place, records):
    """The run waits, is started, is reclaimed, starts again, and succeeds, while one follows."""
    at = records.at
    run = records.make(state="CLAIMED")
    place.put(run)
    told: list[str] = []
    log = TaskLog(place.cloud.client("logs"), "dev-training")

    def record():
        return json.loads(
            place.s3.get_object(Bucket="dev-models", Key=f"runs/{run['run']}/run.json")[
                "Body"
            ].read()
        )

    def follow():
        told.extend(
            f"{line.attempt}: {line.text}"
            for line in lines(record, log, follow=True, poll_seconds=0.02)
        )

    def until(count):
        ends = time.monotonic() + SECONDS
        while len(told) < count:
            assert time.monotonic() < ends, told
            time.sleep(0.01)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    first, second = records.attempt(1), records.attempt(2, 61)
    place.put({**run, "state": "STARTED", "attempts": [first]})  # no stream yet
    place.log(first["log_stream"], "epoch 1")
    until(1)
    stopped = {**first, "stopped_at": at(60)}
    place.put({**run, "state": "CLAIMED", "attempts": [stopped]})
    place.put({**run, "state": "STARTED", "attempts": [stopped, second]})
    place.log(second["log_stream"], "resumed")
    until(2)
    place.put(records.succeeded(attempts=[stopped, records.ended(2, 61)]))
    thread.join(SECONDS)

    assert not thread.is_alive()
    assert told == ["1: epoch 1", "2: resumed"]


def test_lines_that_arrive_after_the_end_are_not_lost(place, records):
    run = records.succeeded()
    stream = run["attempts"][0]["log_stream"]
    reads = 0

    def record():
        nonlocal reads
        reads += 1
        if reads == 3:
            place.log(stream, "late")
        return run

    log = TaskLog(place.cloud.client("logs"), "dev-training")
    told = [line.text for line in lines(record, log, follow=True, poll_seconds=0.01)]

    assert told == ["late"]


def test_the_exit_code_of_following_is_the_runs(place, records):
    place.put(records.succeeded("a" * 12), records.failed("b" * 12))
    good = place.pushtrain("logs", "a", "-f", "-s", "dev")
    bad = place.pushtrain("logs", "b", "-f", "-s", "dev")

    assert good[0] == 0
    assert "run aaaaaaaaaaaa SUCCEEDED, accuracy 90.00%" in good[2]
    assert bad[0] == 1
    assert bad[2].splitlines()[-1] == (
        "error: run bbbbbbbbbbbb FAILED: the trainer failed: "
        "pushtrain runs show bbbbbbbbbbbb -s dev"
    )


def test_a_run_that_was_just_pushed_is_waited_for(place, records):
    later = threading.Timer(1, place.put, [records.succeeded("a" * 12)])
    later.start()
    code, _, err = place.pushtrain("logs", "a" * 12, "-f", "-s", "dev")
    later.join()

    assert code == 0
    assert "run aaaaaaaaaaaa SUCCEEDED" in err


def test_a_push_that_is_never_claimed_is_told_with_where_to_look(place, monkeypatch):
    monkeypatch.setattr(runs, "MOST_CLAIM_SECONDS", 0.1)
    code, _, err = place.pushtrain("logs", "a" * 12, "-f", "-s", "dev")

    assert code == 1
    assert "run aaaaaaaaaaaa must be claimed within 0.1 s of its push" in err
    assert "pushtrain redrive" in err
