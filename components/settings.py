"""The stack's settings, checked as a whole before any resource exists."""

import difflib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import pulumi

from components.build_context import ARCHITECTURES, BUILD_TAG_PREFIX

NAMESPACE: Final = "pushtrain"

FARGATE_MEMORY: Final[Mapping[int, Sequence[int]]] = MappingProxyType(
    {
        256: (512, 1024, 2048),
        512: range(1024, 4096 + 1, 1024),
        1024: range(2048, 8192 + 1, 1024),
        2048: range(4096, 16384 + 1, 1024),
        4096: range(8192, 30720 + 1, 1024),
        8192: range(16384, 61440 + 1, 4096),
        16384: range(32768, 122880 + 1, 8192),
    }
)
"""MiB of memory that Fargate allows for each number of CPU units.

https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html
"""

LOG_RETENTION_DAYS: Final = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731),
    *(1096, 1827, 2192, 2557, 2922, 3288, 3653),
)
"""What CloudWatch's PutRetentionPolicy takes. The provider would read 0 as for ever."""

TAG_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""How an image tag may begin: https://docs.docker.com/reference/cli/docker/image/tag/."""
MOST_TAG_PREFIXES: Final = 10
PARAMETER_NAME = re.compile(r"[a-z][a-z0-9_]*")
BUILD_ARGUMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MOST_RETENTION_DAYS: Final = 36500
STACK_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""A stack's name is part of task definition families, which allow no more than these."""
MOST_PORT: Final = 65535
MOST_WIRING_JSON: Final = 2048
"""Of the 4096 characters of a standard SSM parameter; what no setting decides needs about half."""
MOST_RUNS: Final = 10000
MOST_RUN_MINUTES: Final = 28 * 24 * 60
"""An image must outlive its run, and one without a tag is kept for 30 days."""
MOST_HOURS: Final = 28 * 24
"""As the longest run."""
MOST_SUBSCRIBERS: Final = 20
EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
"""What HTML takes for an address, in a domain with a dot; SNS's mail is what proves it."""
METRIC_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,63}")
GOALS: Final = ("max", "min")
BOUNDARY: Final = "permissionsBoundary"
POLICY_ARN = re.compile(r"arn:aws[a-z-]*:iam::([0-9]{12}|aws):policy/[A-Za-z0-9+=,.@_/-]{1,512}")
NETWORKS: Final = ("public", "private", "existing")
VPC_ID = re.compile(r"vpc-([0-9a-f]{8}|[0-9a-f]{17})")
SUBNET_ID = re.compile(r"subnet-([0-9a-f]{8}|[0-9a-f]{17})")
MOST_SUBNETS: Final = 16
"""https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_AwsVpcConfiguration.html"""
SECRET_NAME = re.compile(r"(?!AWS_|ECS_|PUSHTRAIN_)[A-Za-z_][A-Za-z0-9_]{0,127}")
"""An environment variable's name that is none of those that AWS and the handlers set."""
SECRET_ARN = re.compile(
    r"arn:aws[a-z-]*:(secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]{1,519}(:[^:]*:[^:]*:[^:]*)?"
    r"|ssm:[a-z0-9-]+:[0-9]{12}:parameter/[A-Za-z0-9_./-]{1,1010})"
)
"""What ECS takes in valueFrom; a secret's may end in key, version stage and version.

https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Secret.html
"""
MOST_SECRETS: Final = 50


T = TypeVar("T", int, str, bool)


