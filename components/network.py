"""The network that tasks run in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_aws import ec2, vpc

from components import policies
from components.model_store import DATA_KEY
from components.outputs import after

CIDR_BLOCK = "10.20.0.0/16"
SUBNET_CIDR_BLOCKS = ("10.20.0.0/20", "10.20.16.0/20")
"""One for each of two zones, since a zone may run out of capacity; each holds 4091 tasks."""
HTTPS: Final = 443
PRICES: Final = Path(__file__).parent.parent / "handler" / "prices.json"


@dataclass(frozen=True, kw_only=True)
class OwnSubnets:
    """A network that the stack makes."""

    zones: tuple[str, ...]
    """Names of the availability zones to use, as many as SUBNET_CIDR_BLOCKS."""

    def __post_init__(self) -> None:
        if len(self.zones) != len(SUBNET_CIDR_BLOCKS):
            raise ValueError(
                f"zones must be {len(SUBNET_CIDR_BLOCKS)} availability zones, "
                f"got {list(self.zones)}: choose a region with at least two "
                "(pulumi config set aws:region us-east-1)"
            )


@dataclass(frozen=True, kw_only=True)
class Public(OwnSubnets):
    """Subnets without an hourly price, where a task has an address but takes no calls."""


@dataclass(frozen=True, kw_only=True)
class Private(OwnSubnets):
    """Subnets without any way to the internet, and endpoints for what a task needs of AWS."""

    repository_arn: Input[str]
    log_group_arn: Input[str]
    secret_arns: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Existing:
    """Subnets of somebody else's, who sees to their way to ECR, S3 and CloudWatch Logs."""

    vpc_id: str
    subnet_ids: tuple[str, ...]
    assign_public_ip: bool


Mode: TypeAlias = Public | Private | Existing


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    """What the network has to know of the rest."""

    bucket_arn: Input[str]
    mode: Mode
    scope: policies.AwsScope


