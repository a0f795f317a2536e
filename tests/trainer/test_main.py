"""The process as the container starts it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.process import environment, python
from trainer.__main__ import main


@pytest.fixture
def quiet_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("PUSHTRAIN_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_first_line_comes_before_anything_slow_is_imported(tmp_path):
    for name in ("torch", "numpy", "boto3", "PIL", "matplotlib", "jinja2", "tensorboardX"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    # The folder a module is run from comes first on its path.
    done = python(
        "-m",
        "trainer",
        "--data",
        "x",
        "--out",
        "y",
        cwd=tmp_path,
        PUSHTRAIN_RUN="0123456789ab",
        PUSHTRAIN_IMAGE_DIGEST="sha256:ff",
        PUSHTRAIN_IMAGE_TAG="c-1",
    )

    assert done.stdout == "run 0123456789ab attempt 1: image sha256:ff, tag c-1\n"
    assert "was imported" in done.stderr


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "50000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "None"),
    ],
)
def test_how_threads_wait_is_settled_before_torch_is_there_unless_it_was_given(
    tmp_path, monkeypatch, given, found
):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "torch.py").write_text(
        "import os\nraise SystemExit(os.environ.get('GOMP_SPINCOUNT', 'None'))\n"
    )

    done = python("-m", "trainer", "--data", "x", "--out", "y", cwd=tmp_path, **given)

    assert done.stderr == f"{found}\n"


def test_training_waits_for_nothing_that_only_publishing_needs():
    script = "import sys, trainer.train; print(*sys.modules)"
    done = python("-c", script)

    assert "trainer.report" in done.stdout.split()
    assert {"matplotlib", "jinja2", "tensorboardX"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
    ("argv", "code", "line"),
    [
        (["--epochs", "0"], 2, "error: epochs must be at least 1, got 0\n"),
        (["--nonsense"], 2, "error: unrecognized arguments: --nonsense\n"),
        ([], 1, "error: cannot read nothing.zip: No such file or directory\n"),
    ],
)
@pytest.mark.usefixtures("quiet_environment", "in_empty_folder")
def test_what_the_user_can_fix_is_one_line(capsys, argv, code, line):
    assert main(["--data", "nothing.zip", "--out", "out", *argv]) == code
    assert capsys.readouterr().err == line
    assert not Path("out").exists()


@pytest.mark.usefixtures("quiet_environment")
def test_unknown_parameter_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("PUSHTRAIN_PARAM_EPOCS", "3")

    assert main(["--data", "x", "--out", "y"]) == 2
    assert capsys.readouterr().err.startswith("error: parameter must be one of preset, ")


@pytest.mark.usefixtures("quiet_environment")
def test_good_run_exits_0(capsys, colour_zip, tmp_path):
    out = tmp_path / "out"

    assert main(["--data", str(colour_zip), "--out", str(out), "--epochs", "1"]) == 0
    assert (out / "manifest.json").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("quiet_environment")
def test_second_run_into_a_published_folder_is_refused(capsys, colour_zip, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")

    assert main(["--data", str(colour_zip), "--out", str(tmp_path)]) == 1
    assert "must not hold a published run" in capsys.readouterr().err


def test_sigterm_ends_it_with_143_a_checkpoint_and_no_manifest(colour_zip, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "trainer",
            "--data",
            colour_zip,
            "--out",
            tmp_path / "out",
            "--epochs",
            "1000000",
        ],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        while not process.stdout.readline().startswith("epoch 1/"):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)

        last = process.stdout.read().splitlines()[-1]
        assert process.wait(timeout=60) == 143
    assert re.fullmatch(
        r"stopped by SIGTERM: checkpoint at step \d+ of 1000000, nothing published", last
    )
    assert (tmp_path / "out/checkpoints/checkpoint.pt").stat().st_size > 0
    assert not (tmp_path / "out/manifest.json").exists()
