"""`pushtrain predict`: the right model, whole, and a clear word where it cannot be used."""

import hashlib
import json
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from trainer.errors import DataError
from trainer.model import Architecture, SmallConvNet, save_model

pytestmark = pytest.mark.localcloud


@pytest.fixture
def stand_in(monkeypatch):
    """Put another in the place of trainer.predict: a model is its file's text."""

    def predict(model, path):
        if path.suffix == ".txt":
            raise DataError(f"{path.name} must be an image")
        return [(model, 0.75), ("other", 0.25)]

    other = types.SimpleNamespace(open_model=lambda where: Path(where).read_text(), predict=predict)
    monkeypatch.setitem(sys.modules, "trainer.predict", other)


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "cat.png"
    file.write_bytes(b"image")
    return file


@pytest.fixture
def publish(place, records):
    def put(run, body, *, sha256=None, model="model.bin"):
        place.put(records.succeeded(run))
        place.write(f"runs/{run}/model.bin", body)
        entry = {"size": len(body), "sha256": sha256 or hashlib.sha256(body).hexdigest()}
        manifest = {"version": 1, "run": run, "files": {"model.bin": entry}, "model": model}
        place.write(f"runs/{run}/manifest.json", manifest)

    return put


@pytest.mark.usefixtures("stand_in")
def test_the_champion_is_asked_by_default(place, publish, image):
    publish("a" * 12, b"first")
    publish("b" * 12, b"best")
    place.write("models/champion.json", {"version": 1, "run": "b" * 12})
    code, out, err = place.pushtrain("predict", image, "-s", "dev")

    assert (code, out) == (0, f"{image}: best 75.0%\n")
    assert "with the model of run bbbbbbbbbbbb" in err


@pytest.mark.usefixtures("stand_in")
def test_a_run_is_asked_by_name_and_all_of_its_classes_are_given(place, publish, image):
    publish("a" * 12, b"first")
    _, out, _ = place.pushtrain(
        "predict", image, image, "-s", "dev", "--run", "aa", "--top", "2", "--json"
    )
    documents = [json.loads(line) for line in out.splitlines()]

    assert documents == 2 * [
        {
            "image": str(image),
            "run": "a" * 12,
            "classes": [
                {"class": "first", "probability": 0.75},
                {"class": "other", "probability": 0.25},
            ],
        }
    ]


def test_without_a_champion_one_line_says_what_to_do(place, image):
    code, out, err = place.pushtrain("predict", image, "-s", "dev")

    assert (code, out) == (1, "")
    assert err == (
        "error: the stack must have a champion, got none: give --run, or "
        "pushtrain promote RUN -s dev\n"
    )


def test_a_model_that_is_not_the_published_one_is_refused(place, publish, image):
    publish("a" * 12, b"first", sha256="0" * 64)
    code, _, err = place.pushtrain("predict", image, "-s", "dev", "--run", "aa")

    assert code == 1
    assert "model.bin of run aaaaaaaaaaaa must be as its manifest says, got another file" in err


def test_a_run_without_a_model_is_refused(place, publish, image):
    publish("a" * 12, b"first", model=None)
    code, _, err = place.pushtrain("predict", image, "-s", "dev", "--run", "aa")

    assert code == 1
    assert "run aaaaaaaaaaaa must name its model in its manifest, got none" in err


@pytest.mark.usefixtures("stand_in")
def test_what_is_no_image_is_one_line(place, publish, tmp_path):
    publish("a" * 12, b"first")
    (tmp_path / "notes.txt").write_text("text")
    code, _, err = place.pushtrain("predict", tmp_path / "notes.txt", "-s", "dev", "--run", "aa")

    assert code == 1
    assert err.splitlines()[-1] == "error: notes.txt must be an image"


def test_without_torch_a_word_says_how_to_get_it(place, publish, image, monkeypatch):
    publish("a" * 12, b"first")
    monkeypatch.setitem(sys.modules, "trainer.predict", None)
    code, _, err = place.pushtrain("predict", image, "-s", "dev", "--run", "aa")

    assert code == 1
    assert "must be installed to use a model here" in err
    assert "requirements/torch.txt" in err


def test_a_model_of_the_trainer_is_used_under_any_name(place, publish, tmp_path):
    kind = Architecture(
        classes=("night", "day"), channels=1, height=8, width=8, mean=(0.5,), std=(0.25,)
    )
    publish("a" * 12, save_model(SmallConvNet(kind)))
    Image.new("L", (8, 8), 200).save(tmp_path / "sky.png")
    words = ("predict", tmp_path / "sky.png", "-s", "dev", "--run", "aa", "--top", "2", "--json")
    code, out, err = place.pushtrain(*words)
    classes = json.loads(out)["classes"]

    assert code == 0, err
    assert {each["class"] for each in classes} == {"night", "day"}
    assert sum(each["probability"] for each in classes) == pytest.approx(1)


def test_a_model_of_another_trainer_is_one_line(place, publish, image):
    publish("a" * 12, b"{}")
    code, out, err = place.pushtrain("predict", image, "-s", "dev", "--run", "aa")

    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(
        "error: model.bin must be a model that the trainer published: "
    )