class Network(ComponentResource):
    """Where tasks run: nothing comes in, and out goes what the mode allows."""

    subnet_ids: Sequence[Input[str]]
    security_group_id: Output[str]
    assign_public_ip: bool
    """Belongs to the shape of the network: a public subnet reaches nothing without an address."""
    idle_cost: Output[str]
    """In words, for a month in which nothing runs."""

    def __init__(self, name: str, args: NetworkArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("pushtrain:network:Network", name, None, opts)
        self._name = name
        self._args = args
        self._child = ResourceOptions(parent=self)

        match args.mode:
            case Public():
                self._make_public(args.mode)
            case Private():
                self._make_private(args.mode)
            case Existing():
                self.subnet_ids = args.mode.subnet_ids
                self.security_group_id = self._egress_only(args.mode.vpc_id).id
                self.assign_public_ip = args.mode.assign_public_ip
        endpoints = len(endpoint_policies(args.mode)) if isinstance(args.mode, Private) else 0
        self.idle_cost = Output.from_input(args.scope.region).apply(
            lambda region: idle_cost(region, endpoints)
        )
        self.register_outputs(
            {
                "idle_cost": self.idle_cost,
                "subnet_ids": self.subnet_ids,
                "security_group_id": self.security_group_id,
                "assign_public_ip": self.assign_public_ip,
            }
        )

    def _make_public(self, mode: Public) -> None:
        name, child = self._name, self._child
        own, routes = self._make_vpc("public")
        gateway = ec2.InternetGateway(
            f"{name}-gateway", vpc_id=own.id, tags={"Name": name}, opts=child
        )
        to_internet = ec2.Route(
            f"{name}-to-internet",
            route_table_id=routes.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.id,
            opts=child,
        )
        # Whoever gets a subnet's id gets it once a task in it can reach the internet.
        self.subnet_ids = [
            after(subnet, to_internet.id)
            for subnet in self._make_subnets("public", mode.zones, own, routes)
        ]
        self.security_group_id = self._egress_only(own.id).id
        self._make_storage_endpoint(own, routes)
        self.assign_public_ip = True

    def _make_private(self, mode: Private) -> None:
        name, child = self._name, self._child
        own, routes = self._make_vpc("private")
        subnets = self._make_subnets("private", mode.zones, own, routes)
        storage = self._make_storage_endpoint(own, routes)
        tasks = ec2.SecurityGroup(
            f"{name}-tasks",
            vpc_id=own.id,
            description="Training tasks: to the endpoints, nothing else, nothing in",
            tags={"Name": f"{name}-tasks"},
            opts=child,
        )
        endpoints = ec2.SecurityGroup(
            f"{name}-endpoints",
            vpc_id=own.id,
            description="Endpoints of AWS services: from training tasks, nothing out",
            tags={"Name": f"{name}-endpoints"},
            opts=child,
        )
        # Each names the other group, so they cannot be part of either.
        ways = [
            vpc.SecurityGroupEgressRule(
                f"{name}-to-endpoints",
                security_group_id=tasks.id,
                description="Registry, logs and secrets",
                referenced_security_group_id=endpoints.id,
                ip_protocol="tcp",
                from_port=HTTPS,
                to_port=HTTPS,
                opts=child,
            ),
            vpc.SecurityGroupEgressRule(
                f"{name}-to-storage",
                security_group_id=tasks.id,
                description="Data, models and layers of images in S3",
                prefix_list_id=storage.prefix_list_id,
                ip_protocol="tcp",
                from_port=HTTPS,
                to_port=HTTPS,
                opts=child,
            ),
            vpc.SecurityGroupIngressRule(
                f"{name}-from-tasks",
                security_group_id=endpoints.id,
                description="Training tasks",
                referenced_security_group_id=tasks.id,
                ip_protocol="tcp",
                from_port=HTTPS,
                to_port=HTTPS,
                opts=child,
            ),
        ]
        made = [
            ec2.VpcEndpoint(
                f"{name}-{service.replace('.', '-')}",
                vpc_id=own.id,
                service_name=Output.format(
                    "com.amazonaws.{0}.{1}", self._args.scope.region, service
                ),
                vpc_endpoint_type="Interface",
                subnet_ids=subnets,
                security_group_ids=[endpoints.id],
                # The names that everybody calls lead to it.
                private_dns_enabled=True,
                policy=Output.json_dumps(policies.through_endpoint(allowed)),
                tags={"Name": f"{name}-{service}"},
                opts=child,
            )
            for service, allowed in endpoint_policies(mode).items()
        ]
        # Whoever gets a subnet's id gets it once a task in it can reach what it needs.
        ready = [each.id for each in (storage, *ways, *made)]
        self.subnet_ids = [after(subnet, *ready) for subnet in subnets]
        self.security_group_id = tasks.id
        self.assign_public_ip = False

    def _make_vpc(self, kind: str) -> tuple[ec2.Vpc, ec2.RouteTable]:
        name, child = self._name, self._child
        own = ec2.Vpc(
            f"{name}-vpc",
            cidr_block=CIDR_BLOCK,
            enable_dns_support=True,
            enable_dns_hostnames=True,
            tags={"Name": name},
            opts=child,
        )
        routes = ec2.RouteTable(
            f"{name}-routes", vpc_id=own.id, tags={"Name": f"{name}-{kind}"}, opts=child
        )
        # AWS makes one with each network, and it lets its members reach each other. Nothing of the
        # stack is in it; what lands in it by oversight shall reach nothing.
        ec2.DefaultSecurityGroup(
            f"{name}-closed", vpc_id=own.id, tags={"Name": f"{name}-closed"}, opts=child
        )
        return own, routes

    def _make_subnets(
        self, kind: str, zones: Sequence[str], own: ec2.Vpc, routes: ec2.RouteTable
    ) -> list[Output[str]]:
        subnets: list[Output[str]] = []
        for zone, cidr_block in zip(zones, SUBNET_CIDR_BLOCKS, strict=True):
            subnet = ec2.Subnet(
                f"{self._name}-{kind}-{zone}",
                vpc_id=own.id,
                availability_zone=zone,
                cidr_block=cidr_block,
                # RunTask gives a task its address; nothing else that lands here should have one.
                map_public_ip_on_launch=False,
                tags={"Name": f"{self._name}-{kind}-{zone}"},
                opts=self._child,
            )
            association = ec2.RouteTableAssociation(
                f"{self._name}-routes-{zone}",
                subnet_id=subnet.id,
                route_table_id=routes.id,
                opts=self._child,
            )
            subnets.append(after(subnet.id, association.id))
        return subnets

    def _make_storage_endpoint(self, own: ec2.Vpc, routes: ec2.RouteTable) -> ec2.VpcEndpoint:
        scope = self._args.scope
        return ec2.VpcEndpoint(
            f"{self._name}-s3",
            vpc_id=own.id,
            service_name=Output.format("com.amazonaws.{0}.s3", scope.region),
            vpc_endpoint_type="Gateway",
            route_table_ids=[routes.id],
            policy=Output.json_dumps(
                policies.storage_endpoint(
                    self._args.bucket_arn, DATA_KEY, scope.partition, scope.region
                )
            ),
            tags={"Name": f"{self._name}-s3"},
            opts=self._child,
        )

    def _egress_only(self, vpc_id: Input[str]) -> ec2.SecurityGroup:
        name = self._name
        return ec2.SecurityGroup(
            f"{name}-egress-only",
            vpc_id=vpc_id,
            description="Training tasks: everything out, nothing in",
            egress=[
                ec2.SecurityGroupEgressArgs(
                    description="Registry, AWS, and whatever else a trainer asks",
                    protocol="-1",
                    from_port=0,
                    to_port=0,
                    cidr_blocks=["0.0.0.0/0"],
                )
            ],
            tags={"Name": f"{name}-egress-only"},
            opts=self._child,
        )


def endpoint_policies(mode: Private) -> Mapping[str, policies.Document]:
    """Return the services that a private task calls, each with what may be asked of it.

    ECR's API gives the login, its registry the image; the agent reads secrets through the task's
    network too. S3 and the services of secrets call KMS themselves, so it needs no endpoint.
    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/vpc-endpoints.html
    https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html
    """
    pull = policies.pull_image(mode.repository_arn)
    secrets = {
        service: policies.read_secrets(service, mode.secret_arns)
        for service in (policies.SECRETS_MANAGER, policies.PARAMETER_STORE)
    }
    return {
        "ecr.api": pull,
        "ecr.dkr": pull,
        "logs": policies.write_log(mode.log_group_arn),
        **{service: allowed for service, allowed in secrets.items() if allowed["Statement"]},
    }


def idle_cost(region: str, endpoints: int) -> str:
    """Say what a network with these interface endpoints costs in a month, by the price table."""
    if not endpoints:
        return "$0 a month"
    table = json.loads(PRICES.read_text(encoding="utf-8"))
    count = endpoints * len(SUBNET_CIDR_BLOCKS)
    what = f"{endpoints} interface endpoints in {len(SUBNET_CIDR_BLOCKS)} zones"
    price = table["regions"].get(region, {}).get("interface_endpoint_hour")
    if price is None:
        return f"{what}, billed by the hour; {PRICES.name} has no price of them for {region}"
    monthly = count * price["price"] * table["hours_per_month"]
    return f"${monthly:.2f} a month: {what}, ${price['price']:g} an hour each, {price['as_of']}"