class SettingsError(ValueError):
    """Everything that is wrong with the settings, at once."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One stack's settings; the fields say no defaults because Pulumi.yaml holds them."""

    stack: str
    cpu: int
    """CPU units, 1024 to a vCPU."""
    memory: int
    """MiB."""
    architecture: str
    """A key of ARCHITECTURES."""
    spot: bool
    parameters: Mapping[str, str]
    max_concurrent_runs: int
    """0: no limit."""
    max_run_minutes: int
    """0: no limit."""
    container_insights: bool
    metrics: bool
    alarms: bool
    """Those on runs are made of metrics."""
    alarms_no_model_hours: int
    dashboard: bool
    """Made of metrics too."""
    log_retention_days: int
    checkpoint_retention_days: int
    old_version_retention_days: int
    destroyable: bool
    permissions_boundary: str | None
    """ARN of a managed policy."""
    network: str
    """One of NETWORKS."""
    network_vpc_id: str
    """Empty unless the network exists; so are the subnets."""
    network_subnet_ids: tuple[str, ...]
    network_assign_public_ip: bool
    customer_key: bool
    secrets: Mapping[str, str]
    """Environment variable -> ARN; never a value."""
    data_path: Path | None
    image_build: bool
    image_context: Path
    image_args: Mapping[str, str]
    image_tag_prefixes: tuple[str, ...]
    image_registry: str
    """host:port in place of ECR's; empty for ECR's own."""
    notify_emails: tuple[str, ...]
    notify_webhooks: tuple[str, ...]
    """URLs, often with a secret in them: whoever knows one may post to it."""
    champion_metric: str
    champion_goal: str
    """One of GOALS."""

    @property
    def platform(self) -> str:
        """The platform to build images for."""
        return ARCHITECTURES[self.architecture]

    @classmethod
    def load(cls) -> Self:
        """Read the stack's configuration; raise SettingsError naming every fault and its mend."""
        reader = Reader(NAMESPACE)
        settings = cls(
            stack=pulumi.get_stack(),
            cpu=reader.value("cpu", int),
            memory=reader.value("memory", int),
            architecture=reader.value("architecture", str),
            spot=reader.value("spot", bool),
            parameters=reader.pairs("parameters", PARAMETER_NAME, "epochs=20"),
            max_concurrent_runs=reader.value("maxConcurrentRuns", int),
            max_run_minutes=reader.value("maxRunMinutes", int),
            container_insights=reader.value("containerInsights", bool),
            metrics=reader.value("metrics", bool),
            alarms=reader.value("alarms", bool),
            alarms_no_model_hours=reader.value("alarms.noModelHours", int),
            dashboard=reader.value("dashboard", bool),
            log_retention_days=reader.value("logRetentionDays", int),
            checkpoint_retention_days=reader.value("checkpointRetentionDays", int),
            old_version_retention_days=reader.value("oldVersionRetentionDays", int),
            destroyable=reader.value("destroyable", bool),
            permissions_boundary=reader.value("permissionsBoundary", str) or None,
            network=reader.value("network", str),
            network_vpc_id=reader.value("network.vpcId", str),
            network_subnet_ids=reader.strings("network.subnetIds"),
            network_assign_public_ip=reader.value("network.assignPublicIp", bool),
            customer_key=reader.value("customerKey", bool),
            secrets=read_secrets(reader),
            data_path=Path(path) if (path := reader.value("data.path", str)) else None,
            image_build=reader.value("image.build", bool),
            image_context=Path(reader.value("image.context", str)),
            image_args=reader.pairs("image.args", BUILD_ARGUMENT_NAME, "BASE=python:3.13-slim"),
            image_tag_prefixes=reader.strings("image.tagPrefixes"),
            image_registry=reader.value("image.registry", str),
            notify_emails=reader.strings("notify.emails"),
            notify_webhooks=reader.strings("notify.webhooks"),
            champion_metric=reader.value("champion.metric", str),
            champion_goal=reader.value("champion.goal", str),
        )
        reader.refuse_unknown()
        settings._check(reader.fault)
        reader.raise_faults()
        return settings

    def _check(self, fault: "Fault") -> None:
        if not STACK_NAME.fullmatch(self.stack):
            rule = "be letters, digits, hyphens and underscores (at most 100)"
            fault("the stack's name", rule, self.stack, "pulumi stack rename <name>")
        self._check_fargate(fault)
        if self.architecture not in ARCHITECTURES:
            rule = f"be one of {', '.join(ARCHITECTURES)}"
            fault("architecture", rule, self.architecture, set_to("architecture", "x86_64"))
        if self.data_path is not None and not self.data_path.is_file():
            fault("data.path", "name a file", str(self.data_path), set_to("data.path", "<file>"))
        if self.image_build and not (self.image_context / "Dockerfile").is_file():
            rule, mend = "name a folder with a Dockerfile", set_to("image.context", "trainer")
            fault("image.context", rule, str(self.image_context), mend)
        if self.image_registry and not is_loopback(self.image_registry):
            # ECR's password goes there, and over plain HTTP.
            rule = "be host:port of this machine (127.0.0.1, localhost or [::1]), or empty"
            fault("image.registry", rule, self.image_registry, set_to("image.registry", '""'))
        if self.permissions_boundary and not POLICY_ARN.fullmatch(self.permissions_boundary):
            rule, mend = "be the ARN of a managed policy, or empty", set_to(BOUNDARY, '""')
            fault(BOUNDARY, rule, self.permissions_boundary, mend)
        self._check_network(fault)
        self._check_tag_prefixes(fault)
        self._check_subscribers(fault)
        self._check_limits(fault)
        self._check_monitoring(fault)
        self._check_retention(fault)
        self._check_champion(fault)

    def _check_network(self, fault: "Fault") -> None:
        vpc, subnets, address = "network.vpcId", "network.subnetIds", "network.assignPublicIp"
        if self.network not in NETWORKS:
            rule = f"be one of {', '.join(NETWORKS)}"
            fault("network", rule, self.network, set_to("network", "public"))
            return
        if self.network != "existing":
            others: tuple[tuple[str, object], ...] = (
                (vpc, self.network_vpc_id),
                (subnets, list(self.network_subnet_ids)),
                (address, self.network_assign_public_ip),
            )
            for key, value in others:
                if value:
                    rule = f"not be set with network {self.network}, whose own it is"
                    fault(key, rule, value, f"pulumi config rm {NAMESPACE}:{key}")
            return
        if not VPC_ID.fullmatch(self.network_vpc_id):
            rule, mend = "be a VPC's id with network existing", set_to(vpc, "vpc-<id>")
            fault(vpc, rule, self.network_vpc_id, mend)
        given = self.network_subnet_ids
        example = write_list(subnets, ["subnet-<id>"])
        if not 1 <= len(given) <= MOST_SUBNETS:
            rule = f"hold 1 to {MOST_SUBNETS} subnets with network existing"
            fault(subnets, rule, list(given), example)
        for subnet in given:
            if not SUBNET_ID.fullmatch(subnet):
                fault(subnets, "hold ids of subnets", subnet, example)
            if given.count(subnet) > 1:
                fault(subnets, "name each once", subnet, "take one out of the stack file")

    def _check_limits(self, fault: "Fault") -> None:
        for key, number, most in (
            ("maxConcurrentRuns", self.max_concurrent_runs, MOST_RUNS),
            ("maxRunMinutes", self.max_run_minutes, MOST_RUN_MINUTES),
        ):
            if not 0 <= number <= most:
                fault(key, f"be between 0 (no limit) and {most}", number, set_to(key, 0))
        size = len(json.dumps([dict(self.parameters), self.image_tag_prefixes]))
        if size > MOST_WIRING_JSON:
            rule = f"be at most {MOST_WIRING_JSON} characters of JSON with image.tagPrefixes"
            fault("parameters", rule, size, "take some out of the stack file")

    def _check_monitoring(self, fault: "Fault") -> None:
        for key, wanted in (("alarms", self.alarms), ("dashboard", self.dashboard)):
            if wanted and not self.metrics:
                # Half of it would be blind, and look as if all were well.
                rule, mend = "be false without metrics, which it needs", set_to("metrics", "true")
                fault(key, rule, wanted, mend)
        key, hours = "alarms.noModelHours", self.alarms_no_model_hours
        if not 1 <= hours <= MOST_HOURS:
            fault(key, f"be between 1 and {MOST_HOURS}", hours, set_to(key, 24))

    def _check_retention(self, fault: "Fault") -> None:
        days = self.log_retention_days
        if days not in LOG_RETENTION_DAYS:
            near = min(LOG_RETENTION_DAYS, key=lambda allowed: abs(allowed - days))
            rule = f"be one of {', '.join(map(str, LOG_RETENTION_DAYS))}"
            fault("logRetentionDays", rule, days, set_to("logRetentionDays", near))
        for key, days in (
            ("checkpointRetentionDays", self.checkpoint_retention_days),
            ("oldVersionRetentionDays", self.old_version_retention_days),
        ):
            if not 1 <= days <= MOST_RETENTION_DAYS:
                rule = f"be between 1 and {MOST_RETENTION_DAYS}"
                fault(key, rule, days, set_to(key, 14))

    def _check_champion(self, fault: "Fault") -> None:
        if not METRIC_NAME.fullmatch(self.champion_metric):
            rule = f"be a metric's name like {METRIC_NAME.pattern}"
            mend = set_to("champion.metric", "accuracy")
            fault("champion.metric", rule, self.champion_metric, mend)
        if self.champion_goal not in GOALS:
            rule = f"be one of {', '.join(GOALS)}"
            fault("champion.goal", rule, self.champion_goal, set_to("champion.goal", "max"))

    def _check_fargate(self, fault: "Fault") -> None:
        if self.cpu not in FARGATE_MEMORY:
            rule = f"be one of {', '.join(map(str, FARGATE_MEMORY))}"
            fault("cpu", rule, self.cpu, set_to("cpu", 2048))
        elif self.memory not in (sizes := FARGATE_MEMORY[self.cpu]):
            steps = f" in steps of {sizes.step}" if isinstance(sizes, range) else ""
            rule = f"be {min(sizes)} to {max(sizes)}{steps} for cpu {self.cpu}"
            near = min(sizes, key=lambda size: abs(size - self.memory))
            fault("memory", rule, self.memory, set_to("memory", near))

    def _check_tag_prefixes(self, fault: "Fault") -> None:
        key, prefixes = "image.tagPrefixes", self.image_tag_prefixes
        if len(prefixes) > MOST_TAG_PREFIXES:
            rule = f"hold at most {MOST_TAG_PREFIXES} prefixes"
            fault(key, rule, len(prefixes), "take some out of the stack file")
        for prefix in prefixes:
            if not TAG_PREFIX.fullmatch(prefix):
                rule = "be what a tag may begin with: a letter, digit or _, then also . and -"
                fault(key, rule, prefix, write_list(key, [BUILD_TAG_PREFIX]))
        own = any(BUILD_TAG_PREFIX.startswith(prefix) for prefix in prefixes)
        if self.image_build and prefixes and not own:
            rule = (
                f"let the stack's own tag {BUILD_TAG_PREFIX}... through, "
                "unless image.build is false"
            )
            fault(key, rule, list(prefixes), write_list(key, [*prefixes, BUILD_TAG_PREFIX]))

    def _check_subscribers(self, fault: "Fault") -> None:
        for key, given, example in (
            ("notify.emails", self.notify_emails, "ann@example.com"),
            ("notify.webhooks", self.notify_webhooks, "https://example.com/hook"),
        ):
            if len(given) > MOST_SUBSCRIBERS:
                rule, mend = f"hold at most {MOST_SUBSCRIBERS}", "take some out of the stack file"
                fault(key, rule, len(given), mend)
            for item in given:
                # Of a URL, which may be a secret, no more than its scheme: this goes into logs.
                shown = item if key == "notify.emails" else f"{item[:8]}..."
                if key == "notify.emails" and not EMAIL.fullmatch(item):
                    fault(key, "hold e-mail addresses", item, write_list(key, [example]))
                if key == "notify.webhooks" and not is_webhook(item):
                    rule = "hold https URLs of hosts with a name"
                    fault(key, rule, shown, write_list(key, [example]))
                if given.count(item) > 1:
                    fault(key, "name each once", shown, "take one out of the stack file")


