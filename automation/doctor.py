"""What is missing on this machine or in this account, and the command that gets it."""

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

import boto3
import httpx
import yaml
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as AwsConnectionError,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.text import Text

from automation.aws import is_embedded

ROOT: Final = Path(__file__).parent.parent
LIMIT_SECONDS: Final = 10.0
LEAST_PYTHON: Final = (3, 11)
LEAST_PULUMI: Final = (3, 120)
"""The first that knows the `toolchain` of Pulumi.yaml: https://github.com/pulumi/pulumi/pull/16315."""
ON_DEMAND_QUOTA: Final = "L-3032A538"
SPOT_QUOTA: Final = "L-36FBB829"
ENOUGH_VCPUS: Final = 16
"""What to ask for where the quota is too small: a few runs of the default size side by side."""
ACTIONS: Final = (
    *("ec2:CreateVpc", "ec2:CreateVpcEndpoint", "ec2:CreateSecurityGroup"),
    *("ecr:CreateRepository", "ecr:GetAuthorizationToken", "ecr:PutImage"),
    *("ecs:CreateCluster", "ecs:RegisterTaskDefinition", "events:PutRule"),
    *("iam:CreateRole", "iam:PutRolePolicy", "iam:PassRole"),
    *("lambda:CreateFunction", "lambda:AddPermission", "logs:CreateLogGroup"),
    *("s3:CreateBucket", "s3:PutObject", "sns:CreateTopic", "sqs:CreateQueue"),
    "ssm:PutParameter",
)
"""One or more of each service that `pulumi up` creates something in."""
CREDENTIALS_FIX: Final = (
    "aws configure sso, or aws configure, or export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..."
)
UNREACHABLE_FIX: Final = "see AWS endpoint, then: pushtrain doctor"
NO_CREDENTIALS: Final = "could not be checked: there are no AWS credentials"

_UNREACHABLE = (AwsConnectionError, HTTPClientError)

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked for."""

    name: str
    status: Status
    found: str
    fix: str = ""
    """The command that gets it; empty where nothing is missing."""


@dataclass(frozen=True)
class _Finding:
    status: Status
    found: str
    fix: str = ""


def _new_session(profile: str | None) -> Any:
    return boto3.session.Session(profile_name=profile)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the account to look at."""

    root: Path = ROOT
    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    system: str = field(default_factory=platform.system)
    session: Callable[[str | None], Any] = _new_session
    """Makes a boto3 session of a profile; it reads this process's own variables."""
    seconds: float = LIMIT_SECONDS
    """How long a check may take; it fails after that."""


class _MissingError(Exception):
    """A program is not on PATH."""


