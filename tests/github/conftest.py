"""The workflows, read; and their steps, run as GitHub would."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github"
GH = """#!{python}
import json, os, sys
from pathlib import Path

words, hub = sys.argv[1:], Path(os.environ["FAKE_HUB"])
state = json.loads(hub.read_text())
method, path = words[words.index("--method") + 1], words[words.index("--method") + 2]
assert words[0] == "api" and os.environ["GH_TOKEN"] == "a-token"
path = path.partition("?")[0]
if method == "GET":
    assert "--paginate" in words and "--slurp" in words
    known = state["lists"].get(path, [])
    # Two pages, as GitHub gives them of a long list.
    print(json.dumps([known[:1], known[1:]]))
else:
    state["calls"].append([method, path, json.load(sys.stdin)])
    hub.write_text(json.dumps(state))
    print("{{}}")
"""


class Hub:
    """What GitHub has, and what it was told."""

    def __init__(self, folder: Path):
        self.file = folder / "hub.json"
        self.file.write_text(json.dumps({"lists": {}, "calls": []}))
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.program("gh", GH.format(python=sys.executable))

    def program(self, name, text):
        """Put a program on the PATH of the steps."""
        file = self.bin / name
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def has(self, path, *items):
        state = json.loads(self.file.read_text())
        state["lists"][path] = list(items)
        self.file.write_text(json.dumps(state))

    @property
    def calls(self):
        return json.loads(self.file.read_text())["calls"]

    def environment(self, **more):
        return {
            **os.environ,
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "FAKE_HUB": str(self.file),
            "GH_TOKEN": "a-token",
            "GITHUB_REPOSITORY": "octo/mnist",
            "GITHUB_SHA": "c0ffee" + "0" * 34,
            **more,
        }


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


@pytest.fixture(scope="session")
def workflows():
    """Each workflow by its name."""
    return {file.stem: read(file) for file in sorted((FOLDER / "workflows").glob("*.yml"))}


def read(file):
    document = yaml.safe_load(file.read_text("utf-8"))
    # YAML 1.1 takes the word `on` for true.
    document["on"] = document.pop(True)
    return document


@pytest.fixture
def run_step(workflows, hub, tmp_path):
    """Run the shell of a step; give its exit code, all it said, and its outputs."""

    def run(workflow, job, step, cwd=None, **environment):
        (script,) = [
            each["run"]
            for each in workflows[workflow]["jobs"][job]["steps"]
            if each["name"] == step
        ]
        outputs = tmp_path / "outputs.txt"
        outputs.write_text("")
        done = subprocess.run(
            # What GitHub starts for `shell: bash`.
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=cwd or tmp_path,
            env=hub.environment(GITHUB_OUTPUT=str(outputs), **environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, taken_apart(outputs.read_text())

    (tmp_path / ".github").symlink_to(FOLDER)
    return run


def taken_apart(text):
    """Read what a step wrote to GITHUB_OUTPUT."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, between, rest = line.partition("<<")
        if between and "=" not in name:
            value = []
            while (line := next(lines)) != rest:
                value.append(line)
            found[name] = "\n".join(value)
        else:
            name, _, value = line.partition("=")
            found[name] = value
    return found
