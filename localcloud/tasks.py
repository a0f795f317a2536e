"""ECS tasks as processes of this machine: the pushed image, pulled, unpacked and started."""

import contextlib
import json
import os
import posixpath
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from components.build_context import ARCHITECTURES
from localcloud.adapter import Answer, MiniStack, Record, entries, section
from localcloud.events import EventBus
from localcloud.faults import Faults
from localcloud.lifeline import Lifeline, kill_group
from localcloud.registry import Pulled, Registry, RegistryError

PUMP_SECONDS = 0.1
_LONGEST_LINE = 262_118  # CloudWatch Logs' 256 KiB less the 26 bytes that it counts for an event
_BATCH = 1000


class _StartError(RuntimeError):
    """Why a task's container never ran, in ECS's own words."""

    def __init__(self, reason: str, *, containers: bool = True) -> None:
        super().__init__(reason)
        self.containers = containers
        """Whether ECS tells of the containers that were to be."""


@dataclass(frozen=True, kw_only=True)
class StubTask:
    """What a function that stands in for a trainer gets."""

    environment: Mapping[str, str]
    """What task definition and RunTask set; not the image's."""
    log: Callable[[str], None]
    """Writes a line to the task's log."""
    told: threading.Event
    """Set when the task is told to stop, or is gone already: nobody can kill a function."""


Stub = Callable[[StubTask], int]
"""Trains, so to speak, and gives the exit code."""


@dataclass
class _Life:
    """A task that has not stopped yet."""

    task: Record
    definition: Record
    scope: tuple[str, str]
    root: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    child: subprocess.Popen[Any] | None = None
    told: threading.Event = field(default_factory=threading.Event)
    """Set when the container has been asked to end, or was ended."""
    lost: bool = False
    """Whether the host is gone, and so what it could tell of the end."""
    killer: threading.Timer | None = None
    thread: threading.Thread | None = None

    @property
    def container(self) -> Record:
        """Its one container, as the task definition has it."""
        return self.definition["containerDefinitions"][0]

    @property
    def override(self) -> Record:
        """What RunTask changes of that container."""
        for one in entries(self.task["overrides"], "containerOverrides"):
            if one["name"] == self.container["name"]:
                return one
        return {}


