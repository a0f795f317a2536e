"""The page that a run leaves for people."""

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import trainer.report.page
from trainer.config import TrainingConfig
from trainer.data import Split
from trainer.errors import StorageError
from trainer.report import REPORT
from trainer.report.champion import Champion, find_champion
from trainer.report.mistakes import worst_mistakes
from trainer.report.page import Report, render
from trainer.storage import Folder
from trainer.train import run

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{1}$",
    "{{ 7 * 7 }}",
    "日本語 ✂",
    "a" * 300,
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def figures(classes, *, right=8, epochs=3):
    """Figures of a model that takes 2 of 10 images of each class for the next class."""
    count = len(classes)
    confusion = [[0] * count for _ in classes]
    for number, row in enumerate(confusion):
        row[number] += right
        row[(number + 1) % count] += 10 - right
    return {
        "accuracy": right / 10,
        "loss": 0.5,
        "classes": list(classes),
        "confusion": confusion,
        "per_class": {
            name: {"images": 10, "right": right, "accuracy": right / 10} for name in classes
        },
        "epochs": [
            {"epoch": number + 1, "loss": 2 / (number + 1), "accuracy": 0.5 + number / 10}
            for number in range(epochs)
        ],
    }


@pytest.fixture
def mistaken():
    """A split of 4 images, and a model that takes three of them for others."""
    images = torch.arange(4 * 3 * 8 * 8, dtype=torch.uint8).view(4, 3, 8, 8)
    labels = torch.tensor([0, 0, 1, 1])
    return Split(images, labels), torch.tensor([[0.4, 0.6], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])


@pytest.fixture
def make_report(mistaken):
    def make(classes=("cat", "dog"), **changes):
        fields = {
            "run": "0123456789ab",
            "figures": figures(classes),
            "mistakes": worst_mistakes(mistaken[0], mistaken[1], classes),
            "champion": Champion(note="There is no champion yet."),
            "facts": {"Parameters": {"widths": (64, 128), "mirror": False, "rate": 0.1 + 0.2}},
        }
        return Report(**{**fields, **changes})

    return make


def test_page_says_what_was_measured(make_report):
    page = render(make_report()).decode()

    assert "<title>Run 0123456789ab: 80.0%</title>" in page
    assert "4 of 20 images wrong" in page
    assert "There is no champion yet." in page
    assert page.count("<svg ") == 3
    assert page.count("data:image/png") == 3
    assert re.search(r"<th>widths</th><td>64, 128</td>", page)
    assert re.search(r"<th>mirror</th><td>no</td>", page)
    assert re.search(r"<th>rate</th><td>0.3</td>", page)


def test_equal_reports_are_equal_pages(make_report):
    assert render(make_report()) == render(make_report())


def test_page_asks_for_nothing_outside_of_it(make_report):
    page = render(make_report(HOSTILE)).decode()

    assert not re.findall(r"<(?:script|iframe|object|embed|base)\b", page)
    sources = re.findall(r"""<[a-z]+ [^>]*?\b(?:src|href)=["']?([^"' >]+)""", page)
    assert sources
    assert {source.partition(":")[0] for source in sources if source[0] != "#"} == {"data"}
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_hostile_names_are_shown_and_do_nothing(make_report):
    facts = {"<b>": {"<i>": "<u>"}}
    page = render(make_report(HOSTILE, run="<s>", facts=facts)).decode()

    for tag in ("<script", "<img src=x", "<b>\n", "<u>", "<s>"):
        assert tag not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "$\\frac{1}$" in page


def test_colours_are_the_page_s_in_light_and_dark(make_report):
    page = render(make_report()).decode()

    assert "prefers-color-scheme: dark" in page
    assert "var(--own)" in page
    assert "stroke: currentColor" in page or "fill: currentColor" in page
    # Matplotlib's own black and the stand-ins are gone.
    assert not re.findall(r"#0[1-5]0[1-5]0[1-5]|#000000", page)


def test_pictures_are_the_images_the_most_confident_mistake_first(mistaken):
    found = worst_mistakes(mistaken[0], mistaken[1], ("cat", "dog"))

    assert [mistake.number for mistake in found] == [2, 3, 0]
    assert (found[0].true, found[0].answer) == ("dog", "cat")
    assert found[0].confidence == pytest.approx(0.8)
    assert found[0].share == pytest.approx(0.2)
    with Image.open(io.BytesIO(base64.b64decode(found[0].picture.partition(",")[2]))) as image:
        assert np.array_equal(np.asarray(image), mistaken[0].images[2].permute(1, 2, 0))


def test_grey_and_large_pictures_are_shown_too():
    split = Split(torch.zeros(2, 1, 600, 300, dtype=torch.uint8), torch.tensor([0, 1]))
    found = worst_mistakes(split, torch.tensor([[0.1, 0.9], [0.2, 0.8]]), ("a", "b"))

    with Image.open(io.BytesIO(base64.b64decode(found[0].picture.partition(",")[2]))) as image:
        assert (image.mode, image.size) == ("L", (64, 128))


def test_no_mistake_is_said(make_report):
    page = render(make_report(figures=figures(("a", "b"), right=10), mistakes=[])).decode()

    assert "every test image was answered rightly" in page


