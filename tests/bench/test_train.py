"""The bench's figures, and that it runs to its end."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.train import BATCH, main, predecessor, table

ROOT = Path(__file__).parents[2]


def document(**presets):
    return {
        "measured_at": "2000-01-01T00:00:00+00:00",
        "data": "cifar10.zip",
        "hardware": {
            "processor": "A CPU",
            "threads": 2,
            "device": "cpu",
            "number_format": "float32",
        },
        "versions": {"python": "3.13", "torch": "2.0"},
        "predecessor": {"charged": {"seconds": 1000.0, "cpu_seconds": 1500.0}},
        "presets": presets,
    }


def test_table_gives_ratios_seeds_and_machine():
    text = table(
        document(
            quick={
                "n": 2,
                "seeds": [1000, 1001],
                "accuracy": 0.7654,
                "accuracy_deviation": 0.0021,
                "seconds": 10.0,
                "cpu_seconds": 20.0,
                "epochs": 2,
            }
        )
    )

    lines = text.splitlines()
    assert [" ".join(line.split()) for line in lines[2:4]] == [
        "| predecessor | 10 (1 timed) | | 75.3% (its log) | 1000.0 | 1 | 1500.0 | 1 |",
        "| quick | 2 | 2 | 76.54% ± 0.21 | 10.0 | 1/100.0 | 20.0 | 1/75.0 |",
    ]
    assert lines[5] == (
        "A CPU, 2 threads, float32; python 3.13, torch 2.0; seeds 1000, 1001; cifar10.zip; "
        "2000-01-01T00:00:00+00:00"
    )


def test_predecessor_is_the_network_that_it_was():
    # conv 896 + 18,496 + 73,856, fully connected 1,049,088 + 131,328 + 2,570.
    assert sum(weight.numel() for weight in predecessor().parameters()) == 1_276_234


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--presets", "fast"], "presets must be among quick, standard, best, got fast"),
        (["--seeds", "many"], "seeds must be a number, or one for each preset, got many"),
        (["--seeds", "1,2"], "seeds must be a number, or one for each preset, got 1,2"),
        (["--seeds", "0"], "seeds must be a number, or one for each preset, got 0"),
        (["--seeds", "5,3,1"], "data must be given"),
        ([], "data must be given"),
    ],
)
def test_bad_flags_are_refused(argv, message, capsys, monkeypatch):
    monkeypatch.delenv("PUSHTRAIN_TEST_DATA", raising=False)
    with pytest.raises(SystemExit) as left:
        main(argv)

    assert left.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_bench_of_few_images_runs_to_its_table(tmp_path):
    chance = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("test", 20)):
        arrays[f"x_{split}"] = chance.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    path = tmp_path / "few.npz"
    np.savez(path, **arrays)
    report = tmp_path / "bench.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.train", "--data", path, "--presets", "quick"),
            *("--seeds", "1", "--json", report),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[3].startswith("| quick ")
    found = json.loads(report.read_text())
    assert found["predecessor"]["steps"] == 40 // BATCH
    assert found["presets"]["quick"]["seeds"] == [1000]
    (run,) = found["runs"]["quick"]
    assert run["seconds"] > 0
    assert 0 <= run["accuracy"] <= 1
    assert run["config"]["preset"] == "quick"
