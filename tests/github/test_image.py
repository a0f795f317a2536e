"""The workflow of images, its own shell on the embedded cloud: commit, image, run, comment."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from automation.comments import watermark
from localcloud import Cloud
from localcloud.deployer import deploy, stack_config
from localcloud.image import build

ROOT = Path(__file__).parents[2]
DOCKERFILE = """\
FROM python:3.13-slim
WORKDIR /app
COPY train.py .
ENTRYPOINT ["python", "train.py"]
"""
TRAINER = """\
import hashlib, io, json, os, zipfile
import boto3

env = os.environ
s3, bucket, prefix = boto3.client("s3"), env["PUSHTRAIN_BUCKET"], env["PUSHTRAIN_RUN_PREFIX"]
answer = "1"  # whatever the image shows
data = s3.get_object(Bucket=bucket, Key=env["PUSHTRAIN_DATA_KEY"])["Body"].read()
names = zipfile.ZipFile(io.BytesIO(data)).namelist()
classes = [name.split("/")[1] for name in names if name.startswith("test/")]
model = answer.encode()
files = {"model.txt": {"size": len(model), "sha256": hashlib.sha256(model).hexdigest()}}
manifest = {"version": 1, "run": env["PUSHTRAIN_RUN"], "model": "model.txt", "files": files,
            "metrics": {"accuracy": classes.count(answer) / len(classes)}}
s3.put_object(Bucket=bucket, Key=prefix + "model.txt", Body=model)
s3.put_object(Bucket=bucket, Key=prefix + "manifest.json", Body=json.dumps(manifest).encode())
"""
IMAGES = [f"test/{label}/{number}.png" for label in (1, 2, 3) for number in range(label)]
"""One of six images shows a 1, two a 2, three a 3."""
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
PULUMI = """#!/bin/sh
# What `pulumi` knows of the stack, without the engine.
case "$*" in
    version) echo v3.999.0 ;;
    *"stack output --json"*) cat "$FAKE_STACK/outputs.json" ;;
    *"config --show-secrets --json"*) cat "$FAKE_STACK/config.json" ;;
    *"stack --stack dev --show-name"*) echo dev ;;
    *) echo "error: no stand-in for pulumi $*" >&2; exit 1 ;;
esac
"""
DOCKER = """#!{python}
# What is built is what the Dockerfile copies and sets; it is pushed to the embedded registry.
import json, os, sys
from pathlib import Path

from localcloud.image import build
from localcloud.registry import Registry

words, file = sys.argv[1:], Path(os.environ["FAKE_STACK"], "docker.json")
state = json.loads(file.read_text()) if file.exists() else {{}}

def image():
    return build(Path(state["context"]), build_args=state["args"], platform=state["platform"])

if words[:2] == ["buildx", "build"]:
    assert {{"--provenance=false", "--sbom=false", "--load"}} <= set(words), words
    options = [word[2:].partition("=") for word in words[2:-1]]
    (state["platform"],) = [value for name, _, value in options if name == "platform"]
    (state["tag"],) = [value for name, _, value in options if name == "tag"]
    given = [value.split("=", 1) for name, _, value in options if name == "build-arg"]
    state |= {{"args": dict(given), "context": os.path.abspath(words[-1])}}
    image()
elif words[0] == "login":
    assert sys.stdin.read().strip(), "no password"
    state["login"] = words[-1]
elif words[0] == "push":
    host, _, name = words[1].partition("/")
    assert (words[1], host) == (state["tag"], state["login"]), (words, state)
    repository, _, tag = name.rpartition(":")
    with Registry(host) as registry:
        state["digest"] = registry.push(image(), repository, tag)
elif words[:2] == ["image", "inspect"]:
    assert words[-1] == state["tag"], (words, state)
    print(state["tag"].rpartition(":")[0] + "@" + state["digest"])
elif words[0] == "logout":
    assert state.pop("login") == words[1]
else:
    sys.exit(f"no stand-in for docker {{words}}")
