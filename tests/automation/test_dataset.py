"""`pushtrain data`: what the trainer would make of a file, and what an upload starts."""

import io
import json
import os
import sys
import zipfile

import pytest
from PIL import Image

from automation import dataset

pytestmark = pytest.mark.localcloud


@pytest.fixture
def flowers(tmp_path):
    """A zip of two classes: 3 and 2 images to train on, 1 and 1 to test on, one of another size."""
    file = tmp_path / "flowers.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name, size in {
            "train/rose/1.png": 8,
            "train/rose/2.png": 8,
            "train/rose/3.png": 6,
            "train/tulip/1.png": 8,
            "train/tulip/2.png": 8,
            "test/rose/1.png": 8,
            "test/tulip/1.png": 8,
        }.items():
            image = io.BytesIO()
            Image.new("RGB", (size, size), "red").save(image, "PNG")
            archive.writestr(name, image.getvalue())
    return file


class Reconcile:
    """Starts what waits for data, as the function would."""

    def __init__(self, place):
        self.place = place
        self.asked = []
        self.waiting = []

    def invoke(self, FunctionName, InvocationType, Payload):  # noqa: N803 - boto3's
        assert InvocationType == "RequestResponse"
        self.asked.append((FunctionName, json.loads(Payload)))
        for record in self.waiting:
            self.place.put({**record, "state": "STARTED", "waiting": None})
        answer = {"outcome": "reconciled", "open": 1, "changed": []}
        return {"Payload": io.BytesIO(json.dumps(answer).encode())}


@pytest.fixture
def reconcile(place):
    fake = Reconcile(place)
    place.session.replaced["lambda"] = fake
    place.outputs["reconcileFunction"] = "dev-reconcile"
    return fake


def stored(place, **options):
    return place.s3.get_object(Bucket="dev-models", Key="data/dataset", **options)


def test_check_tells_classes_counts_and_sizes(place, flowers):
    code, out, _ = place.pushtrain("data", "check", flowers)

    assert code == 0
    assert "5 train and 2 test images of 2 classes, 8x8 RGB" in out
    assert "resized 1 of 7 images" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["rose", "3", "1"],
        ["tulip", "2", "1"],
    ]


def test_check_as_json_is_whole(place, flowers):
    _, out, _ = place.pushtrain("data", "check", flowers, "--json")
    document = json.loads(out)

    assert document["classes"] == ["rose", "tulip"]
    assert document["counts"]["train"] == {"rose": 3, "tulip": 2}
    assert (document["height"], document["width"], document["channels"]) == (8, 8, 3)


def test_what_the_trainer_would_refuse_is_one_line_and_exit_code_1(place, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("no images")
    code, out, err = place.pushtrain("data", "check", file)

    assert (code, out) == (1, "")
    assert err.startswith("error: data must be a zip of class folders")
    assert len(err.splitlines()) == 1


def test_push_uploads_the_file_and_starts_what_waited_for_it(place, reconcile, records, flowers):
    waits = records.make(
        state="WAITING",
        data=None,
        waiting={"why": "data", "detail": "nothing is there", "not_before": None},
    )
    other = records.make("a" * 12, attempts=[records.attempt()])
    place.put(waits, other)
    for run in (waits, other):
        place.write(f"open/{run['run']}", b"")
    reconcile.waiting = [waits]
    code, out, err = place.pushtrain("data", "push", flowers, "-s", "dev")
    there = stored(place)

    assert code == 0
    assert there["Body"].read() == flowers.read_bytes()
    assert there["Metadata"] == {"filename": "flowers.zip"}
    assert reconcile.asked == [
        (
            "dev-reconcile",
            {"source": "pushtrain", "detail-type": "Reconcile Request", "detail": {}},
        )
    ]
    assert out.splitlines()[1:] == ["run 3f2a0c11d2e4: STARTED"]
    assert "5 train and 2 test images" in err


def test_without_a_run_that_waits_nobody_is_asked(place, reconcile, records, flowers):
    place.put(records.make(attempts=[records.attempt()]))
    place.write("open/3f2a0c11d2e4", b"")
    code, out, _ = place.pushtrain("data", "push", flowers, "-s", "dev", "--json")

    assert (code, reconcile.asked) == (0, [])
    assert json.loads(out)["runs"] == {}
    assert json.loads(out)["size"] == flowers.stat().st_size


def test_a_refused_file_is_not_uploaded(place, reconcile, tmp_path):
    file = tmp_path / "table.parquet"
    file.write_bytes(b"PAR1")
    code, _, err = place.pushtrain("data", "push", file, "-s", "dev")

    assert (code, reconcile.asked) == (1, [])
    assert err.startswith("error: data must be a zip of class folders")
    with pytest.raises(place.s3.exceptions.NoSuchKey):
        stored(place)


def test_unchecked_uploads_whatever_it_is(place, reconcile, tmp_path):
    file = tmp_path / "Bäume 7%.parquet"
    file.write_bytes(b"PAR1")
    code, _, _ = place.pushtrain("data", "push", file, "-s", "dev", "--unchecked")

    assert (code, reconcile.asked) == (0, [])
    assert stored(place)["Body"].read() == b"PAR1"
    assert stored(place)["Metadata"] == {"filename": "B%C3%A4ume 7%25.parquet"}


def test_a_large_file_goes_up_in_parts_with_checksums(place, reconcile, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "PART_BYTES", 5 * 1024 * 1024)
    file = tmp_path / "large.bin"
    file.write_bytes(os.urandom(11 * 1024 * 1024))
    seen = []
    dataset.push(place.deployed(), file, seen.append)
    there = stored(place)

    assert reconcile.asked == []
    assert sum(seen) == file.stat().st_size
    assert there["Body"].read() == file.read_bytes()
    assert there["ETag"].strip('"').endswith("-3")


def test_a_small_files_checksum_is_kept_beside_it(place, reconcile, flowers):
    place.pushtrain("data", "push", flowers, "-s", "dev")
    head = place.s3.head_object(Bucket="dev-models", Key="data/dataset", ChecksumMode="ENABLED")

    assert reconcile.asked == []
    assert head["ChecksumSHA256"]


def test_a_bucket_that_may_not_be_written_is_one_line(place, reconcile, flowers, monkeypatch):
    def forbidden(*_args, **_options):
        client = place.s3
        refused = {"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}
        raise client.exceptions.ClientError(refused, "PutObject")

    monkeypatch.setattr(place.s3, "put_object", forbidden)
    code, out, err = place.pushtrain("data", "push", flowers, "-s", "dev")

    assert (code, out, reconcile.asked) == (1, "", [])
    assert "error: these AWS credentials must have s3:PutObject, got: " in err


def test_without_the_trainers_libraries_a_word_says_what_to_install(place, flowers, monkeypatch):
    monkeypatch.setitem(sys.modules, "trainer.data", None)
    code, _, err = place.pushtrain("data", "check", flowers)

    assert code == 1
    assert "trainer.data must be installed to read a data set" in err
    assert "--unchecked" in err
