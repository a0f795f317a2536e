"""`pushtrain predict`: the right model, whole, and a clear word where it cannot be used."""

import hashlib
import json
import sys
import types
from pathlib import Path

import pytest

from trainer.errors import DataError

pytestmark = pytest.mark.localcloud


@pytest.fixture(autouse=True)
def trainer(monkeypatch):
    """Stand in for trainer.predict, whose own tests are elsewhere: a model is its file's text."""

    def predict(model, path):
        if path.suffix == ".txt":
            raise DataError(f"{path.name} must be an image")
        return [(model, 0.75), ("other", 0.25)]

    stand_in = types.SimpleNamespace(
        open_model=lambda where: Path(where).read_text(), predict=predict
    )
    monkeypatch.setitem(sys.modules, "trainer.predict", stand_in)


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


def test_the_champion_is_asked_by_default(place, publish, image):
    publish("a" * 12, b"first")
    publish("b" * 12, b"best")
    place.write("models/champion.json", {"version": 1, "run": "b" * 12})
    code, out, err = place.pushtrain("predict", image, "-s", "dev")

    assert (code, out) == (0, f"{image}: best 75.0%\n")
    assert "with the model of run bbbbbbbbbbbb" in err


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