def read_secrets(reader: "Reader") -> Mapping[str, str]:
    """Read NAME=ARN items; whoever wrote a secret itself there shall not find it in a log."""
    key, secrets = "secrets", dict[str, str]()
    example = write_list(key, ["TOKEN=arn:aws:secretsmanager:..."])
    items = reader.strings(key)
    if len(items) > MOST_SECRETS:
        mend = "take some out of the stack file"
        reader.fault(key, f"hold at most {MOST_SECRETS}", len(items), mend)
    for at, item in enumerate(items):
        name, _, arn = item.partition("=")
        if not SECRET_NAME.fullmatch(name):
            rule = "hold NAME=ARN items with NAME an environment variable's, not AWS_, ECS_ or "
            reader.fault(key, f"{rule}PUSHTRAIN_...", f"item {at + 1}", example)
        elif not SECRET_ARN.fullmatch(arn):
            rule = "hold NAME=ARN items with the ARN of a Secrets Manager secret or SSM parameter"
            reader.fault(key, rule, f"{name}=...", example)
        elif name in secrets:
            mend = "take one out of the stack file"
            reader.fault(key, f"name {name} once", f"{name}=...", mend)
        secrets[name] = arn
    return MappingProxyType(secrets)


def is_webhook(url: str) -> bool:
    """Tell whether SNS could post to a URL over TLS."""
    if not re.fullmatch(r"[!-~]{1,2000}", url):
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    host = re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", parts.hostname or "")
    return parts.scheme == "https" and host is not None and port != 0 and not parts.fragment


