"""Whatever fails, and in whatever order deliveries come: one image, one task, one end."""

import contextlib
import hashlib
import itertools
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handler.store import LostRaceError

RUN = "06ea17a8981d"
RECORD = f"runs/{RUN}/run.json"


def assert_one_task(aws):
    record = aws.record(RUN)
    (arn,) = aws.running()
    assert record["state"] == "STARTED"
    assert record["attempts"][-1]["task_arn"] == arn
    definition = record["attempts"][-1]["request"]["taskDefinition"]
    assert aws.definitions[definition]["status"] == "ACTIVE"


def calls_of(aws, work):
    before = len(aws.calls)
    work()
    return len(aws.calls) - before


def test_a_crash_after_any_call_of_invoke_is_made_good_by_the_next_delivery(
    new_account, event, crash
):
    push = event("push-oci")
    undisturbed = new_account()
    count = calls_of(undisturbed, lambda: undisturbed.push(push))

    for call in range(1, count + 1):
        aws = new_account()
        aws.crash_after(call)
        with pytest.raises(crash):
            aws.push(push)
        aws.recover()

        aws.push(push)

        assert_one_task(aws)
        assert len(aws.record(RUN)["attempts"]) == 1
        assert len(aws.active()) == 1
    assert count >= 12


def test_two_crashes_after_any_calls_of_invoke_are_made_good(new_account, event, crash):
    push = event("push-oci")

    for first, second in itertools.product(range(1, 13), repeat=2):
        aws = new_account()
        for call in (first, second):
            aws.crash_after(call)
            with contextlib.suppress(crash):
                aws.push(push)
            aws.recover()

        aws.push(push)

        assert_one_task(aws)
        assert len(aws.active()) == 1


def test_a_crash_after_any_call_is_made_good_when_the_first_attempt_places_nothing(
    new_account, event, crash
):
    push = event("push-oci")

    for call in range(1, 24):
        aws = new_account()
        aws.failures = ["Capacity is unavailable at this time"]
        aws.crash_after(call)
        with contextlib.suppress(crash):
            aws.push(push)
        aws.recover()

        aws.push(push)

        assert_one_task(aws)
        assert len(aws.record(RUN)["attempts"]) == 2


@pytest.mark.parametrize("name", ["task-succeeded", "task-exit-1"])
@pytest.mark.parametrize("published", ["nothing", "files", "manifest"])
def test_a_crash_after_any_call_of_observe_is_made_good_by_the_next_delivery(
    new_account, event, crash, name, published
):
    def account():
        aws = new_account()
        arn = aws.push(event("push-oci"))["task_arn"]
        if published != "nothing":
            aws.put(f"runs/{RUN}/model.bin", b"weights")
            aws.put(f"runs/{RUN}/report.html", b"<p>")
        if published == "manifest":
            entry = {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
            manifest = {"version": 1, "run": RUN, "files": {"model.bin": entry}}
            aws.put(f"runs/{RUN}/manifest.json", json.dumps(manifest).encode())
        return aws, event(name, detail={"taskArn": arn})

    undisturbed, stop = account()
    count = calls_of(undisturbed, lambda: undisturbed.stop(stop))
    expected = undisturbed.record(RUN)

    for call in range(1, count + 1):
        aws, stop = account()
        aws.crash_after(call)
        with pytest.raises(crash):
            aws.stop(stop)
        aws.recover()

        aws.stop(stop)

        record = aws.record(RUN)
        assert record["state"] == expected["state"]
        assert record["diagnosis"] == expected["diagnosis"]
        assert aws.active() == []
        manifests = aws.objects.get(f"runs/{RUN}/manifest.json", [])
        wanted = published == "manifest" or (published == "files" and name == "task-succeeded")
        assert len(manifests) == wanted
    assert count >= 7


def test_twenty_deliveries_at_once_start_one_task(aws, event):
    push = event("push-oci")
    together = threading.Barrier(20)

    def deliver(_):
        together.wait(timeout=60)
        return aws.push(push)["outcome"]

    with ThreadPoolExecutor(20) as threads:
        outcomes = list(threads.map(deliver, range(20)))

    assert_one_task(aws)
    assert len(aws.tasks) == 1
    assert set(outcomes) <= {"started", "known"}


class Turns:
    """Lets threads make one AWS call at a time, in the order that a test chooses."""

    def __init__(self, order: list[int]) -> None:
        self.order = iter(order)
        self.changed = threading.Condition()
        self.waiting: dict[int, int] = {}
        self.busy = 0
        self.chosen: int | None = None

    def take(self) -> None:
        """Wait for one's turn."""
        with self.changed:
            me = self.number
            self.waiting[me] = me
            self.busy -= 1
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.chosen == me, timeout=60)
            del self.waiting[me]
            self.chosen = None
            self.busy += 1

    @property
    def number(self) -> int:
        return int(threading.current_thread().name)

    def play(self, works: list[Callable[[], object]]) -> list[object]:
        """Run the works, and return what each returned or raised."""
        results: list[object] = [None] * len(works)

        def run(number: int) -> None:
            try:
                results[number] = works[number]()
            except Exception as error:  # noqa: BLE001 (a result, which the test looks at)
                results[number] = error
            with self.changed:
                self.busy -= 1
                self.changed.notify_all()

        threads = [
            threading.Thread(target=run, args=(number,), name=str(number), daemon=True)
            for number in range(len(works))
        ]
        self.busy = len(works)
        for thread in threads:
            thread.start()
        with self.changed:
            while True:
                settled = lambda: self.busy == 0 and self.chosen is None  # noqa: E731
                assert self.changed.wait_for(settled, timeout=60)
                if not self.waiting:
                    break
                able = sorted(self.waiting)
                self.chosen = able[next(self.order, 0) % len(able)]
                self.changed.notify_all()
        for thread in threads:
            thread.join(timeout=60)
        return results


