"""Deploy, change and destroy a stack from a script, through Pulumi's Automation API.

    from automation.stacks import Stack

    stack = Stack("dev", settings={"memory": 16384, "parameters": ["epochs=20"]})
    print(stack.preview().counts)
    print(stack.up().outputs["repositoryUrl"])

Every operation needs the Pulumi CLI, and raises a StackError that says in one line what to do.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from pulumi import automation
from pulumi.automation import EngineEvent, LocalWorkspace, PulumiCommand
from pulumi.automation.errors import CommandError, StackNotFoundError, create_command_error
from pulumi.automation.events import OpType, StepEventMetadata

from automation import tasks
from automation.deployed import Deployed
from automation.errors import (
    AccessError,
    MissingCliError,
    ProjectError,
    ProtectedError,
    StackError,
    explain,
)

ROOT: Final = Path(__file__).parent.parent
NAMESPACE: Final = "pushtrain"
INSTALL_PULUMI: Final = "curl -fsSL https://get.pulumi.com | sh"

__all__ = ["Change", "Destruction", "Drift", "Preview", "Stack", "StackError", "Update"]

OnEvent = Callable[[EngineEvent], object]
Setting = str | int | bool | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Makes boto3 clients as boto3 does, with the endpoints of a stack's configuration."""

    session: Any
    endpoints: Mapping[str, str]
    """By service; they go before `endpoint`, which is for all."""
    endpoint: str | None

    def client(self, service: Any, **options: Any) -> Any:
        """Give a client of the service."""
        endpoint = self.endpoints.get(service) or self.endpoint
        return self.session.client(service, endpoint_url=endpoint, **options)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What happens, or would, to one resource."""

    urn: str
    type: str
    op: str
    """create, update, replace or delete; or the engine's own word where it is none of these."""
    properties: tuple[str, ...] = ()
    """Paths of the properties that differ."""
    forced_by: tuple[str, ...] = ()
    """Properties that force a replacement."""

    @property
    def name(self) -> str:
        """The resource's logical name."""
        return _name(self.urn)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an operation would change."""

    changes: tuple[Change, ...]
    counts: Mapping[str, int]
    """Of resources by op, the unchanged (`same`) included."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Update(Preview):
    """What an operation has changed."""

    outputs: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Destruction(Preview):
    """What `destroy` has deleted, and what it has left."""

    retained: tuple[str, ...]
    """Type and id of what stays in the account, as it was to be kept."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What is no longer as the state has it."""

    changes: tuple[Change, ...]
    images: tuple[str, ...]
    """Names with tags that the registry no longer has."""

    def __bool__(self) -> bool:
        return bool(self.changes or self.images)