class _Patient:
    """An environment as the checks look at it: with the eyes of one stack."""

    def __init__(self, environment: Environment, stack: str | None) -> None:
        self.environment = environment
        self.stack = stack
        self._lock = threading.Lock()

    @property
    def root(self) -> Path:
        return self.environment.root

    @property
    def patience(self) -> float:
        """How many seconds one question may take, so that its check can still say which it was."""
        return 0.8 * self.environment.seconds

    @property
    def stack_file(self) -> Path:
        return self.root / f"Pulumi.{self.stack}.yaml"

    @property
    def endpoint(self) -> str | None:
        """Where AWS is when it is not at its own addresses."""
        given = self.environment.variables.get("AWS_ENDPOINT_URL")
        return given or next(
            (each.get("sts") for each in self.setting("aws:endpoints") or ()), None
        )

    @property
    def embedded(self) -> bool:
        """Whether AWS is a process of this machine."""
        return is_embedded(self.endpoint)

    def on(self, linux: str, macos: str) -> str:
        """Choose the command of this system."""
        return macos if self.environment.system == "Darwin" else linux

    def which(self, program: str) -> str | None:
        return shutil.which(program, path=self.environment.variables.get("PATH", ""))

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Ask a program; raise _MissingError where it is not on PATH."""
        path = self.which(program)
        if path is None:
            raise _MissingError(program)
        return subprocess.run(  # noqa: S603 -- programs and arguments are those of the checks
            [path, *arguments],
            cwd=self.root,
            env={**self.environment.variables, "PULUMI_SKIP_UPDATE_CHECK": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.patience,
            check=False,
        )

    def setting(self, key: str) -> Any:
        """Give a setting of the stack, or its default; None where neither is written."""
        namespace, _, name = key.partition(":")
        given = _config(self.stack_file).get(key) if self.stack else None
        if given is not None or namespace != "pushtrain":
            return given
        declared = _config(self.root / "Pulumi.yaml")
        entry: dict[str, Any] = declared.get(name) or declared.get(f'["{name}"]') or {}
        return entry.get("default")

    @functools.cached_property
    def session(self) -> Any:
        return self.environment.session(self.setting("aws:profile"))

    @functools.cached_property
    def credentials(self) -> dict[str, str] | None:
        """Give what a client needs beyond its session, None where there are no credentials.

        Looks once: where there are none, asking EC2 for them takes seconds.
        """
        key, secret = self.setting("aws:accessKey"), self.setting("aws:secretKey")
        if key and secret:
            return {"aws_access_key_id": str(key), "aws_secret_access_key": str(secret)}
        return None if self.session.get_credentials() is None else {}

    def region(self) -> tuple[str, str]:
        """Give the region and where it is written, or two empty texts."""
        variables = self.environment.variables
        if region := self.setting("aws:region"):
            return region, self.stack_file.name
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            if region := variables.get(name):
                return region, name
        with self._lock:
            region = self.session.region_name
        return (region, "AWS configuration") if region else ("", "")

    def client(self, service: str) -> Any:
        """Give a client that gives up in time; raise NoCredentialsError before it is made."""
        region = self.region()[0] or "us-east-1"  # its absence is a check of its own
        config = Config(
            connect_timeout=self.patience / 2,
            read_timeout=self.patience / 2,
            retries={"total_max_attempts": 1},
        )
        with self._lock:  # boto3 cannot make two at once
            if self.credentials is None:
                raise NoCredentialsError
            return self.session.client(
                service,
                region_name=region,
                endpoint_url=self.endpoint,
                config=config,
                **self.credentials,
            )


def _config(file: Path) -> dict[str, Any]:
    """Read the configuration in a project's or a stack's file; empty where there is none."""
    document: object = yaml.safe_load(file.read_text()) if file.is_file() else None
    return cast("dict[str, Any]", document).get("config") or {} if document else {}


def run_checks(
    stack: str | None,
    environment: Environment | None = None,
    on_check: Callable[[Check], object] = lambda _check: None,
) -> list[Check]:
    """Look at everything at the same time; `on_check` hears of each thing as soon as it is known.

    Never raises of what it finds: that is a Check.
    """
    environment = environment or Environment()
    patient = _Patient(environment, stack)
    answers: queue.SimpleQueue[Check] = queue.SimpleQueue()
    ends = time.monotonic() + environment.seconds

    def answer(name: str, look: Callable[[_Patient], _Finding]) -> None:
        answers.put(_check(name, look, patient))

    for each in CHECKS:
        # Daemons: one that hangs must not keep the process.
        threading.Thread(target=answer, args=each, daemon=True).start()
    checks: dict[str, Check] = {}
    while len(checks) < len(CHECKS):
        try:
            check = answers.get(timeout=max(0, ends - time.monotonic()))
        except queue.Empty:
            break
        checks[check.name] = check
        on_check(check)
    for name, _ in CHECKS:
        if name not in checks:
            checks[name] = Check(name, "fail", *_no_answer(environment.seconds))
            on_check(checks[name])
    return [checks[name] for name, _ in CHECKS]


def exit_code(checks: Iterable[Check]) -> int:
    """Give what the command exits with."""
    return int(any(check.status == "fail" for check in checks))


def as_json(checks: Iterable[Check]) -> list[dict[str, str]]:
    """Give what --json prints."""
    return [asdict(check) for check in checks]


def line(check: Check) -> Text:
    """Tell of one check, with its command on a line of its own, to be copied."""
    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}[check.status]
    text = Text.assemble((f"{check.status:<5}", style), f" {check.name:<17} {check.found}")
    return text.append(f"\n      -> {check.fix}") if check.fix else text


def render(checks: Sequence[Check]) -> Text:
    """Tell of all checks, and how many fail."""
    count = sum(check.status == "fail" for check in checks)
    end = f"{count} of {len(checks)} checks fail" if count else f"{len(checks)} checks, none fails"
    return Text("\n").join([*map(line, checks), Text(end, "bold")])


def _check(name: str, look: Callable[[_Patient], _Finding], patient: _Patient) -> Check:
    try:
        finding = look(patient)
    except subprocess.TimeoutExpired as error:
        program = " ".join([Path(error.cmd[0]).name, *error.cmd[1:]])
        found, fix = _no_answer(patient.patience)
        return Check(name, "fail", f"{program}: {found}", fix)
    except NoCredentialsError:
        return Check(name, "warn", NO_CREDENTIALS, CREDENTIALS_FIX)
    except _UNREACHABLE as error:
        return Check(name, "warn", f"could not be checked: {_one_line(error)}", UNREACHABLE_FIX)
    except Exception as error:  # noqa: BLE001 -- the doctor must outlive whatever is ill
        why = _one_line(error)
        return Check(name, "fail", why, "pushtrain doctor, once what it says is mended")
    return Check(name, finding.status, finding.found, finding.fix)


def _no_answer(seconds: float) -> tuple[str, str]:
    return (
        f"no answer after {seconds:.0f} s",
        "check the network and HTTPS_PROXY, then: pushtrain doctor",
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = f"{done.stdout}\n{done.stderr}".strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {done.returncode}"


# Programs of this machine


def _python(patient: _Patient) -> _Finding:
    found = f"{platform.python_version()} at {patient.root / '.venv'}"
    version = tuple(map(int, platform.python_version_tuple()[:2]))
    if version < LEAST_PYTHON:
        fix = patient.on("sudo apt-get install python3.12 python3.12-venv", "brew install python")
        return _Finding("fail", found, f"{fix}; then make setup PYTHON=python3.12")
    return _Finding("ok", platform.python_version())


def _tool(program: str, patient: _Patient) -> _Finding:
    fix = patient.on(
        f"sudo apt-get install {program} (or dnf, pacman, apk)", "xcode-select --install"
    )
    try:
        done = patient.run(program, "--version")
    except _MissingError:
        return _Finding("fail", "not on PATH", fix)
    if done.returncode:  # macOS has stand-ins that only ask to install them
        return _Finding("fail", _last_line(done), fix)
    return _Finding("ok", done.stdout.splitlines()[0])


def _install_pulumi(patient: _Patient) -> str:
    return patient.on("curl -fsSL https://get.pulumi.com | sh", "brew install pulumi/tap/pulumi")


def _pulumi(patient: _Patient) -> _Finding:
    fix = _install_pulumi(patient)
    try:
        done = patient.run("pulumi", "version")
    except _MissingError:
        return _Finding("fail", "not on PATH", fix)
    found = re.match(r"v?(\d+)\.(\d+)\.\d+\S*", done.stdout.strip())
    if done.returncode or not found:
        return _Finding("fail", _last_line(done), fix)
    if (int(found[1]), int(found[2])) < LEAST_PULUMI:
        least = ".".join(map(str, LEAST_PULUMI))
        return _Finding("fail", f"{found[0]}, but {least} or newer is needed", fix)
    return _Finding("ok", found[0])


def _language_host(patient: _Patient) -> _Finding:
    name = "pulumi-language-python"
    pulumi = patient.which("pulumi")
    beside = Path(pulumi).resolve().parent / name if pulumi else None
    path = patient.which(name) or (str(beside) if beside and beside.is_file() else None)
    if path is None:
        fix = f"{_install_pulumi(patient)} (it comes with the Pulumi CLI)"
        return _Finding("fail", f"{name} is neither on PATH nor beside pulumi", fix)
    return _Finding("ok", path)


def _plugin(name: str, patient: _Patient) -> _Finding:
    version = importlib.metadata.version(f"pulumi-{name}")
    fix = f"pulumi plugin install resource {name} {version}"
    if path := patient.which(f"pulumi-resource-{name}"):
        return _Finding("ok", path)
    try:
        done = patient.run("pulumi", "plugin", "ls", "--json")
    except _MissingError:
        return _Finding("fail", f"{version} is not there", f"{fix} (after the Pulumi CLI)")
    if done.returncode:
        return _Finding("fail", _last_line(done), fix)
    there = [
        str(plugin.get("version"))
        for plugin in json.loads(done.stdout or "[]")
        if plugin.get("kind") == "resource" and plugin.get("name") == name
    ]
    if version in there:
        return _Finding("ok", version)
    others = f", only {', '.join(there)}" if there else ""
    no_download = patient.environment.variables.get("PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION")
    if (no_download or "").lower() in {"1", "true"}:
        return _Finding("fail", f"{version} is not there{others}, and downloads are off", fix)
    return _Finding("warn", f"{version} is not there{others}; pulumi up will download it", fix)


def _docker(patient: _Patient) -> _Finding:
    # Without an image to build, nothing of `pulumi up` needs it.
    missing: Status = "warn" if patient.setting("pushtrain:image.build") is False else "fail"
    try:
        done = patient.run("docker", "info", "--format", "{{json .}}")
    except _MissingError:
        fix = patient.on("curl -fsSL https://get.docker.com | sh", "brew install --cask docker")
        return _Finding(missing, "docker is not on PATH", fix)
    engine: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        engine = json.loads(done.stdout)
    if done.returncode or not engine.get("ServerVersion"):
        why = str((engine.get("ServerErrors") or [_last_line(done)])[0])
        fix = patient.on("sudo systemctl start docker", "open -a Docker")
        if "permission denied" in why.lower():
            fix = "sudo usermod -aG docker $USER, then log in anew"
        return _Finding(missing, why, fix)
    if ["driver-type", "io.containerd.snapshotter.v1"] in (engine.get("DriverStatus") or []):
        # https://github.com/pulumi/pulumi-docker/issues/967
        return _Finding(
            "warn",
            f"{engine['ServerVersion']} with the containerd image store, where pulumi up may not "
            "find the image that it built",
            'if so: {"features": {"containerd-snapshotter": false}} in /etc/docker/daemon.json '
            "(Docker Desktop: Settings, Docker Engine), then restart Docker",
        )
    return _Finding("ok", engine["ServerVersion"])


# This checkout


def _packages(patient: _Patient) -> _Finding:
    site = sorted((patient.root / ".venv").glob("lib/python3*/site-packages"))
    if not site:
        return _Finding("fail", f"{patient.root / '.venv'} is not there", "make setup")
    installed: dict[str, str] = {
        canonicalize_name(found.name): found.version
        for found in importlib.metadata.distributions(path=[str(site[-1])])
    }
    wanted = _pins(patient.root / "requirements.txt")
    if missing := sorted(wanted.keys() - installed):
        found = f"{len(missing)} of {len(wanted)} packages are not there, {missing[0]} say"
        return _Finding("fail", found, "make setup")
    if other := sorted(name for name in wanted if installed[name] != wanted[name]):
        name = other[0]
        found = f"{len(other)} of {len(wanted)} packages differ from requirements.txt"
        return _Finding(
            "warn", f"{found}: {name} is {installed[name]}, not {wanted[name]}", "make setup"
        )
    return _Finding("ok", f"{len(wanted)} packages as in requirements.txt")


def _pins(file: Path) -> dict[str, str]:
    """Read what a file pins for this machine."""
    pins: dict[str, str] = {}
    for text in file.read_text().splitlines():
        if text[:1].isalnum():
            requirement = Requirement(text.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate():
                name = canonicalize_name(requirement.name)
                pins[name] = str(requirement.specifier).removeprefix("==")
    return pins


def _stack_file(patient: _Patient) -> _Finding:
    if patient.stack is None:
        files = sorted(file.name for file in patient.root.glob("Pulumi.*.yaml"))
        if files:
            return _Finding("ok", ", ".join(files))
        return _Finding("warn", "no Pulumi.<stack>.yaml", "pulumi stack init dev")
    if patient.stack_file.is_file():
        return _Finding("ok", patient.stack_file.name)
    return _Finding(
        "fail",
        f"{patient.stack_file.name} is not there",
        f"cp Pulumi.dev.yaml {patient.stack_file.name} && pulumi stack init {patient.stack}",
    )


def _backend(patient: _Patient) -> _Finding:
    fix = "pulumi login, or pulumi login s3://BUCKET, or pulumi login --local"
    try:
        done = patient.run("pulumi", "whoami", "--json", "--non-interactive")
    except _MissingError:
        return _Finding("fail", "no Pulumi CLI to ask", f"{fix} (after the Pulumi CLI)")
    if done.returncode:
        return _Finding("fail", _last_line(done), fix)
    answer = json.loads(done.stdout)
    return _Finding("ok", f"{answer.get('user')} at {answer.get('url')}")


# The account


def _region(patient: _Patient) -> _Finding:
    region, where = patient.region()
    if region:
        return _Finding("ok", f"{region} ({where})")
    stack = patient.stack or "dev"
    return _Finding("fail", "not set", f"pulumi config set aws:region eu-central-1 --stack {stack}")


def _endpoint(patient: _Patient) -> _Finding:
    region = patient.region()[0] or "us-east-1"
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = patient.endpoint or f"https://sts.{region}.{domain}"
    began = time.monotonic()
    try:
        # Any answer is one; a proxy has no way to this machine's own addresses.
        httpx.get(url, timeout=patient.patience / 2, trust_env=not patient.embedded)
    except httpx.HTTPError as error:
        fix = (
            "pushtrain cloud, in another terminal (or unset AWS_ENDPOINT_URL)"
            if patient.embedded
            else f"check the network and HTTPS_PROXY: curl -sS {url}"
        )
        return _Finding("fail", f"{url}: {_one_line(error)}", fix)
    return _Finding("ok", f"{url} answers in {1000 * (time.monotonic() - began):.0f} ms")


def _credentials(patient: _Patient) -> _Finding:
    try:
        identity = patient.client("sts").get_caller_identity()
    except NoCredentialsError:
        return _Finding("fail", "none found", CREDENTIALS_FIX)
    except _UNREACHABLE as error:
        return _Finding("fail", f"could not be checked: {_one_line(error)}", UNREACHABLE_FIX)
    except (BotoCoreError, ClientError) as error:
        return _Finding("fail", _one_line(error), f"aws sso login, or {CREDENTIALS_FIX}")
    at = f" at {patient.endpoint} (AWS_ENDPOINT_URL)" if patient.endpoint else ""
    return _Finding("ok", f"{identity['Arn']}{at}")


def _permissions(patient: _Patient) -> _Finding:
    if patient.embedded:
        return _Finding("ok", "not enforced by an embedded cloud")
    try:
        arn: str = patient.client("sts").get_caller_identity()["Arn"]
        kind, _, name = arn.rpartition(":")[2].partition("/")
        if kind == "root":
            return _Finding("ok", "the account's root may do everything")
        iam = patient.client("iam")
        if kind == "assumed-role":  # what its session shows is without the role's path
            arn = iam.get_role(RoleName=name.partition("/")[0])["Role"]["Arn"]
        answer = iam.simulate_principal_policy(PolicySourceArn=arn, ActionNames=[*ACTIONS])
    except ClientError as error:
        return _Finding(
            "warn",
            f"could not be checked: {_one_line(error)}",
            "allow iam:SimulatePrincipalPolicy and iam:GetRole, or see what pulumi preview says",
        )
    results = answer["EvaluationResults"]
    denied = {
        result["EvalActionName"]: result["EvalDecision"]
        for result in results
        if result["EvalDecision"] != "allowed"
    }
    if not denied:
        return _Finding("ok", f"{len(results)} actions of pulumi up are allowed")
    # Asked for every resource; a policy for some resources, which may do, is an implicit denial.
    sure = "explicitDeny" in denied.values() or len(denied) == len(results)
    return _Finding(
        "fail" if sure else "warn",
        f"{'denied' if sure else 'not allowed on every resource'}: {', '.join(denied)}",
        f"aws iam simulate-principal-policy --policy-source-arn {arn} --action-names "
        f"{next(iter(denied))}, and ask whoever administers the account",
    )


def _quota(code: str, patient: _Patient) -> _Finding:
    if patient.embedded:
        return _Finding("ok", "not enforced by an embedded cloud")
    if code == SPOT_QUOTA and patient.setting("pushtrain:spot") is False:
        return _Finding("ok", "not used: the stack's spot is false")
    needed = int(patient.setting("pushtrain:cpu") or 2048) / 1024
    region = patient.region()[0] or "us-east-1"
    console = f"https://{region}.console.aws.amazon.com/servicequotas/home/services/fargate/quotas"
    asked = {"ServiceCode": "fargate", "QuotaCode": code}
    try:
        quotas = patient.client("service-quotas")
        try:
            value = quotas.get_service_quota(**asked)["Quota"]["Value"]
        except quotas.exceptions.NoSuchResourceException:  # nothing but the default applies
            value = quotas.get_aws_default_service_quota(**asked)["Quota"]["Value"]
    except ClientError as error:
        fix = f"allow servicequotas:GetServiceQuota, or look at {console}/{code}"
        return _Finding("warn", f"could not be checked: {_one_line(error)}", fix)
    if value < needed or value <= 0:
        return _Finding(
            "fail",
            f"{value:g} vCPU in {region}, a run of the stack needs {needed:g}",
            "aws service-quotas request-service-quota-increase --service-code fargate "
            f"--quota-code {code} --desired-value {max(ENOUGH_VCPUS, needed):g} --region {region} "
            f"({console}/{code})",
        )
    return _Finding("ok", f"{value:g} vCPU in {region}, a run needs {needed:g}")


CHECKS: Final[tuple[tuple[str, Callable[[_Patient], _Finding]], ...]] = (
    ("Python", _python),
    ("git", functools.partial(_tool, "git")),
    ("make", functools.partial(_tool, "make")),
    ("packages", _packages),
    ("Pulumi CLI", _pulumi),
    ("Pulumi language", _language_host),
    ("AWS plugin", functools.partial(_plugin, "aws")),
    ("Docker plugin", functools.partial(_plugin, "docker")),
    ("Pulumi backend", _backend),
    ("stack file", _stack_file),
    ("Docker engine", _docker),
    ("AWS region", _region),
    ("AWS endpoint", _endpoint),
    ("AWS credentials", _credentials),
    ("AWS permissions", _permissions),
    ("vCPUs on demand", functools.partial(_quota, ON_DEMAND_QUOTA)),
    ("vCPUs on Spot", functools.partial(_quota, SPOT_QUOTA)),
)
