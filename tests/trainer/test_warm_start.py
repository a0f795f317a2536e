"""Starting from the champion, or saying why not."""

import json

import boto3
import pytest
from safetensors.torch import load as load_tensors

from trainer.config import TrainingConfig
from trainer.errors import DataError
from trainer.train import run

KEY = "models/champion.json"
SMALL = TrainingConfig(epochs=1, widths=(8, 8), residual=(0, 1))
# One step at a rate so small that nearly nothing moves: the weights show where they come from.
STILL = TrainingConfig(
    epochs=1,
    widths=(8, 8),
    residual=(0, 1),
    seed=7,
    warm_start="champion",
    filter_rate=1e-9,
    learning_rate=1e-9,
)


@pytest.fixture
def bucket(fake_s3, colour_zip, monkeypatch):
    fake_s3.objects["bucket", "data/dataset"] = colour_zip.read_bytes()
    monkeypatch.setattr(boto3, "client", lambda _: fake_s3)
    return fake_s3


@pytest.fixture
def train(bucket, make_job):
    """Return a function that runs a training in the bucket and gives its manifest."""

    def run_it(name, config, key=KEY):
        prefix = f"runs/{name}/"
        job = make_job(
            run=name,
            bucket="bucket",
            data_key="data/dataset",
            run_prefix=prefix,
            champion_key=key,
            out=None,
        )
        run(job, config)
        return json.loads(bucket.objects["bucket", f"{prefix}manifest.json"])

    return run_it


@pytest.fixture
def champion(train, bucket):
    """Make run `aaaaaaaaaaaa` the champion; return what its record holds."""
    train("a" * 12, SMALL)
    record = {
        "version": 1,
        "run": "a" * 12,
        "image_digest": "sha256:" + "a" * 64,
        "prefix": f"runs/{'a' * 12}/",
        "model": "model.safetensors",
    }
    bucket.objects["bucket", KEY] = json.dumps(record).encode()
    return record


def weights(bucket, run):
    return load_tensors(bucket.objects["bucket", f"runs/{run}/model.safetensors"])


@pytest.mark.usefixtures("champion")
def test_a_fitting_champion_is_what_the_training_starts_from(train, bucket, capsys):
    manifest = train("b" * 12, STILL)

    assert f"warm start: from the champion, run {'a' * 12}\n" in capsys.readouterr().out
    assert manifest["lineage"]["warm_start"] == {
        "run": "a" * 12,
        "image_digest": "sha256:" + "a" * 64,
        "reason": "",
    }
    assert manifest["config"]["warm_start"] == "champion"
    before, after = weights(bucket, "a" * 12), weights(bucket, "b" * 12)
    head = [tensors["head.weight"] for tensors in (before, after)]
    assert (head[0] - head[1]).abs().max() < 1e-6
    assert before["whitening.weight"].equal(after["whitening.weight"])


@pytest.mark.usefixtures("champion")
def test_other_widths_start_fresh_and_say_why(train, capsys):
    config = TrainingConfig(epochs=1, widths=(8, 9), residual=(0, 1), warm_start="champion")
    found = train("b" * 12, config)["lineage"]["warm_start"]

    assert found["run"] is None
    assert found["reason"] == f"run {'a' * 12} differs: widths (8, 8) there and (8, 9) here"
    assert f"warm start: fresh: {found['reason']}\n" in capsys.readouterr().out


def test_no_champion_starts_fresh_and_says_why(train):
    reasons = [
        train(name * 12, STILL, key)["lineage"]["warm_start"]["reason"]
        for name, key in (("b", KEY), ("c", None))
    ]

    assert reasons == [
        f"there is no champion yet: no {KEY} in the bucket",
        "no champion is known here: PUSHTRAIN_CHAMPION_KEY is not set",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": None}, "named no model file"),
        ({"model": "gone"}, "there is no such object"),
        ({"model": "config.json"}, "must be a model that the trainer published"),
    ],
)
def test_a_champion_that_cannot_be_read_starts_fresh_and_says_why(
    train, bucket, champion, change, reason
):
    bucket.objects["bucket", KEY] = json.dumps({**champion, **change}).encode()

    assert reason in train("b" * 12, STILL)["lineage"]["warm_start"]["reason"]


def test_a_record_that_is_none_is_an_error(train, bucket):
    bucket.objects["bucket", KEY] = b"[]"

    with pytest.raises(DataError, match=f"{KEY} must be the record of a champion"):
        train("b" * 12, STILL)