TROUBLE = st.tuples(st.integers(0, 2), st.booleans(), st.booleans())
ORDERS = st.lists(st.integers(0, 2), max_size=50)


@settings(max_examples=150)
@given(order=ORDERS, trouble=TROUBLE)
@example(order=[0, 1] * 20, trouble=(0, True, False))
@example(order=[0, 1, 2] * 16, trouble=(1, False, True))
def test_any_interleaving_of_deliveries_leaves_one_task(new_account, event, order, trouble):
    failures, remembers, retag = trouble
    aws = new_account()
    aws.failures = ["Capacity is unavailable at this time"] * failures
    aws.remembers_failures = remembers
    push = event("push-oci")
    other = event("push-oci", detail={"image-tag": "latest"}) if retag else push
    turns = Turns(order)
    aws.before = lambda _operation, _params: turns.take()

    results = turns.play([lambda: aws.push(push), lambda: aws.push(other), lambda: aws.push(push)])

    aws.before = lambda _operation, _params: None
    assert all(isinstance(result, dict) for result in results), results
    if aws.record(RUN)["state"] == "WAITING":
        record = aws.record(RUN)
        assert record["waiting"]["why"] == "capacity"
        record["waiting"]["not_before"] = "2026-01-01T00:00:00.000Z"
        aws.put(RECORD, json.dumps(record).encode())
        aws.reconcile()
    assert_one_task(aws)
    assert len(aws.record(RUN)["image"]["tags"]) == (2 if retag else 1)
    if remembers or not failures:
        assert len(aws.tasks) == 1


@settings(max_examples=100)
@given(order=ORDERS)
def test_any_interleaving_of_a_start_and_its_end_ends_the_run(new_account, event, order):
    aws = new_account()
    push = event("push-oci")

    def end():
        """Wait until the task runs, which ECS alone knows, and report its end twice."""
        while not aws.tasks:
            turns.take()
        (arn,) = aws.tasks
        stop = event("task-exit-1", detail={"taskArn": arn})
        return aws.stop(stop), aws.stop(stop)

    turns = Turns(order)
    aws.before = lambda _operation, _params: turns.take()
    results = turns.play([lambda: aws.push(push), end, lambda: aws.push(push)])

    assert not [result for result in results if isinstance(result, BaseException)], results
    assert aws.record(RUN)["state"] == "FAILED"
    assert aws.record(RUN)["attempts"][0]["exit_code"] == 1
    assert len(aws.tasks) == 1


CANCEL = {
    "source": "pushtrain",
    "detail-type": "Cancel Request",
    "detail": {"run": RUN, "by": "ana", "reason": "wrong data"},
}
LONG_ORDERS = st.lists(st.integers(0, 3), max_size=120)