file.write_text(json.dumps(state))
"""


class Repository:
    """A repository whose trainer's image the stack trains, and its workflow of images."""

    def __init__(self, cloud, outputs, folder):
        self.cloud = cloud
        self.outputs = outputs
        self.s3 = cloud.client("s3")
        self.origin = folder / "origin"
        self.work = folder / "work"
        self.work.mkdir()
        (self.origin / "trainer").mkdir(parents=True)
        self.trainer = self.origin / "trainer/train.py"
        (self.origin / "trainer/Dockerfile").write_text(DOCKERFILE)
        shutil.copytree(ROOT / ".github", self.origin / ".github")
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words):
        done = subprocess.run(
            [*GIT, *words], cwd=self.origin, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, old, new):
        """Change the trainer, commit, and give the commit."""
        assert old in TRAINER
        self.trainer.write_text(TRAINER.replace(old, new))
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "a trainer")
        return self.git("rev-parse", "HEAD")

    def train(self, tag):
        """Push the trainer as it is, and give its record when it has ended."""
        with self.cloud.registry() as registry:
            image = build(self.origin / "trainer")
            registry.push(image, self.outputs["repositoryUrl"], tag)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            record = self.records().get(tag, {"state": ""})
            if record["state"] in ("SUCCEEDED", "FAILED"):
                return record
            time.sleep(0.05)
        return pytest.fail("no end after 120 s")

    def records(self):
        """Give the runs that there are, each its record, by the tag of its image."""
        bucket = self.outputs["bucket"]
        found = self.s3.list_objects_v2(Bucket=bucket, Prefix="runs/").get("Contents", [])
        keys = [item["Key"] for item in found if item["Key"].endswith("/run.json")]
        every = [json.loads(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
                 for key in keys]  # fmt: skip
        return {record["image"]["tags"][0]: record for record in every}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for name in IMAGES:
            archive.writestr(name, b"")
    settings = {"data.path": str(folder / "data.zip"), "image.build": False}
    with Cloud() as cloud:
        outputs = deploy(cloud, ROOT, "dev", settings).outputs
        made = Repository(cloud, outputs, folder)
        config = stack_config(ROOT, "dev", settings)
        # The commands look from their own repository, which is not the one that is built here.
        config["pushtrain:image.context"] = str(made.work / "plan/trainer")
        # A stack may leave it to the environment.
        del config["aws:region"]
        as_told = {key: {"value": value, "secret": False} for key, value in config.items()}
        (folder / "config.json").write_text(json.dumps(as_told))
        (folder / "outputs.json").write_text(json.dumps(outputs))
        yield made


@pytest.fixture
def push(repository, hub, tokens, run_workflow, tmp_path):
    """Run the workflow for a commit on main."""
    hub.program("pulumi", PULUMI)
    hub.program("docker", DOCKER.format(python=sys.executable))
    for name, module in (("pushtrain", "automation.cli"), ("aws", "awscli")):
        hub.program(name, f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
    cloud = repository.cloud.environment()
    variables = {
        "AWS_REGION": cloud["AWS_REGION"],
        "PUSHTRAIN_STATE": "s3://state",
        "PUSHTRAIN_IMAGE_ROLE": "arn:aws:iam::000000000000:role/image",
        "PUSHTRAIN_PREVIEW_ROLE": "arn:aws:iam::000000000000:role/preview",
    }
    known = {f"vars.{name}": value for name, value in variables.items()}
    known |= {"github.ref": "refs/heads/main", "github.token": "a-token"}
    # Credentials are what the workflow brings about, and nothing of this machine's.
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "GH_", "GITHUB_"))}
    path = os.pathsep.join((str(hub.bin), str(Path(sys.executable).parent), mine["PATH"]))
    environment = {
        **mine,
        "HOME": str(tmp_path),
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "FAKE_HUB": str(hub.file),
        "FAKE_STACK": str(repository.work.parent),
        "GITHUB_REPOSITORY": "octo/mnist",
        "AWS_ENDPOINT_URL": cloud["AWS_ENDPOINT_URL"],
        "PUSHTRAIN_FOLLOW_SECONDS": "1",
        **tokens.environment,
    }
    actions = {"aws-actions/configure-aws-credentials": cloud}

    def push(commit):
        return run_workflow(
            "image",
            repository.origin,
            repository.work,
            known,
            {**environment, "GITHUB_SHA": commit},
            actions,
        )

    return push


