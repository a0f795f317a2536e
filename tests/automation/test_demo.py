"""The demo, as a user runs it: a process of its own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from automation.digits import write_digits

# Seconds where nothing else runs; a machine that is shared may be ten times as slow.
SECONDS = 800

pytestmark = [pytest.mark.localcloud, pytest.mark.timeout(SECONDS + 100)]

COMMAND = [sys.executable, "-m", "automation.cli", "demo"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the demo once, and return its exit code, its report and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [*COMMAND, "--json", str(folder / "demo.json"), "--output", str(folder / "models")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done, json.loads((folder / "demo.json").read_text()), folder


def test_the_loop_ends_with_two_different_models(demo):
    _, report, _ = demo
    first, second = report["runs"]

    assert first["run"] != second["run"]
    assert min(first["accuracy"], second["accuracy"]) > 0.9
    assert Path(first["model"]).read_bytes() != Path(second["model"]).read_bytes()


def test_the_same_image_under_another_tag_is_no_third_run(demo):
    _, report, folder = demo

    assert report["runs"][1]["tags"] == ["g-changed", "g-same-again"]
    assert {path.name for path in (folder / "models").iterdir()} == {
        run["run"] for run in report["runs"]
    }


def test_every_station_is_timed_in_its_order(demo):
    _, report, _ = demo

    for run in report["runs"]:
        times = run["milliseconds"]
        assert list(times) == ["claimed", "asked", "running", "log", "stopped", "recorded"]
        assert 0 <= times["claimed"] <= times["asked"] <= times["running"] <= times["stopped"]
        assert times["running"] <= times["log"] <= times["stopped"] <= times["recorded"]


def test_a_test_image_is_classified(demo):
    done, report, _ = demo

    assert report["prediction"]["label"] == "0"
    assert report["prediction"]["class"] == "0"
    assert "prediction:" in done.stdout


def test_data_goes_to_stdout_and_talk_to_stderr(demo):
    done, report, _ = demo

    assert "test accuracy" in done.stdout
    assert all(run["run"] in done.stdout for run in report["runs"])
    assert "deploy" not in done.stdout
    assert "epoch" in done.stderr


def test_a_file_that_is_no_data_set_ends_the_demo_with_the_diagnosis(tmp_path):
    data = tmp_path / "notes.zip"
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("readme.txt", "no images")
    done = subprocess.run(
        [*COMMAND, "--data", str(data), "--output", str(tmp_path / "models")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == 1
    assert "error: run " in done.stderr
    assert "FAILED" in done.stderr
    assert "train/" in done.stderr
    assert not (tmp_path / "models").exists()


def alive(mark: str) -> list[str]:
    """Return the command lines of the processes that have the mark in their environment."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # ended meanwhile, or not ours
        if mark.encode() in environment and command:
            found.append(command)
    return found


def kill_at_random(signum: int, moment: float, folder: Path) -> list[str]:
    """Run the demo, send it the signal after so many seconds, and return what is left of it."""
    mark = f"PUSHTRAIN_DEMO_MARK={random.getrandbits(64):x}"
    name, value = mark.split("=")
    child = subprocess.Popen(
        [*COMMAND, "--output", str(folder)],
        env={**os.environ, name: value},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(moment)
    child.send_signal(signum)
    child.wait(30)
    ends = time.monotonic() + 10
    while (left := alive(mark)) and time.monotonic() < ends:
        time.sleep(0.1)
    return left


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_demo_leaves_no_process(signum, tmp_path):
    assert kill_at_random(signum, 8, tmp_path) == []


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_demo_killed_ten_times_at_random_moments_leaves_no_process(tmp_path):
    for number in range(10):
        signum = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[number % 3]
        moment = random.uniform(0.5, 25)

        assert kill_at_random(signum, moment, tmp_path) == [], f"{signum!r} after {moment} s"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    not os.environ.get("PUSHTRAIN_TEST_DATA"),
    reason="PUSHTRAIN_TEST_DATA does not name a CIFAR-10 zip",
)
def test_cifar10_ends_with_a_model_of_72_percent(tmp_path):
    done = subprocess.run(
        [
            *COMMAND,
            *("--data", os.environ["PUSHTRAIN_TEST_DATA"]),
            *("--json", str(tmp_path / "j")),
            *("--output", str(tmp_path / "models")),
        ],
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "j").read_text())
    assert all(run["accuracy"] >= 0.72 for run in report["runs"])


def test_the_digits_are_whole_and_the_same_each_time(tmp_path):
    write_digits(tmp_path / "a.zip")
    write_digits(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        first = [archive.read(name) for name in names]
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        second = [archive.read(name) for name in archive.namelist()]

    assert first == second
    assert len(names) == 1797
    assert {name.split("/")[1] for name in names} == set("0123456789")
    assert sum(name.startswith("test/") for name in names) == 360