def play(aws, order, works) -> list[Any]:
    turns = Turns(order)
    aws.before = lambda _operation, _params: turns.take()
    results = turns.play(works)
    aws.before = lambda _operation, _params: None
    assert not [result for result in results if isinstance(result, BaseException)], results
    return results


@settings(max_examples=60)
@given(order=LONG_ORDERS)
def test_any_interleaving_after_a_reclaim_makes_one_next_attempt(new_account, event, order):
    aws = new_account(limit=1)
    aws.validates = False
    arn = aws.push(event("push-oci"))["task_arn"]
    stop = aws.end(event("task-spot-interruption", detail={"taskArn": arn}))
    deliver = lambda: aws.stop(stop)  # noqa: E731

    play(aws, order, [deliver, aws.reconcile, deliver, aws.reconcile])

    assert_one_task(aws)
    assert [attempt["cause"] for attempt in aws.record(RUN)["attempts"]] == ["spot", None]
    assert len(aws.tasks) == 2
    assert len(aws.active()) == 1
    assert json.loads(aws.get("slots.json")) == [RUN]


@settings(max_examples=60)
@given(order=LONG_ORDERS)
def test_any_interleaving_with_a_cancel_leaves_no_task_at_work(new_account, event, order):
    aws = new_account(limit=1)
    aws.validates = False
    push = event("push-oci")

    results = play(
        aws,
        order,
        [lambda: aws.push(push), lambda: aws.reconcile(CANCEL), aws.reconcile],
    )

    (cancelled,) = [
        result for result in results if "open" not in result and "attempt" not in result
    ]
    if cancelled["outcome"] == "refused":  # nobody had claimed the run yet
        assert_one_task(aws)
    else:
        assert aws.running() == []
        assert len(aws.tasks) <= 1
        assert aws.record(RUN)["stop"]["why"] == "cancel"


@settings(max_examples=60)
@given(order=LONG_ORDERS)
def test_any_interleaving_of_deliveries_of_an_end_and_rounds_ends_the_run_once(
    new_account, event, order
):
    aws = new_account(limit=1)
    aws.validates = False
    arn = aws.push(event("push-oci"))["task_arn"]
    aws.put(f"runs/{RUN}/model.bin", b"weights")
    stop = aws.end(event("task-succeeded", detail={"taskArn": arn}))
    deliver = lambda: aws.stop(stop)  # noqa: E731

    play(aws, order, [deliver, aws.reconcile, deliver, aws.reconcile])
    aws.reconcile()

    assert aws.record(RUN)["state"] == "SUCCEEDED"
    assert len(aws.tasks) == 1
    assert len(aws.objects[f"runs/{RUN}/manifest.json"]) == 1
    assert len([notice for notice in aws.notices if "TopicArn" in notice]) >= 1
    assert json.loads(aws.get("slots.json")) == []
    assert aws.active() == []
    assert f"open/{RUN}" not in aws.objects


def test_a_record_that_always_changes_ends_in_an_error(aws, event):
    aws.push(event("push-oci"))

    def overtake(operation, _params):
        if operation == "PutObject":
            record = aws.record(RUN)
            record["updated_at"] = f"2026-01-01T00:00:00.{next(aws.numbers)}Z"
            aws.put(RECORD, json.dumps(record).encode())

    aws.before = overtake

    with pytest.raises(LostRaceError, match="changed by another each of 10 times"):
        aws.push(event("push-oci", detail={"image-tag": "latest"}))


@pytest.mark.parametrize("code", ["PreconditionFailed", "ConditionalRequestConflict"])
def test_a_claim_that_loses_goes_on_with_the_winner_s(aws, event, code):
    aws.errors = {"PutObject": ["", code]}  # the mark comes before the claim

    aws.push(event("push-oci"))

    assert_one_task(aws)


def test_a_claim_that_always_loses_to_nobody_is_an_error(aws, event):
    aws.errors = {"PutObject": ["", *["ConditionalRequestConflict"] * 10]}

    with pytest.raises(LostRaceError, match="could be neither created nor read"):
        aws.push(event("push-oci"))

    assert not aws.tasks


@pytest.mark.parametrize("operation", ["GetObject", "PutObject"])
def test_an_error_of_s3_is_not_taken_for_an_answer(aws, event, operation):
    aws.errors = {operation: ["AccessDenied"]}

    with pytest.raises(Exception, match="AccessDenied"):
        aws.push(event("push-oci"))

    assert not aws.tasks
