"""Going on where a stopped training was, and refusing what is not from it."""

import json
import os
import re
import signal
from dataclasses import asdict, replace

import pytest
import torch

import trainer.checkpoint
from trainer.checkpoint import CHECKPOINT, Checkpoints, RefusedError, identify, pack, unpack
from trainer.config import TrainingConfig
from trainer.data import load
from trainer.errors import StorageError
from trainer.model import SmallConvNet
from trainer.stop import Stop
from trainer.storage import Folder
from trainer.train import describe_architecture, run
from trainer.training import Training

# Two whole batches an epoch, images shifted and mirrored: all that chance decides is in it.
CONFIG = TrainingConfig(
    epochs=3, batch_size=10, shift=True, mirror=True, widths=(8, 8), residual=(0, 1)
)
MACHINE = {"processor": "a", "threads": 1, "number_format": "float32"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(make_zip, make_colours, make_png):
    colour = {"red": (200, 20, 20), "blue": (20, 20, 200)}
    members = {
        name: make_png(*colour[name.split("/")[1]], size=(16, 16), noise=number)
        for number, name in enumerate(make_colours())
    }
    return load(make_zip(members))


@pytest.fixture
def start(data):
    """Return a function that gives a training before its first step."""

    def make():
        config = CONFIG.resolve(len(data.train.labels), colour=True)
        torch.manual_seed(0)
        model = SmallConvNet(describe_architecture(data, config))
        model.whiten(data.train.images)
        return Training(model, data.train, config, torch.device("cpu"))

    return make


def finish(training):
    while not training.finished:
        training.advance()
    return training


def learnt(training):
    """Everything that an unbroken training and a resumed one must share."""
    history = [{**asdict(epoch), "seconds": 0} for epoch in training.history]
    return training.model.state_dict(), history


def assert_same(training, other):
    (weights, history), (others, other_history) = learnt(training), learnt(other)
    assert history == other_history
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_resumed_at_any_step_it_ends_bit_identical(start):
    unbroken = finish(start())
    assert unbroken.steps == 6

    for stop in range(unbroken.steps + 1):
        first = start()
        for _ in range(stop):
            first.advance()
        content = pack({"training": first.state()})
        torch.manual_seed(99)  # whatever else the new process did before
        resumed = start()
        resumed.restore(unpack(content)["training"])
        assert resumed.step == stop

        assert_same(finish(resumed), unbroken)


def test_resumed_twice_it_ends_bit_identical(start):
    training = start()
    while not training.finished:
        training.advance()
        content = pack({"training": training.state()})
        training = start()
        training.restore(unpack(content)["training"])

    assert_same(training, finish(start()))


def test_saving_changes_nothing_of_what_is_learnt(start, tmp_path):
    checkpoints = Checkpoints(
        Folder(tmp_path), identity={"config": {}}, machine={}, attempt=1, seconds=1
    )
    training = start()
    while not training.finished:
        training.advance()
        assert checkpoints.save(training)

    assert_same(training, finish(start()))


def test_damage_anywhere_is_seen(start):
    content = pack({"training": start().state()})
    for place in (0, 30, 100, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(RefusedError):
            unpack(bytes(damaged))
    for length in (0, 10, 60, 100, len(content) - 1):
        with pytest.raises(RefusedError):
            unpack(content[:length])
    with pytest.raises(RefusedError, match="format must be pushtrain-checkpoint-1, got b'other'"):
        unpack(b"other\n" + content)


@pytest.fixture
def kept(start, make_job, tmp_path):
    """Return a function that gives the checkpoints of a job, as another attempt finds them."""

    def make(job=None, config=CONFIG, data="d" * 64, machine=MACHINE):
        identity = identify(job or make_job(), config.resolve(24, colour=True), data)
        return Checkpoints(
            Folder(tmp_path / "kept"), identity=identity, machine=machine, attempt=1, seconds=60
        )

    make().save(start(), lineage={}, seconds=1.0)
    return make


def test_the_same_run_finds_its_checkpoint(kept, capsys):
    assert kept().find()["seconds"] == 1.0
    assert kept(config=replace(CONFIG, checkpoint_seconds=5)).find()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"config": replace(CONFIG, epochs=4)}, "epochs is 4, the checkpoint's 3"),
        ({"config": replace(CONFIG, widths=(8, 9))}, r"widths is \[8, 9\], the checkpoint's \[8,"),
        ({"config": replace(CONFIG, seed=1)}, "seed is 1, the checkpoint's 0"),
        ({"data": "e" * 64}, "data is ee+, the checkpoint's dd+"),
        ({"job": {"image_digest": "sha256:ff"}}, "image_digest is sha256:ff, the checkpoint's sha"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_with_a_word(
    kept, make_job, capsys, changes, why
):
    if "job" in changes:
        changes = {"job": make_job(**changes["job"])}

    assert kept(**changes).find() is None
    said = capsys.readouterr().out
    assert said.startswith("checkpoint refused, training starts fresh: ")
    assert re.search(why, said)


def test_other_code_and_another_torch_are_refused(kept, monkeypatch, capsys):
    monkeypatch.setattr(trainer.checkpoint, "code_sha256", lambda: "0")
    assert kept().find() is None
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "1.0")
    assert kept().find() is None

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(" is")[0] for line in lines] == ["code", "torch"]


