"""The trainer's lines that CloudWatch takes metrics out of."""

import json
import math
from dataclasses import replace

import pytest

from tests import emf
from trainer.config import TrainingConfig
from trainer.history import Epoch, to_metrics
from trainer.train import run

EPOCH = Epoch(epoch=2, loss=0.75, accuracy=0.5, learning_rate=0.1, seconds=3.0)


def write(epoch):
    return to_metrics(epoch, stack="dev", run="0123456789ab", time=1767326400.0)


def test_an_epoch_is_a_document_of_the_format():
    line = write(EPOCH)

    assert emf.metrics_of(line) == {
        "TrainingLoss": (0.75, "None"),
        "TrainingAccuracy": (0.5, "None"),
    }
    document = json.loads(line)
    assert document["_aws"]["Timestamp"] == 1767326400000
    assert (document["stack"], document["run"], document["epoch"]) == ("dev", "0123456789ab", 2)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_left_out(loss):
    assert emf.metrics_of(write(replace(EPOCH, loss=loss))).keys() == {"TrainingAccuracy"}


@pytest.mark.parametrize(("stack", "lines"), [("dev", 2), (None, 0)])
def test_each_epoch_is_told_if_the_stack_has_metrics(make_job, colour_zip, capsys, stack, lines):
    config = TrainingConfig(epochs=2, widths=(16, 16, 16))
    run(make_job(data_path=colour_zip, metrics=stack), config)

    found = [line for line in capsys.readouterr().out.splitlines() if emf.is_one(line)]
    assert [emf.read(line)["epoch"] for line in found] == list(range(1, lines + 1))
    assert {emf.read(line)["stack"] for line in found} == ({stack} if lines else set())
