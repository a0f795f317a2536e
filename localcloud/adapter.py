"""The only module that knows MiniStack's inside: every private symbol used is named in _NEEDED."""
# ruff: noqa: SLF001 -- reaching into MiniStack, in one place and checked, is what it is for

import contextlib
import functools
import importlib
import importlib.metadata
import ipaddress
import itertools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

import botocore.session
from botocore.exceptions import UnknownServiceError

from localcloud.lifeline import Lifeline, kill_group

EXPECTED_VERSION = "1.5.33"
Record = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""

_OF_LAMBDA = ("AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_LAMBDA_", "AWS_REGION", "_LAMBDA")
_NEEDED = {
    "ministack.app": ("app", "_docker_socket_present"),
    "ministack.core.responses": (
        "_BOTOCORE_NAME",
        "_service_model",
        "error_response_json",
        "get_account_id",
        "get_region",
        "json_response",
        "request_scope",
    ),
    "ministack.core.lambda_runtime": ("subprocess", "tempfile", "reset"),
    "ministack.services.ec2": ("_ACTION_MAP", "_subnets", "_vpc_endpoints", "_vpce_fields_xml"),
    "ministack.services.cloudwatch_logs": ("_log_groups",),
    "ministack.services.ecr": (
        "_content_digest",
        "_describe_images",
        "_images",
        "_layer_blobs",
        "_put_image",
        "_registry_error",
        "_repositories",
        "_resolve_manifest",
        "_v2_put_manifest",
    ),
    "ministack.services.ecs": (
        "_ACTION_MAP",
        "_clusters",
        "_get_docker",
        "_recount_cluster",
        "_resolve_cluster_name",
        "_resolve_container_secrets",
        "_resolve_task",
        "_resolve_td_key",
        "_run_task",
        "_sanitize",
        "_task_defs",
        "_tasks",
        "new_uuid",
    ),
    "ministack.services.eventbridge": ("_dispatch_to_lambda", "_invoke_target", "_put_events"),
    "ministack.services.lambda_svc": (
        "_execute_function_with_config_scope",
        "_execution_record_for_config",
        "_get_func_record_for_ref",
        "_route_async_failure",
        "invoke_async_with_retry",
    ),
    "ministack.services.s3": ("_buckets", "_get_object", "_parse_range"),
    "ministack.services.sns": ("_http_post_sync", "_subscribe", "_topics"),
    "ministack.services.ssm": ("resolve_parameter_value",),
}


