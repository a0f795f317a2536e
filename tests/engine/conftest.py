"""Stacks that the real engine deploys to an embedded cloud, and what is missing where it cannot."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

from automation.stacks import Stack

ROOT = Path(__file__).parents[2]
DOCKERFILE = 'FROM scratch\nCOPY . /app/\nWORKDIR /app\nENTRYPOINT ["python", "train.py"]\n'
TRAINER = """
import json, os
import boto3
s3, e = boto3.client("s3"), os.environ
data = s3.get_object(Bucket=e["PUSHTRAIN_BUCKET"], Key=e["PUSHTRAIN_DATA_KEY"])["Body"].read()
model = json.dumps({"data": data.decode(), "depth": e["PUSHTRAIN_PARAM_DEPTH"]})
s3.put_object(Bucket=e["PUSHTRAIN_BUCKET"], Key=e["PUSHTRAIN_RUN_PREFIX"] + "model", Body=model)
"""


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def engine():
    """Skip where a part of the engine is missing."""
    if not shutil.which("pulumi"):
        pytest.skip("no pulumi CLI on PATH")
    listed = subprocess.run(
        ["pulumi", "plugin", "ls", "--json"], capture_output=True, text=True, check=True
    )
    plugins = {plugin["name"] for plugin in json.loads(listed.stdout)}
    for name in ("aws", "docker"):
        if name not in plugins and not shutil.which(f"pulumi-resource-{name}"):
            pytest.skip(f"no {name} plugin; get it: pulumi plugin install resource {name}")
    if not shutil.which("pulumi-language-python"):
        pytest.skip("no pulumi-language-python on PATH; it comes with the pulumi CLI")
    command = ["docker", "info"]
    if (
        not shutil.which("docker")
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker engine answers")


class Bench:
    """A cloud in a process of its own, a project, and short words for what a test needs."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder = folder
        self.environment = environment
        self.backend = environment["PULUMI_BACKEND_URL"]
        self.state = Path(self.backend.removeprefix("file://"))
        self.url = environment["AWS_ENDPOINT_URL"]
        self.project = folder / "project"
        self.data = folder / "data.bin"
        self.data.write_text("one two three")
        self._copy_project()

    def _copy_project(self):
        """Stack files are written to: those of the repository are none of a test's business."""
        for name in ("components", "handler"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.project / name, ignore=ignore)
        for name in ("Pulumi.yaml", "__main__.py", "requirements.txt"):
            shutil.copy(ROOT / name, self.project / name)
        (self.project / ".venv").symlink_to(sys.prefix)

    def context(self, name="context", script=TRAINER, dockerfile=DOCKERFILE):
        """Write a build context that runs this script."""
        context = self.folder / name
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(dockerfile)
        (context / "train.py").write_text(script)
        return str(context)

    def stack(self, name, **settings):
        """Give a stack with the file of the stack `local`, at this cloud's port."""
        file = self.project / f"Pulumi.{name}.yaml"
        if not file.exists():
            text = (ROOT / "Pulumi.local.yaml").read_text()
            file.write_text(text.replace("127.0.0.1:4566", self.url.removeprefix("http://")))
        return Stack(name, project=self.project, settings=settings, env=self.environment)

    def client(self, service):
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def pushtrain(self, *args, environment=None, **options):
        return subprocess.Popen(
            [sys.executable, "-m", "automation.cli", *args, "--project", str(self.project)],
            env={**os.environ, **self.environment, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            **options,
        )

    def pulumi(self, *args):
        subprocess.run(
            ["pulumi", *args, "--non-interactive"],
            env={**os.environ, **self.environment},
            cwd=self.project,
            check=True,
            capture_output=True,
        )

    def until(self, ask, seconds=60):
        """Ask again and again, until there is an answer."""
        deadline = time.monotonic() + seconds
        while not (answer := ask()):
            if time.monotonic() > deadline:
                pytest.fail(f"nothing after {seconds} s")
            time.sleep(0.1)
        return answer

    def inventory(self, *args):
        """Give what this cloud has, or with `deploy` what the deployer makes in a process."""
        answer = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "inventory.py"), *args],
            env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def bench(engine, tmp_path_factory):  # noqa: ARG001 - it skips where a part is missing
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("engine")
    with (
        (folder / "cloud.txt").open("w") as told,
        subprocess.Popen(
            [sys.executable, "-m", "automation.cli", "cloud", "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            cwd=ROOT,
        ) as cloud,
    ):
        assert cloud.stdout
        environment = {}
        while "PULUMI_CONFIG_PASSPHRASE" not in environment:
            line = cloud.stdout.readline()
            assert line, (folder / "cloud.txt").read_text()
            name, _, value = line.removeprefix("export ").strip().partition("=")
            environment[name] = value
        # Plugins may be Python too, and find their packages by it.
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        yield Bench(folder, environment)
        cloud.send_signal(signal.SIGINT)
        assert cloud.wait(30) == 130
