"""Small data sets that a trainer can be sure to learn, and a stand-in for S3."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from botocore.exceptions import ClientError
from PIL import Image

from trainer.config import Job

RUN = "0123456789ab"


def png(red, green=None, blue=None, size=(8, 8), noise=0):
    """An image of one colour, or one grey, and some noise from a fixed seed."""
    pixels = np.random.default_rng(noise).integers(0, 40, (*size, 3)) + np.array(
        [red, red if green is None else green, red if blue is None else blue]
    )
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    (image.convert("L") if green is None else image).save(buffer, "PNG")
    return buffer.getvalue()


def colours(train=12, test=4):
    """Red and blue squares by name: a set that any network learns within seconds."""
    return {
        f"{split}/{name}/{number}.png": png(
            *colour, noise=number + (1000 if split == "test" else 0)
        )
        for split, count in (("train", train), ("test", test))
        for name, colour in (("blue", (20, 20, 200)), ("red", (200, 20, 20)))
        for number in range(count)
    }


class FakeS3:
    """As much of an S3 client as the trainer calls, with its objects in memory."""

    def __init__(self):
        self.objects = {}
        self.kinds = {}
        self.order = []
        self.asked = []

    def put_object(self, *, Bucket, Key, Body, ContentType):  # noqa: N803 - boto3's names
        self.objects[Bucket, Key] = Body
        self.kinds[Key] = ContentType
        self.order.append(Key)

    def get_object(self, *, Bucket, Key):  # noqa: N803 - boto3's names
        if (Bucket, Key) not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return {"Body": io.BytesIO(self.objects[Bucket, Key])}

    def download_file(self, bucket, key, path, ExtraArgs):  # noqa: N803 - boto3's name
        self.asked.append((bucket, key, ExtraArgs))
        Path(path).write_bytes(self.objects[bucket, key])


@pytest.fixture
def make_zip(tmp_path):
    """Return a function that writes a zip of these members and gives its path."""

    def make(members, name="set.zip"):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return path

    return make


@pytest.fixture
def colour_zip(make_zip):
    return make_zip(colours())


@pytest.fixture
def make_colours():
    return colours


@pytest.fixture
def make_png():
    return png


@pytest.fixture
def fake_s3():
    return FakeS3()


@pytest.fixture
def make_job(tmp_path):
    """Return a function that gives a local job, with these fields changed."""

    def make(**changes):
        fields = {
            "run": RUN,
            "attempt": 1,
            "image_digest": "sha256:" + "0123456789ab" + "0" * 52,
            "image_tag": "g-1a2b3c4",
            "bucket": None,
            "data_key": None,
            "data_version": None,
            "run_prefix": None,
            "checkpoint_prefix": None,
            "champion_key": None,
            "metrics": None,
            "data_path": None,
            "out": tmp_path / "out",
        }
        return Job(**{**fields, **changes})

    return make
