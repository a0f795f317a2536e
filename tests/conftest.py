"""Run a Pulumi program against mocks, and hand back what it registered."""

import asyncio
import json
import os
import runpy
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from hypothesis import settings
from pulumi.runtime.mocks import MockMonitor
from pulumi.runtime.stack import Stack

from localcloud.deployer import event_loops

# On a busy machine an example takes as long as it takes; pytest's own timeout ends what hangs.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

ROOT = Path(__file__).parent.parent
ACCOUNT = "123456789012"
REGION = "us-east-1"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"

LOOK_UPS = {
    "aws:index/getAvailabilityZones:getAvailabilityZones": {
        "names": ["us-east-1c", "us-east-1b", "us-east-1a"]
    },
    "aws:index/getRegion:getRegion": {"region": REGION},
    "aws:index/getPartition:getPartition": {"partition": "aws"},
    "aws:index/getCallerIdentity:getCallerIdentity": {"accountId": ACCOUNT},
    "aws:ecr/getAuthorizationToken:getAuthorizationToken": {
        "userName": "AWS",
        "password": "registry-password",
        "proxyEndpoint": f"https://{REGISTRY}",
    },
}
"""The look-ups that the design allows, each with its answer."""

ARN_RESOURCES = {
    "aws:cloudwatch/eventRule:EventRule": "events:{region}:{account}:rule/{name}",
    "aws:cloudwatch/logGroup:LogGroup": "logs:{region}:{account}:log-group:{name}",
    "aws:ecr/repository:Repository": "ecr:{region}:{account}:repository/{name}",
    "aws:ecs/cluster:Cluster": "ecs:{region}:{account}:cluster/{name}",
    "aws:ecs/taskDefinition:TaskDefinition": "ecs:{region}:{account}:task-definition/{name}:1",
    "aws:iam/openIdConnectProvider:OpenIdConnectProvider": "iam::{account}:oidc-provider/{name}",
    "aws:iam/policy:Policy": "iam::{account}:policy/{name}",
    "aws:iam/role:Role": "iam::{account}:role/{name}",
    "aws:kms/key:Key": "kms:{region}:{account}:key/{name}",
    "aws:lambda/function:Function": "lambda:{region}:{account}:function:{name}",
    "aws:s3/bucket:Bucket": "s3:::{name}",
    "aws:sns/topic:Topic": "sns:{region}:{account}:{name}",
    "aws:sqs/queue:Queue": "sqs:{region}:{account}:{name}",
    "aws:ssm/parameter:Parameter": "ssm:{region}:{account}:parameter{name}",
}
"""What follows arn:aws: in each type's ARN; a type that is not here has none to hand on."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One resource, as the engine would have been asked for it."""

    urn: str
    typ: str
    name: str
    inputs: dict[str, Any]
    """Secrets bare, as their resource gets them."""
    secrets: frozenset[str]
    """Paths of the inputs that are kept from state and console, `registry.password` say."""
    parent: str
    custom: bool
    dependencies: frozenset[str]
    refers: dict[str, frozenset[str]]
    """URNs of the resources that each input was made of."""
    outputs: dict[str, Any]
    protect: bool
    retain_on_delete: bool


@dataclass(frozen=True, kw_only=True)
class Export:
    """One stack output."""

    value: Any
    secret: bool


