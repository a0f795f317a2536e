"""Pushes to a stack on the embedded cloud, and what a tag says."""

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace

import boto3
import pytest
from botocore.exceptions import NoCredentialsError
from hypothesis import given
from hypothesis import strategies as st

from automation import push as pushes
from automation.push import PushError, image_tag, plan, push, run_name
from localcloud import Cloud, make_image
from localcloud.deployer import deploy
from trainer.publish import commit as commit_of

TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # Docker's own rule
FINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}
TRAINER = """
import os
import boto3

name = os.environ["PUSHTRAIN_RUN_PREFIX"] + "model.txt"
boto3.client("s3").put_object(Bucket=os.environ["PUSHTRAIN_BUCKET"], Key=name, Body=b"a model")
"""


def no_engine(monkeypatch):
    """Let Docker look for its engine where there is none."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


def docker_engine() -> str:
    """Tell why there is no Docker engine; nothing where there is one."""
    return pushes._missing_engine()


@pytest.fixture(scope="module")
def stack(tmp_path_factory, root):
    """A deployed stack that waits for pushes, and a data set to train on."""
    data = tmp_path_factory.mktemp("data") / "data.zip"
    data.write_bytes(b"data")
    before = dict(os.environ)
    with Cloud() as cloud:
        os.environ.update(cloud.environment())
        settings = {"data.path": str(data), "image.build": False}
        outputs = deploy(cloud, root, "dev", settings).outputs
        yield SimpleNamespace(cloud=cloud, outputs=outputs, client=cloud.client)
    os.environ.clear()
    os.environ.update(before)


def git(folder, *arguments):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def context(tmp_path):
    """A committed trainer in a folder of its repository, of a content that no other test has."""
    folder = tmp_path / "trainer"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        'FROM scratch\nCOPY train.py /app/\nWORKDIR /app\nENTRYPOINT ["python","train.py"]\n'
    )
    (folder / "train.py").write_text(f"# {tmp_path}\n{TRAINER}")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "a trainer")
    return folder


def head(context):
    return git(context, "rev-parse", "HEAD").strip()


def until_final(stack, run, seconds=60):
    """Wait for the end of a run, and return its record."""
    s3, deadline = stack.client("s3"), time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            answer = s3.get_object(Bucket=stack.outputs["bucket"], Key=f"runs/{run}/run.json")
        except s3.exceptions.NoSuchKey:
            time.sleep(0.05)
            continue
        record = json.loads(answer["Body"].read())
        if record["state"] in FINAL:
            return record
        time.sleep(0.05)
    return pytest.fail(f"run {run} did not end within {seconds} s")


def images(stack):
    repository = stack.outputs["repositoryUrl"].partition("/")[2]
    return stack.client("ecr").describe_images(repositoryName=repository)["imageDetails"]


@pytest.mark.localcloud
def test_without_an_engine_the_push_trains_on_the_embedded_cloud(stack, context, monkeypatch):
    no_engine(monkeypatch)
    lines = []
    result = push(context, outputs=stack.outputs, on_line=lines.append)
    record = until_final(stack, result.run)

    assert result.pushed
    assert result.tag == f"g-{head(context)[:12]}"
    assert result.run == result.digest.removeprefix("sha256:")[:12]
    assert record["state"] == "SUCCEEDED"
    assert record["image"]["tags"] == [result.tag]
    assert any("no Docker engine" in line for line in lines)
    assert any("skipped FROM scratch" in line for line in lines)


@pytest.mark.localcloud
def test_a_known_tag_is_success_and_shows_its_run(stack, context, monkeypatch):
    no_engine(monkeypatch)
    first = push(context, outputs=stack.outputs)
    until_final(stack, first.run)
    before = len(images(stack))
    lines = []
    again = push(context, outputs=stack.outputs, on_line=lines.append)

    assert not again.pushed
    assert (again.tag, again.digest, again.run) == (first.tag, first.digest, first.run)
    assert again.state == "SUCCEEDED"
    assert lines == []
    assert len(images(stack)) == before
    assert again.as_json()["state"] == "SUCCEEDED"
    assert f"run {again.run}: SUCCEEDED" in "\n".join(again.lines())


@pytest.mark.localcloud
def test_the_accuracy_of_a_known_run_is_shown(stack, context, monkeypatch):
    no_engine(monkeypatch)
    first = push(context, outputs=stack.outputs)
    record = until_final(stack, first.run)
    record["metrics"] = {"accuracy": 0.875}
    stack.client("s3").put_object(
        Bucket=stack.outputs["bucket"],
        Key=f"runs/{first.run}/run.json",
        Body=json.dumps(record).encode(),
    )
    again = push(context, outputs=stack.outputs)

    assert again.accuracy == 0.875
    assert any("87.5%" in line for line in again.lines())


@pytest.mark.localcloud
def test_a_run_of_another_digest_with_the_same_digits_is_not_shown(stack, context, monkeypatch):
    no_engine(monkeypatch)
    first = push(context, outputs=stack.outputs)
    record = until_final(stack, first.run)
    record["image"]["digest"] = first.digest[:-1] + ("0" if first.digest[-1] != "0" else "1")
    stack.client("s3").put_object(
        Bucket=stack.outputs["bucket"],
        Key=f"runs/{first.run}/run.json",
        Body=json.dumps(record).encode(),
    )

    assert push(context, outputs=stack.outputs).state is None


@pytest.mark.localcloud
def test_a_tag_that_another_push_brought_meanwhile_is_success(stack, context, monkeypatch):
    no_engine(monkeypatch)
    other = make_image({"other": os.urandom(8)})
    pushed = []

    def overtaken(_line):
        if not pushed:  # the first line comes after the look whether the tag is there
            with stack.cloud.registry() as registry:
                tag = f"g-{head(context)[:12]}"
                pushed.append(registry.push(other, stack.outputs["repositoryUrl"], tag))

    result = push(context, outputs=stack.outputs, on_line=overtaken)

    assert not result.pushed
    assert [result.digest] == pushed


@pytest.mark.localcloud
def test_an_arm64_stack_gets_an_arm64_image(stack, context, monkeypatch):
    no_engine(monkeypatch)
    ecs, ssm = stack.client("ecs"), stack.client("ssm")
    made = ecs.register_task_definition(
        family="arm",
        containerDefinitions=[{"name": "trainer", "image": "x"}],
        runtimePlatform={"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"},
    )
    ssm.put_parameter(
        Name="/arm/wiring",
        Type="String",
        Value=json.dumps({"template": made["taskDefinition"]["taskDefinitionArn"]}),
    )
    result = push(context, outputs={**stack.outputs, "wiringParameter": "/arm/wiring"})
    repository = stack.outputs["repositoryUrl"].partition("/")[2]
    (image,) = stack.client("ecr").batch_get_image(
        repositoryName=repository, imageIds=[{"imageTag": result.tag}]
    )["images"]
    config = json.loads(image["imageManifest"])["config"]["digest"]
    with stack.cloud.registry() as registry:
        built = json.loads(registry._blob(repository, config))

    assert built["architecture"] == "arm64"


@pytest.mark.localcloud
def test_a_changed_context_is_refused_unless_asked_for(stack, context, monkeypatch):
    no_engine(monkeypatch)
    (context / "train.py").write_text("print('changed')\n")
    (context / "new.py").write_text("")
    with pytest.raises(PushError, match=r"changes in new\.py and 1 more: commit them"):
        push(context, outputs=stack.outputs)
    one = push(context, outputs=stack.outputs, dirty=True)
    (context / "train.py").write_text("print('changed again')\n")
    two = push(context, outputs=stack.outputs, dirty=True)

    prefix = f"g-{head(context)[:12]}-dirty-"
    assert one.tag.startswith(prefix)
    assert two.tag.startswith(prefix)
    assert one.tag != two.tag
    assert one.digest != two.digest


def tag_of(context, *, dirty=False):
    return pushes._tag(context, {}, "linux/amd64", dirty=dirty)


def test_changes_outside_the_context_leave_the_tag_alone(context):
    (context.parent / "Pulumi.dev.yaml").write_text("config:\n")

    assert tag_of(context) == f"g-{head(context)[:12]}"


def test_a_file_that_git_ignores_but_docker_sends_is_a_change(context):
    (context.parent / ".gitignore").write_text("secret.env\n")
    (context / "secret.env").write_text("KEY=1\n")
    with pytest.raises(PushError, match=r"secret\.env"):
        tag_of(context)
    (context / ".dockerignore").write_text("secret.env\n.dockerignore\n")
    git(context, "add", ".")
    git(context, "commit", "--quiet", "--message", "ignore")

    assert tag_of(context) == f"g-{head(context)[:12]}"


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore"])
def test_a_changed_file_of_the_build_is_a_change_even_when_it_is_not_sent(context, name):
    (context / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")
    git(context, "add", ".")
    git(context, "commit", "--quiet", "--message", "ignore")
    with (context / name).open("a") as file:
        file.write("# changed\n")

    with pytest.raises(PushError, match="changes in"):
        tag_of(context)


@pytest.mark.parametrize("name", [".dockerignore", "Dockerfile.dockerignore"])
def test_a_new_dockerignore_that_ignores_itself_is_a_change(context, name):
    (context / name).write_text(f"train.py\n{name}\n")

    with pytest.raises(PushError, match=f"changes in {re.escape(name)}: commit"):
        tag_of(context)


def test_a_staged_change_is_a_change(context):
    (context / "train.py").write_text("print('staged')\n")
    git(context, "add", ".")

    with pytest.raises(PushError, match=r"changes in train\.py: commit"):
        tag_of(context)


def test_a_deleted_file_is_a_change(context):
    (context / "extra.py").write_text("")
    git(context, "add", ".")
    git(context, "commit", "--quiet", "--message", "extra")
    (context / "extra.py").unlink()

    with pytest.raises(PushError, match=r"extra\.py"):
        tag_of(context)


def test_dirty_says_nothing_of_a_clean_context(context):
    assert tag_of(context, dirty=True) == f"g-{head(context)[:12]}"


hexadecimal = st.text("0123456789abcdef", min_size=12, max_size=40)


@given(commit=hexadecimal, content=st.none() | hexadecimal)
def test_every_tag_is_one_that_registries_take(commit, content):
    assert TAG.fullmatch(image_tag(commit, content))


@given(commit=hexadecimal, content=st.none() | hexadecimal)
def test_a_tag_tells_the_trainer_its_commit_and_whether_the_image_differs_from_it(commit, content):
    told = commit_of(image_tag(commit, content))

    assert told == {"git_sha": commit, "dirty": content is not None}


@given(
    one=st.tuples(hexadecimal, st.none() | hexadecimal),
    other=st.tuples(hexadecimal, st.none() | hexadecimal),
)
def test_equal_tags_are_of_equal_commits_and_contents(one, other):
    assert (image_tag(*one) == image_tag(*other)) == (one == other)


@given(st.text("0123456789abcdef", min_size=64, max_size=64))
def test_a_run_is_the_first_twelve_digits_of_the_digest(digest):
    assert run_name(f"sha256:{digest}") == digest[:12]


def test_without_git_the_error_says_what_to_install(context, monkeypatch):
    monkeypatch.setenv("PATH", "")

    with pytest.raises(PushError, match="git must be on PATH"):
        tag_of(context)


def test_a_folder_outside_git_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    with pytest.raises(PushError, match=r"must be in a git repository.*git init"):
        tag_of(tmp_path)


def test_a_repository_without_a_commit_is_refused(tmp_path):
    git(tmp_path, "init", "--quiet")

    with pytest.raises(PushError, match="with a commit"):
        tag_of(tmp_path)


def test_a_context_without_a_dockerfile_is_refused(tmp_path):
    with pytest.raises(PushError, match="context must be a folder with a Dockerfile"):
        push(tmp_path / "nothing", outputs={})


OUTPUTS = {
    "bucket": "b",
    "cluster": "arn:aws:ecs:eu-central-1:123456789012:cluster/c",
    "logGroup": "/l",
    "repositoryUrl": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/r",
    "wiringParameter": "/pushtrain/dev/wiring",
}


@pytest.mark.parametrize("missing", sorted(OUTPUTS))
def test_outputs_that_lack_something_are_refused(context, missing):
    outputs = {name: value for name, value in OUTPUTS.items() if name != missing}

    with pytest.raises(PushError, match=f"must have {missing}, got none: run pushtrain up"):
        push(context, outputs=outputs)


def test_outputs_that_are_no_stack_of_ours_are_refused(context):
    with pytest.raises(PushError, match="repository's URL and a cluster's ARN"):
        push(context, outputs={**OUTPUTS, "cluster": "c"})


@pytest.mark.localcloud
def test_outputs_of_another_account_are_one_line(stack, context):
    with pytest.raises(PushError, match="run pushtrain up") as caught:
        push(context, outputs={**stack.outputs, "wiringParameter": "/nowhere"})

    assert "\n" not in str(caught.value)


class NoCredentials:
    """A session that finds no credentials, as boto3's says it: at the first call."""

    def client(self, _service, region_name):
        assert region_name == "eu-central-1"
        return self

    def get_parameter(self, **_asked):
        raise NoCredentialsError


