"""What an image of the trainer must be."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dockerfile(tmp_path_factory):
    copy = tmp_path_factory.mktemp("image") / "Dockerfile"
    shutil.copy(ROOT / "trainer/Dockerfile", copy)
    return DockerfileParser(str(copy))


def values(dockerfile, instruction):
    return [i["value"] for i in dockerfile.structure if i["instruction"] == instruction]


def test_signals_reach_the_trainer(dockerfile):
    (entry_point,) = values(dockerfile, "ENTRYPOINT")

    assert json.loads(entry_point) == ["python", "-m", "trainer"]


def test_user_is_not_root_and_no_port_is_open(dockerfile):
    assert values(dockerfile, "USER") == ["10001"]
    assert values(dockerfile, "EXPOSE") == []


def test_code_comes_after_all_that_is_installed(dockerfile):
    order = [(i["instruction"], i["value"]) for i in dockerfile.structure]

    assert order.index(("COPY", ". /app/trainer/")) > max(
        number for number, (instruction, _) in enumerate(order) if instruction == "RUN"
    )


def test_torch_is_the_project_s(dockerfile):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (wanted,) = [r for r in project["dependency-groups"]["trainer"] if r.startswith("torch==")]

    assert any(run.split()[-1] == wanted for run in values(dockerfile, "RUN"))


def test_pins_are_hashed_name_no_index_and_leave_torch_out():
    pins = (ROOT / "trainer/requirements.txt").read_text("utf-8")
    names = set(re.findall(r"^([a-z0-9-]+)==", pins, re.MULTILINE))

    assert {"boto3", "numpy", "pillow", "safetensors", "tensorboardx"} < names
    assert not [n for n in names if n.startswith(("torch", "triton", "nvidia", "cuda"))]
    assert "http" not in pins
    assert pins.count("==") - pins.count("python_full_version") <= pins.count("--hash=sha256:")


def test_hadolint_is_content():
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", ROOT / "trainer/Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == ""
