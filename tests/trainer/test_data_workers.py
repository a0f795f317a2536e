"""Decoding in processes, and what stays of it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.process import environment
from trainer.data import load, workers
from trainer.data.cache import cache_of
from trainer.data.sources import Zip
from trainer.errors import DataError


@pytest.fixture
def two_workers(monkeypatch):
    """Have chunks of 5 decoded by two workers."""
    monkeypatch.setattr(workers, "_CHUNK_FILES", 5)
    monkeypatch.setattr(workers, "cores", lambda: 2)


@pytest.fixture
def many(two_workers, make_zip, make_colours, make_png):  # noqa: ARG001 - for what it sets
    """A zip of 58 images, of which the last but one is larger."""
    odd = {"test/red/8.png": make_png(200, 20, 20, size=(9, 10))}
    return make_zip({**make_colours(train=20, test=9), **odd})


def test_workers_decode_what_one_process_does(many, monkeypatch):
    found = load(many)
    monkeypatch.setattr(workers, "cores", lambda: 1)
    alone = load(many)

    assert found.test_sha256 == alone.test_sha256
    assert np.array_equal(found.train.images, alone.train.images)
    assert np.array_equal(found.train.labels, alone.train.labels)


def test_folder_is_decoded_in_workers_too(tmp_path, make_colours, many):
    for name, content in make_colours(train=20, test=9).items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)

    assert np.array_equal(load(tmp_path / "set").train.images, load(many).train.images)


@pytest.mark.usefixtures("two_workers")
def test_bad_image_is_named_and_ends_the_workers(make_zip, make_colours, monkeypatch):
    started = []
    plain = subprocess.Popen

    def start(*arguments, **options):
        started.append(plain(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    bad = {**make_colours(train=20, test=9), "train/red/3.png": b"no picture"}

    with pytest.raises(DataError, match=r"^train/red/3\.png must be an image: its bytes are of no"):
        load(make_zip(bad))
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


def test_worker_that_dies_is_said_to(many, monkeypatch):
    plain = subprocess.Popen

    def start(_, **options):
        return plain([sys.executable, "-c", "raise SystemExit(7)"], **options)

    monkeypatch.setattr(subprocess, "Popen", start)

    with pytest.raises(DataError, match=r"must decode in the memory .* ended with 7"):
        load(many)


def test_killed_trainer_leaves_no_worker(colour_zip):
    script = (
        "import sys, time; from pathlib import Path; from trainer.data import workers, sources;"
        "w = workers._Worker(sources.Zip(Path(sys.argv[1]))); w.decode(['train/red/0.png']);"
        "print(w._process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, colour_zip],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid):
    """Whether a process is there and no zombie that nobody has taken leave of."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state not in ("Z", "X")


@pytest.fixture
def eager(monkeypatch):
    """Make even a small set worth a cache."""
    monkeypatch.setattr("trainer.data.reading.WORTH_IMAGES", 10)


HASH = "5" * 64


@pytest.mark.usefixtures("eager")
def test_second_load_decodes_nothing(colour_zip, monkeypatch, capsys):
    first = load(colour_zip, HASH)
    said = capsys.readouterr().out
    monkeypatch.setattr("trainer.data.reading.read", lambda *_: pytest.fail("decoded"))
    second = load(colour_zip, HASH)

    assert said.startswith(f"kept the decoded images as {colour_zip}.decoded.npz, 0 MB")
    assert f"read what was decoded before from {colour_zip}.decoded.npz" in capsys.readouterr().out
    assert np.array_equal(first.train.images, second.train.images)
    assert first.test_sha256 == second.test_sha256
    assert first.classes == second.classes
    assert {path.name for path in colour_zip.parent.iterdir()} == {
        "set.zip",
        "set.zip.decoded.npz",
    }


def test_small_set_and_unasked_load_leave_no_file(colour_zip, monkeypatch):
    load(colour_zip, HASH)
    monkeypatch.setattr("trainer.data.reading.WORTH_IMAGES", 10)
    load(colour_zip)

    assert not cache_of(colour_zip).exists()


@pytest.mark.usefixtures("eager")
def test_cache_of_other_data_is_replaced(colour_zip, make_zip, make_colours, capsys):
    load(colour_zip, "4" * 64)
    make_zip(make_colours(train=13))
    found = load(colour_zip, HASH)

    assert len(found.train.labels) == 26
    assert "decoding anew: set.zip.decoded.npz is of other data" in capsys.readouterr().out
    assert len(load(colour_zip, HASH).train.labels) == 26


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:200],
        lambda _: b"",
        lambda _: b"no zip at all",
        lambda content: content.replace(b"\x93NUMPY", b"\x93NUMPX"),
        lambda content: content[:900] + bytes([content[900] ^ 255]) + content[901:],
        lambda content: content.replace("blue".encode("utf-32-le"), b"?" * 16),
    ],
    ids=["cut", "empty", "other", "magic", "bit", "head"],
)
def test_damaged_cache_is_ignored_with_a_word(colour_zip, damage, capsys):
    whole = load(colour_zip, HASH)
    cache = cache_of(colour_zip)
    cache.write_bytes(damage(cache.read_bytes()))
    capsys.readouterr()
    found = load(colour_zip, HASH)

    assert "decoding anew: set.zip.decoded.npz is damaged" in capsys.readouterr().out
    assert np.array_equal(found.train.images, whole.train.images)


@pytest.mark.usefixtures("eager")
def test_cache_that_cannot_be_written_is_done_without(colour_zip, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", refuse)

    assert len(load(colour_zip, HASH).train.labels) == 24
    assert capsys.readouterr().out == (
        "decoded images are not kept beside the data: No space left on device\n"
    )
    assert [path.name for path in colour_zip.parent.iterdir()] == ["set.zip"]


def test_stop_while_decoding_waits_for_no_chunk(many):
    class Stop(BaseException):
        pass

    source = Zip(many)
    decoded = workers.decode_all(source, [(name, 1) for name in source.names()])
    assert len(next(decoded)) == 5
    with pytest.raises(Stop):
        decoded.throw(Stop())