@dataclass(kw_only=True, eq=False)
class Tasks:
    """Takes RunTask and StopTask where MiniStack, without Docker, would only keep a record."""

    ministack: MiniStack
    bus: EventBus
    lifeline: Lifeline
    registry: Registry
    client: Callable[[str], Any]
    """Gives a boto3 client of this cloud."""
    aws: dict[str, str]
    """How a task finds this cloud."""
    folder: Path
    """Holds the tasks' files."""
    faults: Faults
    stub: Stub | None = None
    """Called in place of pulling and starting an image."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._living = 0
        self._lives: dict[str, _Life] = {}
        self._tokens: dict[tuple[str, str], tuple[Record, list[str]]] = {}
        self._ending = False
        self.ministack.on_ecs("RunTask", self._run_task)
        self.ministack.on_ecs("StopTask", self._stop_task)

    def end(self) -> None:
        """End every task at once, without a word to anyone, and start none until `begin`."""
        with self._lock:
            self._ending = True
            lives = list(self._lives.values())
        for life in lives:
            with life.lock:
                life.told.set()
                if life.child:
                    kill_group(life.child.pid)
        for life in lives:
            if life.thread:
                life.thread.join(10)
        self._tokens.clear()

    def begin(self) -> None:
        """Start tasks again."""
        self._ending = False

    @property
    def idle(self) -> bool:
        """Whether no task lives, and the last event of each has been told."""
        with self._lock:
            return not self._living

    def living(self) -> list[str]:
        """Give the ARNs of the tasks that have not ended."""
        with self._lock:
            return list(self._lives)

    def reclaim(
        self,
        arn: str,
        code: str = "SpotInterruption",
        reason: str = "Your Spot Task was interrupted.",
    ) -> None:
        """Take a task's capacity back: SIGTERM, and SIGKILL when its stopTimeout is over."""
        self._stop(self._lives[arn], code, reason)

    def lose_host(self, arn: str, *, told: bool = True) -> None:
        """End a task with its machine; no exit code is known.

        told: whether ECS notices, and says so. Otherwise it knows nothing of the task any more.
        """
        life = self._lives[arn]
        with life.lock:
            life.lost = True
            if told:
                life.task.update(
                    desiredStatus="STOPPED",
                    stoppingAt=_now(),
                    stopCode="InfrastructureHealth",
                    stoppedReason="The underlying host of the task failed.",
                )
            life.told.set()
            if life.child:
                kill_group(life.child.pid)
        if not told and life.thread:
            life.thread.join(10)
            self.ministack.forget_task(arn)

    def kill(self, arn: str, reason: str = "") -> None:
        """SIGKILL a task's container, for this reason: OutOfMemoryError, say."""
        life = self._lives[arn]
        with life.lock:
            if reason:
                life.task["containers"][0]["reason"] = reason
            life.told.set()
            if life.child:
                kill_group(life.child.pid)

    # RunTask and StopTask

    def _run_task(self, request: Record) -> Answer:
        with self._lock:
            if self._ending:
                return self.ministack.error("ServerException", "the cloud is being emptied")
            if refused := _refusal(self.ministack, request):
                return self.ministack.error(*refused)
            cluster = request.get("cluster") or "default"
            found = self.ministack.cluster(cluster)
            token = (found or {})["clusterArn"], request.get("clientToken") or ""
            asked = {name: value for name, value in request.items() if name != "clientToken"}
            if token[1] and token in self._tokens:
                return self._repeat(asked, *self._tokens[token], cluster)
            answer = self.ministack.run_task(request)
            if answer[0] != 200:
                return answer
            arns = [task["taskArn"] for task in json.loads(answer[2])["tasks"]]
            if token[1]:
                self._tokens[token] = asked, arns
            threads = [self._begin(arn, cluster, request) for arn in arns]
            shown = self._shown(arns, cluster)
            for thread in threads:
                thread.start()
        return self.ministack.answer({"tasks": shown, "failures": []})

    def _repeat(self, asked: Record, before: Record, arns: list[str], cluster: str) -> Answer:
        """Answer a clientToken that was used before."""
        if asked == before:
            return self.ministack.answer({"tasks": self._shown(arns, cluster), "failures": []})
        return self.ministack.error(
            "ConflictException",
            "The request could not be processed because of conflict in the current state.",
            resourceIds=arns,
        )

    def _shown(self, arns: list[str], cluster: str) -> list[Record]:
        live = (self.ministack.task(arn, cluster) for arn in arns)
        return [self.ministack.shown(task) for task in live if task]

    def _begin(self, arn: str, cluster: str, request: Record) -> threading.Thread:
        """Set MiniStack's record, which it holds for running, back to its beginning."""
        task = self.ministack.task(arn, cluster) or {}
        definition = self.ministack.task_definition(request["taskDefinition"]) or {}
        task.pop("containerInstanceArn", None)  # Fargate's tasks have none
        for name in ("startedAt", "pullStartedAt", "pullStoppedAt", "stopCode", "stoppedReason"):
            task[name] = None
        task["lastStatus"] = "PROVISIONING"
        task["group"] = task["group"] or f"family:{definition['family']}"
        task["startedBy"] = task["startedBy"] or None
        task["updatedAt"] = _now()
        for container in task["containers"]:
            container.update(lastStatus="PENDING", runtimeId=None)
        root = self.folder / arn.rsplit("/", 1)[1]
        life = _Life(task, definition, self.ministack.scope(), root)
        name = f"cloud-task-{root.name[:8]}"
        life.thread = threading.Thread(target=self._live, args=(life,), name=name, daemon=True)
        self._lives[arn] = life
        self._living += 1
        return life.thread

    def _stop_task(self, request: Record) -> Answer:
        cluster = request.get("cluster") or "default"
        if self.ministack.cluster(cluster) is None:
            return self.ministack.error("ClusterNotFoundException", "Cluster not found.")
        task = self.ministack.task(request.get("task", ""), cluster)
        if task is None:
            return self.ministack.error(
                "InvalidParameterException", "The referenced task was not found."
            )
        if life := self._lives.get(task["taskArn"]):
            self._stop(life, "UserInitiated", request.get("reason") or "Task stopped by user")
        return self.ministack.answer({"task": self.ministack.shown(task)})

    def _stop(self, life: _Life, code: str, reason: str) -> None:
        with life.lock:
            if life.task["desiredStatus"] != "STOPPED":
                life.task.update(
                    desiredStatus="STOPPED",
                    stoppingAt=_now(),
                    stopCode=code,
                    stoppedReason=reason,
                )
                self._told(life)
                self._terminate(life)

    def _terminate(self, life: _Life) -> None:
        """Ask the container's first process to end, and end all of it when its time is over."""
        life.told.set()
        if life.child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(life.child.pid, signal.SIGTERM)
        timeout = life.container.get("stopTimeout") or 30
        life.killer = threading.Timer(timeout, kill_group, (life.child.pid,))
        life.killer.daemon = True
        life.killer.start()

    # A task's life

    def _live(self, life: _Life) -> None:
        try:
            self._live_and_end(life)
        finally:
            with self._lock:
                self._living -= 1

    def _live_and_end(self, life: _Life) -> None:
        with self.ministack.within(life.scope):
            try:
                self._told(life)
                stopped = self._run(life)
            except _StartError as error:
                stopped = {"stopCode": "TaskFailedToStart", "stoppedReason": str(error)}
                if not error.containers:
                    life.task["containers"] = []
            except Exception as error:  # noqa: BLE001 -- a task must end whatever happens to it
                reason = f"ResourceInitializationError: {error}"
                stopped = {"stopCode": "TaskFailedToStart", "stoppedReason": reason}
            finally:
                shutil.rmtree(life.root, ignore_errors=True)
                with self._lock:
                    self._lives.pop(life.task["taskArn"], None)
            if life.task.get("stopCode"):  # what StopTask said comes first
                stopped = {}
            if life.lost and not life.task.get("stopCode"):
                return  # nobody is left to tell
            for container in entries(life.task, "containers"):
                container["lastStatus"] = "STOPPED"
            now = _now()
            stopping = life.task["stoppingAt"] or now
            final = {"desiredStatus": "STOPPED", "stoppingAt": stopping, **stopped}
            self._move(life, "DEPROVISIONING", executionStoppedAt=now, **final)
            self._move(life, "STOPPED", stoppedAt=_now())

    def _run(self, life: _Life) -> Record:
        """Pull, start, and wait; gives why the task stopped."""
        self._move(life, "PENDING", pullStartedAt=_now())
        if fault := self.faults.start_fault():
            raise _StartError(fault[0], containers=fault[1])
        shown: Record = life.task["containers"][0]
        stub, pulled = self.stub, None
        if not stub:
            pulled = self._pull(life)
            shown["imageDigest"] = pulled.digest
        life.task["pullStoppedAt"] = _now()
        logs = self._logs(life)
        try:
            code = self._execute(life, pulled, logs) if pulled else self._play(life, logs, stub)
            if code is None:
                return {}
            if not life.lost:
                shown["exitCode"] = code
        finally:
            with life.lock:
                life.child = None
                if life.killer:
                    life.killer.cancel()
            logs.close()
        return {
            "stopCode": "EssentialContainerExited",
            "stoppedReason": "Essential container in task exited",
        }

    def _execute(self, life: _Life, pulled: Pulled, logs: "_Logs") -> int | None:
        """Run the image, and give its exit code; none if the task was stopped before."""
        with life.lock:
            if self._ending or life.task["desiredStatus"] == "STOPPED":
                return None
            child = life.child = self._start(life, pulled)
        life.task["containers"][0].update(
            lastStatus="RUNNING", runtimeId=f"{life.root.name}-{child.pid}"
        )
        self._move(life, "RUNNING", startedAt=_now())
        reader = threading.Thread(target=logs.read, args=(child,), daemon=True)
        reader.start()
        code = self.lifeline.wait(child)
        reader.join(5)
        return code

    def _play(self, life: _Life, logs: "_Logs", stub: Stub | None) -> int | None:
        """Let a function of this process stand in for the image."""
        if not stub or self._ending or life.task["desiredStatus"] == "STOPPED":
            return None
        life.task["containers"][0].update(lastStatus="RUNNING", runtimeId=life.root.name)
        self._move(life, "RUNNING", startedAt=_now())
        environment = {**_pairs(life.container), **_pairs(life.override)}
        return stub(StubTask(environment=environment, log=logs.write, told=life.told))

    def _pull(self, life: _Life) -> Pulled:
        runtime = section(life.definition, "runtimePlatform")
        platform = ARCHITECTURES[(runtime.get("cpuArchitecture") or "X86_64").lower()]
        try:
            return self.registry.pull(life.container["image"], life.root / "image", platform)
        except RegistryError as error:
            raise _StartError(f"CannotPullContainerError: {error}") from error

    def _logs(self, life: _Life) -> "_Logs":
        configuration = section(life.container, "logConfiguration")
        options = section(configuration, "options")
        if configuration.get("logDriver") != "awslogs":
            return _Logs(None, "", "")
        prefix = options.get("awslogs-stream-prefix")
        task_id = life.root.name
        stream = f"{prefix}/{life.container['name']}/{task_id}" if prefix else task_id
        group, client = options["awslogs-group"], self.client("logs")
        try:
            if options.get("awslogs-create-group") == "true":
                with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
                    client.create_log_group(logGroupName=group)
            client.create_log_stream(logGroupName=group, logStreamName=stream)
        except ClientError as error:
            raise _StartError(
                "ResourceInitializationError: failed to validate logger args: create stream has "
                f"been retried 1 times: failed to create Cloudwatch log stream: {error}"
            ) from error
        return _Logs(client, group, stream)

    def _start(self, life: _Life, pulled: Pulled) -> subprocess.Popen[Any]:
        config, container, override = pulled.config, life.container, life.override
        root = life.root / "image"
        entry = container.get("entryPoint")
        command = override.get("command") or container.get("command")
        if command is None and entry is None:  # a new entry point drops the image's command
            command = config.get("Cmd")
        entry = config.get("Entrypoint") if entry is None else entry
        given = container.get("workingDirectory") or config.get("WorkingDir") or ""
        work = root / posixpath.normpath(f"/{given}").lstrip("/")
        work.mkdir(parents=True, exist_ok=True)
        words = _command_line([*(entry or []), *(command or [])], root)
        env = self._environment(life, config, root)
        name = words[0] if words else ""
        if not ((work / name).is_file() if "/" in name else shutil.which(name, path=env["PATH"])):
            raise _StartError(
                f'CannotStartContainerError: exec: "{name}": executable file not found in $PATH'
            )
        return self.lifeline.popen(
            words, cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def _environment(self, life: _Life, config: Record, root: Path) -> dict[str, str]:
        """Give what a container would see: the platform's, image's, task's, caller's, in turn."""
        home = life.root / "home"
        home.mkdir()
        pairs: list[str] = config.get("Env") or []
        image = dict(pair.split("=", 1) for pair in pairs)
        env = {
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "TMPDIR": str(home),
            "PATH": os.environ.get("PATH", os.defpath),
            **{name: value for name, value in self.aws.items() if "KEY" not in name},
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SDK_UA_APP_ID": f"task-{life.root.name}",  # faults tell callers apart by it
            **self._credentials(life),
            **{name: _inside(value, root) for name, value in image.items()},
            **_work_folders(image, root),
            **_pairs(life.container),
            **self.ministack.secrets(life.container),
            **_pairs(life.override),
        }
        # Whatever starts `python` gets this virtual environment's.
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        return env

    def _credentials(self, life: _Life) -> dict[str, str]:
        """Give the task role's; a task without a role has none, as on AWS."""
        overrides = life.task["overrides"]
        role = overrides.get("taskRoleArn") or life.definition.get("taskRoleArn")
        if not role:
            return {}
        session = self.client("sts").assume_role(RoleArn=role, RoleSessionName=life.root.name)
        given = session["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
        }

    def _move(self, life: _Life, status: str, **fields: Any) -> None:
        with life.lock:
            life.task.update(fields, lastStatus=status)
            self._told(life)

    def _told(self, life: _Life) -> None:
        """Post the task as it is now."""
        task = life.task
        task.update(version=task["version"] + 1, updatedAt=_now())
        if self._ending:
            return
        self.ministack.count_tasks(task["clusterArn"])
        detail = self.ministack.shown(task)
        self.bus.post("aws.ecs", "ECS Task State Change", detail, (task["taskArn"],))


class _Logs:
    """Lines of a container on their way into its log stream, in order."""

    def __init__(self, client: Any, group: str, stream: str) -> None:
        self._client = client
        self._where = {"logGroupName": group, "logStreamName": stream}
        self._lines: list[Record] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="cloud-logs", daemon=True)
        self._thread.start()

    def read(self, child: subprocess.Popen[Any]) -> None:
        """Take lines until the process and all who share its output are gone."""
        if child.stdout is None:
            return
        with child.stdout as output:
            while raw := output.readline(_LONGEST_LINE):
                self.write(raw.decode("utf-8", "replace").rstrip("\r\n"))

    def write(self, text: str) -> None:
        """Take one line."""
        if text:  # CloudWatch Logs takes no empty message
            with self._lock:
                self._lines.append({"timestamp": time.time_ns() // 10**6, "message": text})

    def close(self) -> None:
        """Send what is left."""
        self._over.set()
        self._thread.join(10)

    def _pump(self) -> None:
        over = False
        while not over:
            over = self._over.wait(PUMP_SECONDS)
            with self._lock:
                lines, self._lines = self._lines, []
            for start in range(0, len(lines) if self._client else 0, _BATCH):
                batch = lines[start : start + _BATCH]
                self._client.put_log_events(**self._where, logEvents=batch)


def _refusal(ministack: MiniStack, request: Record) -> tuple[str, str] | None:  # noqa: C901, PLR0911, PLR0912 -- a table of AWS's refusals, one after another
    """Say why ECS would refuse this RunTask, as exception and message; MiniStack would take it."""
    cluster = ministack.cluster(request.get("cluster") or "default")
    if cluster is None:
        return "ClusterNotFoundException", "Cluster not found."
    definition = ministack.task_definition(request.get("taskDefinition", ""))
    if definition is None:
        return "ClientException", "TaskDefinition not found."
    if definition.get("status") != "ACTIVE":
        return "ClientException", "TaskDefinition is inactive"
    invalid = "InvalidParameterException"
    containers = [container["name"] for container in definition["containerDefinitions"]]
    if len(containers) != 1:
        return invalid, f"the embedded cloud runs one container a task, got {containers}"
    if not 1 <= request.get("count", 1) <= 10:
        return invalid, "Tasks count must be between 1 and 10."
    if not re.fullmatch(r"[A-Za-z0-9_/-]{0,128}", request.get("startedBy", "")):
        return invalid, "startedBy must be at most 128 letters, digits, hyphens, slashes and _."
    overrides = section(request, "overrides")
    if len(json.dumps(overrides, separators=(",", ":"))) > 8192:
        return invalid, "Container Overrides length must be at most 8192."
    for override in entries(overrides, "containerOverrides"):
        if (name := override.get("name")) not in containers:
            why = "is not a container in the TaskDefinition."
            return invalid, f"Override for container named {name} {why}"
    for item in entries(request, "capacityProviderStrategy"):
        if (name := item["capacityProvider"]) not in cluster.get("capacityProviders", []):
            return invalid, f"Capacity provider {name} is not associated with the cluster."
    network = section(section(request, "networkConfiguration"), "awsvpcConfiguration")
    if definition.get("networkMode") == "awsvpc" and not network:
        why = "when networkMode 'awsvpc' is specified."
        return invalid, f"Network Configuration must be provided {why}"
    subnets: list[str] = network.get("subnets") or []
    if unknown := [subnet for subnet in subnets if not ministack.has_subnet(subnet)]:
        return invalid, f"Error retrieving subnet information: {unknown} does not exist."
    return None


def _command_line(words: list[str], root: Path) -> list[str]:
    """Give the image's command as it runs here: our Python, and the image's paths in its folder."""
    if words and re.fullmatch(r"python(3(\.\d+)?)?", Path(words[0]).name):
        words = [sys.executable, *words[1:]]
    return [_inside(word, root) for word in words]


def _inside(value: str, root: Path) -> str:
    """Point absolute paths that the image brought (also several, as in PATH) into its folder."""

    def moved(part: str) -> str:
        inside = root / part.lstrip("/")
        return str(inside) if part.startswith("/") and inside.exists() else part

    return os.pathsep.join(map(moved, value.split(os.pathsep)))


def _work_folders(image: dict[str, str], root: Path) -> dict[str, str]:
    """Make the image's own home and temporary folder, which a skipped RUN would have made."""
    folders = {name: root / image[name].lstrip("/") for name in ("HOME", "TMPDIR") if name in image}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {name: str(folder) for name, folder in folders.items()}


def _pairs(container: Record) -> dict[str, str]:
    return {pair["name"]: pair["value"] for pair in entries(container, "environment")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
