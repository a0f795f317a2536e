"""The network: a way out, no way in, and nothing that bills by the hour."""

import json
import re

import pytest

from components.network import Existing, Network, NetworkArgs, Private, Public, idle_cost
from components.policies import AwsScope, task_execution

SCOPE = AwsScope(partition="aws", region="us-east-1", account="123456789012")


def network_args(zones=("us-east-1a", "us-east-1b")):
    return NetworkArgs(bucket_arn="arn:aws:s3:::models", mode=Public(zones=zones), scope=SCOPE)


@pytest.fixture
def made(deploy):
    return deploy(lambda: Network("network", network_args()))


def test_subnets_lie_in_two_zones_and_do_not_overlap(made):
    subnets = made.of_type("aws:ec2/subnet:Subnet")

    assert {
        subnet.inputs["availabilityZone"]: subnet.inputs["cidrBlock"] for subnet in subnets
    } == {
        "us-east-1a": "10.20.0.0/20",
        "us-east-1b": "10.20.16.0/20",
    }
    assert {subnet.inputs["vpcId"] for subnet in subnets} == {"network-vpc-id"}


def test_zones_are_the_first_two_by_name_whatever_order_aws_lists_them_in(dev):
    zones = [made.inputs["availabilityZone"] for made in dev.of_type("aws:ec2/subnet:Subnet")]

    assert sorted(zones) == ["us-east-1a", "us-east-1b"]


@pytest.mark.parametrize("zones", [(), ("us-west-1a",), ("a", "b", "c")])
def test_other_than_two_zones_are_refused(zones):
    with pytest.raises(ValueError, match=r"zones must be 2 availability zones, got .*us-east-1"):
        network_args(zones)


def test_every_subnet_reaches_the_internet(made):
    route = made.inputs("network-to-internet")
    associations = made.of_type("aws:ec2/routeTableAssociation:RouteTableAssociation")

    assert route["destinationCidrBlock"] == "0.0.0.0/0"
    assert route["gatewayId"] == "network-gateway-id"
    assert route["routeTableId"] == "network-routes-id"
    assert {(made.inputs["subnetId"], made.inputs["routeTableId"]) for made in associations} == {
        ("network-public-us-east-1a-id", "network-routes-id"),
        ("network-public-us-east-1b-id", "network-routes-id"),
    }


def test_security_group_lets_everything_out_and_nothing_in(made):
    group = made.inputs("network-egress-only")

    assert "ingress" not in group
    (way_out,) = group["egress"]
    # What EC2 takes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IpRange.html
    assert re.fullmatch(r"[\w .:/()#,@\[\]+=&;{}!$*-]{1,255}", way_out.pop("description"), re.ASCII)
    assert way_out == {"protocol": "-1", "fromPort": 0, "toPort": 0, "cidrBlocks": ["0.0.0.0/0"]}
    assert made.of_type("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule") == []


def test_what_lands_in_the_networks_default_group_reaches_nothing(made):
    group = made.inputs("network-closed")

    assert group["vpcId"] == "network-vpc-id"
    assert not {"ingress", "egress"} & {*group}


def test_only_tasks_get_an_address(made, dev):
    wiring = dev.document("pushtrain-trigger-wiring", "value")

    assert all(
        made.inputs["mapPublicIpOnLaunch"] is False
        for made in made.of_type("aws:ec2/subnet:Subnet")
    )
    assert wiring["assign_public_ip"] is True


def test_names_resolve_as_the_endpoint_needs(made):
    vpc = made.inputs("network-vpc")

    assert vpc["enableDnsSupport"] is True
    assert vpc["enableDnsHostnames"] is True


def test_storage_traffic_stays_on_the_free_endpoint(made):
    endpoint = made.inputs("network-s3")

    assert endpoint["serviceName"] == "com.amazonaws.us-east-1.s3"
    assert endpoint["vpcEndpointType"] == "Gateway"
    assert endpoint["routeTableIds"] == ["network-routes-id"]


