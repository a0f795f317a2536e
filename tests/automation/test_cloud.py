"""`pushtrain cloud`: where it says it is, and what it keeps."""

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from localcloud import Registry, make_image

pytestmark = pytest.mark.localcloud


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(port, *options):
    """Run the command; give the variables that it prints and, once it has ended, its words."""
    with subprocess.Popen(
        [sys.executable, "-m", "automation.cli", "cloud", "--port", str(port), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        environment = {}
        while "PULUMI_CONFIG_PASSPHRASE" not in environment:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            name, _, value = line.removeprefix("export ").strip().partition("=")
            environment[name] = value
        words = []
        yield environment, words
        process.send_signal(signal.SIGINT)
        words.append(process.stderr.read())
        assert process.wait(30) == 130


def client(service, environment):
    return boto3.client(
        service,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


def images(ecr):
    return ecr.describe_images(repositoryName="train")["imageDetails"]


def push(environment):
    client("ecr", environment).create_repository(repositoryName="train")
    with Registry(environment["AWS_ENDPOINT_URL"].removeprefix("http://")) as registry:
        return registry.push(make_image({"train.py": b""}), "train", "v1")


def test_cloud_answers_where_it_says_and_tells_of_pushes(port):
    with running(port) as (environment, words):
        digest = push(environment)
        backend = Path(environment["PULUMI_BACKEND_URL"].removeprefix("file://"))
        there = backend.is_dir()

    assert environment["AWS_ENDPOINT_URL"] == f"http://127.0.0.1:{port}"
    assert f"train:v1 {digest[:19]}" in words[0]
    assert there
    assert not backend.exists(), "no state is kept unless asked for"


def test_cloud_goes_on_with_the_state_that_it_was_to_keep(port, tmp_path):
    folder = tmp_path / "state"
    with running(port, "--keep-state", str(folder)) as (environment, _):
        digest = push(environment)
        s3 = client("s3", environment)
        s3.create_bucket(Bucket="models")
        s3.put_object(Bucket="models", Key="data/dataset", Body=b"images")
    with running(port, "--keep-state", str(folder)) as (environment, _):
        s3, ecr = client("s3", environment), client("ecr", environment)
        body = s3.get_object(Bucket="models", Key="data/dataset")["Body"].read()
        digests = [each.get("imageDigest") for each in images(ecr)]

    assert body == b"images"
    assert digests == [digest]
    assert environment["PULUMI_BACKEND_URL"] == f"file://{folder}/pulumi"


def test_a_port_that_is_taken_is_one_line(port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        answer = subprocess.run(
            [sys.executable, "-m", "automation.cli", "cloud", "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )

    assert answer.returncode == 1
    assert answer.stderr.startswith(f"error: port must be free, got {port}")
    assert len(answer.stderr.splitlines()) == 1
