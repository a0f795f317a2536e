"""The workflows, read; and their steps, run as GitHub would."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

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


class Runner:
    """Runs the jobs of a workflow one after the other, with GitHub's rules, each on its own clone.

    An action is passed over, unless `actions` says what it leaves in the environment of the steps
    after it.
    """

    def __init__(self, origin, work, known, environment, actions):
        self.origin = origin
        self.work = work
        self.known = known
        self.environment = environment
        self.actions = actions

    def __call__(self, workflow):
        """Give of each job that ran its result, its outputs and what its steps said."""
        ran, known = {}, {**self.known}
        for name, job in workflow["jobs"].items():
            needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
            condition = str(job.get("if", "true"))
            asks_itself = re.search(r"(always|cancelled|failure)\(\)", condition)
            well = all(need in ran and ran[need].result == "success" for need in needs)
            if (well or asks_itself) and evaluate(bare(condition), known):
                ran[name] = self._job(name, job, known)
                known |= {
                    f"needs.{name}.outputs.{key}": value for key, value in ran[name].outputs.items()
                }
        return ran

    def _job(self, name, job, known):
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", self.origin, folder], check=True)
        known = {**known, "github.workspace": str(folder)}
        environment = {**self.environment, **filled(job.get("env", {}), known)}
        said, failed = {}, False
        for step in job["steps"]:
            if failed and step.get("if") != "always()":
                continue
            if "uses" in step:
                environment |= self.actions.get(step["uses"].partition("@")[0], {})
                continue
            outputs = self.work / "outputs.txt"
            outputs.write_text("")
            done = subprocess.run(
                # What GitHub starts for `shell: bash`.
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=folder,
                env={
                    **environment,
                    **filled(step.get("env", {}), known),
                    "GITHUB_OUTPUT": str(outputs),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            said[step["name"]] = done.stdout
            failed = failed or done.returncode != 0
            for key, value in taken_apart(outputs.read_text()).items():
                known[f"steps.{step.get('id')}.outputs.{key}"] = value
        return SimpleNamespace(
            result="failure" if failed else "success",
            outputs=filled(job.get("outputs", {}), known),
            said=said,
        )


def bare(condition):
    return condition.removeprefix("${{").removesuffix("}}")


def filled(texts, known):
    """Put values in the place of expressions."""
    return {
        name: re.sub(r"\$\{\{(.*?)\}\}", lambda found: str(evaluate(found[1], known)), str(text))
        for name, text in texts.items()
    }


def evaluate(expression, known):
    """Evaluate what the workflows use of GitHub's expressions; what nobody knows is empty."""
    words = {"&&": "and", "||": "or", "!": "not ", "true": "True"}
    words |= {"cancelled()": "False", "always()": "True"}

    def python(found):
        word = found[0]
        if word[0] == "'":
            return word
        return words.get(word) or repr(known.get(word, ""))

    source = re.sub(r"'[^']*'|&&|\|\||!(?!=)|[a-z_][\w.-]*(?:\(\))?", python, expression.strip())
    return eval(source, {"__builtins__": {}})


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


@pytest.fixture
def run_workflow(workflows):
    """Run a workflow on clones of a repository, as a Runner does."""

    def run(workflow, *place):
        return Runner(*place)(workflows[workflow])

    return run


@pytest.fixture
def tokens():
    """GitHub's endpoint that gives a job its tokens, another each time."""
    given = SimpleNamespace(requests=[], broken={}, environment={})

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self):
            given.requests.append((self.path, self.headers["Authorization"]))
            number = len(given.requests)
            whole = json.dumps({"value": f"token-{number}"}).encode()
            body = given.broken.get(number, whole)
            self.send_response(200 if body else 500)
            # More than a broken body has.
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args, **_names):
            pass

    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        given.environment |= {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{server.server_port}/token?job=1",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the-job",
        }
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield given
        server.shutdown()
        thread.join()