def test_a_damaged_checkpoint_is_refused_with_a_word(kept, tmp_path, capsys):
    path = tmp_path / "kept" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-1])

    assert kept().find() is None
    assert "training starts fresh: it is damaged" in capsys.readouterr().out


def test_another_kind_of_machine_goes_on_and_says_so(kept, capsys):
    assert kept(machine={**MACHINE, "processor": "b", "threads": 4}).find()
    assert capsys.readouterr().out == (
        "the checkpoint is from another kind of machine, so the weights will not be bit-identical "
        "to an unbroken training's: processor a, now b; threads 1, now 4\n"
    )


def test_a_failed_save_is_said_and_harms_nothing(start, tmp_path, capsys):
    class Full(Folder):
        def put(self, name, body):
            raise StorageError(f"cannot write {name}: no space" if body else "nothing to write")

    checkpoints = Checkpoints(
        Full(tmp_path), identity={"config": {}}, machine={}, attempt=1, seconds=60
    )

    assert checkpoints.save(start()) is False
    assert capsys.readouterr().out == f"checkpoint not saved: cannot write {CHECKPOINT}: no space\n"


def test_one_is_due_when_the_last_is_old(start, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(trainer.checkpoint.time, "monotonic", lambda: now[0])
    checkpoints = Checkpoints(
        Folder(tmp_path), identity={"config": {}}, machine={}, attempt=1, seconds=60
    )
    now[0] += 59
    assert not checkpoints.due()
    now[0] += 1
    assert checkpoints.due()
    checkpoints.save(start())
    assert not checkpoints.due()


@pytest.fixture(params=[1, 3, 6])
def stopping(request, monkeypatch):
    """The step at which SIGTERM comes to a training, and what handles it."""
    before = signal.getsignal(signal.SIGTERM)
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.handle)
    advance = Training.advance

    def until(training):
        told = training.step == request.param - 1
        if told:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(training)

    monkeypatch.setattr(Training, "advance", until)
    yield request.param, stop
    signal.signal(signal.SIGTERM, before)


def test_a_stopped_run_ends_with_143_and_its_retry_as_if_nothing_had_been(
    make_job, colour_zip, tmp_path, capsys, stopping
):
    step, stop = stopping
    with pytest.raises(SystemExit) as left:
        run(make_job(data_path=colour_zip), CONFIG, stop)
    assert left.value.code == 143
    assert not (tmp_path / "out/manifest.json").exists()
    assert f"stopped by SIGTERM: checkpoint at step {step} of 6" in capsys.readouterr().out
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    # Outside of AWS each attempt has a name of its own.
    run(make_job(data_path=colour_zip, run="ba9876543210", attempt=2), CONFIG)
    said = capsys.readouterr().out
    run(make_job(data_path=colour_zip, out=tmp_path / "unbroken"), CONFIG)

    assert f"resumed at step {step} of 6, from the checkpoint of attempt 1" in said
    names = ("model.safetensors", "metrics.json", "metrics.jsonl", "manifest.json")
    whole, resumed = (
        {name: (tmp_path / folder / name).read_bytes() for name in names}
        for folder in ("unbroken", "out")
    )
    assert resumed["model.safetensors"] == whole["model.safetensors"]
    assert without_seconds(resumed["metrics.json"]) == without_seconds(whole["metrics.json"])
    assert len(resumed["metrics.jsonl"].splitlines()) == 3
    manifest = json.loads(resumed["manifest.json"])
    assert manifest["lineage"]["resumed"] == {"step": step, "attempt": 1}
    assert "metrics.jsonl" in manifest["files"]
    assert not (tmp_path / "out/checkpoints").exists()


def without_seconds(content):
    metrics = json.loads(content)
    return {**metrics, "epochs": [{**epoch, "seconds": 0} for epoch in metrics["epochs"]]}


def test_a_stop_before_the_training_ends_at_once(capsys):
    stop = Stop()
    with pytest.raises(SystemExit) as left:
        stop.handle(signal.SIGTERM, None)

    assert left.value.code == 143
    assert capsys.readouterr().out == "stopped by SIGTERM: nothing is published\n"


def test_a_stop_after_the_last_look_is_not_lost():
    stop = Stop()
    with pytest.raises(SystemExit), stop.deferred():
        stop.handle(signal.SIGTERM, None)
    with pytest.raises(SystemExit):
        stop.handle(signal.SIGTERM, None)
