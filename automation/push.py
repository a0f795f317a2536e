"""Build a trainer image, push it, and tell which run it is; the infrastructure stays as it is."""

import base64
import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import boto3

from automation.aws import is_loopback, one_line, told_as
from automation.errors import StackError
from components.build_context import ARCHITECTURES, BUILD_TAG_PREFIX, content_tag, context_files

COMMIT_DIGITS: Final = 12
RUN_DIGITS: Final = 12
ENGINE_SECONDS: Final = 10
"""How long a Docker engine may take to say that it is there."""
LAST_LINES: Final = 3
"""Of a failed command's output, in its error."""

OnLine = Callable[[str], object]


class PushError(StackError):
    """The image is not in the repository; the text says in one line why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """What a push would build, for whoever builds with means of their own."""

    image: str
    """Registry, repository and tag."""
    tag: str
    platform: str
    context: str
    build_args: Mapping[str, str]
    digest: str | None
    """Of the image that has this tag already; None where it is to be built."""

    def as_json(self) -> dict[str, Any]:
        """Give what a script needs; the run once there is a digest that names it."""
        return {
            "image": self.image,
            "tag": self.tag,
            "platform": self.platform,
            "context": self.context,
            "build_args": [f"{name}={value}" for name, value in self.build_args.items()],
            "digest": self.digest,
            "run": run_name(self.digest) if self.digest else None,
        }


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """The image in the repository, and the run that it stands for."""

    tag: str
    digest: str
    run: str
    pushed: bool
    """False where the repository had the tag already."""
    state: str | None
    """The run's, from its record; None while there is none, which is so just after a push."""
    accuracy: float | None
    """Of the model, a fraction of the test set; None before there is one."""

    def as_json(self) -> dict[str, Any]:
        """Give what a script needs."""
        fields = ("tag", "digest", "run", "pushed", "state", "accuracy")
        return {name: getattr(self, name) for name in fields}

    def lines(self) -> list[str]:
        """Tell a person what happened."""
        what = "pushed" if self.pushed else "already there"
        state = self.state or ("not claimed yet" if self.pushed else "no record")
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.1%}"
        return [
            f"{what}: {self.tag} is {self.digest}",
            f"run {self.run}: {state}{accuracy}",
        ]


def plan(
    context: Path,
    *,
    outputs: Mapping[str, Any],
    session: Any = None,
    dirty: bool = False,
    build_args: Mapping[str, str] = MappingProxyType({}),
) -> PushPlan:
    """Tell what `push` would build and under which name, without an engine and without a push."""
    context = _with_dockerfile(context)
    with told_as(PushError):
        return _plan(_Stack(outputs, session), context, build_args, dirty=dirty)


def push(  # noqa: PLR0913 -- each is one thing that a caller decides
    context: Path,
    *,
    outputs: Mapping[str, Any],
    session: Any = None,
    dirty: bool = False,
    build_args: Mapping[str, str] = MappingProxyType({}),
    on_line: OnLine = lambda _line: None,
) -> PushResult:
    """Push the context's image as `g-<commit>` unless the repository has that tag already.

    `outputs` and `session` are those of a stack. `dirty` takes a context that differs from its
    commit, and says so in the tag. `on_line` is told each line of progress. Raises PushError.
    """
    context = _with_dockerfile(context)
    with told_as(PushError):
        stack = _Stack(outputs, session)
        planned = _plan(stack, context, build_args, dirty=dirty)
        digest = planned.digest
        pushed = digest is None
        if digest is None:
            digest, pushed = _deliver(stack, planned, on_line)
        record = stack.record(digest)
    run = run_name(digest)
    return PushResult(
        tag=planned.tag,
        digest=digest,
        run=run,
        pushed=pushed,
        state=record.get("state"),
        accuracy=record.get("metrics", {}).get("accuracy"),
    )


def run_name(digest: str) -> str:
    """Name the run that a push of this digest claims."""
    return digest.removeprefix("sha256:")[:RUN_DIGITS]


def image_tag(commit: str, content: str | None = None) -> str:
    """Name an image by its commit, or by its commit and the content that differs from it."""
    return f"g-{commit}" if content is None else f"g-{commit}-dirty-{content}"


