"""An AWS in memory, behind real boto3 clients: their models check what the handlers send."""

import base64
import copy
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
from botocore import xform_name
from botocore.response import StreamingBody
from botocore.validate import ParamValidator

from handler import invoke, observe, reconcile
from handler.wiring import Clients
from tests.least_privilege.access import Call

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "run-record.schema.json").read_text())
ACCOUNT, REGION, BUCKET = "123456789012", "us-east-1", "dev-models"
ECS = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:dev-notices"
SERVICES = ("ecr", "ecs", "events", "logs", "s3", "sns", "ssm")


class CrashError(BaseException):
    """The end of a Lambda's process: nothing in it may catch this."""


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{kind}"})


@functools.cache
def client_of(service: str) -> Any:
    session: Any = boto3.Session("AKIA", "secret", region_name=REGION)
    return session.client(service)


def merge(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(document)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


Judge = Callable[[str, Call], None]
"""Raises if the handler's role does not allow the call."""


def permits(_handler: str, _call: Call) -> None:
    """Allow everything."""


@dataclass
class Object:
    body: bytes
    etag: str
    version_id: str
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Aws:
    """The state of an account, and the hooks by which a test makes trouble."""

    objects: dict[str, list[Object]] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """Reasons of the next RunTask calls that place nothing."""
    remembers_failures: bool = True
    """Whether a token that failed fails again; AWS does not say."""
    refused_events: list[str] = field(default_factory=list)
    """Codes with which the event bus takes the call and refuses what is in it."""
    log_lines: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    log_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When the log lines were written."""
    images: list[dict[str, Any]] = field(default_factory=list)
    """What ECR tells of the tagged images."""
    notices: list[dict[str, Any]] = field(default_factory=list)
    """What was published to the topic, and put on the event bus, in order."""
    calls: list[str] = field(default_factory=list)
    judge: Judge = permits
    before: Callable[[str, dict[str, Any]], None] = lambda _operation, _params: None
    after: Callable[[str, dict[str, Any]], None] = lambda _operation, _params: None
    errors: dict[str, list[str]] = field(default_factory=dict)
    """Operation -> codes with which its next calls fail; an empty one lets a call pass."""
    validates: bool = True
    """Whether what is written is held against the schema: most of the time of a test of many."""
    lock: Any = field(default_factory=threading.RLock)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def push(self, event: object) -> dict[str, Any]:
        """Deliver an event to the invoke handler."""
        return invoke.deliver(event, self.clients("invoke"))

    def stop(self, event: object) -> dict[str, Any]:
        """Deliver an event to the observe handler."""
        return observe.deliver(event, self.clients("observe"))

    def reconcile(self, event: object | None = None) -> dict[str, Any]:
        """Make a round, or deliver a request, to the reconcile handler."""
        scheduled = {
            "source": "aws.events",
            "detail-type": "Scheduled Event",
            "time": "2026-01-02T03:30:00Z",
        }
        return reconcile.deliver(event or scheduled, self.clients("reconcile"))

    def end(self, stopped: dict[str, Any]) -> dict[str, Any]:
        """Let the task stop as the event says, and return the event."""
        detail = stopped["detail"]
        told = {k: detail[k] for k in ("containers", "stopCode", "stoppedReason") if k in detail}
        times = {
            k: datetime.fromisoformat(detail[k]) for k in ("startedAt", "stoppedAt") if k in detail
        }
        self.tasks[detail["taskArn"]] |= {"status": "STOPPED", **told, **times}
        return stopped

    def change(self, run: str, **changes: Any) -> None:
        """Change the run's record by hand."""
        self.put(f"runs/{run}/run.json", json.dumps(merge(self.record(run), changes)).encode())

    def clients(self, handler: str) -> Clients:
        """Return clients that may do what that handler's role may do."""
        made: dict[str, Any] = {}
        for service in SERVICES:
            original = client_of(service)
            client = made[service] = object.__new__(type(original))
            client.__dict__.update(original.__dict__)
            client._make_api_call = functools.partial(self._call, handler, client, service)
        return Clients(**made)

    def _call(self, handler: str, client: Any, service: str, operation: str, params: Any) -> Any:
        call = Call(
            service=service,
            operation=operation,
            params=params,
            roles=(TEMPLATE["taskRoleArn"], TEMPLATE["executionRoleArn"]),
        )
        self.judge(handler, call)
        shape = client.meta.service_model.operation_model(operation).input_shape
        faults = ParamValidator().validate(params, shape)
        assert not faults.has_errors(), faults.generate_report()
        self.before(operation, params)
        with self.lock:
            self.calls.append(f"{service}:{operation}")

            def fail(code: str, message: str | None = None, **more: Any) -> None:
                if code in {"404", "NoSuchKey"}:
                    self.judge(handler, dataclasses.replace(call, absent=True))
                error = {"Error": {"Code": code, "Message": message or code}, **more}
                raise client.exceptions.from_code(code)(error, operation)

            if (codes := self.errors.get(operation)) and (code := codes.pop(0)):
                fail(code)
            try:
                answer = getattr(self, f"_{xform_name(operation)}")(fail, copy.deepcopy(params))
            finally:
                self.after(operation, params)
        return copy.deepcopy(answer) if operation != "GetObject" else answer

    # S3

    def put(self, key: str, body: bytes) -> None:
        digest = hashlib.md5(body).hexdigest()
        version_id = base64.urlsafe_b64encode(next(self.numbers).to_bytes(24, "big")).decode()
        self.objects.setdefault(key, []).append(Object(body, f'"{digest}"', version_id))

    def get(self, key: str) -> bytes:
        return self.objects[key][-1].body

    def record(self, run: str) -> dict[str, Any]:
        return json.loads(self.get(f"runs/{run}/run.json"))

    def _put_object(self, fail, params):
        key, body, match = params["Key"], params["Body"], params.get("IfMatch")
        assert params["Bucket"] == BUCKET
        if key.startswith("open/"):
            self.put(key, body)
            return {}
        assert params["ContentType"] == "application/json"
        there = self.objects.get(key, [])
        assert match or params["IfNoneMatch"] == "*"
        if match and not there:
            fail("NoSuchKey")
        if there and there[-1].etag != match:
            fail("PreconditionFailed")
        kinds = {"slots.json": "slots", "manifest.json": "manifest", "champion.json": "champion"}
        kind = kinds.get(key.rsplit("/", 1)[-1], "run")
        if self.validates:
            validator(kind).validate(json.loads(body))
        self.put(key, body)
        return {}

    def _get_object(self, fail, params):
        found = self._find_object("NoSuchKey", fail, params)
        length = len(found.body)
        body = StreamingBody(io.BytesIO(found.body), length)
        return {"Body": body, "ETag": found.etag, "ContentLength": length}

    def _head_object(self, fail, params):
        found = self._find_object("404", fail, params)
        return {"ETag": found.etag, "VersionId": found.version_id}

    def _find_object(self, code, fail, params) -> Object:
        assert params["Bucket"] == BUCKET
        if params["Key"] not in self.objects:
            fail(code)
        return self.objects[params["Key"]][-1]

    def _list_objects_v2(self, _fail, params):
        assert params["Bucket"] == BUCKET
        after = params.get("ContinuationToken", "")
        keys = sorted(k for k in self.objects if k.startswith(params["Prefix"]) and k > after)
        found = [{"Key": k, "LastModified": self.objects[k][-1].time} for k in keys[:2]]
        page = {"Contents": found, "IsTruncated": len(keys) > 2}
        return page | ({"NextContinuationToken": keys[1]} if len(keys) > 2 else {})

    def _delete_object(self, _fail, params):
        assert params["Bucket"] == BUCKET
        self.objects.pop(params["Key"], None)
        return {}

    # ECR

    def _describe_images(self, _fail, params):
        assert params["repositoryName"] == "trainer"
        assert params["filter"] == {"tagStatus": "TAGGED"}
        return {"imageDetails": self.images}

    # SSM and Logs

    def _get_parameter(self, fail, params):
        name = params["Name"]
        if name not in self.parameters:
            fail("ParameterNotFound")
        return {"Parameter": {"Name": name, "Value": self.parameters[name]}}

    def _get_log_events(self, fail, params):
        assert params["startFromHead"] is False
        place = (params["logGroupName"], params["logStreamName"])
        if place not in self.log_lines:
            fail("ResourceNotFoundException")
        lines = self.log_lines[place][-params["limit"] :]
        time = int(self.log_time.timestamp() * 1000)
        return {"events": [{"message": line, "timestamp": time} for line in lines]}

    # SNS and EventBridge

    def _publish(self, _fail, params):
        assert params["TopicArn"] == TOPIC
        assert len(params["Message"].encode()) <= 262_144
        assert re.fullmatch(r"[!-~][ -~]{0,99}", params["Subject"])
        self.notices.append(params)
        return {"MessageId": f"{next(self.numbers):032x}"}

    def _put_events(self, _fail, params):
        (entry,) = params["Entries"]
        # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevent-size.html
        size = sum(len(entry[key].encode()) for key in ("Source", "DetailType", "Detail"))
        assert size <= 262_144
        assert entry.keys() == {"Source", "DetailType", "Detail"}
        if self.refused_events:
            code = self.refused_events.pop(0)
            return {"FailedEntryCount": 1, "Entries": [{"ErrorCode": code}]}
        self.notices.append(entry)
        return {"FailedEntryCount": 0, "Entries": [{"EventId": f"{next(self.numbers):032x}"}]}

    # ECS

    def _register_task_definition(self, _fail, params):
        tags = params.pop("tags", None)
        assert tags is None or tags, "ECS refuses an empty list of tags"
        family = params["family"]
        revision = sum(d["family"] == family for d in self.definitions.values()) + 1
        arn = f"{ECS}:task-definition/{family}:{revision}"
        self.definitions[arn] = {
            "volumes": [],
            "placementConstraints": [],
            **params,
            "revision": revision,
            "status": "ACTIVE",
            "taskDefinitionArn": arn,
            "compatibilities": ["EC2", "FARGATE"],
            "requiresAttributes": [{"name": "ecs.capability.task-eni"}],
            "registeredBy": f"arn:aws:iam::{ACCOUNT}:root",
        }
        self.tags[arn] = tags or []
        return {"taskDefinition": self.definitions[arn]}

    def _describe_task_definition(self, fail, params):
        name = params["taskDefinition"]
        if "/" in name:
            found = [self.definitions[name]] if name in self.definitions else []
        else:
            active = [d for d in self.definitions.values() if d["status"] == "ACTIVE"]
            found = [d for d in active if d["family"] == name]
        if not found:
            fail("ClientException")
        answer = {"taskDefinition": found[-1]}
        if "TAGS" in params.get("include", []):
            answer["tags"] = self.tags[found[-1]["taskDefinitionArn"]]
        return answer

    def _deregister_task_definition(self, fail, params):
        definition = self.definitions[params["taskDefinition"]]
        if definition["status"] != "ACTIVE":
            fail("ClientException")
        definition["status"] = "INACTIVE"
        return {}

    def _run_task(self, fail, params):
        token = params.get("clientToken", f"random-{next(self.numbers)}")
        assert len(token) <= 64
        assert re.fullmatch(r"[A-Za-z0-9/_-]{1,128}", params["startedBy"])
        assert len(json.dumps(params["overrides"])) <= 8192
        if token in self.answers:
            before, answer = self.answers[token]
            if before != params:
                fail("ConflictException", resourceIds=[t["taskArn"] for t in answer["tasks"]])
            return answer
        if self.definitions[params["taskDefinition"]]["status"] != "ACTIVE":
            fail("ClientException")
        answer: dict[str, Any] = {"tasks": [], "failures": []}
        if self.failures:
            answer["failures"] = [{"reason": self.failures.pop(0)}]
            if self.remembers_failures:
                self.answers[token] = (params, answer)
            return answer
        arn = f"{ECS}:task/dev/{next(self.numbers):032x}"
        self.tasks[arn] = {"params": params, "status": "RUNNING"}
        answer["tasks"] = [{"taskArn": arn}]
        self.answers[token] = (params, answer)
        return answer

    def _stop_task(self, fail, params):
        assert params["cluster"] == f"{ECS}:cluster/dev"
        assert params["reason"].startswith("pushtrain: ")
        if params["task"] not in self.tasks:
            fail("InvalidParameterException", "The referenced task was not found.")
        self.tasks[params["task"]]["status"] = "STOPPED"
        return {}

    def _list_tasks(self, _fail, params):
        assert params["cluster"] == f"{ECS}:cluster/dev"
        arns = [
            arn
            for arn, task in self.tasks.items()
            if params.get("startedBy") in {None, task["params"]["startedBy"]}
            and task["status"] == params["desiredStatus"]
        ]
        return {"taskArns": arns}

    def _describe_tasks(self, _fail, params):
        assert params["cluster"] == f"{ECS}:cluster/dev"
        assert 0 < len(params["tasks"]) <= 100
        known = [arn for arn in params["tasks"] if arn in self.tasks]
        missing = [arn for arn in params["tasks"] if arn not in self.tasks]
        return {
            "tasks": [self._description(arn, **self.tasks[arn]) for arn in known],
            "failures": [{"arn": arn, "reason": "MISSING"} for arn in missing],
        }

    def _description(self, arn, params, status, **told):
        return {
            "taskArn": arn,
            "clusterArn": params["cluster"],
            "startedBy": params["startedBy"],
            "lastStatus": status,
            **told,
        }

    # What tests ask

    def running(self) -> list[str]:
        return [arn for arn, task in self.tasks.items() if task["status"] == "RUNNING"]

    def active(self) -> list[str]:
        """Definitions that are not the template's."""
        return [
            arn
            for arn, definition in self.definitions.items()
            if definition["status"] == "ACTIVE" and definition["family"] != "dev-template"
        ]

    def crash_after(self, count: int) -> None:
        """End the process once this many further calls have had their effect."""
        left = itertools.count(count - 1, -1)

        def after(_operation: str, _params: dict[str, Any]) -> None:
            if next(left) == 0:
                raise CrashError

        self.after = after

    def recover(self) -> None:
        self.after = lambda _operation, _params: None


WIRING = {
    "stack": "dev",
    "bucket": BUCKET,
    "data_key": "data/dataset",
    "repository": "trainer",
    "cluster": f"{ECS}:cluster/dev",
    "template": f"{ECS}:task-definition/dev-template:1",
    "container": "trainer",
    "subnets": ["subnet-0a", "subnet-0b"],
    "security_groups": ["sg-0a"],
    "assign_public_ip": True,
    "capacity_providers": ["FARGATE_SPOT", "FARGATE"],
    "log_group": "/pushtrain/dev/training",
    "log_stream_prefix": "train",
    "parameters": {"epochs": "5", "seed": "0"},
    "parameters_name": "/pushtrain/dev/training",
    "tag_prefixes": [],
    "cpu": 2048,
    "memory": 8192,
    "architecture": "x86_64",
    "max_concurrent_runs": 0,
    "max_run_minutes": 0,
    "topic": TOPIC,
    "champion_metric": "accuracy",
    "champion_goal": "max",
}
TEMPLATE = {
    "family": "dev-template",
    "cpu": "2048",
    "memory": "8192",
    "networkMode": "awsvpc",
    "requiresCompatibilities": ["FARGATE"],
    "executionRoleArn": f"arn:aws:iam::{ACCOUNT}:role/dev-execution",
    "taskRoleArn": f"arn:aws:iam::{ACCOUNT}:role/dev-task",
    "runtimePlatform": {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"},
    "containerDefinitions": [
        {
            "name": "trainer",
            "image": f"{REGISTRY}/trainer:placeholder",
            "essential": True,
            "stopTimeout": 120,
            "user": "1000",
        },
        {"name": "sidecar", "image": "public.ecr.aws/docker/library/busybox:1", "essential": False},
    ],
    "tags": [
        {"key": "pushtrain:stack", "value": "dev"},
        {"key": "aws:cloudformation:stack-name", "value": "not ours to set"},
    ],
}


def account(limit: int = 0, judge: Judge = permits) -> Aws:
    """A stack as Pulumi leaves it, with data."""
    wiring = json.dumps(WIRING | {"max_concurrent_runs": limit})
    aws = Aws(parameters={"/pushtrain/dev/wiring": wiring}, judge=judge)
    aws._register_task_definition(None, copy.deepcopy(TEMPLATE))
    aws.put("data/dataset", b"a zip of images")
    return aws


@pytest.fixture(autouse=True, scope="session")
def _environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUSHTRAIN_WIRING", "/pushtrain/dev/wiring")
        yield


@pytest.fixture(scope="session")
def judge(dev) -> Judge:
    """The policies of the handlers' roles, as the stack has them."""
    from tests.least_privilege.stack import Judge, Stack  # noqa: PLC0415 - it builds on this module

    return Judge(Stack(dev))


@pytest.fixture
def aws(judge):
    return account(judge=judge)


@pytest.fixture(scope="session")
def new_account(judge):
    """For tests that need many."""
    return functools.partial(account, judge=judge)


@pytest.fixture(scope="session")
def crash():
    return CrashError


@pytest.fixture(scope="session")
def event():
    """Return a recorded event, with changes merged into it."""

    def load(name: str, **changes: Any) -> dict[str, Any]:
        return merge(json.loads((ROOT / "tests" / "events" / f"{name}.json").read_text()), changes)

    return load


@pytest.fixture(scope="session")
def wires():
    return copy.deepcopy(WIRING)