@dataclass
class Deployment(pulumi.runtime.Mocks):
    """The resources that one program registered, in order, and what it exported."""

    registrations: list[Registration] = field(default_factory=list)
    exports: dict[str, Export] = field(default_factory=dict)
    preview: bool = False

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        """Echo the inputs back, with what AWS would have computed, unknown in a preview."""
        if self.preview or not args.custom:
            return "", args.inputs
        physical = args.inputs.get("name") or args.inputs.get("family") or f"{args.name}-0a1b2c3"
        if args.typ == "aws:iam/openIdConnectProvider:OpenIdConnectProvider":
            physical = args.inputs["url"].removeprefix("https://")
        if args.typ == "aws:kms/key:Key":
            physical = "0123abcd"
        outputs = {"name": physical, "bucket": physical}
        if resource := ARN_RESOURCES.get(args.typ):
            known = resource.format(region=REGION, account=ACCOUNT, name=physical)
            outputs["arn"] = f"arn:aws:{known}"
        if args.typ == "aws:ecr/repository:Repository":
            outputs |= {"repositoryUrl": f"{REGISTRY}/{physical}", "registryId": ACCOUNT}
        if args.typ == "aws:sqs/queue:Queue":
            outputs["url"] = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{physical}"
        if args.typ == "aws:kms/key:Key":
            outputs["keyId"] = physical
        if args.inputs.get("vpcEndpointType") == "Gateway":
            outputs["prefixListId"] = "pl-storage"
        if args.typ == "docker:index/image:Image":
            outputs["repoDigest"] = f"{REGISTRY}/pushed@sha256:{'0' * 64}"
        return f"{args.name}-id", {**outputs, **args.inputs}

    def call(
        self, args: pulumi.runtime.MockCallArgs
    ) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Answer the look-ups that the design allows, and refuse any other."""
        if args.token not in LOOK_UPS:
            raise LookupError(f"unexpected look-up {args.token}")
        return LOOK_UPS[args.token], []

    def of_type(self, typ: str) -> list[Registration]:
        """Return the resources of a type, `aws:s3/bucket:Bucket` say."""
        return [made for made in self.registrations if made.typ == typ]

    def one(self, name: str) -> Registration:
        """Return the resource of this logical name."""
        (found,) = [made for made in self.registrations if made.name == name]
        return found

    def inputs(self, name: str) -> dict[str, Any]:
        """Return the inputs of the resource of this logical name."""
        return self.one(name).inputs

    def document(self, name: str, key: str) -> Any:
        """Return an input that holds JSON, read."""
        return json.loads(self.inputs(name)[key])

    def documents(self) -> dict[tuple[str, str], Any]:
        """Return every input that holds a JSON object or list, by resource and input, read."""
        return {
            (made.name, key): json.loads(value)
            for made in self.registrations
            for key, value in made.inputs.items()
            if isinstance(value, str) and value.startswith(("{", "["))
        }


class RecordingMonitor(MockMonitor):
    """Keeps of each request what the mocks themselves are not told."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment)
        self.deployment = deployment

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the SDK's name
        """Record a resource."""
        response = super().RegisterResource(request)
        if request.type != "pulumi:pulumi:Stack":
            secrets: set[str] = set()
            inputs = pulumi.runtime.rpc.deserialize_properties(request.object)
            self.deployment.registrations.append(
                Registration(
                    urn=response.urn,
                    typ=request.type,
                    name=request.name,
                    inputs={key: bare(value, key, secrets) for key, value in inputs.items()},
                    secrets=frozenset(secrets),
                    parent=request.parent,
                    custom=request.custom,
                    dependencies=frozenset(request.dependencies),
                    refers={
                        key: frozenset(made_of.urns)
                        for key, made_of in request.propertyDependencies.items()
                    },
                    outputs=bare(
                        pulumi.runtime.rpc.deserialize_properties(response.object), "", set()
                    ),
                    protect=request.protect,
                    retain_on_delete=request.retainOnDelete,
                )
            )
        return response