class Stack:
    """One stack of a project; several may be at work at the same time, in threads of their own."""

    def __init__(  # noqa: PLR0913 - each says where or with what; all but the name have defaults
        self,
        name: str,
        *,
        project: Path | None = None,
        settings: Mapping[str, Setting] | None = None,
        backend: str | None = None,
        secrets_provider: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is asked of anybody yet.

        project: folder of Pulumi.yaml, by default this repository's. settings: written to the
        stack's file before the first operation, as `pulumi config set` would. backend: a URL as
        for `pulumi login`, by default the one logged in to. secrets_provider: for a stack that
        `up` creates. env: what the engine finds in its environment beside ours.
        """
        self.name = name
        self.project = (project or ROOT).resolve()
        self.settings = dict(settings or {})
        self.secrets_provider = secrets_provider
        self.env = dict(env or {})
        if backend:
            self.env["PULUMI_BACKEND_URL"] = backend
        self._cli: _Cli | None = None
        self._settings_written = False

    def preview(
        self,
        *,
        on_event: OnEvent | None = None,
        target: Sequence[str] = (),
        policy_packs: Sequence[Path] = (),
    ) -> Preview:
        """Tell what `up` would change.

        target: URNs to look at alone. policy_packs: folders with rules that it must keep to.
        """
        with self._operation(on_event) as (stack, watch):
            stack.preview(
                on_event=watch, target=list(target) or None, policy_packs=_as_paths(policy_packs)
            )
        return watch.preview()

    def up(
        self,
        *,
        on_event: OnEvent | None = None,
        target: Sequence[str] = (),
        policy_packs: Sequence[Path] = (),
    ) -> Update:
        """Make the stack as the program and the settings say; a new stack is created."""
        with self._operation(on_event, create=True) as (stack, watch):
            result = stack.up(
                on_event=watch, target=list(target) or None, policy_packs=_as_paths(policy_packs)
            )
        return watch.update({name: output.value for name, output in result.outputs.items()})

    def refresh(self, *, on_event: OnEvent | None = None) -> Update:
        """Take into the state what has changed behind its back."""
        with self._operation(on_event) as (stack, watch):
            stack.refresh(on_event=watch)
        return watch.update(self.outputs())

    def destroy(self, *, on_event: OnEvent | None = None) -> Destruction:
        """Delete all resources but the retained; the stack itself stays, empty.

        Raises ProtectedError before anything is touched, where a resource is protected. Running
        tasks are stopped first, and the task definitions of runs deregistered, which Pulumi does
        not know of.
        """
        resources = self.resources()
        self.refuse_protected(resources)
        if clusters := _clusters(resources):
            with self.client("ecs") as ecs:
                tasks.stop(ecs, clusters)
                tasks.deregister_definitions(ecs, self.name)
        with self._operation(on_event) as (stack, watch):
            stack.destroy(on_event=watch)
        seen = watch.preview()
        return Destruction(
            changes=seen.changes,
            counts=seen.counts,
            seconds=seen.seconds,
            retained=tuple(
                f"{item['type']} {item['id']}" for item in resources if item.get("retainOnDelete")
            ),
        )

    def create(self) -> None:
        """Make an empty stack of this name, unless there is one."""
        with self._operation(create=True):
            pass

    def running_tasks(self) -> list[tasks.Task]:
        """Give the tasks that train at this moment."""
        clusters = _clusters(self.resources())
        if not clusters:
            return []
        with self.client("ecs") as ecs:
            return tasks.running(ecs, clusters)

    def outputs(self) -> dict[str, Any]:
        """Give what the program exports; secrets in clear."""
        with self._operation() as (stack, _):
            return {name: output.value for name, output in stack.outputs().items()}

    def drift(self, *, on_event: OnEvent | None = None) -> Drift:
        """Compare the state with the account, and write neither."""
        with self._operation(on_event) as (stack, watch):
            stack.preview_refresh(on_event=watch)
        return Drift(changes=watch.preview().changes, images=self._missing_images())

    def resources(self) -> list[dict[str, Any]]:
        """Give the resources of the state, as the engine keeps them; secrets stay encrypted."""
        with self._operation() as (stack, _):
            # The SDK's own export decrypts them.
            answer = stack.workspace.pulumi_command.run(
                ["stack", "export", "--stack", self.name], str(self.project), self.env
            )
        deployment: dict[str, Any] = json.loads(answer.stdout).get("deployment") or {}
        return deployment.get("resources") or []

    def config(self) -> dict[str, str]:
        """Give the stack's configuration, namespace and all."""
        with self._operation() as (stack, _):
            return {key: value.value for key, value in stack.get_all_config().items()}

    def refuse_protected(self, resources: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Raise ProtectedError with the way out, where `destroy` would be refused."""
        known = self.resources() if resources is None else resources
        names = [_name(item["urn"]) for item in known if item.get("protect")]
        if names:
            raise ProtectedError(
                f"stack {self.name} protects {', '.join(names)}. To delete them too: pulumi config "
                f"set {NAMESPACE}:destroyable true -s {self.name} && pushtrain up -s {self.name}. "
                f"To leave them in the account: pulumi state unprotect --all -s {self.name}"
            )

    @contextlib.contextmanager
    def client(self, service: Any) -> Generator[Any]:
        """Lend a boto3 client for the stack's account and region, by its configuration."""
        try:
            with contextlib.closing(self.session().client(service)) as client:
                yield client
        except (BotoCoreError, ClientError) as error:
            raise AccessError(f"AWS cannot be asked about stack {self.name}: {error}") from error

    def deployed(self) -> Deployed:
        """Give outputs and session together: each time that the CLI is asked costs a second."""
        with self._operation() as (stack, _):
            answer = stack.workspace.pulumi_command.run(
                ["stack", "output", "--json", "--show-secrets", "--stack", self.name],
                str(self.project),
                self.env,
            )
            config = {key: value.value for key, value in stack.get_all_config().items()}
        outputs: dict[str, Any] = json.loads(answer.stdout)
        return Deployed(stack=self.name, outputs=outputs, session=self._session(config))

    def session(self) -> "Session":
        """Give what makes boto3 clients for the stack's account and region."""
        return self._session(self.config())

    def _session(self, config: Mapping[str, str]) -> "Session":
        endpoints: list[dict[str, str]] = json.loads(config.get("aws:endpoints", "[]"))
        return Session(
            session=boto3.session.Session(
                # As Pulumi's provider has it, but boto3 knows AWS_DEFAULT_REGION alone.
                region_name=config.get("aws:region")
                or {**os.environ, **self.env}.get("AWS_REGION"),
                profile_name=config.get("aws:profile") or self.env.get("AWS_PROFILE"),
                aws_access_key_id=config.get("aws:accessKey") or self.env.get("AWS_ACCESS_KEY_ID"),
                aws_secret_access_key=config.get("aws:secretKey")
                or self.env.get("AWS_SECRET_ACCESS_KEY"),
                aws_session_token=config.get("aws:token") or self.env.get("AWS_SESSION_TOKEN"),
            ),
            endpoints={name: url for each in endpoints for name, url in each.items()},
            endpoint=self.env.get("AWS_ENDPOINT_URL"),
        )

    def cancel(self) -> None:
        """Ask the operation of another thread to stop once what is in flight has ended."""
        if self._cli:
            self._cli.interrupt()

    @contextlib.contextmanager
    def _operation(
        self, on_event: OnEvent | None = None, *, create: bool = False
    ) -> "Generator[tuple[automation.Stack, _Watch]]":
        """Open the stack for one operation, and put into a line what goes wrong with it."""
        watch = _Watch(on_event)
        try:
            yield self._open(create=create), watch
        except CommandError as error:
            raise explain(self.name, str(error), watch.errors) from error

    def _open(self, *, create: bool) -> automation.Stack:
        if not (self.project / "Pulumi.yaml").is_file():
            raise ProjectError(
                f"project must be a folder with a Pulumi.yaml, got {self.project}: "
                "give the folder of your clone of pushtrain"
            )
        if not self._cli:
            self._cli = _find_cli()
        workspace = _Workspace(
            work_dir=str(self.project),
            env_vars=self.env,
            secrets_provider=self.secrets_provider,
            pulumi_command=self._cli,
        )
        try:
            stack = automation.Stack.select(self.name, workspace)
        except StackNotFoundError:
            if not create:
                raise
            stack = automation.Stack.create(self.name, workspace)
        if self.settings and not self._settings_written:
            workspace.set_all_config_json(self.name, json.dumps(_as_config(self.settings)))
            self._settings_written = True
        return stack

    def _missing_images(self) -> tuple[str, ...]:
        """Name the images that the state has and the registry has not."""
        names = [
            item["outputs"]["imageName"]
            for item in self.resources()
            if item["type"] == "docker:index/image:Image" and item.get("outputs")
        ]
        if not names:
            return ()
        with self.client("ecr") as ecr:
            return tuple(name for name in names if not _is_in_registry(ecr, name))


class _Workspace(LocalWorkspace):
    """Never selects a stack: that is written down for the whole folder, and stacks share it."""

    def create_stack(self, stack_name: str) -> None:
        provider = ["--secrets-provider", self.secrets_provider] if self.secrets_provider else []
        self._run(["stack", "init", stack_name, "--no-select", *provider])

    def select_stack(self, stack_name: str) -> None:
        self._run(["stack", "--stack", stack_name, "--show-name"])

    def _run(self, args: list[str]) -> None:
        self.pulumi_command.run(args, str(self.work_dir), self.env_vars)


class _Cli(PulumiCommand):
    """The Pulumi CLI, which Ctrl-C reaches once, through us, and which we outlive.

    In a session of its own, because a terminal sends Ctrl-C to a whole group, and the second one
    that the engine gets ends it at once, with what was in flight unrecorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._running: subprocess.Popen[str] | None = None

    def interrupt(self) -> None:
        """Have the engine end what is in flight, write its state, and stop."""
        if (running := self._running) and running.poll() is None:
            running.send_signal(signal.SIGINT)

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], Any] | None = None,
        on_error: Callable[[str], Any] | None = None,
    ) -> automation.CommandResult:
        process = subprocess.Popen(  # noqa: S603 - no shell, and the words are ours
            [self.command, "--non-interactive", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"},
            encoding="utf-8",
            start_new_session=True,
        )
        self._running = process
        said: tuple[list[str], list[str]] = ([], [])
        readers = [
            threading.Thread(target=_read, args=(stream, lines, tell))
            for stream, lines, tell in zip(
                (process.stdout, process.stderr), said, (on_output, on_error), strict=True
            )
        ]
        for reader in readers:
            reader.start()
        stopped: BaseException | None = None
        while True:
            try:
                for reader in readers:
                    reader.join()
                code = process.wait()
                break
            except (KeyboardInterrupt, SystemExit) as stop:
                stopped = stop
                self.interrupt()
        self._running = None
        if stopped:
            raise stopped
        result = automation.CommandResult("\n".join(said[0]), "\n".join(said[1]), code)
        if code:
            raise create_command_error(result)
        return result


def _read(stream: Any, lines: list[str], tell: Callable[[str], Any] | None) -> None:
    with stream:
        for line in stream:
            lines.append(line.rstrip())
            if tell:
                tell(lines[-1])


def _find_cli() -> _Cli:
    if not shutil.which("pulumi"):
        raise MissingCliError(f"there is no pulumi command on PATH; install it: {INSTALL_PULUMI}")
    try:
        return _Cli()
    except (automation.InvalidVersionError, subprocess.CalledProcessError) as error:
        raise MissingCliError(f"the pulumi command on PATH is of no use: {error}") from error


@dataclass
class _Watch:
    """Gathers from an operation's events what its result is made of."""

    on_event: OnEvent | None
    steps: dict[str, Change] = field(default_factory=dict[str, Change])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    errors: list[str] = field(default_factory=list[str])
    seconds: float = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, event: EngineEvent) -> None:
        with self._lock:  # events arrive on several threads
            self._take(event)
            if self.on_event:
                self.on_event(event)

    def _take(self, event: EngineEvent) -> None:
        if diagnostic := event.diagnostic_event:
            if diagnostic.severity == "error":
                self.errors.append(_of_resource(diagnostic.urn, diagnostic.message))
        elif violation := event.policy_event:
            if violation.enforcement_level == "mandatory":
                said = f"policy {violation.policy_name}: {violation.message}"
                self.errors.append(_of_resource(violation.resource_urn, said))
        elif step := event.resource_pre_event or event.res_outputs_event:
            self._note(step.metadata)
        elif summary := event.summary_event:
            self.counts = {str(op): count for op, count in summary.resource_changes.items()}
            self.seconds = summary.duration_seconds

    def _note(self, step: StepEventMetadata) -> None:
        op = PLAIN_OPS.get(step.op, step.op.value)
        known = self.steps.get(step.urn)
        if op in QUIET_OPS or (known and known.op == "replace"):
            return
        self.steps[step.urn] = Change(
            urn=step.urn,
            type=step.type,
            op=op,
            properties=tuple(step.detailed_diff or step.diffs or ()),
            forced_by=tuple(step.keys or ()),
        )

    def preview(self) -> Preview:
        """Give what was seen."""
        return Preview(changes=tuple(self.steps.values()), counts=self.counts, seconds=self.seconds)

    def update(self, outputs: Mapping[str, Any]) -> Update:
        """Give what was seen, and the stack's outputs."""
        return Update(
            changes=tuple(self.steps.values()),
            counts=self.counts,
            seconds=self.seconds,
            outputs=outputs,
        )


PLAIN_OPS: Final = {
    OpType.CREATE_REPLACEMENT: "replace",
    OpType.DELETE_REPLACED: "replace",
    OpType.REPLACE: "replace",
}
QUIET_OPS: Final = frozenset({"same", "refresh", "read"})


def _as_paths(folders: Sequence[Path]) -> list[str] | None:
    """Return folders as the engine finds them, whichever folder it works in."""
    return [str(folder.resolve()) for folder in folders] or None


def _as_config(settings: Mapping[str, Setting]) -> dict[str, dict[str, Any]]:
    """Return settings as `pulumi config set-all --json` takes them.

    It takes the key of an object for a path, where `notify.emails` is `emails` within `notify`,
    and any other key as it is.
    """
    config: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        namespace, _, name = key.rpartition(":")
        full = f"{namespace or NAMESPACE}:{name}"
        if isinstance(value, str):
            config[full] = {"value": value, "secret": False}
        elif isinstance(value, int):
            config[full] = {"value": json.dumps(value), "secret": False}
        else:
            items = list(value)
            path = f'{namespace or NAMESPACE}:["{name}"]'
            config[path] = {"value": json.dumps(items), "objectValue": items, "secret": False}
    return config


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]


def _of_resource(urn: str | None, message: str) -> str:
    return f"{_name(urn)}: {message}" if urn and "::pulumi:pulumi:Stack::" not in urn else message


def _clusters(resources: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        item["outputs"]["arn"]
        for item in resources
        if item["type"] == "aws:ecs/cluster:Cluster" and "arn" in item.get("outputs", {})
    ]


def _is_in_registry(ecr: Any, image: str) -> bool:
    name, _, tag = image.partition("/")[2].rpartition(":")
    try:
        found = ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": tag}])
    except (ecr.exceptions.ImageNotFoundException, ecr.exceptions.RepositoryNotFoundException):
        return False
    return bool(found["imageDetails"])