def test_nothing_bills_by_the_hour(dev):
    types = {made.typ for made in dev.registrations}

    assert not types & {
        "aws:ec2/natGateway:NatGateway",
        "aws:ec2/eip:Eip",
        "aws:lb/loadBalancer:LoadBalancer",
    }
    assert {
        made.inputs["vpcEndpointType"] for made in dev.of_type("aws:ec2/vpcEndpoint:VpcEndpoint")
    } == {"Gateway"}


def test_whoever_knows_a_subnet_knows_that_it_is_connected(dev):
    wiring = dev.one("pushtrain-trigger-wiring")

    assert {
        dev.one("pushtrain-network-to-internet").urn,
        dev.one("pushtrain-network-routes-us-east-1a").urn,
        dev.one("pushtrain-network-routes-us-east-1b").urn,
    } <= wiring.dependencies


ENDPOINT = "aws:ec2/vpcEndpoint:VpcEndpoint"
REPOSITORY = "arn:aws:ecr:us-east-1:123456789012:repository/images"
LOG_GROUP = "arn:aws:logs:us-east-1:123456789012:log-group:logs"
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:token-AbCdEf"
PARAMETER = "arn:aws:ssm:us-east-1:123456789012:parameter/token"


@pytest.fixture
def private(deploy):
    """Return a function that deploys a private network for tasks with these secrets."""

    def make(*secret_arns):
        mode = Private(
            zones=("us-east-1a", "us-east-1b"),
            repository_arn=REPOSITORY,
            log_group_arn=LOG_GROUP,
            secret_arns=secret_arns,
        )
        args = NetworkArgs(bucket_arn="arn:aws:s3:::models", mode=mode, scope=SCOPE)
        return deploy(lambda: Network("network", args))

    return make


def services(made, kind):
    return {
        each.inputs["serviceName"].removeprefix("com.amazonaws.us-east-1."): each.inputs
        for each in made.of_type(ENDPOINT)
        if each.inputs["vpcEndpointType"] == kind
    }


def test_a_private_network_has_no_way_to_the_internet(private):
    made = private()
    types = {each.typ for each in made.registrations}

    assert not types & {
        "aws:ec2/internetGateway:InternetGateway",
        "aws:ec2/natGateway:NatGateway",
        "aws:ec2/egressOnlyInternetGateway:EgressOnlyInternetGateway",
        "aws:ec2/eip:Eip",
        "aws:ec2/route:Route",
    }
    assert "routes" not in made.inputs("network-routes")


@pytest.mark.parametrize(
    ("secrets", "more"),
    [
        ((), set()),
        ((SECRET,), {"secretsmanager"}),
        ((PARAMETER,), {"ssm"}),
        ((SECRET, PARAMETER), {"secretsmanager", "ssm"}),
    ],
)
def test_it_has_the_endpoints_that_a_task_needs_and_no_other(private, secrets, more):
    made = private(*secrets)
    interfaces = services(made, "Interface")

    assert {*interfaces} == {"ecr.api", "ecr.dkr", "logs"} | more
    assert {*services(made, "Gateway")} == {"s3"}
    for endpoint in interfaces.values():
        assert endpoint["privateDnsEnabled"] is True
        assert endpoint["securityGroupIds"] == ["network-endpoints-id"]
        assert endpoint["subnetIds"] == [
            "network-private-us-east-1a-id",
            "network-private-us-east-1b-id",
        ]