def test_no_credentials_are_one_line_with_the_commands(context):
    with pytest.raises(PushError, match=r"Unable to locate credentials: aws sso login"):
        push(context, outputs=OUTPUTS, session=NoCredentials())


def planned(stack, context, build_args: Mapping[str, str] = MappingProxyType({})):
    return pushes.PushPlan(
        image=stack.image("g-1"),
        tag="g-1",
        platform="linux/arm64",
        context=str(context),
        build_args=build_args,
        digest=None,
    )


def test_aws_needs_an_engine(context, monkeypatch):
    no_engine(monkeypatch)
    stack = pushes._Stack(OUTPUTS, boto3.session.Session(region_name="eu-central-1"))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)

    with pytest.raises(PushError, match="a Docker engine must be running"):
        pushes._deliver(stack, planned(stack, context), print)


FAKE_DOCKER = """#!{python}
import json, os, pathlib, sys
log = pathlib.Path(os.environ["FAKE_DOCKER_LOG"])
call = {{"argv": sys.argv[1:], "config": os.environ.get("DOCKER_CONFIG"),
        "attest": os.environ.get("BUILDX_NO_DEFAULT_ATTESTATIONS")}}
if "login" in sys.argv:
    call["stdin"] = sys.stdin.read()
    folder = pathlib.Path(os.environ["DOCKER_CONFIG"])
    call["settings"] = json.loads((folder / "config.json").read_text())
    call["context"] = (folder / "contexts" / "mine").read_text()
with log.open("a") as file:
    file.write(json.dumps(call) + "\\n")
if "build" in sys.argv:
    print("step one")
    print("out of space", file=sys.stderr)
    sys.exit(int(os.environ.get("FAKE_DOCKER_FAILS", "0")))
"""