@dataclass
class _Stack:
    """What the outputs of a stack lead to."""

    outputs: Mapping[str, Any]
    session: Any = None
    """None for a new one."""

    def __post_init__(self) -> None:
        self.session = self.session or boto3.session.Session()
        needed = ("bucket", "cluster", "logGroup", "repositoryUrl", "wiringParameter")
        if missing := [name for name in needed if not isinstance(self.outputs.get(name), str)]:
            raise PushError(
                f"the stack's outputs must have {', '.join(missing)}, got none: run pushtrain up"
            )
        url: str = self.outputs["repositoryUrl"]
        self.registry, slash, self.repository = url.partition("/")
        arn: list[str] = self.outputs["cluster"].split(":")
        if not slash or len(arn) < 6:
            raise PushError(
                "the stack's outputs must hold a repository's URL and a cluster's ARN, got "
                f"{url} and {self.outputs['cluster']}: run pushtrain up"
            )
        self.region = arn[3]

    @functools.cached_property
    def ecr(self) -> Any:
        """The client of the registry's service."""
        return self._client("ecr")

    @functools.cached_property
    def embedded(self) -> str | None:
        """Host and port of an embedded cloud, None on AWS."""
        endpoint = urlsplit(str(self.ecr.meta.endpoint_url))
        # An engine needs no certificate for 127.0.0.1, whatever else leads there.
        return f"127.0.0.1:{endpoint.port}" if is_loopback(endpoint.hostname) else None

    @property
    def host(self) -> str:
        """Where images are pushed."""
        return self.embedded or self.registry

    def image(self, tag: str) -> str:
        """Name an image as Docker pushes it."""
        return f"{self.host}/{self.repository}:{tag}"

    def platform(self) -> str:
        """Tell the platform that the stack's tasks run on."""
        name = self.outputs["wiringParameter"]
        text = self._client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
        try:
            template = json.loads(text)["template"]
        except (ValueError, TypeError, KeyError) as error:
            raise PushError(
                f"{name} must hold a JSON object with a template, got {text[:80]!r}: "
                "run pushtrain up"
            ) from error
        answer = self._client("ecs").describe_task_definition(taskDefinition=template)
        platform = answer["taskDefinition"].get("runtimePlatform", {})
        # Fargate's own default, for templates that say nothing.
        architecture = platform.get("cpuArchitecture", "X86_64").lower()
        if architecture not in ARCHITECTURES:
            raise PushError(
                f"architecture of {template} must be one of {', '.join(ARCHITECTURES)}, "
                f"got {architecture}: run pushtrain up"
            )
        return ARCHITECTURES[architecture]

    def digest(self, tag: str) -> str | None:
        """Tell what a tag leads to, None where the repository does not have it."""
        try:
            answer = self.ecr.describe_images(
                repositoryName=self.repository, imageIds=[{"imageTag": tag}]
            )
        except self.ecr.exceptions.ImageNotFoundException:
            return None
        images = answer["imageDetails"]
        return images[0]["imageDigest"] if images else None

    def credentials(self) -> tuple[str, str]:
        """Give user and password of the registry, good for 12 hours."""
        (answer,) = self.ecr.get_authorization_token()["authorizationData"]
        user, _, password = base64.b64decode(answer["authorizationToken"]).decode().partition(":")
        return user, password

    def record(self, digest: str) -> dict[str, Any]:
        """Give the record of the image's run, empty while there is none."""
        s3 = self._client("s3")
        try:
            answer = s3.get_object(
                Bucket=self.outputs["bucket"], Key=f"runs/{run_name(digest)}/run.json"
            )
        except s3.exceptions.NoSuchKey:
            return {}
        record = json.loads(answer["Body"].read())
        # Two digests may share the 12 digits; only the first of them has a run.
        return record if record["image"]["digest"] == digest else {}

    def _client(self, service: str) -> Any:
        return self.session.client(service, region_name=self.region)


def _with_dockerfile(context: Path) -> Path:
    context = context.resolve()
    if not (context / "Dockerfile").is_file():
        raise PushError(f"context must be a folder with a Dockerfile, got {context}")
    return context


def _plan(stack: _Stack, context: Path, build_args: Mapping[str, str], *, dirty: bool) -> PushPlan:
    platform = stack.platform()
    tag = _tag(context, build_args, platform, dirty=dirty)
    return PushPlan(
        image=stack.image(tag),
        tag=tag,
        platform=platform,
        context=str(context),
        build_args=build_args,
        digest=stack.digest(tag),
    )


def _tag(context: Path, build_args: Mapping[str, str], platform: str, *, dirty: bool) -> str:
    """Name the image that the context would be built to now."""
    commit = _git(context, "rev-parse", f"--short={COMMIT_DIGITS}", "HEAD").strip()
    changed = _changed_files(context)
    if not changed:
        return image_tag(commit)
    if not dirty:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise PushError(
            f"{context} must be as commit {commit} has it, got changes in {changed[0]}{more}: "
            "commit them, keep them out with .dockerignore, or push with --dirty"
        )
    content = content_tag(context, build_args, platform).removeprefix(BUILD_TAG_PREFIX)
    return image_tag(commit, content)


def _changed_files(context: Path) -> list[str]:
    """List what makes the image differ from the one of the commit.

    That is also a file that git ignores, if Docker does not.
    """
    # Like Dockerfile and .dockerignore, it shapes the image; but it may keep itself out.
    sent = {name for name, _ in context_files(context)} | {"Dockerfile.dockerignore"}
    changed = _git(context, "diff", "--name-only", "--relative", "-z", "HEAD", "--", ".")
    unknown = _git(context, "ls-files", "--others", "-z", "--", ".")
    return sorted(
        {name for name in changed.split("\0") if name}
        | {name for name in unknown.split("\0") if name in sent}
    )