def test_together_they_let_through_what_the_agent_may_and_nothing_else(private):
    secrets = (SECRET, PARAMETER)
    through = {
        (action, resource)
        for endpoint in services(private(*secrets), "Interface").values()
        for statement in json.loads(endpoint["policy"])["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }
    may = {
        (action, resource)
        for statement in task_execution(REPOSITORY, f"{LOG_GROUP}", secrets)["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
        if isinstance(resource, str)
    }

    logs = {
        (f"logs:{call}", f"{LOG_GROUP}:log-stream:*")
        for call in ("CreateLogStream", "PutLogEvents")
    }
    assert through == may | logs


def test_tasks_reach_the_endpoints_and_storage_alone_and_only_tasks_reach_those(private):
    made = private()
    out = {
        each.name: {
            key: value for key, value in each.inputs.items() if key not in ("description", "tags")
        }
        for kind in ("Egress", "Ingress")
        for each in made.of_type(f"aws:vpc/securityGroup{kind}Rule:SecurityGroup{kind}Rule")
    }
    https = {"ipProtocol": "tcp", "fromPort": 443, "toPort": 443}

    assert out == {
        "network-to-endpoints": {
            "securityGroupId": "network-tasks-id",
            "referencedSecurityGroupId": "network-endpoints-id",
            **https,
        },
        "network-to-storage": {
            "securityGroupId": "network-tasks-id",
            "prefixListId": "pl-storage",
            **https,
        },
        "network-from-tasks": {
            "securityGroupId": "network-endpoints-id",
            "referencedSecurityGroupId": "network-tasks-id",
            **https,
        },
    }
    for group in ("network-tasks", "network-endpoints"):
        assert not {"ingress", "egress"} & {*made.inputs(group)}


def test_tasks_in_it_have_no_address_and_wait_for_all_of_it(deploy):
    deployment = deploy.whole({"network": "private"})
    wiring = deployment.document("pushtrain-trigger-wiring", "value")
    known = deployment.one("pushtrain-trigger-wiring").dependencies
    parts = deployment.of_type(ENDPOINT) + deployment.of_type(
        "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
    )

    assert wiring["assign_public_ip"] is False
    assert wiring["security_groups"] == ["pushtrain-network-tasks-id"]
    assert len(parts) == 6
    assert {part.urn for part in parts} <= known


@pytest.mark.parametrize("address", [True, False])
def test_an_existing_network_gets_a_security_group_and_nothing_else(deploy, address):
    mode = Existing(vpc_id="vpc-1", subnet_ids=("subnet-1",), assign_public_ip=address)
    args = NetworkArgs(bucket_arn="arn:aws:s3:::models", mode=mode, scope=SCOPE)
    made = deploy(lambda: Network("network", args))

    assert [each.name for each in made.registrations if each.custom] == ["network-egress-only"]
    assert made.inputs("network-egress-only")["vpcId"] == "vpc-1"
    assert "ingress" not in made.inputs("network-egress-only")


def test_tasks_run_in_the_subnets_of_an_existing_network(deploy):
    deployment = deploy.whole(
        {
            "network": "existing",
            "network.vpcId": "vpc-0123abcd",
            "network.subnetIds": ["subnet-0123abcd"],
            "network.assignPublicIp": True,
        }
    )
    wiring = deployment.document("pushtrain-trigger-wiring", "value")

    assert wiring["subnets"] == ["subnet-0123abcd"]
    assert wiring["assign_public_ip"] is True
    assert deployment.of_type("aws:ec2/vpc:Vpc") == []


def test_each_network_tells_what_it_costs_while_nothing_runs(deploy):
    settings = {
        "public": {},
        "private": {"network": "private", "secrets": [f"A={SECRET}"]},
        "existing": {
            "network": "existing",
            "network.vpcId": "vpc-0123abcd",
            "network.subnetIds": ["subnet-0123abcd"],
        },
    }
    told = {
        mode: deploy.whole(given).exports["networkIdleCost"].value
        for mode, given in settings.items()
    }

    assert told == {
        "public": "$0 a month",
        "private": "$58.40 a month: 4 interface endpoints in 2 zones, $0.01 an hour each, "
        "2026-08-20",
        "existing": "$0 a month",
    }


@pytest.mark.parametrize("region", ["us-east-2", "mars-1"])
def test_a_price_that_nobody_knows_is_not_made_up(region):
    told = idle_cost(region, 3)

    assert told == (
        "3 interface endpoints in 2 zones, billed by the hour; "
        f"prices.json has no price of them for {region}"
    )