class MiniStack:
    """MiniStack's services in this process, and the places where the cloud hooks into them."""

    def __init__(self, port: int, region: str, account: str, state: Path | None = None) -> None:
        self._undo = contextlib.ExitStack()
        self._workers: list[subprocess.Popen[Any]] = []
        self._named: dict[str, tuple[str, subprocess.Popen[Any]]] = {}
        # MiniStack reads these when it is imported, and some again at each call.
        self._set_environment(
            {
                "GATEWAY_PORT": str(port),
                "MINISTACK_HOST": "127.0.0.1",
                "MINISTACK_REGION": region,
                "MINISTACK_ACCOUNT_ID": account,
                "IOT_MTLS_ENABLED": "0",
                "SFTP_ENABLED": "0",
                "LOG_LEVEL": os.environ.get("LOG_LEVEL", "ERROR"),
                **(_persistent(state) if state else {}),
            }
        )
        modules: dict[str, Any] = {name: importlib.import_module(name) for name in _NEEDED}
        _check(modules)
        self.app: Any = modules["ministack.app"].app
        self._responses: Any = modules["ministack.core.responses"]
        self._runtime: Any = modules["ministack.core.lambda_runtime"]
        self._ec2: Any = modules["ministack.services.ec2"]
        self._ecr: Any = modules["ministack.services.ecr"]
        self._ecs: Any = modules["ministack.services.ecs"]
        self._s3: Any = modules["ministack.services.s3"]
        self._events: Any = modules["ministack.services.eventbridge"]
        self._logs: Any = modules["ministack.services.cloudwatch_logs"]
        self._lambda: Any = modules["ministack.services.lambda_svc"]
        self._sns: Any = modules["ministack.services.sns"]
        # Tasks are processes here, and a Docker engine of this machine is none of our business.
        self._replace(modules["ministack.app"], "_docker_socket_present", lambda: False)
        self._replace(self._ecs, "_get_docker", lambda: None)
        # AWS's task ids are 32 hex digits.
        new_id: Callable[[], str] = self._ecs.new_uuid
        self._replace(self._ecs, "new_uuid", lambda: new_id().replace("-", ""))
        # ECS decrypts a SecureString for the task; here it would get it as it is kept.
        ssm: Any = modules["ministack.services.ssm"]
        read = ssm.resolve_parameter_value
        self._replace(ssm, "resolve_parameter_value", functools.partial(read, decrypt=True))
        # One for MiniStack and for our clients: each of its own would read AWS's models again.
        self.botocore = botocore.session.get_session()
        self._replace(self._responses, "_service_model", functools.cache(self._service_model))
        self._keep_endpoint_settings()
        self._tell_artifact_types()
        self._read_ranges_of_versions()
        self._name_unconfirmed_subscriptions()
        self._post_to_this_machine_only()

    def close(self) -> None:
        """Leave MiniStack and the environment as they were."""
        self._undo.close()

    def _replace(self, module: Any, name: str, value: object) -> None:
        self._undo.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, value)

    def _replace_action(self, service: Any, action: str, hook: Callable[..., Answer]) -> None:
        actions = service._ACTION_MAP
        self._undo.callback(actions.__setitem__, action, actions[action])
        actions[action] = hook

    def _set_environment(self, values: dict[str, str]) -> None:
        for name, value in values.items():
            if name in os.environ:
                self._undo.callback(os.environ.__setitem__, name, os.environ[name])
            else:
                self._undo.callback(os.environ.pop, name, None)
            os.environ[name] = value

    def _service_model(self, service: str) -> Any:
        name = self._responses._BOTOCORE_NAME.get(service, service)
        try:
            return self.botocore.get_service_model(name)
        except UnknownServiceError:
            return None  # MiniStack's word for a service that AWS's models lack

    def _keep_endpoint_settings(self) -> None:
        """Let EC2 give back an endpoint's policy and names, which MiniStack forgets."""
        create, describe = self._ec2._ACTION_MAP["CreateVpcEndpoint"], self._ec2._vpce_fields_xml

        def created(request: dict[str, list[str]]) -> Answer:
            answer: Answer = create(request)
            found = re.search(rb"<vpcEndpointId>([^<]+)<", answer[2])
            if found:
                endpoint = self._ec2._vpc_endpoints[found[1].decode()]
                for name in ("PolicyDocument", "PrivateDnsEnabled"):
                    endpoint[name] = request.get(name, [""])[0]
            return answer

        def described(endpoint: Record, tag: str = "item") -> str:
            policy = escape(endpoint.get("PolicyDocument", ""))
            private = endpoint.get("PrivateDnsEnabled") or "false"
            fields: str = describe(endpoint, tag)
            opened, end, _ = fields.rpartition(f"</{tag}>")
            kept = f"<policyDocument>{policy}</policyDocument>"
            kept += f"<privateDnsEnabled>{private}</privateDnsEnabled>"
            return f"{opened}{kept}{end}"

        self._replace_action(self._ec2, "CreateVpcEndpoint", created)
        self._replace(self._ec2, "_vpce_fields_xml", described)

    def _tell_artifact_types(self) -> None:
        """Let ECR tell of what type an image's config is, as it does in its events too."""
        describe = self._ecr._describe_images

        def described(asked: Record) -> Answer:
            status, headers, body = describe(asked)
            answer = json.loads(body)
            kept = {image["imageDigest"]: image for image in self._images(asked)}
            for detail in entries(answer, "imageDetails"):
                manifest = json.loads(kept[detail["imageDigest"]]["imageManifest"])
                detail["artifactMediaType"] = section(manifest, "config").get("mediaType")
                if detail["artifactMediaType"] is None:  # an index is no artifact of any type
                    del detail["artifactMediaType"]
            kind = {key: text for key, text in headers.items() if key.lower() != "content-length"}
            return status, kind, json.dumps(answer).encode()

        self._replace(self._ecr, "_describe_images", described)

    def _images(self, asked: Record) -> list[Record]:
        return self._ecr._images.get(asked.get("repositoryName"), [])

    def _read_ranges_of_versions(self) -> None:
        """Let S3 read a part of an old version: MiniStack gives all of it, and downloads break."""
        get_object = self._s3._get_object

        def part(bucket: str, key: str, headers: dict[str, str], query: Any = None) -> Answer:
            status, given, body = get_object(bucket, key, headers, query)
            wanted = headers.get("range", "")
            if status != 200 or not wanted or not self._s3._parse_range(wanted, len(body)):
                return status, given, body
            start, end = self._s3._parse_range(wanted, len(body))
            # The checksum is of the whole, and would not fit the part.
            kept = {name: text for name, text in given.items() if "checksum" not in name.lower()}
            kept["Content-Length"] = str(end + 1 - start)
            kept["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            return 206, kept, body[start : end + 1]

        self._replace(self._s3, "_get_object", part)

    def _name_unconfirmed_subscriptions(self) -> None:
        """Let SNS tell the ARN of a subscription that waits to be confirmed, where it is asked to.

        MiniStack never does, and providers, which ask, cannot find their webhook again.
        """
        subscribe = self._sns._subscribe

        def subscribed(request: dict[str, list[str]]) -> Answer:
            status, headers, body = subscribe(request)
            waits = b"<SubscriptionArn>pending confirmation<" in body
            if not waits or request.get("ReturnSubscriptionArn") != ["true"]:
                return status, headers, body
            newest = self._sns._topics.get(request["TopicArn"][0])["subscriptions"][-1]
            return status, headers, body.replace(b"pending confirmation", newest["arn"].encode())

        self._replace(self._sns, "_subscribe", subscribed)

    def _post_to_this_machine_only(self) -> None:
        """Keep SNS from webhooks elsewhere: a stack's file names real ones."""
        post = self._sns._http_post_sync

        def posted(url: str, message: str, kind: str) -> int:
            host = urlsplit(url).hostname or ""
            if not _is_loopback(host):
                raise PermissionError(f"a webhook must be on this machine, got one on {host}")
            return post(url, message, kind)

        self._replace(self._sns, "_http_post_sync", posted)

    # Answers and scope

    def answer(self, document: Record, status: int = 200) -> Answer:
        """Give the answer to a JSON call."""
        return self._responses.json_response(document, status)

    def error(self, code: str, message: str, **fields: Any) -> Answer:
        """Give the refusal of a JSON call, with whatever fields its exception has."""
        status, headers, body = self._responses.error_response_json(code, message, 400)
        return status, headers, json.dumps({**json.loads(body), **fields}).encode()

    def scope(self) -> tuple[str, str]:
        """Tell account and region of the request that is being served."""
        return self._responses.get_account_id(), self._responses.get_region()

    @contextlib.contextmanager
    def within(self, scope: tuple[str, str]) -> Generator[None]:
        """Act for this account and region, outside a request."""
        with self._responses.request_scope(*scope):
            yield

    def pass_time(self, time: timedelta) -> None:
        """Make images, objects, log lines and tasks older; ECS forgets those long stopped."""
        seconds = time.total_seconds()
        for image in itertools.chain(*self._ecr._images.values()):
            image["imagePushedAt"] -= seconds
        for bucket in self._s3._buckets.values():
            for one in bucket["objects"].values():
                one["last_modified"] = _earlier(one["last_modified"], time)
        for group in self._logs._log_groups.values():
            for stream in group["streams"].values():
                for event in stream["events"]:
                    event["timestamp"] -= int(seconds * 1000)
        forgotten = _now_less(timedelta(hours=1))
        for arn, task in list(self._ecs._tasks.items()):
            for name in [name for name in task if name.endswith("At") and task[name]]:
                task[name] = _earlier(task[name], time)
            if task["lastStatus"] == "STOPPED" and task["stoppedAt"] < forgotten:
                self.forget_task(arn)

    # EventBridge

    def post_event(self, entry: Record) -> None:
        """Put an event on the default bus as an AWS service may; PutEvents refuses `aws.*`."""
        self._events._put_events({"Entries": [entry]}, allow_aws_source=True)

    def on_target(self, hook: Callable[..., None]) -> None:
        """Hand each delivery to `hook(pass_on, target, event, rule, view)`."""
        self._replace(
            self._events, "_invoke_target", functools.partial(hook, self._events._invoke_target)
        )

    def on_lambda_target(self, hook: Callable[[str, str], None]) -> None:
        """Hand what a rule sends to a function to `hook(arn, payload)`."""
        self._replace(self._events, "_dispatch_to_lambda", hook)

    # Lambda

    def on_asynchronous_invocation(self, hook: Callable[[Record, Any], None]) -> None:
        """Hand each asynchronous invocation to `hook(function, event)`."""
        self._replace(self._lambda, "invoke_async_with_retry", hook)

    def function(self, arn: str) -> Record | None:
        """Find a function, ready to be executed."""
        found, configuration, _ = self._lambda._get_func_record_for_ref(arn)
        if not found or not configuration:
            return None
        return self._lambda._execution_record_for_config(found, configuration)

    def execute(self, function: Record, event: Any) -> Record:
        """Run a function now; the result says `error` or `throttle` where it did not end well."""
        return self._lambda._execute_function_with_config_scope(function, event)

    def send_failure(self, target: str, function: str, event: Any, result: Record) -> None:
        """Send an invocation that failed for good to its on-failure destination."""
        self._lambda._route_async_failure(target, function, event, result)

    def guard_workers(self, lifeline: Lifeline, folder: Path, aws: dict[str, str]) -> None:
        """Tie Lambda workers to the lifeline, their files to the folder, their calls to us."""

        def popen(command: list[str], **options: Any) -> subprocess.Popen[Any]:
            # The worker sets the function's own variables itself; of this machine's it needs none.
            asked: dict[str, str] = options.pop("env")
            given = {name: text for name, text in asked.items() if name.startswith(_OF_LAMBDA)}
            path = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
            env = {**path, **aws, **given, "TMPDIR": str(folder), "NO_PROXY": "127.0.0.1"}
            del options["stdin"]
            self._drop_workers(lifeline)
            # Its calls carry this in their User-Agent, so that one can be told from another.
            env["AWS_SDK_UA_APP_ID"] = name = f"worker-{next(numbers)}"
            worker = lifeline.popen(command, keep_stdin=True, env=env, **options)
            self._workers.append(worker)
            self._named[name] = given.get("AWS_LAMBDA_FUNCTION_NAME", ""), worker
            return worker

        numbers = itertools.count(1)

        self._replace(
            self._runtime, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": popen})
        )
        make = functools.partial(tempfile.mkdtemp, dir=folder)
        self._replace(self._runtime, "tempfile", SimpleNamespace(mkdtemp=make))

    def worker(self, name: str) -> tuple[str, Callable[[], None]]:
        """Find a Lambda worker by its name: its function's name, and what ends its process."""
        function, process = self._named[name]
        return function, functools.partial(kill_group, process.pid)

    def end_workers(self, lifeline: Lifeline) -> None:
        """End the warm Lambda workers, which MiniStack's own shutdown leaves running."""
        self._runtime.reset()
        for worker in tuple(self._workers):
            kill_group(worker.pid)
            worker.wait()
        self._drop_workers(lifeline)

    def _drop_workers(self, lifeline: Lifeline) -> None:
        """Let go of workers that MiniStack has ended: it keeps their pipes, and tells nobody."""
        for worker in [worker for worker in self._workers if worker.returncode is not None]:
            self._workers.remove(worker)
            lifeline.forget(worker)
            for stream in (worker.stdin, worker.stdout, worker.stderr):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()

    # ECR

    def on_put_manifest(self, hook: Callable[..., Answer]) -> None:
        """Hand manifest PUTs to `hook(pass_on, repository, reference, headers, body)`."""
        self._replace(
            self._ecr, "_v2_put_manifest", functools.partial(hook, self._ecr._v2_put_manifest)
        )

    def on_put_image(self, hook: Callable[..., Answer]) -> None:
        """Hand PutImage to `hook(pass_on, request)`."""
        self._replace(self._ecr, "_put_image", functools.partial(hook, self._ecr._put_image))

    def has_repository(self, name: str) -> bool:
        """Tell whether ECR has the repository."""
        return name in self._ecr._repositories

    def has_blob(self, repository: str, digest: str) -> bool:
        """Tell whether the blob was pushed to the repository."""
        return digest in self._ecr._layer_blobs.get(repository, {})

    def image_digest(self, repository: str, reference: str) -> str | None:
        """Tell which manifest a tag or digest leads to."""
        return self._ecr._resolve_manifest(repository, reference)[0]

    def content_digest(self, body: bytes) -> str:
        """Give the digest that the registry knows these bytes by."""
        return self._ecr._content_digest(body)

    def registry_error(self, code: str, message: str) -> Answer:
        """Give the registry API's refusal."""
        return self._ecr._registry_error(400, code, message, {})

    # ECS

    def on_ecs(self, action: str, hook: Callable[[Record], Answer]) -> None:
        """Hand an ECS action's requests to the hook."""
        self._replace_action(self._ecs, action, hook)

    def run_task(self, request: Record) -> Answer:
        """Let MiniStack register tasks; without Docker it starts nothing."""
        return self._ecs._run_task(request)

    def cluster(self, reference: str) -> Record | None:
        """Find a cluster by name or ARN."""
        return self._ecs._clusters.get(self._ecs._resolve_cluster_name(reference))

    def task_definition(self, reference: str) -> Record | None:
        """Find a task definition by family, family:revision or ARN."""
        return self._ecs._task_defs.get(self._ecs._resolve_td_key(reference))

    def task(self, reference: str, cluster: str) -> Record | None:
        """Find a task's live record by id or ARN."""
        return self._ecs._resolve_task(reference, self._ecs._resolve_cluster_name(cluster))

    def forget_task(self, arn: str) -> None:
        """Let ECS know nothing of a task any more, as an hour after its end."""
        self._ecs._tasks.pop(arn, None)

    def shown(self, record: Record) -> Record:
        """Give a record as callers may see it: no private and no empty members."""
        return self._ecs._sanitize(record)

    def count_tasks(self, cluster_arn: str) -> None:
        """Bring the cluster's counts of tasks up to date."""
        self._ecs._recount_cluster(cluster_arn.rsplit("/", 1)[1])

    def secrets(self, container: Record) -> dict[str, str]:
        """Read the secrets that a container definition names."""
        return self._ecs._resolve_container_secrets(container)

    def has_subnet(self, subnet: str) -> bool:
        """Tell whether EC2 has the subnet."""
        return subnet in self._ec2._subnets


def _earlier(time: str, by: timedelta) -> str:
    """Move a time as it is written, fractions of a second and all."""
    moved = datetime.fromisoformat(time) - by
    return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _now_less(time: timedelta) -> str:
    return _earlier(datetime.now(UTC).isoformat(), time)


def section(record: Record, name: str) -> Record:
    """Give a part of a document; empty where it is absent or null."""
    return record.get(name) or {}


def entries(record: Record, name: str) -> list[Record]:
    """Give a list in a document; empty where it is absent or null."""
    return record.get(name) or []


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _persistent(state: Path) -> dict[str, str]:
    """Return what has MiniStack begin with a folder's content, and leave its own there."""
    return {
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state / "services"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(state / "objects"),
    }


def _check(modules: dict[str, Any]) -> None:
    """Refuse a MiniStack that lacks what we hook into, before anything runs half right."""
    missing = [
        f"{name}.{symbol}"
        for name, symbols in _NEEDED.items()
        for symbol in symbols
        if not hasattr(modules[name], symbol)
    ]
    if missing:
        found = importlib.metadata.version("ministack")
        raise RuntimeError(
            f"ministack must be {EXPECTED_VERSION}, got {found}, which lacks {', '.join(missing)}; "
            f"run: python -m pip install ministack=={EXPECTED_VERSION}"
        )
