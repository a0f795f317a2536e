"""Learning for real, on sets small enough to know the answer."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import trainer.train
from trainer.config import TrainingConfig
from trainer.data import Split, load
from trainer.errors import DataError
from trainer.evaluate import evaluate
from trainer.model import SmallConvNet, load_model
from trainer.train import augment, describe_architecture, run, train, triangle

QUICK = TrainingConfig(epochs=15)


def test_colours_are_learnt(make_job, colour_zip, tmp_path):
    run(make_job(data_path=colour_zip), QUICK)

    metrics = json.loads((tmp_path / "out/metrics.json").read_bytes())
    assert metrics["accuracy"] == 1.0
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == list(range(1, 16))
    assert metrics["epochs"][-1]["loss"] < metrics["epochs"][0]["loss"]


def test_same_seed_same_weights_and_another_seed_others(make_job, colour_zip, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(
            make_job(data_path=colour_zip, out=tmp_path / name), replace(QUICK, epochs=2, seed=seed)
        )

    a, b, c = (
        load_model((tmp_path / name / "model.safetensors").read_bytes(), name).state_dict()
        for name in "abc"
    )
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])


def test_evaluation_is_exact():
    logits = torch.tensor(
        [[2.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0], [5.0, 9.0, 1.0], [0, 0, 1]]
    )

    class Fixed(nn.Module):
        def forward(self, images):
            return logits[images.flatten().long()]

    split = Split(torch.arange(5).view(5, 1, 1, 1), torch.tensor([0, 2, 1, 1, 0]))
    # Batches of 2 leave a last one of 1: a mean of means would be wrong.
    result = evaluate(Fixed(), split, batch_size=2)

    log_shares = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True))
    assert result.accuracy == 3 / 5
    assert result.loss == pytest.approx(-log_shares[range(5), [0, 2, 1, 1, 0]].mean())


def test_schedule_step_by_step():
    assert [triangle(step, 8) for step in range(8)] == pytest.approx(
        [1 / 2, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]
    )
    assert triangle(0, 1) == 1


def test_shift_repeats_the_edge_and_mirror_turns():
    images = torch.arange(32 * 32).remainder(32).view(1, 1, 32, 32).to(torch.uint8)
    seen = set()
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        batch = augment(images, torch.tensor([0]), generator, shift=True, mirror=True)
        seen.add(tuple(batch[0, 0, 9].tolist()))

    plain = np.arange(32)
    shifted = [tuple((plain + by).clip(0, 31).tolist()) for by in range(-2, 3)]
    assert seen == {*shifted, *(row[::-1] for row in shifted)}


@pytest.mark.parametrize(("side", "shift"), [(8, True), (32, False)])
def test_small_images_and_short_runs_are_not_shifted(side, shift):
    images = torch.randint(0, 255, (5, 1, side, side), dtype=torch.uint8)
    order = torch.tensor([3, 1])

    batch = augment(images, order, torch.Generator(), shift=shift, mirror=False)

    assert torch.equal(batch, images[order])


@pytest.mark.parametrize(("epochs", "shifted"), [(5, False), (6, True)])
def test_only_a_long_run_shifts(colour_zip, monkeypatch, epochs, shifted):
    data = load(colour_zip)
    asked = set()

    def note(*given, shift, mirror):
        asked.add(shift)
        return augment(*given, shift=shift, mirror=mirror)

    monkeypatch.setattr(trainer.train, "augment", note)
    model = SmallConvNet(describe_architecture(data))
    train(model, data.train, TrainingConfig(epochs=epochs).resolve(24), lambda _: None)

    assert asked == {shifted}


def test_training_leaves_the_whitening_as_it_was_set(colour_zip):
    data = load(colour_zip)
    model, fresh = (SmallConvNet(describe_architecture(data)) for _ in range(2))
    fresh.whiten(data.train.images)
    head = model.head.weight.clone()
    train(model, data.train, TrainingConfig(epochs=2).resolve(24), lambda _: None)

    assert torch.equal(model.whitening.weight, fresh.whitening.weight)
    assert not torch.equal(model.head.weight, head)


def test_endless_loss_is_an_error(colour_zip):
    data = load(colour_zip)
    model = SmallConvNet(describe_architecture(data))
    model.head.weight.data.fill_(float("nan"))

    with pytest.raises(
        DataError, match="loss must stay finite, got nan in epoch 1: lower learning"
    ):
        train(model, data.train, QUICK.resolve(24), lambda _: None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cifar10_reaches_what_is_promised(make_job, tmp_path):
    path = os.environ.get("PUSHTRAIN_TEST_DATA")
    if not path:
        pytest.skip("PUSHTRAIN_TEST_DATA names no CIFAR-10 zip")
    run(make_job(data_path=Path(path)), TrainingConfig())

    assert json.loads((tmp_path / "out/metrics.json").read_bytes())["accuracy"] >= 0.755