@pytest.fixture
def fake_docker(tmp_path, monkeypatch):
    """A docker that writes down how it was called, and the user's configuration of it."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(FAKE_DOCKER.format(python=sys.executable))
    program.chmod(0o755)
    own = tmp_path / "docker"
    (own / "contexts").mkdir(parents=True)
    (own / "contexts" / "mine").write_text("an engine")
    (own / "config.json").write_text(
        json.dumps({"currentContext": "mine", "credsStore": "keychain", "auths": {"x": {}}})
    )
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(own))
    monkeypatch.setenv("FAKE_DOCKER_LOG", str(tmp_path / "calls"))

    def calls():
        return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]

    return SimpleNamespace(calls=calls, own=own)


class Registry:
    """A session whose registry, on AWS, gives a password."""

    meta = SimpleNamespace(endpoint_url="https://api.ecr.eu-central-1.amazonaws.com")

    def client(self, _service, region_name):
        assert region_name == "eu-central-1"
        return self

    def get_authorization_token(self):
        token = base64.b64encode(b"AWS:a-secret-token").decode()
        return {"authorizationData": [{"authorizationToken": token}]}


def deliver(context, **build_args):
    lines = []
    stack = pushes._Stack(OUTPUTS, Registry())
    pushes._push_with_engine(stack, planned(stack, context, build_args), lines.append)
    return lines


def test_docker_gets_platform_arguments_and_the_tag(fake_docker, context):
    lines = deliver(context, BASE="python:3.13-slim")
    name = f"{OUTPUTS['repositoryUrl']}:g-1"
    build, _, sent = fake_docker.calls()

    assert build["argv"][:1] == ["build"]
    assert {"--platform=linux/arm64", "--build-arg=BASE=python:3.13-slim"} <= set(build["argv"])
    assert build["argv"][-2:] == [f"--tag={name}", str(context)]
    assert build["attest"] == "1"
    assert sent["argv"] == ["push", name]
    assert sorted(lines) == ["out of space", "step one"]


def test_the_password_goes_by_stdin_and_stays_nowhere(fake_docker, context):
    before = {path: path.stat().st_mtime_ns for path in fake_docker.own.rglob("*")}
    deliver(context)
    _, login, sent = fake_docker.calls()

    assert login["stdin"] == "a-secret-token"
    assert all("a-secret-token" not in " ".join(call["argv"]) for call in fake_docker.calls())
    assert login["config"] == sent["config"] != str(fake_docker.own)
    assert not os.path.exists(login["config"])  # noqa: PTH110
    assert {path: path.stat().st_mtime_ns for path in fake_docker.own.rglob("*")} == before


def test_the_login_keeps_the_users_context_and_leaves_the_keychain_out(fake_docker, context):
    deliver(context)
    login = fake_docker.calls()[1]

    assert login["settings"] == {"currentContext": "mine"}
    assert login["context"] == "an engine"


@pytest.mark.usefixtures("fake_docker")
def test_a_failed_build_tells_its_last_lines(context, monkeypatch):
    monkeypatch.setenv("FAKE_DOCKER_FAILS", "3")

    with pytest.raises(PushError, match=r"docker build must end well, got exit code 3: .*out of"):
        deliver(context)


@pytest.mark.localcloud
def test_a_plan_names_the_image_of_the_commit_and_pushes_nothing(stack, context, monkeypatch):
    no_engine(monkeypatch)
    before = len(images(stack))
    planned = plan(context, outputs=stack.outputs, build_args={"A": "1"})
    repository = stack.outputs["repositoryUrl"].partition("/")[2]

    assert len(images(stack)) == before
    assert planned.as_json() == {
        "image": f"127.0.0.1:{stack.cloud.port}/{repository}:g-{head(context)[:12]}",
        "tag": f"g-{head(context)[:12]}",
        "platform": "linux/amd64",
        "context": str(context),
        "build_args": ["A=1"],
        "digest": None,
        "run": None,
    }

    result = push(context, outputs=stack.outputs)
    again = plan(context, outputs=stack.outputs)
    assert (again.digest, again.as_json()["run"]) == (result.digest, result.run)


@pytest.mark.localcloud
@pytest.mark.docker
@pytest.mark.skipif(bool(docker_engine()), reason=f"no Docker engine: {docker_engine()}")
def test_docker_itself_pushes_to_the_embedded_cloud_and_the_run_starts(stack, context):
    lines = []
    result = push(context, outputs=stack.outputs, on_line=lines.append)
    record = until_final(stack, result.run)
    name = f"127.0.0.1:{stack.cloud.port}/{stack.outputs['repositoryUrl'].partition('/')[2]}"
    subprocess.run(["docker", "rmi", "--force", f"{name}:{result.tag}"], check=True)

    assert result.pushed
    assert record["image"]["tags"] == [result.tag]
    assert record["image"]["digest"] == result.digest
    assert record["state"] == "SUCCEEDED"
    assert any("Successfully built" in line or "exporting" in line for line in lines)
    assert not push(context, outputs=stack.outputs).pushed
