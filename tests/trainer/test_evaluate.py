"""Figures of a model: exact, and the same afterwards as in the run."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from trainer.config import TrainingConfig
from trainer.data import Split
from trainer.evaluate import evaluate, main
from trainer.train import run

LOGITS = torch.tensor(
    [[2.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0], [5.0, 9.0, 1.0], [0, 0, 1]]
)
LABELS = [0, 2, 1, 1, 0]


@pytest.fixture
def result():
    class Fixed(nn.Module):
        def forward(self, images):
            return LOGITS[images.flatten().long()]

    split = Split(torch.arange(5).view(5, 1, 1, 1), torch.tensor(LABELS))
    # Batches of 2 leave a last one of 1: a mean of means would be wrong.
    return evaluate(Fixed(), split, batch_size=2)


def test_accuracy_and_loss_are_exact(result):
    shares = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(1, keepdims=True)

    assert result.metrics() == {"accuracy": 3 / 5, "loss": result.loss}
    assert result.loss == pytest.approx(-np.log(shares[range(5), LABELS]).mean())
    assert result.probabilities.numpy() == pytest.approx(shares)


def test_classes_and_confusion_are_exact(result):
    figures = result.as_json(["cat", "dog", "emu"])

    assert figures["confusion"] == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]
    assert figures["classes"] == ["cat", "dog", "emu"]
    assert figures["per_class"] == {
        "cat": {"images": 2, "right": 1, "accuracy": 0.5},
        "dog": {"images": 2, "right": 1, "accuracy": 0.5},
        "emu": {"images": 1, "right": 1, "accuracy": 1.0},
    }


@pytest.fixture
def published(make_job, colour_zip, tmp_path, capsys):
    run(make_job(data_path=colour_zip), TrainingConfig(epochs=1, widths=(8, 8, 8)))
    capsys.readouterr()
    return tmp_path / "out"


def test_a_published_run_gives_its_figures_again(published, colour_zip, capsys):
    assert main([str(published), "--data", str(colour_zip), "--json"]) == 0

    again = json.loads(capsys.readouterr().out)
    metrics = json.loads((published / "metrics.json").read_bytes())
    manifest = json.loads((published / "manifest.json").read_bytes())
    assert {name: again[name] for name in metrics if name != "epochs"} == {
        name: figure for name, figure in metrics.items() if name != "epochs"
    }
    assert manifest["metrics"] == {name: again[name] for name in ("accuracy", "loss")}
    assert manifest["data"]["test_sha256"] == again["test_sha256"]


def test_figures_are_for_people_too(published, colour_zip, capsys):
    assert main([str(published), "--data", str(colour_zip)]) == 0

    lines = capsys.readouterr().out.splitlines()
    metrics = json.loads((published / "metrics.json").read_bytes())
    assert lines[0].startswith(f"accuracy {metrics['accuracy']:.4f}  loss {metrics['loss']:.4f}")
    assert lines[1].endswith(" of 4")
    assert lines[-1].split() == ["red", *map(str, metrics["confusion"][1])]


def test_other_data_are_refused(published, make_zip, make_colours, make_png, capsys):
    other = {name.replace("red", "green"): body for name, body in make_colours().items()}
    grey = {name: make_png(90) for name in make_colours()}
    for members, message in (
        (other, "data must have the model's classes, blue, red, got blue, green"),
        (grey, "images must be of "),
    ):
        assert main([str(published), "--data", str(make_zip(members, "other.zip"))]) == 1
        assert message in capsys.readouterr().err
