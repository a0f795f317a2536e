"""Files that would unpack to more than anybody meant."""

import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.data import decode, load
from trainer.data.names import sort_into_classes
from trainer.errors import DataError


def bomb(size):
    """A black bitmap of this many MiB, which packs to a thousandth."""
    side = int((size * 2**20 / 3) ** 0.5)
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "BMP")
    return buffer.getvalue()


@pytest.fixture
def packed(tmp_path, make_colours):
    """Return a function that writes the colours and these members, deflated."""

    def make(members):
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**make_colours(), **members}.items():
                archive.writestr(name, content)
        return path

    return make


def test_member_that_shrank_too_well_is_refused(packed):
    path = packed({"train/red/bomb.bmp": bomb(2)})

    with pytest.raises(DataError, match=r"train/red/bomb\.bmp must unpack to at most 200 times"):
        load(path)


def test_small_member_may_shrink_as_it_likes(packed):
    assert len(load(packed({"train/red/black.bmp": bomb(0.5)})).train.labels) == 25


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MOST_MEMBERS", 30, r"set\.zip must hold at most 30 files, got 33"),
        ("MOST_UNPACKED_BYTES", 5000, r"set\.zip must unpack to at most"),
        ("MOST_MEMBER_BYTES", 500_000, r"black\.bmp must unpack to at most 0 MiB"),
        ("MOST_DECODED_BYTES", 100_000, "images must decode to at most .* make them smaller"),
    ],
)
def test_limits_are_kept(packed, monkeypatch, limit, value, message):
    path = packed({"train/red/black.bmp": bomb(0.7)})
    monkeypatch.setattr(f"trainer.data.limits.{limit}", value)

    with pytest.raises(DataError, match=message):
        load(path)


def test_resized_images_count_at_their_new_size(packed, make_png, monkeypatch):
    wide, high = (make_png(1, 2, 3, size=size) for size in ((9, 100), (100, 9)))
    members = {f"train/red/{n}.png": wide for n in range(100)}
    members |= {f"test/red/h{n}.png": high for n in range(101)}
    # 201 images of 2700 bytes; the median side is 100 or 9, as it falls.
    path = packed(members)
    monkeypatch.setattr("trainer.data.limits.MOST_DECODED_BYTES", 600_000)
    assert load(path).train.images.shape[1:] in {(3, 100, 9), (3, 9, 100), (3, 9, 9)}


def test_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    # A PNG that says it is 60,000 x 60,000 and has no more than a header.
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    with pytest.raises(DataError, match="x must be an image: "):
        decode(start + b"\0" * 50, "x")

    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, "PNG")
    with pytest.raises(DataError, match="must have at most 50,000,000 pixels, got 8000x8000"):
        decode(buffer.getvalue(), "x")


def overlap(path, times):
    """Let the central directory name the last member so many times, each time otherwise."""
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    at = content.rindex(b"PK\1\2")
    entry = content[at:end]
    length = struct.unpack("<H", entry[28:30])[0]
    name = entry[46 : 46 + length]
    more = b"".join(
        entry.replace(name, name[:-7] + f"{number:07}".encode()) for number in range(times)
    )
    tail = bytearray(content[end:])
    count, size = struct.unpack("<HI", tail[10:16])
    tail[8:16] = struct.pack("<HHI", count + times, count + times, size + len(more))
    path.write_bytes(content[:end] + more + bytes(tail))


def test_members_that_overlap_are_refused(packed):
    path = packed({"zzz/aaaaaaaaaaaaaaa": np.random.default_rng(0).bytes(100_000)})
    overlap(path, 20)

    with pytest.raises(DataError, match=r"members of set\.zip must not overlap"):
        load(path)


def test_member_larger_than_it_says_is_refused(packed, make_png):
    """Zipfile reads no more than was declared, and the checksum tells."""
    body = make_png(1, 2, 3)
    path = packed({"train/red/liar.png": body})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"train/red/liar.png") - 46
    content[at + 24 : at + 28] = struct.pack("<I", len(body) // 2)
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"set\.zip must be a whole zip archive: Bad CRC-32"):
        load(path)


def test_npz_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    images = np.zeros((100, 32, 32), np.uint8)
    labels = np.arange(100) % 2
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert load(path).train.images.shape == (100, 1, 32, 32)
    monkeypatch.setattr("trainer.data.limits.MOST_DECODED_BYTES", 150_000)

    with pytest.raises(DataError, match="images must decode to at most"):
        load(path)


def test_npz_whose_header_promises_too_much_is_refused(tmp_path):
    path = tmp_path / "huge.npz"
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 32, 32), }"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", array)

    with pytest.raises(DataError, match=r"huge\.npz must hold plain arrays"):
        load(path)


NAMES = st.text(st.sampled_from("ab./\\: \u0301A"), max_size=6)
PATHS = st.builds(
    "/".join,
    st.lists(st.sampled_from(["train", "test", "..", ".x", "__MACOSX", "C:"]) | NAMES, max_size=5),
)


@settings(max_examples=300)
@given(st.lists(PATHS, max_size=12))
def test_any_names_are_sorted_or_refused(names):
    try:
        layout = sort_into_classes(names)
    except DataError:
        return
    placed = [file for members in layout.members.values() for file, _ in members]
    assert len(placed) == len(set(placed))
    assert set(placed) <= set(names)
    assert not [name for name in placed if ".." in name.replace("\\", "/").split("/")]
    for members in layout.members.values():
        assert {number for _, number in members} == set(range(len(layout.classes)))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(colour_zip, data):
    whole = colour_zip.read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(
            st.integers(0, len(content) - 1) | st.integers(len(whole) - 3000, len(whole) - 1)
        )
        content[at] = data.draw(st.integers(0, 255))
    damaged = colour_zip.with_name("damaged.zip")
    damaged.write_bytes(content)
    with contextlib.suppress(DataError):
        load(damaged)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=600), start=st.sampled_from([b"", b"PK\3\4", b"\x1f\x8b\x08"]))
def test_any_bytes_are_refused(tmp_path, content, start):
    (tmp_path / "x").write_bytes(start + content)
    with pytest.raises(DataError):
        load(tmp_path / "x")
