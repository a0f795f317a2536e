"""What the stack told its Lambdas: clients, wiring, the user's parameters, the data set."""

import functools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_ssm import SSMClient

PARAMETER_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PATIENCE = Config(
    connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 5}
)


class WiringError(ValueError):
    """The stack's wiring or the user's parameters cannot be used as they stand."""


class Wiring(TypedDict):
    """The wiring parameter, as docs/run-record.md has it."""

    stack: str
    bucket: str
    data_key: str
    repository: str
    cluster: str
    template: str
    container: str
    subnets: list[str]
    security_groups: list[str]
    assign_public_ip: bool
    cpu: int
    memory: int
    architecture: str
    capacity_providers: list[str]
    log_group: str
    log_stream_prefix: str
    parameters: dict[str, str]
    parameters_name: str
    tag_prefixes: list[str]
    max_concurrent_runs: int
    max_run_minutes: int
    topic: str
    champion_metric: str
    champion_goal: str
    metrics: NotRequired[bool]
    """Whether there are any; no is the answer of a stack that was deployed before they were."""


class Data(TypedDict):
    """One version of the data set, so that a newer upload does not change a run."""

    key: str
    version_id: str
    etag: str


@dataclass(frozen=True, kw_only=True)
class Clients:
    """The AWS that a handler talks to."""

    ecr: "ECRClient"
    ecs: "ECSClient"
    events: "EventBridgeClient"
    logs: "CloudWatchLogsClient"
    s3: "S3Client"
    sns: "SNSClient"
    ssm: "SSMClient"


@functools.cache
def clients() -> Clients:
    """Return this process's clients; Lambda keeps it, and so their connections, between events."""
    aws: Any = boto3  # its stubs know only the services whose stubs are installed
    return Clients(
        ecr=aws.client("ecr", config=_PATIENCE),
        ecs=aws.client("ecs", config=_PATIENCE),
        events=aws.client("events", config=_PATIENCE),
        logs=aws.client("logs", config=_PATIENCE),
        s3=aws.client("s3", config=_PATIENCE),
        sns=aws.client("sns", config=_PATIENCE),
        ssm=aws.client("ssm", config=_PATIENCE),
    )


def report(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what the work says, printed as one line of JSON; an error is printed and raised."""
    try:
        outcome = work()
    except Exception as error:
        print(json.dumps({"outcome": "error", "error": type(error).__name__, "reason": str(error)}))  # noqa: T201 (a Lambda's log is its stdout)
        raise
    print(json.dumps(outcome))  # noqa: T201 (see above)
    return outcome


def load_wiring(ssm: "SSMClient") -> Wiring:
    """Return the wiring that the stack wrote last."""
    name = os.environ["PUSHTRAIN_WIRING"]
    text = ssm.get_parameter(Name=name)["Parameter"].get("Value", "")
    try:
        document: object = json.loads(text)
    except ValueError as error:
        raise WiringError(f"{name} must be JSON, got {text[:80]!r}: run pulumi up") from error
    if not isinstance(document, dict):
        raise WiringError(f"{name} must be a JSON object, got {text[:80]!r}: run pulumi up")
    fields = cast("dict[str, Any]", document)
    known = list(Wiring.__annotations__)
    if missing := [field for field in known if field not in {*fields, *Wiring.__optional_keys__}]:
        raise WiringError(f"{name} must have {', '.join(missing)}, got none: run pulumi up")
    # The record holds these alone, whatever a newer program adds.
    return cast("Wiring", {field: fields[field] for field in known if field in fields})


def load_parameters(ssm: "SSMClient", wiring: Wiring) -> dict[str, str]:
    """Return the stack's run parameters with the user's merged over them."""
    name = wiring["parameters_name"]
    try:
        text = ssm.get_parameter(Name=name)["Parameter"].get("Value", "")
    except ssm.exceptions.ParameterNotFound:
        return dict(wiring["parameters"])
    return wiring["parameters"] | parse_parameters(name, text)


def find_data(s3: "S3Client", wiring: Wiring) -> Data | None:
    """Return the newest data set, or None while there is none."""
    key = wiring["data_key"]
    try:
        head = s3.head_object(Bucket=wiring["bucket"], Key=key)
    except ClientError as error:
        if error_code(error) in {"404", "NoSuchKey"}:
            return None
        raise
    # "null" is S3's own name for the version of an object in a bucket without versions.
    version_id = head.get("VersionId", "null")
    return {"key": key, "version_id": version_id, "etag": head["ETag"].strip('"')}


def error_code(error: ClientError) -> str:
    """Return AWS's name of the error."""
    return error.response.get("Error", {}).get("Code", "")


def parse_parameters(name: str, text: str) -> dict[str, str]:
    """Return the user's parameters, or raise WiringError with all that is wrong with them."""
    fix = (
        f"write a JSON object of strings to the SSM parameter {name}, "
        f'as in {{"epochs": "5"}}, or delete it'
    )
    try:
        # Numbers keep the text that the user wrote.
        document: object = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (RecursionError, ValueError) as error:
        raise WiringError(f"{name} must be JSON, got {text[:80]!r}: {fix}") from error
    if not isinstance(document, dict):
        raise WiringError(f"{name} must be a JSON object, got {text[:80]!r}: {fix}")
    faults: list[str] = []
    parameters: dict[str, str] = {}
    for key, value in cast("dict[str, object]", document).items():
        if not PARAMETER_NAME.fullmatch(key):
            faults.append(f"the name {key[:80]!r} must match [a-z][a-z0-9_]*")
        if isinstance(value, str):
            parameters[key] = value
        elif isinstance(value, bool):
            parameters[key] = json.dumps(value)
        else:
            faults.append(f"{key[:80]} must be a string, number or boolean, got {value!r:.80}")
    if faults:
        raise WiringError(f"{name}: {'; '.join(faults)}: {fix}")
    return parameters


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
