"""The real trainer, stopped at random moments: it ends with the model of a run never stopped."""

import json
import random
import threading

import pytest

from automation.digits import write_digits
from localcloud.faults import Delay, Until
from localcloud.image import build
from tests.faults.stage import ROOT

pytestmark = pytest.mark.localcloud

EPOCHS = 8
PARAMETERS = {"epochs": str(EPOCHS), "checkpoint_seconds": "1"}
CHECKPOINT = "checkpoint.pt"
ON_DEMAND, SPOT = "FARGATE", "FARGATE_SPOT"


class Training:
    """An image of the trainer, its first run that nothing stopped, and repeats that something did.

    All of them have the same image, parameters and data, so they must end with the same bytes.
    """

    def __init__(self, stage, data):
        self.stage = stage
        stage.clear()
        stage.cloud.tasks.stub = None
        stage.put("data/dataset", data)
        self.push()
        stage.cloud.settle(300)
        self.first = stage.run
        assert stage.record()["state"] == "SUCCEEDED"
        self.model = self.published(self.first)
        self.repeats = 1

    def push(self):
        self.stage.train_with(json.dumps(PARAMETERS))
        with self.stage.cloud.registry() as registry:
            self.stage.digest = registry.push(
                build(ROOT / "trainer"), self.stage.outputs["repositoryUrl"], "g-trainer"
            )

    def published(self, run):
        return self.stage.read(f"runs/{run}/model.safetensors")

    def next_run(self):
        """Name the repeat that will be asked for next."""
        return f"{self.first}-{self.repeats + 1}"

    def repeat(self, **parameters):
        """Ask for another run of the image, with other parameters if need be."""
        run = self.next_run()
        answer = self.stage.command(
            "invoke",
            "Train Request",
            digest=self.stage.digest,
            tag="g-trainer",
            parameters=PARAMETERS | parameters,
            by="test",
            token=run,
        )
        assert answer["run"] == run
        self.repeats += 1
        return run

    def stop(self, run, end, *, earliest=1):
        """End the run's first attempt in a random epoch, at which it is held until that is done."""
        epoch = random.randrange(earliest, EPOCHS)
        held = {"by": "task-", "where": f"{run}/metrics.jsonl"}
        faults, gate = self.stage.faults, threading.Event()
        with (
            # The epochs before take long enough for a checkpoint.
            faults.inject("s3", "PutObject", Delay(0.6), times=epoch - 1, **held),
            faults.inject("s3", "PutObject", Until(gate), **held) as fault,
        ):
            self.stage.until(lambda: fault.struck, 120)
            end(self.stage.record(run)["attempts"][0]["task_arn"])
            gate.set()
        return f"in epoch {epoch} of {EPOCHS}"

    def says(self, run, attempt, words):
        return any(words in line for line in self.lines(run, attempt))

    def lines(self, run, attempt):
        attempts = self.stage.record(run)["attempts"]
        if len(attempts) < attempt or not attempts[attempt - 1]["log_stream"]:
            return []
        logs = self.stage.cloud.client("logs")
        try:
            found = logs.get_log_events(
                logGroupName=self.stage.outputs["logGroup"],
                logStreamName=attempts[attempt - 1]["log_stream"],
                startFromHead=True,
            )
        except logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in found["events"]]

    def check(self, run, moment, *, cause, provider):
        """The run went on in a second attempt, and nobody can tell it from the first run."""
        self.stage.cloud.settle(300)
        record = self.stage.record(run)
        first, second = record["attempts"]

        assert record["state"] == "SUCCEEDED"
        assert (first["cause"], second["cause"]) == (cause, None)
        assert provider_of(first) == SPOT
        assert provider_of(second) == provider
        assert self.says(run, 2, "resumed at step"), f"stopped {moment}"
        assert self.published(run) == self.model, f"stopped {moment}"


def provider_of(attempt):
    (strategy,) = attempt["request"]["capacityProviderStrategy"]
    return strategy["capacityProvider"]


@pytest.fixture(scope="module")
def training(cast, tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "digits.zip"
    write_digits(file)
    return Training(cast, file.read_bytes())


def test_a_reclaimed_training_goes_on_and_ends_with_the_same_bytes(training):
    run = training.repeat()
    moment = training.stop(run, training.stage.cloud.tasks.reclaim)

    training.check(run, moment, cause="spot", provider=ON_DEMAND)


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(training):
    run = training.repeat()
    moment = training.stop(run, training.stage.cloud.tasks.lose_host, earliest=4)

    training.check(run, moment, cause="infrastructure", provider=SPOT)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_both_hold_at_any_moment(training):
    for _ in range(8):
        test_a_reclaimed_training_goes_on_and_ends_with_the_same_bytes(training)
        test_a_killed_training_goes_on_and_ends_with_the_same_bytes(training)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_with_a_word(training):
    training.stage.put(f"checkpoints/{training.next_run()}/{CHECKPOINT}", b"\x80 not one")
    run = training.repeat()
    training.stage.cloud.settle(300)

    assert training.stage.record(run)["state"] == "SUCCEEDED"
    assert training.says(run, 1, "checkpoint refused, training starts fresh")
    assert training.published(run) == training.model


@pytest.mark.slow
def test_a_foreign_checkpoint_is_refused_with_a_word(training):
    kept = []

    def end(arn):
        kept.append(training.stage.read(f"checkpoints/{stopped}/{CHECKPOINT}"))
        training.stage.cloud.tasks.reclaim(arn)

    stopped = training.repeat(seed="1")
    training.stop(stopped, end, earliest=4)
    training.stage.cloud.settle(300)
    training.stage.put(f"checkpoints/{training.next_run()}/{CHECKPOINT}", kept[0])
    run = training.repeat()
    training.stage.cloud.settle(300)

    assert training.stage.record(run)["state"] == "SUCCEEDED"
    assert training.says(run, 1, "checkpoint refused, training starts fresh: seed is 0")
    assert training.published(run) == training.model
