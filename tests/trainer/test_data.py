"""What the trainer reads, and what it refuses by name."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.process import python
from trainer.data import decode, describe, load
from trainer.errors import DataError


def test_zip_of_class_folders_is_read(colour_zip):
    found = load(colour_zip)

    assert found.classes == ("blue", "red")
    assert found.train.images.shape == (24, 3, 8, 8)
    assert found.train.images.dtype == torch.uint8
    assert found.test.labels.tolist() == [0] * 4 + [1] * 4
    # Channels in the order red, green, blue.
    assert found.test.images[-1, 0].float().mean() > 180 > found.test.images[-1, 2].float().mean()


def test_folder_is_read_like_a_zip(tmp_path, make_colours):
    for name, content in make_colours().items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)

    assert str(load(tmp_path / "set")) == ("24 train and 8 test images of 2 classes, 8x8 RGB")


def test_folder_above_and_litter_are_fine(make_zip, make_colours):
    members = {f"set/{name}": content for name, content in make_colours().items()}
    litter = ("__MACOSX/set/train/red/._0.png", "set/train/red/.DS_Store", "set/train/.x/y.png")

    assert len(load(make_zip(members | dict.fromkeys(litter, b"?"))).train.labels) == 24


def test_stray_files_are_ignored_aloud(make_zip, make_colours, capsys):
    load(make_zip({**make_colours(), "README.md": "hello"}))

    assert capsys.readouterr().out == "ignored 1 files outside of train/ and test/\n"


def test_grey_images_stay_grey(make_zip, make_png):
    members = {
        f"{s}/{c}/1.png": make_png(v) for s in ("train", "test") for c, v in (("a", 0), ("b", 99))
    }

    assert load(make_zip(members)).train.images.shape == (2, 1, 8, 8)


def test_one_coloured_image_makes_all_rgb(make_zip, make_png):
    members = {
        f"{s}/{c}/1.png": make_png(v) for s in ("train", "test") for c, v in (("a", 0), ("b", 99))
    }
    members["test/b/1.png"] = make_png(1, 2, 3)

    assert load(make_zip(members)).train.images.shape == (2, 3, 8, 8)


def test_mixed_sizes_become_the_median(make_zip, make_colours, make_png, capsys):
    members = make_colours() | {"train/red/big.png": make_png(200, 20, 20, size=(30, 20))}

    assert load(make_zip(members)).train.images.shape == (25, 3, 8, 8)
    assert (
        "resized 1 of 33 images, 8x8 to 30x20, to the median size, 8x8" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {k: v for k, v in m.items() if "train/" in k}, "got no test/"),
        (lambda m: {k: v for k, v in m.items() if "test/" in k}, "got no train/"),
        (
            lambda m: {k: v for k, v in m.items() if "test/red" not in k},
            "got red in train/ but not in test/",
        ),
        (
            lambda m: {k: v for k, v in m.items() if "train/red" not in k},
            "got red in test/ but not in train/",
        ),
        (lambda m: m | {"train/green/": b"", "test/green/": b""}, "got none in train/green/"),
        (
            lambda m: m | {"train/red/notes.txt": b"no picture"},
            r"train/red/notes\.txt must be an image",
        ),
        (
            lambda m: m | {"test/red/0.png": m["test/red/0.png"][:60]},
            r"test/red/0\.png must be an image",
        ),
        (
            lambda m: m | {"train/labels.csv": b"1"},
            r"must lie in train/<class>/, got train/labels\.csv",
        ),
        (
            lambda m: m | {"train/red/deep/1.png": b"1"},
            "must lie in train/<class>/, got train/red/deep",
        ),
        (
            lambda m: m | {"../train/red/1.png": b"1"},
            r"must stay inside the data set, got '\.\./train",
        ),
        (lambda m: m | {"/train/red/1.png": b"1"}, "must stay inside the data set, got '/train"),
        (
            lambda m: m | {"C:/train/red/1.png": b"1"},
            "must stay inside the data set, got 'C:/train",
        ),
        (
            lambda m: m | {"train\\..\\..\\red\\1.png": b"1"},
            "must stay inside the data set, got 'train",
        ),
        (lambda m: m | {"other/test/red/1.png": b"1"}, "train and test must lie side by side"),
        (
            lambda m: m | {"train/red//0.png": b"1"},
            r"names must be unique, got train/red/0\.png twice",
        ),
        (
            lambda m: m | {"train/red\\1.png": b"1"},
            r"names must be unique, got train/red/1\.png twice",
        ),
        (
            lambda m: m | {"train/Red/0.png": b"1"},
            "differ by more than case, blanks or the encoding of accents, got 'Red' and 'red'",
        ),
        (
            lambda m: {k.replace("test/red", "test/reD"): v for k, v in m.items()},
            "differ by more than case, blanks or the encoding of accents, got 'reD' and 'red'",
        ),
        (lambda m: m | {"train/red /0.png": b"1"}, "got 'red' and 'red '"),
        (
            lambda m: m | {"train/ol\u00e9/0.png": b"1", "test/ole\u0301/0.png": b"1"},
            "got 'ole\u0301' and 'ol\u00e9'",
        ),
        (lambda m: m | {"train/ /0.png": b"1"}, "class names must not be blank, got ' '"),
        (
            lambda m: m | {"train/re\x1b[31md/0.png": b"1"},
            r"must be of printable characters, got 're\\x1b\[31md'",
        ),
        (lambda m: {k: v for k, v in m.items() if "red" in k}, "at least 2 classes, got red"),
        (lambda _: {}, "folders with images, got no train/"),
    ],
)
def test_bad_zip_is_refused_by_name(make_zip, make_colours, change, message):
    path = make_zip(change(make_colours()))

    with pytest.raises(DataError, match=message):
        load(path)


def picture(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_transparent_pixels_are_white():
    clear_red = Image.new("RGBA", (1, 2), (255, 0, 0, 0))
    clear_red.putpixel((0, 1), (10, 20, 30, 255))
    palette = Image.new("P", (1, 1), 3)
    palette.putpalette([0, 0, 0] * 3 + [9, 9, 9])

    assert decode(picture(clear_red), "x").tolist() == [[[255] * 3], [[10, 20, 30]]]
    assert decode(picture(Image.new("LA", (1, 1), (7, 0))), "x").tolist() == [[255]]
    assert decode(picture(palette, transparency=3), "x").tolist() == [[[255] * 3]]
    assert decode(picture(palette), "x").tolist() == [[[9] * 3]]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_stays_grey(mode):
    assert decode(picture(Image.new(mode, (3, 2), 1)), "x").shape == (2, 3)


@pytest.mark.parametrize(
    ("orientation", "rows"),
    [(1, [[0, 90], [180, 250]]), (3, [[250, 180], [90, 0]]), (6, [[180, 0], [250, 90]])],
)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_images_are_upright(kind, orientation, rows):
    # 16 pixels for each, so that no neighbour shines through.
    image = Image.fromarray(np.kron([[0, 90], [180, 250]], np.ones((16, 16))).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}

    found = decode(picture(image.convert("RGB"), kind, exif=exif, **options), "x")
    assert np.abs(found[8::16, 8::16, 0].astype(int) - rows).max() <= 2


def test_orientation_in_xmp_counts_too():
    image = Image.new("RGB", (4, 2))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'

    assert decode(picture(image, "JPEG", xmp=xmp), "x").shape == (4, 2, 3)


def test_formats_that_start_programs_are_none():
    with pytest.raises(DataError, match="x must be an image: its bytes are of no image format"):
        decode(picture(Image.new("RGB", (4, 4)), "EPS"), "x")


def test_deep_pixels_are_refused(make_zip, make_colours):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(buffer, "PNG")

    with pytest.raises(DataError, match=r"train/red/0\.png must have 8 bits a channel"):
        load(make_zip(make_colours() | {"train/red/0.png": buffer.getvalue()}))


@pytest.mark.parametrize("keep", [4, 300, -30])
def test_broken_zip_is_refused(colour_zip, keep):
    colour_zip.write_bytes(colour_zip.read_bytes()[:keep])

    with pytest.raises(DataError, match=r"set\.zip must be a whole zip archive"):
        load(colour_zip)


def test_damaged_member_is_refused(make_zip, make_colours):
    path = make_zip(make_colours())
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"set\.zip must be a whole zip archive: Bad CRC-32"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"just text", b"\x89PNG\r\n"])
def test_unknown_format_is_refused(tmp_path, content):
    (tmp_path / "set.zip").write_bytes(content)

    with pytest.raises(DataError, match="data must be a zip of class folders, an npz or"):
        load(tmp_path / "set.zip")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*nothing: No such file"):
        load(tmp_path / "nothing")


def arrays(**changes):
    rng = np.random.default_rng(0)
    plain = {
        "x_train": rng.integers(0, 255, (6, 5, 4, 3), np.uint8),
        "y_train": np.array([0, 1, 2] * 2),
        "x_test": rng.integers(0, 255, (3, 5, 4, 3), np.uint8),
        "y_test": np.array([2, 1, 0]),
    }
    return {k: v for k, v in (plain | changes).items() if v is not None}


@pytest.fixture
def make_npz(tmp_path):
    def make(**changes):
        # The name is no hint: the bytes decide.
        with (tmp_path / "dataset").open("wb") as file:
            np.savez(file, allow_pickle=True, **arrays(**changes))
        return tmp_path / "dataset"

    return make


def test_npz_is_read(make_npz):
    found = load(make_npz(classes=np.array(["a", "b", "c"])))

    assert found.classes == ("a", "b", "c")
    assert found.train.images.shape == (6, 3, 5, 4)
    assert np.array_equal(found.train.images[4].permute(1, 2, 0), arrays()["x_train"][4])


def test_npz_without_channels_is_grey(make_npz):
    found = load(
        make_npz(x_train=np.zeros((6, 5, 4), np.uint8), x_test=np.zeros((3, 5, 4), np.uint8))
    )

    assert found.train.images.shape == (6, 1, 5, 4)
    assert found.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "got no y_test"),
        ({"x_train": np.zeros((6, 5, 4, 3))}, "x_train must be uint8 .* got float64"),
        ({"x_train": np.zeros((6, 5, 4, 2), np.uint8)}, "x_train must be uint8 of shape"),
        ({"x_test": np.zeros((3, 4, 4, 3), np.uint8)}, "must be of one shape"),
        (
            {"x_test": np.zeros((0, 5, 4, 3), np.uint8), "y_test": np.zeros(0, int)},
            "got an empty one",
        ),
        ({"y_train": np.array([0, 1, 2])}, "y_train must be 6 whole numbers"),
        ({"y_train": np.array([0.0, 1, 2] * 2)}, "y_train must be 6 whole numbers, got float64"),
        ({"y_test": np.array([2, 1, 3])}, r"labels in test must lie in 0\.\.2, got 3"),
        ({"y_test": np.array([2, 1, -1])}, r"labels in test must lie in 0\.\.2, got -1"),
        ({"y_test": np.array([1, 1, 0])}, "got none of 2 in test"),
        ({"classes": np.array(["a", "b"])}, r"labels in train must lie in 0\.\.1, got 2"),
        ({"classes": np.array([{}, {}, {}])}, "must hold plain arrays"),
        ({"classes": np.array(["a", "A", "b"])}, "got 'a' and 'A'"),
        ({"classes": np.array(["a", "b", "a"])}, "got 'a' and 'a'"),
    ],
)
def test_bad_npz_is_refused(make_npz, changes, message):
    with pytest.raises(DataError, match=message):
        load(make_npz(**changes))


@pytest.fixture
def make_batches(tmp_path):
    def make(**changes):
        rng = np.random.default_rng(0)
        names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
        files = {
            n: {b"data": rng.integers(0, 255, (4, 3072), np.uint8), b"labels": [0, 1, 0, 1]}
            for n in names
        }
        files["batches.meta"] = {b"label_names": [b"cat", b"dog"]}
        with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
            for name, document in (files | changes).items():
                if document is None:
                    continue
                content = (
                    document if isinstance(document, bytes) else pickle.dumps(document, protocol=3)
                )
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return tmp_path / "cifar.tar.gz"

    return make


def test_cifar_batches_are_read(make_batches):
    data = np.zeros((4, 3072), np.uint8)
    data[1, 1024 + 32] = 7
    found = load(make_batches(test_batch={b"data": data, b"labels": [0, 1, 0, 1]}))

    assert found.classes == ("cat", "dog")
    assert found.train.images.shape == (20, 3, 32, 32)
    # The second plane is green, rows of 32.
    assert found.test.images.nonzero().tolist() == [[1, 1, 1, 0]]


class Evil:
    def __reduce__(self):
        return (print, ("run by a pickle",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_batch": Evil()}, "test_batch must be a CIFAR-10 batch: .*print is not allowed"),
        ({"test_batch": b"no pickle"}, "test_batch must be a CIFAR-10 batch"),
        ({"data_batch_3": None}, "got no data_batch_3"),
        ({"test_batch": {b"data": np.zeros((1, 3072))}}, "must be the CIFAR-10 python batches"),
        ({"test_batch": {b"data": np.zeros((2, 3072)), b"labels": [0, 9]}}, r"0\.\.1, got 9"),
    ],
)
def test_bad_batches_are_refused(make_batches, capsys, changes, message):
    path = make_batches(**changes)

    with pytest.raises(DataError, match=message):
        load(path)
    assert "run by a pickle" not in capsys.readouterr().out


def test_broken_tar_is_refused(make_batches):
    path = make_batches()
    path.write_bytes(path.read_bytes()[:2000])

    with pytest.raises(DataError, match="must be a whole tar archive"):
        load(path)


def test_doubled_batch_is_refused(make_batches):
    path = make_batches(**{"sub/test_batch": {}})

    with pytest.raises(DataError, match="names must be unique, got test_batch twice"):
        load(path)


def test_batches_that_unpack_to_too_much_are_refused(make_batches, monkeypatch):
    path = make_batches()
    monkeypatch.setattr("trainer.data.cifar.MOST_BYTES", 20_000)

    with pytest.raises(DataError, match="a tar must unpack to at most"):
        load(path)


def test_description_says_what_training_would_see(make_zip, make_colours, make_png):
    members = make_colours() | {"train/red/big.png": make_png(99, size=(30, 20)), "notes": b"x"}
    found = describe(make_zip(members))

    assert found.classes == ("blue", "red")
    assert found.counts == {"train": {"blue": 12, "red": 13}, "test": {"blue": 4, "red": 4}}
    assert (found.height, found.width, found.channels) == (8, 8, 3)
    assert found.format == "zip of class folders"
    assert found.remarks == (
        "resized 1 of 33 images, 8x8 to 30x20, to the median size, 8x8",
        "made 1 grey images RGB, as the others are",
        "ignored 1 files outside of train/ and test/",
    )
    json.dumps(found.as_json())


def test_description_needs_no_torch(colour_zip):
    script = (
        "import sys; from pathlib import Path; from trainer.data import describe;"
        "print(describe(Path(sys.argv[1])).classes, 'torch' in sys.modules)"
    )
    done = python("-c", script, colour_zip)

    assert done.stdout == "('blue', 'red') False\n"


def test_test_split_has_one_hash_whatever_file_it_came_in(make_zip, make_colours, tmp_path):
    members = make_colours()
    plain = load(make_zip(members))
    same = {"classes": np.array(plain.classes)}
    for name, split in (("train", plain.train), ("test", plain.test)):
        same[f"x_{name}"] = split.images.permute(0, 2, 3, 1).numpy()
        same[f"y_{name}"] = split.labels.numpy()
    np.savez(tmp_path / "same.npz", allow_pickle=False, **same)
    fewer = {name: body for name, body in members.items() if name != "train/red/0.png"}
    other = {**members, "test/red/0.png": members["train/red/0.png"]}

    assert load(tmp_path / "same.npz").test_sha256 == plain.test_sha256
    assert load(make_zip(fewer)).test_sha256 == plain.test_sha256
    assert load(make_zip(other)).test_sha256 != plain.test_sha256
    assert describe(make_zip(members)).test_sha256 == plain.test_sha256


def test_relabelled_test_split_has_another_hash(make_npz):
    assert load(make_npz()).test_sha256 != load(make_npz(y_test=np.array([1, 2, 0]))).test_sha256