def is_loopback(registry: str) -> bool:
    """Tell whether a registry's host:port can only be this machine."""
    host, _, port = registry.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= MOST_PORT:
        return False
    if host == "localhost":
        return True
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    # An IPv6 address stands in brackets, or its last part would be read as the port.
    return address.is_loopback and (address.version == 6) == (bare != host)


Fault: TypeAlias = Callable[[str, str, object, str], None]
"""Takes a key, the rule it breaks, its value, and the mend."""


def set_to(key: str, value: object, namespace: str = NAMESPACE) -> str:
    """Return the command that mends a setting."""
    return f"pulumi config set {namespace}:{key} {value}"


def write_list(key: str, items: Sequence[str], namespace: str = NAMESPACE) -> str:
    """Return the line that mends a list, which `pulumi config set` sets one item at a time only."""
    return f"write {namespace}:{key}: {json.dumps(items)} into the stack file"


class Reader:
    """Reads values of one type each, and gathers what is wrong instead of stopping at the first."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.config = pulumi.Config(namespace)
        self.known: set[str] = set()
        self.faults: dict[str, str] = {}

    def fault(self, key: str, rule: str, value: object, mend: str) -> None:
        """Note what is wrong with a setting, unless something is noted of it already."""
        self.faults.setdefault(key, f"{key} must {rule}, got {value!r}: {mend}")

    def raise_faults(self) -> None:
        """Raise SettingsError with everything noted, if anything is."""
        if self.faults:
            raise SettingsError(
                f"{len(self.faults)} setting(s) of this stack cannot be used:\n  - "
                + "\n  - ".join(self.faults.values())
            )

    def set_to(self, key: str, value: object) -> str:
        """Return the command that mends a setting."""
        return set_to(key, value, self.namespace)

    def write_list(self, key: str, items: Sequence[str]) -> str:
        """Return the line that mends a list."""
        return write_list(key, items, self.namespace)

    def given_as(self, key: str) -> str:
        """Return the key that holds a setting's value.

        Pulumi.yaml declares a key with a dot as a path, ["a.b"], since the CLI would read a.b as b
        within a. Tools that take the file at its word hand the path over as the key.
        """
        path = f'["{key}"]'
        return path if self.config.get(key) is None and self.config.get(path) is not None else key

    def value(self, key: str, kind: type[T]) -> T:
        """Read a value of this type; note a fault and return the type's zero where it is none."""
        self.known.add(key)
        get, rule, example = {
            int: (self.config.get_int, "be a whole number", "<number>"),
            str: (self.config.get, "be text", "<text>"),
            bool: (self.config.get_bool, "be true or false", "true"),
        }[kind]
        try:
            value = get(self.given_as(key))
        except pulumi.ConfigTypeError:
            value = None
            self.fault(key, rule, self.config.get(self.given_as(key)), self.set_to(key, example))
        if value is None:
            self.fault(key, "be set", None, self.set_to(key, example))
            return kind()
        return cast("T", value)

    def strings(self, key: str) -> tuple[str, ...]:
        """Read a list of strings."""
        self.known.add(key)
        try:
            found = self.config.get_object(self.given_as(key), [])
            value = cast("list[object] | str | None", found)
        except pulumi.ConfigTypeError:
            value = self.config.get(self.given_as(key))
        items = value if isinstance(value, list) else [None]
        strings = [item for item in items if isinstance(item, str)]
        if len(strings) < len(items):
            self.fault(key, "be a list of strings", value, self.write_list(key, ["..."]))
        return tuple(strings)

    def pairs(self, key: str, name_form: re.Pattern[str], example: str) -> Mapping[str, str]:
        """Read a list of NAME=VALUE strings."""
        pairs: dict[str, str] = {}
        for item in self.strings(key):
            name, equals, value = item.partition("=")
            if not equals or not name_form.fullmatch(name):
                rule = f"hold NAME=VALUE items with NAME like {name_form.pattern}"
                self.fault(key, rule, item, self.write_list(key, [example]))
            elif name in pairs:
                self.fault(key, f"name {name} once", item, "take one out of the stack file")
            pairs[name] = value
        return MappingProxyType(pairs)

    def refuse_unknown(self) -> None:
        """Refuse a key that nobody reads: a misspelt setting would silently keep its default."""
        # The SDK offers no way to list a namespace; these two are what its own get() reads.
        given = {**pulumi.runtime.config.CONFIG.get(), **pulumi.runtime.config.get_config_env()}
        for full in sorted(given):
            key = full.removeprefix(f"{self.namespace}:")
            name = key.removeprefix('["').removesuffix('"]')
            if key != full and name not in self.known:
                near = difflib.get_close_matches(key, self.known, n=1)
                hint = f" ({near[0]}?)" if near else ""
                rule = f"be a setting that Pulumi.yaml knows{hint}"
                self.fault(key, rule, given[full], f"pulumi config rm {full}")
