"""Run records of every state, and a stack of them for the commands to work on."""

import copy
import functools
import json
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest

from automation import cli
from automation.commands import shared
from automation.deployed import Deployed
from localcloud import Cloud

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "run-record.schema.json").read_text())
ACCOUNT, REGION = "123456789012", "us-east-1"
ECS = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
WIRING = {
    "stack": "dev",
    "bucket": "dev-models",
    "data_key": "data/dataset",
    "repository": "dev-images",
    "cluster": f"{ECS}:cluster/dev",
    "template": f"{ECS}:task-definition/dev:1",
    "container": "trainer",
    "subnets": ["subnet-1"],
    "security_groups": ["sg-1"],
    "assign_public_ip": True,
    "cpu": 2048,
    "memory": 8192,
    "architecture": "x86_64",
    "capacity_providers": ["FARGATE_SPOT", "FARGATE"],
    "log_group": "dev-training",
    "log_stream_prefix": "train",
    "parameters": {"epochs": "2"},
    "parameters_name": "/pushtrain/dev/training",
    "tag_prefixes": [],
    "max_concurrent_runs": 0,
    "max_run_minutes": 1440,
    "topic": f"arn:aws:sns:{REGION}:{ACCOUNT}:dev",
    "champion_metric": "accuracy",
    "champion_goal": "max",
}


def at(second):
    """Write the time so many seconds after ten o'clock."""
    time = datetime(2026, 11, 27, 10, tzinfo=UTC) + timedelta(seconds=second)
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def attempt(number=1, asked=1, **changes):
    provider = "FARGATE_SPOT" if number == 1 else "FARGATE"
    task = f"{number:032x}"
    return {
        "number": number,
        "request": {
            "cluster": WIRING["cluster"],
            "taskDefinition": f"{ECS}:task-definition/dev-0:1",
            "clientToken": "t",
            "startedBy": f"r-a{number}",
            "capacityProviderStrategy": [{"capacityProvider": provider, "weight": 1}],
        },
        "task_arn": f"{ECS}:task/dev/{task}",
        "failure": None,
        "requested_at": at(asked),
        "pull_started_at": None,
        "started_at": at(asked + 20),
        "stopped_at": None,
        "exit_code": None,
        "stop_code": None,
        "stopped_reason": None,
        "log_stream": f"train/trainer/{task}",
        "cause": None,
        "diagnosis": None,
        **changes,
    }


def ended(number=1, asked=1, seconds=100, code=0, **changes):
    return attempt(
        number,
        asked,
        pull_started_at=at(asked),
        stopped_at=at(asked + seconds),
        exit_code=code,
        stop_code="EssentialContainerExited",
        stopped_reason="Essential container in task exited",
        **changes,
    )


def make(run="3f2a0c11d2e4", state="STARTED", **changes):
    """Make a record that the schema takes."""
    digest = f"sha256:{run[:12]}{'0' * 52}"
    record = {
        "version": 1,
        "run": run,
        "state": state,
        "image": {
            "repository": "dev-images",
            "uri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/dev-images@{digest}",
            "digest": digest,
            "tags": ["g-3f2a"],
        },
        "created_at": at(0),
        "updated_at": at(0),
        "ended_at": None,
        "parameters": {"epochs": "2"},
        "data": {"key": "data/dataset", "version_id": "v1", "etag": "e"},
        "wiring": WIRING,
        "repeat": None,
        "waiting": None,
        "stop": None,
        "attempts": [],
        "metrics": {},
        "diagnosis": None,
        "promotion": None,
        "cost": None,
        "notified_at": None,
        **copy.deepcopy(changes),
    }
    jsonschema.validate(record, {**SCHEMA, "$ref": "#/$defs/run"})
    return record


def succeeded(run="3f2a0c11d2e4", accuracy=0.9, **changes):
    return make(
        run,
        "SUCCEEDED",
        **{
            "attempts": [ended()],
            "ended_at": at(103),
            "metrics": {"accuracy": accuracy, "loss": 0.25},
            "diagnosis": {
                "cause": "success",
                "summary": "published 3 files, all verified",
                "detail": "",
                "action": "",
            },
            "notified_at": at(104),
            **changes,
        },
    )


def failed(run="3f2a0c11d2e4", cause="exit", **changes):
    told = {"summary": "the trainer failed", "detail": "exit code 1", "action": "Correct it."}
    return make(
        run,
        "FAILED",
        **{
            "attempts": [ended(code=1, cause=cause, diagnosis=told)],
            "ended_at": at(103),
            "diagnosis": {"cause": cause, **told},
            **changes,
        },
    )


@pytest.fixture(scope="session")
def records():
    """What makes records: make, attempt, ended, succeeded, failed, at."""
    return types.SimpleNamespace(
        make=make, attempt=attempt, ended=ended, succeeded=succeeded, failed=failed, at=at
    )


@pytest.fixture(scope="session")
def wiring():
    return WIRING


class Session:
    """Clients of an embedded cloud, made once; or what a test puts in a service's place."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.replaced: dict[str, Any] = {}

    def client(self, service, **_options):
        return self.replaced.get(service) or self.cloud.client(service)


class Place:
    """A stack's things on an embedded cloud, which the commands are made to find."""

    def __init__(self, cloud, capsys):
        self.cloud = cloud
        self.capsys = capsys
        self.session = Session(cloud)
        self.outputs: dict[str, Any] = {
            "bucket": "dev-models",
            "cluster": WIRING["cluster"],
            "logGroup": "dev-training",
            "repositoryUrl": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/dev-images",
            "wiringParameter": "/pushtrain/dev/wiring",
            "trainingParameter": "/pushtrain/dev/training",
        }
        self.s3 = cloud.client("s3")
        self.s3.create_bucket(Bucket="dev-models")
        cloud.client("logs").create_log_group(logGroupName="dev-training")

    def deployed(self, name="dev"):
        return Deployed(stack=name, outputs=self.outputs, session=self.session)

    def write(self, key, document):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.s3.put_object(Bucket="dev-models", Key=key, Body=body)

    def put(self, *made):
        for record in made:
            self.write(f"runs/{record['run']}/run.json", record)

    def log(self, stream, *lines, first=1_800_000_000_000):
        logs = self.cloud.client("logs")
        logs.create_log_stream(logGroupName="dev-training", logStreamName=stream)
        logs.put_log_events(
            logGroupName="dev-training",
            logStreamName=stream,
            logEvents=[
                {"timestamp": first + number, "message": text} for number, text in enumerate(lines)
            ],
        )

    def pushtrain(self, *words):
        """Run a command; give its exit code, its stdout and its stderr."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        out, err = self.capsys.readouterr()
        return end.value.code or 0, out, err


@pytest.fixture(scope="module")
def cloud():
    with Cloud() as running:
        yield running


@pytest.fixture
def place(cloud, capsys, monkeypatch):
    cloud.reset()
    there = Place(cloud, capsys)
    monkeypatch.setattr(shared, "deployed", lambda name, _project: there.deployed(name))
    return there


@pytest.fixture
def client_of():
    """Give real boto3 clients of no cloud, for their models and their errors."""

    @functools.cache
    def of(service):
        session: Any = boto3.Session("AKIA", "secret", region_name=REGION)
        return session.client(service)

    return of