def _git(context: Path, *arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        raise PushError("git must be on PATH, since an image is named by its commit: install git")
    done = subprocess.run(  # noqa: S603 -- arguments are the ones above, no shell
        [git, *arguments], cwd=context, capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise PushError(
            f"{context} must be in a git repository with a commit, got: {why}: "
            "git init, git add and git commit"
        )
    return done.stdout


def _deliver(stack: _Stack, planned: PushPlan, on_line: OnLine) -> tuple[str, bool]:
    """Build and push; give the digest, and whether it was this push that brought it."""
    why_not = _missing_engine()
    if why_not and not stack.embedded:
        raise PushError(
            f"a Docker engine must be running to build the image, got none ({why_not}): start "
            "Docker, or let CI push; pushtrain doctor tells how to get one"
        )
    try:
        if why_not:
            _push_without_engine(stack, planned, on_line, why_not)
        else:
            _push_with_engine(stack, planned, on_line)
    except PushError:
        # Whoever else pushed this commit meanwhile: where tags are immutable, ours is refused.
        if digest := stack.digest(planned.tag):
            return digest, False
        raise
    digest = stack.digest(planned.tag)
    if digest is None:
        raise PushError(
            f"{stack.outputs['repositoryUrl']} must have {planned.tag} after its push, got no such "
            "tag: is the stack's region the registry's?"
        )
    return digest, True


def _missing_engine() -> str:
    """Tell why there is no Docker engine; nothing where there is one."""
    docker = shutil.which("docker")
    if docker is None:
        return "docker is not on PATH"
    command = [docker, "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(  # noqa: S603 -- a fixed command
            command, capture_output=True, text=True, timeout=ENGINE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {ENGINE_SECONDS} s"
    return (done.stderr.strip().splitlines() or ["no answer"])[-1] if done.returncode else ""


def _push_without_engine(stack: _Stack, planned: PushPlan, on_line: OnLine, why: str) -> None:
    """Push to an embedded cloud what the Dockerfile copies and sets: it runs no more than that."""
    # A second, for those without Docker.
    from localcloud.image import ImageError, build  # noqa: PLC0415
    from localcloud.registry import Registry, RegistryError  # noqa: PLC0415

    on_line(f"no Docker engine ({why}): the image is what the Dockerfile copies and sets")
    try:
        image = build(
            Path(planned.context), build_args=planned.build_args, platform=planned.platform
        )
        for note in image.notes:
            on_line(note)
        with Registry(stack.host) as registry:
            registry.push(image, stack.repository, planned.tag)
    except (ImageError, RegistryError) as error:
        raise PushError(one_line(error)) from error


def _push_with_engine(stack: _Stack, planned: PushPlan, on_line: OnLine) -> None:
    name = planned.image
    arguments = [f"--build-arg={key}={value}" for key, value in planned.build_args.items()]
    _docker(
        ["build", f"--platform={planned.platform}", *arguments, f"--tag={name}", planned.context],
        on_line,
        # buildx would push an index with an attestation, of another digest at each build; the
        # classic builder has no flag against that, and no need of one.
        environment={"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"},
    )
    user, password = stack.credentials()
    with _docker_configuration() as folder:
        environment = {"DOCKER_CONFIG": str(folder)}
        _docker(
            ["login", f"--username={user}", "--password-stdin", stack.host],
            lambda _line: None,  # a warning about where the password is kept, and it is not kept
            environment,
            password,
        )
        _docker(["push", name], on_line, environment)


@contextlib.contextmanager
def _docker_configuration() -> Generator[Path]:
    """Lend the user's configuration of Docker for a login that leaves nothing behind.

    It also works beside ECR's credential helper, which refuses a login.
    """
    own = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    with tempfile.TemporaryDirectory(prefix="pushtrain-docker-") as temporary:
        folder = Path(temporary)
        settings: dict[str, Any] = {}
        for entry in own.iterdir() if own.is_dir() else ():
            if entry.name == "config.json":
                with contextlib.suppress(ValueError):  # Docker itself warns of such a file
                    settings = json.loads(entry.read_text())
            else:  # contexts, which say where the engine is, and certificates
                (folder / entry.name).symlink_to(entry.absolute())
        for key in ("auths", "credHelpers", "credsStore"):
            settings.pop(key, None)
        (folder / "config.json").write_text(json.dumps(settings))
        yield folder


def _docker(
    arguments: Sequence[str],
    on_line: OnLine,
    environment: Mapping[str, str] = MappingProxyType({}),
    given: str = "",
) -> None:
    """Run docker, and tell its lines as they come."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(  # noqa: S603 -- no shell
        [shutil.which("docker") or "docker", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("a process with pipes must have them")
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended before it read; its code tells
                child.stdin.write(given)
                child.stdin.close()
            for line in child.stdout:
                if text := line.rstrip():
                    last.append(text)
                    on_line(text)
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        raise PushError(
            f"docker {arguments[0]} must end well, got exit code {child.returncode}: "
            + " | ".join(last)
        )
