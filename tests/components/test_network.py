"""The network: a way out, no way in, and nothing that bills by the hour."""

import re

import pytest

from components.network import Network, NetworkArgs, Public
from components.policies import AwsScope

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
