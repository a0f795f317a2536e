"""The network that tasks run in."""

from dataclasses import dataclass

import pulumi
from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_aws import ec2

from components import policies
from components.model_store import DATA_KEY

CIDR_BLOCK = "10.20.0.0/16"
SUBNET_CIDR_BLOCKS = ("10.20.0.0/20", "10.20.16.0/20")
"""One for each of two zones, since a zone may run out of capacity; each holds 4091 tasks."""


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    """What the network has to know of the rest."""

    bucket_arn: Input[str]
    zones: tuple[str, ...]
    """Names of the availability zones to use, as many as SUBNET_CIDR_BLOCKS."""
    scope: policies.AwsScope

    def __post_init__(self) -> None:
        if len(self.zones) != len(SUBNET_CIDR_BLOCKS):
            raise ValueError(
                f"zones must be {len(SUBNET_CIDR_BLOCKS)} availability zones, "
                f"got {list(self.zones)}: choose a region with at least two "
                "(pulumi config set aws:region us-east-1)"
            )


class Network(ComponentResource):
    """Public subnets without an hourly price, where a task has an address but takes no calls."""

    subnet_ids: list[Output[str]]
    security_group_id: Output[str]
    assign_public_ip: bool
    """Belongs to the shape of the network: a public subnet reaches nothing without an address."""

    def __init__(self, name: str, args: NetworkArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("pushtrain:network:Network", name, None, opts)
        child = ResourceOptions(parent=self)

        vpc = ec2.Vpc(
            f"{name}-vpc",
            cidr_block=CIDR_BLOCK,
            enable_dns_support=True,
            enable_dns_hostnames=True,
            tags={"Name": name},
            opts=child,
        )
        gateway = ec2.InternetGateway(
            f"{name}-gateway", vpc_id=vpc.id, tags={"Name": name}, opts=child
        )
        routes = ec2.RouteTable(
            f"{name}-routes", vpc_id=vpc.id, tags={"Name": f"{name}-public"}, opts=child
        )
        to_internet = ec2.Route(
            f"{name}-to-internet",
            route_table_id=routes.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.id,
            opts=child,
        )
        self.subnet_ids = []
        for zone, cidr_block in zip(args.zones, SUBNET_CIDR_BLOCKS, strict=True):
            subnet = ec2.Subnet(
                f"{name}-public-{zone}",
                vpc_id=vpc.id,
                availability_zone=zone,
                cidr_block=cidr_block,
                # RunTask gives a task its address; nothing else that lands here should have one.
                map_public_ip_on_launch=False,
                tags={"Name": f"{name}-public-{zone}"},
                opts=child,
            )
            association = ec2.RouteTableAssociation(
                f"{name}-routes-{zone}", subnet_id=subnet.id, route_table_id=routes.id, opts=child
            )
            # Whoever gets a subnet's id gets it once a task in it can reach the internet.
            self.subnet_ids.append(_after(subnet.id, association.id, to_internet.id))
        group = ec2.SecurityGroup(
            f"{name}-egress-only",
            vpc_id=vpc.id,
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
            opts=child,
        )
        # AWS makes one with each network, and it lets its members reach each other. Nothing of the
        # stack is in it; what lands in it by oversight shall reach nothing.
        ec2.DefaultSecurityGroup(
            f"{name}-closed", vpc_id=vpc.id, tags={"Name": f"{name}-closed"}, opts=child
        )
        ec2.VpcEndpoint(
            f"{name}-s3",
            vpc_id=vpc.id,
            service_name=Output.format("com.amazonaws.{0}.s3", args.scope.region),
            vpc_endpoint_type="Gateway",
            route_table_ids=[routes.id],
            policy=Output.json_dumps(
                policies.storage_endpoint(
                    args.bucket_arn, DATA_KEY, args.scope.partition, args.scope.region
                )
            ),
            tags={"Name": f"{name}-s3"},
            opts=child,
        )

        self.security_group_id = group.id
        self.assign_public_ip = True
        self.register_outputs(
            {
                "subnet_ids": self.subnet_ids,
                "security_group_id": self.security_group_id,
                "assign_public_ip": self.assign_public_ip,
            }
        )


def _after(value: Output[str], *others: Output[str]) -> Output[str]:
    """Return the value once the others exist."""
    return pulumi.Output.all(value, *others).apply(lambda known: known[0])
