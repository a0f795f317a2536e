"""Using what a run published."""

import json

import boto3
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from trainer.config import TrainingConfig
from trainer.model import Architecture, SmallConvNet, save_model
from trainer.predict import main
from trainer.train import run


@pytest.fixture
def published(make_job, colour_zip, tmp_path, capsys):
    """The folder of a run that knows red from blue."""
    run(make_job(data_path=colour_zip), TrainingConfig(epochs=15))
    capsys.readouterr()
    return tmp_path / "out"


@pytest.fixture
def in_s3(published, fake_s3, monkeypatch):
    """The bucket that holds the same as runs/r/."""
    body = (published / "model.safetensors").read_bytes()
    fake_s3.objects["bucket", "runs/r/model.safetensors"] = body
    monkeypatch.setattr(boto3, "client", lambda _: fake_s3)
    return "bucket"


@pytest.fixture
def pictures(tmp_path, make_png):
    paths = [tmp_path / "r.png", tmp_path / "b.png"]
    paths[0].write_bytes(make_png(210, 10, 10, size=(20, 20), noise=5000))
    paths[1].write_bytes(make_png(10, 10, 210, noise=5001))
    return [str(path) for path in paths]


def test_images_are_classified_whatever_their_size(published, pictures, capsys):
    assert main([*pictures, "--model", str(published)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [
        line.removeprefix(f"{p}: ").split()[0] for line, p in zip(lines, pictures, strict=True)
    ] == [
        "red",
        "blue",
    ]


def test_json_ranks_the_classes(published, pictures, capsys):
    assert (
        main([*pictures, "--model", str(published / "model.safetensors"), "--json", "--top", "2"])
        == 0
    )

    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[c["class"] for c in a["classes"]] for a in answers] == [
        ["red", "blue"],
        ["blue", "red"],
    ]
    assert sum(c["probability"] for c in answers[0]["classes"]) == pytest.approx(1)


@pytest.mark.parametrize("where", ["runs/r", "runs/r/", "runs/r/model.safetensors"])
def test_model_is_read_from_s3(in_s3, pictures, capsys, where):
    assert main([pictures[0], "--model", f"s3://{in_s3}/{where}"]) == 0
    assert "r.png: red" in capsys.readouterr().out


def untrained(channels, folder):
    """The file of a model that knows nothing yet, of 8x8 pixels."""
    torch.manual_seed(0)
    kind = Architecture(
        classes=("a", "b"),
        channels=channels,
        height=8,
        width=8,
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
        widths=(8, 8, 8),
        residual=(0, 0, 0),
    )
    file = folder / "model.safetensors"
    file.write_bytes(save_model(SmallConvNet(kind), config={}, image_digest=None))
    return file


def answers(pictures, model, folder, capsys):
    """Probability of the first class for each picture."""
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png", exif=picture.getexif())
    names = [str(folder / f"{number}.png") for number in range(len(pictures))]
    assert main([*names, "--model", str(model), "--json", "--top", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [{c["class"]: c["probability"] for c in line["classes"]}["a"] for line in lines]


@pytest.mark.parametrize("channels", [1, 3])
def test_one_picture_has_one_answer_however_it_is_kept(channels, tmp_path, capsys):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8))
    clear = grey.convert("RGBA")
    palette = grey.convert("P")
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    kept = [grey, grey.convert("RGB"), clear, palette, grey.convert("LA"), turned]

    found = answers(kept, untrained(channels, tmp_path), tmp_path, capsys)
    assert found == pytest.approx([found[0]] * len(kept), abs=1e-6)


def test_colours_become_grey_for_a_model_of_grey(tmp_path, capsys):
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    model = untrained(1, tmp_path)

    first, second = answers([colour, colour.convert("L")], model, tmp_path, capsys)
    assert first == pytest.approx(second, abs=0.02)


def test_what_cannot_be_used_is_one_line(published, pictures, tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    other = tmp_path / "other.safetensors"
    other.write_bytes(save({}))
    for argv, message in (
        ([str(notes), "--model", str(published)], "notes.txt must be an image"),
        (["gone.png", "--model", str(published)], "cannot read gone.png: No such file"),
        ([*pictures, "--model", str(tmp_path / "gone")], "cannot read "),
        ([*pictures, "--model", str(notes)], "must be a model that the trainer published"),
        ([*pictures, "--model", str(other)], "must be a model that the trainer published"),
    ):
        assert main(argv) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert message in said.err
        assert said.err.count("\n") == 1