def bare(value: Any, path: str, secrets: set[str]) -> Any:
    """Return a value without the marks of secrets; add the paths of those to the set."""
    if pulumi.runtime.rpc.is_rpc_secret(value):
        secrets.add(path)
        return bare(pulumi.runtime.rpc.unwrap_rpc_secret(value), path, secrets)
    if isinstance(value, dict):
        return {key: bare(item, f"{path}.{key}", secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [bare(item, f"{path}[{at}]", secrets) for at, item in enumerate(value)]
    return value


def as_the_cli_gives(values: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as a program gets them: text as it is, the rest as JSON."""
    return {
        key if ":" in key else f"pushtrain:{key}": value
        if isinstance(value, str)
        else json.dumps(value)
        for key, value in values.items()
    }


@dataclass
class Deployer:
    """Runs programs, each on settings of its own."""

    defaults: dict[str, str]
    """Those of Pulumi.yaml; the image's context is a small folder of the tests."""
    dev: dict[str, str]
    """Those of the dev stack's file."""
    loop: asyncio.AbstractEventLoop
    """The SDK's futures belong to one; other tests may leave this thread without any."""
    latest: Deployment = field(default_factory=Deployment)

    def configure(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        stack: str = "dev",
        preview: bool = False,
    ) -> Deployment:
        """Set the defaults and these settings over them; return what will record the program."""
        self.latest = Deployment(preview=preview)
        asyncio.set_event_loop(self.loop)
        pulumi.runtime.set_all_config(self.defaults | as_the_cli_gives(settings or {}), [])
        monitor = RecordingMonitor(self.latest)
        pulumi.runtime.set_mocks(
            self.latest, project="pushtrain", stack=stack, preview=preview, monitor=monitor
        )
        return self.latest

    def __call__(
        self,
        program: Callable[[], object],
        settings: Mapping[str, Any] | None = None,
        *,
        stack: str = "dev",
        preview: bool = False,
    ) -> Deployment:
        """Run a program until every Output has settled."""
        deployment = self.configure(settings, stack=stack, preview=preview)
        root = pulumi.runtime.get_root_resource()
        assert isinstance(root, Stack)
        root.outputs.clear()

        async def exports() -> None:
            for name, value in root.outputs.items():
                output = pulumi.Output.from_input(value)
                deployment.exports[name] = Export(
                    value=await output.future(), secret=await output.is_secret()
                )

        @pulumi.runtime.test
        def until_settled() -> pulumi.Output[None]:
            program()
            return pulumi.Output.from_input(exports())

        until_settled()
        return deployment

    def whole(self, settings: Mapping[str, Any] | None = None, **options: Any) -> Deployment:
        """Run __main__.py with the dev stack's settings, and these over them."""
        return self(
            lambda: runpy.run_path(str(ROOT / "__main__.py")),
            {**self.dev, **(settings or {})},
            **options,
        )


def pytest_configure(config) -> None:
    # An Output in an f-string is an error then, not a text that says so.
    os.environ["PULUMI_ERROR_OUTPUT_STRING"] = "1"
    # The SDK's own modules say so as they load; whoever uses such a resource is told in the log.
    config.addinivalue_line(
        "filterwarnings", r"ignore:\S+ has been deprecated in favor of:DeprecationWarning"
    )


@pytest.fixture(autouse=True)
def denormals() -> Generator[None]:
    """Give this process its smallest floats back: a training flushes them to 0 for good."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def context(tmp_path_factory):
    """A folder that a trainer image could be built of."""
    folder = tmp_path_factory.mktemp("context")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY train.py /\n")
    (folder / "train.py").write_text("print('training')\n")
    return folder


@pytest.fixture(scope="session")
def deploy(context) -> Generator[Deployer]:
    project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
    stack = yaml.safe_load((ROOT / "Pulumi.dev.yaml").read_text())
    # The CLI reads a bare key as a path; one with a dot is quoted.
    defaults = {
        key.removeprefix('["').removesuffix('"]'): declared["default"]
        for key, declared in project["config"].items()
    }
    with event_loops() as loop:
        yield Deployer(
            defaults=as_the_cli_gives({**defaults, "image.context": str(context)}),
            dev=as_the_cli_gives(stack["config"]),
            loop=loop,
        )


@pytest.fixture(scope="session")
def dev(deploy) -> Deployment:
    """The whole program, as the dev stack has it."""
    return deploy.whole()