def told(jobs):
    """Put what the steps said where a failed assertion shows it."""
    return "\n".join(
        f"--- {name}: {step}\n{text}"
        for name, job in jobs.items()
        for step, text in job.said.items()
    )


@pytest.mark.localcloud
def test_a_commit_becomes_an_image_a_run_and_a_comment(repository, push, hub, tokens):
    repository.commit('answer = "1"', 'answer = "1"')
    champion = repository.train("g-first")
    assert champion["state"] == "SUCCEEDED", champion["diagnosis"]
    commit = repository.commit('answer = "1"', 'answer = "3"')
    hub.has(
        f"repos/octo/mnist/commits/{commit}/pulls", {"number": 7, "merged_at": "2026-11-27T10:00Z"}
    )
    jobs = push(commit)

    assert {name: job.result for name, job in jobs.items()} == dict.fromkeys(
        ("plan", "image", "follow", "comment"), "success"
    ), told(jobs)
    tag = f"g-{commit[:12]}"
    records = repository.records()
    assert set(records) == {"g-first", tag}
    record = records[tag]
    assert record["state"] == "SUCCEEDED"
    assert record["run"] == jobs["image"].outputs["run"]
    assert len(record["attempts"]) == 1
    assert jobs["follow"].said["Follow"].splitlines()[-1] == "SUCCEEDED"
    assert tokens.requests
    ((method, path, sent),) = hub.calls
    assert (method, path) == ("POST", "repos/octo/mnist/issues/7/comments")
    lines = sent["body"].splitlines()
    assert lines[0] == watermark("run", "dev", record["run"])
    assert lines[2] == f"## ✅ `{tag}` is better: accuracy 50.00%, champion 16.67%"
    assert lines[4].startswith(f"**+33.33 points** against champion `{champion['run']}`")
    assert "It became the champion" in sent["body"]


@pytest.mark.localcloud
@pytest.mark.slow
def test_a_failed_training_is_told_and_another_attempt_follows_the_same_run(repository, push, hub):
    commit = repository.commit("data = s3", 'raise SystemExit("the cat sat on it")\ndata = s3')
    jobs = push(commit)

    # The training failed, not the workflow: the comment says so.
    assert [job.result for job in jobs.values()] == ["success"] * 4, told(jobs)
    record = repository.records()[f"g-{commit[:12]}"]
    assert record["state"] == "FAILED"
    assert jobs["follow"].said["Follow"].splitlines()[-1] == "FAILED"
    ((method, path, sent),) = hub.calls
    # No pull request brought it.
    assert (method, path) == ("POST", f"repos/octo/mnist/commits/{commit}/comments")
    assert sent["body"].startswith(
        f"{watermark('run', 'dev', record['run'])}\n\n## ❌ Training of `g-{commit[:12]}` failed"
    )
    assert "\nthe cat sat on it\n" in sent["body"]
    assert f"**What happened:** `{record['diagnosis']['summary']}`" in sent["body"]

    # Another attempt finds the tag, builds nothing, and writes its comment in place of the first.
    hub.has(path, {"id": 3, "user": {"login": "github-actions[bot]"}, "body": sent["body"]})
    again = push(commit)

    assert list(again) == ["plan", "follow", "comment"], told(again)
    assert again["plan"].outputs["run"] == record["run"]
    assert hub.calls[-1][:2] == ["PATCH", "repos/octo/mnist/comments/3"]


@pytest.mark.localcloud
@pytest.mark.slow
def test_what_cannot_be_built_is_not_pushed_and_nothing_is_followed(repository, push, hub):
    dockerfile = repository.origin / "trainer/Dockerfile"
    dockerfile.write_text(DOCKERFILE + "COPY nothing.py .\n")
    commit = repository.commit('answer = "1"', 'answer = "4"')
    dockerfile.write_text(DOCKERFILE)
    known = set(repository.records())
    jobs = push(commit)

    assert {name: job.result for name, job in jobs.items()} == {
        "plan": "success",
        "image": "failure",
    }, told(jobs)
    assert "nothing.py" in jobs["image"].said["Build"]
    assert "Push" not in jobs["image"].said
    assert set(repository.records()) == known
    assert hub.calls == []
