"""What an image of the trainer must be."""

import ast
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
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


def test_base_is_one_that_dependabot_raises_unless_another_is_asked_for(dockerfile):
    pinned, base = values(dockerfile, "FROM")

    assert re.fullmatch(r"python:3\.13-slim@sha256:[0-9a-f]{64} AS base", pinned)
    assert base == "${BASE}"
    assert values(dockerfile, "ARG")[0] == "BASE=base"


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

    assert any(wanted in run.split() for run in values(dockerfile, "RUN"))


def test_pins_are_hashed_name_no_index_and_leave_torch_out():
    pins = (ROOT / "trainer/requirements.txt").read_text("utf-8")
    names = set(re.findall(r"^([a-z0-9-]+)==", pins, re.MULTILINE))

    assert {"boto3", "numpy", "pillow", "safetensors", "tensorboardx"} < names
    assert not [n for n in names if n.startswith(("torch", "triton", "nvidia", "cuda"))]
    assert "http" not in pins
    assert pins.count("==") - pins.count("python_full_version") <= pins.count("--hash=sha256:")


def test_image_keeps_to_its_budget_by_the_sizes_of_its_parts():
    found = json.loads((ROOT / "requirements/trainer-image-size.json").read_text("utf-8"))

    assert found["total"] == sum(found["wheels"].values()) + sum(found["estimates"].values())
    assert found["total"] <= found["budget"] == 350_000_000


def test_sizes_are_of_the_pins():
    """Else `make pins` has not been run since; platforms' own packages are left out."""
    pins = (ROOT / "trainer/requirements.txt").read_text("utf-8")
    found = json.loads((ROOT / "requirements/trainer-image-size.json").read_text("utf-8"))

    assert set(re.findall(r"^([a-z0-9-]+)==", pins, re.MULTILINE)) == set(found["wheels"])
    assert found["pins"] == hashlib.sha256(pins.encode()).hexdigest()


def test_gpu_image_is_a_build_argument_away(dockerfile):
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in values(dockerfile, "ARG")
    (install,) = [run for run in values(dockerfile, "RUN") if "torch==" in run]
    assert install.startswith('PIP_INDEX_URL="${TORCH_INDEX}" pip install ')
    # Nothing else names an index, or a build of torch.
    assert not [run for run in values(dockerfile, "RUN") if "cpu" in run or "whl/" in run]
    text = dockerfile.content
    assert text.index("ARG TORCH_INDEX") > text.index("--require-hashes"), "GPUs share that layer"


def test_imports_that_are_compiled_beforehand_can_be_made(dockerfile):
    (compiled,) = [run for run in values(dockerfile, "RUN") if "python -c" in run]
    tree = ast.parse(shlex.split(compiled.partition("python -c")[2])[0])
    names = {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}

    assert {"torch", "boto3", "matplotlib.figure", "PIL.Image"} <= names
    assert not [name for name in names if find_spec(name) is None]


def test_hadolint_is_content():
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", ROOT / "trainer/Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == ""


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_built_image_keeps_to_the_budget(dockerfile):
    """The sum of its parts is an estimate; where it can be built, it is weighed."""
    if not shutil.which("docker"):
        pytest.skip("no docker command")
    base, *_ = values(dockerfile, "FROM")[0].split()
    pulled = subprocess.run(
        ["docker", "pull", "-q", base], check=False, capture_output=True, text=True
    )
    if pulled.returncode:
        pytest.skip(f"{base} cannot be pulled: {pulled.stderr.strip()[:200]}")
    image = "pushtrain-trainer-weighed:test"
    subprocess.run(["docker", "build", "-q", "-t", image, ROOT / "trainer"], check=True)
    try:
        weighed = subprocess.run(
            f"set -o pipefail; docker save {image} | gzip -6 | wc -c",
            shell=True,
            executable="/bin/bash",
            capture_output=True,
            check=True,
        )
    finally:
        subprocess.run(["docker", "rmi", "-f", image], check=True, capture_output=True)

    assert int(weighed.stdout) <= 350_000_000