def test_of_many_classes_the_matrix_shows_the_worst(make_report):
    many = figures([f"class {number}" for number in range(40)])
    many["confusion"][7] = [0] * 7 + [10] + [0] * 32
    page = render(make_report(figures=many)).decode()

    assert "the 10 classes with the fewest mistakes are left out" in page
    assert "<summary>40 classes</summary>" in page
    assert len(page) < 500_000


TEST = "5" * 64


@pytest.fixture
def crown(tmp_path):
    """Return a function that leaves a champion and its figures, and gives what is found of it."""

    def leave(record, metrics=None, classes=("cat", "dog")):
        bucket = Folder(tmp_path)
        if record is not None:
            bucket.put("models/champion.json", json.dumps(record).encode())
        if metrics is not None:
            bucket.put("runs/ab/metrics.json", json.dumps(metrics).encode())
        return find_champion(bucket, "models/champion.json", test_sha256=TEST, classes=classes)

    return leave


def record(**changes):
    plain = {
        "version": 1,
        "run": "ab",
        "prefix": "runs/ab/",
        "metric": "accuracy",
        "value": 0.7,
        "data": {"test_sha256": TEST},
        "promoted_at": "2026-11-27T06:00:00.000Z",
    }
    return {**plain, **changes}


def test_champion_on_the_same_data_is_compared(crown, make_report):
    champion = crown(record(), figures(("cat", "dog"), right=7))
    page = render(make_report(champion=champion)).decode()

    assert champion.note == ""
    assert "+10.0" in page
    assert "run <code>ab</code> has 70.0%" in page
    assert "training, champion" in page


@pytest.mark.parametrize(
    ("left", "metrics", "note"),
    [
        (None, None, "There is no champion yet."),
        (record(data={"test_sha256": "6" * 64}), None, "was tested on other data"),
        (record(data={"test_sha256": None}), None, "does not say what it was tested on"),
        (record(), None, "left no figures"),
        (record(), {"accuracy": 0.7}, "left no figures"),
        (record(), figures(("cat", "cow")), "knows other classes"),
        (record(value="much"), None, "is no record of a champion"),
        ([], None, "is no record of a champion"),
        ({"run": "ab"}, None, "is no record of a champion"),
        (record(), {**figures(("cat", "dog")), "epochs": 3}, "is no record of a champion"),
    ],
    ids=range(10),
)
def test_champion_that_cannot_be_compared_is_said(crown, make_report, left, metrics, note):
    champion = crown(left, metrics)

    assert note in champion.note
    assert champion.figures is None
    assert (
        champion.note.replace("'", "&#39;")[:20] in render(make_report(champion=champion)).decode()
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["run", "prefix", "metric", "value", "data", "promoted_at"])
PARTS = st.sampled_from(["accuracy", "per_class", "classes", "epochs"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=st.dictionaries(KEYS, JSON), metrics=st.dictionaries(PARTS, JSON) | JSON)
def test_whatever_the_champion_left_fails_no_run(crown, left, metrics):
    assert isinstance(crown({**record(), **left}, metrics), Champion)


def test_storage_that_refuses_is_said(tmp_path):
    class Refusing(Folder):
        def find(self, name):
            raise StorageError(f"cannot read {name}: the credentials must allow it")

    found = find_champion(Refusing(tmp_path), "k", test_sha256=TEST, classes=())
    assert found.note == (
        "The champion could not be read: cannot read k: the credentials must allow it."
    )


def test_run_outside_of_a_stack_has_no_champion():
    found = find_champion(None, None, test_sha256=TEST, classes=())

    assert "not part of a stack" in found.note


def test_report_that_fails_costs_no_model(make_job, colour_zip, tmp_path, monkeypatch, capsys):
    def fail(_):
        raise ZeroDivisionError("of a page")

    monkeypatch.setattr(trainer.report.page, "render", fail)
    run(make_job(data_path=colour_zip), TrainingConfig(epochs=1))

    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert "no report: ZeroDivisionError: of a page\n" in capsys.readouterr().out
    assert REPORT not in manifest["files"]
    assert "model.safetensors" in manifest["files"]


def open_in_browser(page, folder):
    """Open a page as a phone in dark would; give its document and what the console said."""
    assert CHROMIUM
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--enable-logging=stderr", "--blink-settings=preferredColorScheme=0"),
            *("--window-size=500,900", f"--user-data-dir={folder / 'profile'}"),
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_browser_opens_it_without_a_word(make_report, crown, tmp_path):
    champion = crown(record(), figures(HOSTILE, right=7), HOSTILE)
    page = tmp_path / "report.html"
    page.write_bytes(render(make_report(HOSTILE, champion=champion)))
    document, said = open_in_browser(page, tmp_path)

    assert said == []
    assert document.count("<svg ") == 3
    assert "alert(1)" in document
    # And it would have said so: a page that reaches out is stopped by its own policy.
    bad = tmp_path / "bad.html"
    bad.write_bytes(page.read_bytes().replace(b"<header>", b"<img src='http://localhost/x.png'>"))
    assert "Content Security Policy" in " ".join(open_in_browser(bad, tmp_path)[1])
