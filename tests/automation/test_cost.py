"""Prices: what is billed while nothing runs, what a run costs, and what is not known."""

import json
import re
import runpy
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from automation import cost
from handler import metrics
from handler.cost import TABLE

EVENTS = Path(__file__).parent / "events"
ROOT = Path(__file__).parents[2]
NAT = ("aws:ec2/natGateway:NatGateway", {})
ADDRESS = ("aws:ec2/eip:Eip", {})
GATEWAY_ENDPOINT = ("aws:ec2/vpcEndpoint:VpcEndpoint", {"vpcEndpointType": "Gateway"})


def interface_endpoint(subnets):
    properties = {"vpcEndpointType": "Interface", "subnetIds": subnets}
    return ("aws:ec2/vpcEndpoint:VpcEndpoint", properties)


def hour(**changes):
    size = {"cpu": 2048, "memory": 8192, "seconds": 3600, "architecture": "x86_64"}
    return cost.run_cost(**{**size, "spot": True, "region": "us-east-1", **changes})


def recorded_resources(name):
    lines = (EVENTS / f"{name}.jsonl").read_text().splitlines()
    steps = [json.loads(line).get("resourcePreEvent") for line in lines]
    return [(step["metadata"]["type"], step["metadata"]["new"]["inputs"]) for step in steps if step]


def test_the_default_stack_costs_nothing_idle():
    idle = cost.idle_cost(recorded_resources("first"), "us-east-1")

    assert idle.monthly == 0
    assert idle.lines == ()
    assert idle.unpriced == ()
    assert "Nothing here is billed by the hour or by the month." in cost.render(idle)


def test_a_nat_gateway_its_address_and_an_endpoint_in_two_zones():
    resources = [NAT, ADDRESS, interface_endpoint(["a", "b"]), GATEWAY_ENDPOINT]

    idle = cost.idle_cost(resources, "us-east-1")

    assert {line.what: (line.count, round(line.total, 2)) for line in idle.lines} == {
        "NAT gateway": (1, 32.85),
        "public IPv4 address": (1, 3.65),
        "interface endpoint, by zone": (2, 14.60),
    }
    assert round(idle.monthly, 2) == 51.10


@pytest.mark.parametrize("subnets", [None, [], "04da6b54-80e4-46f7-96ec-b56ff0331ba9"])
def test_an_endpoint_whose_subnets_nobody_knows_is_in_one_zone_at_least(subnets):
    idle = cost.idle_cost([interface_endpoint(subnets)], "us-east-1")

    assert [line.count for line in idle.lines] == [1]


def test_keys_dashboards_alarms_and_secrets_are_billed_by_the_month():
    kinds = ["kms/key:Key", "kms/key:Key", "kms/replicaKey:ReplicaKey"]
    kinds += ["cloudwatch/metricAlarm:MetricAlarm", "secretsmanager/secret:Secret"]
    kinds += ["cloudwatch/dashboard:Dashboard"]

    idle = cost.idle_cost([(f"aws:{kind}", {}) for kind in kinds], "us-east-1")

    assert round(idle.monthly, 2) == round(3 * 1 + 0.10 + 0.40 + 3 + 2 * 0.30, 2)


@pytest.mark.parametrize(
    ("resources", "known", "monthly"),
    [
        ([], False, 0),
        ([], True, 0.60),
        ([("aws:cloudwatch/metricAlarm:MetricAlarm", {"namespace": "AWS/SQS"})], False, 0.10),
        ([("aws:cloudwatch/metricAlarm:MetricAlarm", {"namespace": "pushtrain"})], False, 0.70),
        ([("aws:cloudwatch/dashboard:Dashboard", {})], False, 3.60),
        ([("aws:cloudwatch/dashboard:Dashboard", {})] * 2, True, 6.60),
    ],
)
def test_metrics_that_each_round_writes_are_billed_all_month(resources, known, monthly):
    idle = cost.idle_cost(resources, "us-east-1", metrics=known)

    assert round(idle.monthly, 2) == monthly
    unpriced = cost.idle_cost(resources, "eu-central-1", metrics=known).unpriced
    assert ("2 x custom metric" in unpriced) is (known or monthly > 0.5)


def test_a_metric_billed_all_month_is_one_that_a_round_writes(wiring):
    told = metrics.of_round(wiring, [], datetime.now(UTC))

    (directive,) = told["_aws"]["CloudWatchMetrics"]
    assert len(directive["Metrics"]) == cost.IDLE_METRICS


def test_the_production_stack_costs_what_its_page_says(deploy):
    config = yaml.safe_load((ROOT / "Pulumi.prod.yaml").read_text())["config"]
    program = str(ROOT / "__main__.py")
    made = deploy(lambda: runpy.run_path(program), config).registrations

    resources = [(resource.typ, resource.inputs) for resource in made]
    idle = cost.idle_cost(resources, config["aws:region"], metrics=config["pushtrain:metrics"])

    assert {line.what: (line.count, round(line.total, 2)) for line in idle.lines} == {
        "interface endpoint, by zone": (6, 43.80),
        "KMS key": (1, 1),
        "CloudWatch dashboard": (1, 3),
        "CloudWatch alarm": (21, 2.10),
        "custom metric": (2, 0.60),
    }
    assert idle.unpriced == ()
    page = (ROOT / "docs" / "production.md").read_text()
    assert f"**{cost.dollars(idle.monthly)} a month** while nothing runs" in page


def test_regions_differ():
    prices = {region: cost.idle_cost([NAT], region).monthly for region in cost.regions()}

    assert round(prices["ap-northeast-1"], 2) == 45.26
    assert prices["us-east-1"] == prices["us-east-2"] < prices["eu-central-1"]


def test_what_has_no_price_is_named_and_not_counted():
    resources = [
        ("aws:cloudwatch/metricAlarm:MetricAlarm", {}),
        ("aws:lb/loadBalancer:LoadBalancer", {}),
        ("aws:lb/loadBalancer:LoadBalancer", {}),
    ]

    idle = cost.idle_cost(resources, "eu-central-1")

    assert idle.monthly == 0
    assert idle.unpriced == ("1 x CloudWatch alarm", "2 x load balancer")
    text = cost.render(idle)
    assert "Not counted, no price in the table: 2 x load balancer" in text
    assert "Nothing here is billed" not in text
    assert "No price in the table: ECR images" in text
    assert cost.in_a_line(idle) == (
        "idle, it costs $0.00 a month and what it stores; "
        "not counted, no price in the table: 1 x CloudWatch alarm, 2 x load balancer"
    )


@pytest.mark.parametrize(("value", "notes"), [("enabled", 1), ("enhanced", 1), ("disabled", 0)])
def test_container_insights_are_a_note(value, notes):
    settings = [{"name": "containerInsights", "value": value}]

    idle = cost.idle_cost([("aws:ecs/cluster:Cluster", {"settings": settings})], "us-east-1")

    assert len(idle.notes) == notes
    assert idle.monthly == 0
    assert all("$0.30 a metric and month" in note for note in idle.notes)


def test_a_region_without_prices_is_refused_by_name():
    with pytest.raises(ValueError, match=r"region must be one of .*us-east-1.*, got 'mars-1'"):
        cost.idle_cost([], "mars-1")
    with pytest.raises(ValueError, match=r"region must be one of .*us-east-1.*, got 'mars-1'"):
        hour(region="mars-1")


def test_an_hour_of_training_on_demand_is_processor_memory_and_address():
    run = hour(spot=False)

    assert round(run.on_demand, 6) == round(2 * 0.04048 + 8 * 0.004445 + 0.005, 6)
    assert run.least == run.on_demand
    assert "on Spot" not in cost.render(cost.idle_cost([], "us-east-1"), run)


def test_spot_takes_off_at_most_what_aws_names_and_nothing_of_the_address():
    run = hour()

    assert round(run.least, 6) == round((2 * 0.04048 + 8 * 0.004445) * 0.3 + 0.005, 6)
    text = cost.render(cost.idle_cost([], "us-east-1"), run)
    assert "Spot: up to 70% off" in text
    assert "https://aws.amazon.com/fargate/pricing/" in text


def test_arm_is_cheaper_where_its_price_is_known():
    assert hour(architecture="arm64").on_demand < hour().on_demand
    with pytest.raises(ValueError, match=r"architecture must be one that prices\.json has"):
        hour(architecture="arm64", region="us-west-2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "riscv"}, "architecture must be one of x86_64, arm64, got 'riscv'"),
        ({"seconds": 0}, "must be positive, got 2048, 8192 and 0"),
        ({"cpu": -1}, "must be positive, got -1"),
    ],
)
def test_sizes_that_no_task_has_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hour(**change)


@given(seconds=st.floats(min_value=0.1, max_value=1e6))
def test_a_run_is_billed_by_the_second_but_for_a_minute_at_least(seconds):
    price = hour(seconds=seconds).on_demand

    assert price >= hour(seconds=60).on_demand
    assert price <= hour(seconds=max(seconds, 59) + 1).on_demand


def test_state_resources_leave_out_what_waits_for_deletion():
    resources = [
        {"type": "aws:ec2/eip:Eip", "inputs": {"domain": "vpc"}, "outputs": {"id": "e"}},
        {"type": "aws:ec2/eip:Eip", "delete": True},
        {"type": "pulumi:pulumi:Stack"},
    ]

    found = cost.state_resources(resources)

    assert found == [
        ("aws:ec2/eip:Eip", {"domain": "vpc", "id": "e"}),
        ("pulumi:pulumi:Stack", {}),
    ]


def test_json_says_what_the_table_says_and_where_each_price_is_from():
    data = cost.as_json(cost.idle_cost([NAT], "us-east-1"), hour())

    assert json.loads(json.dumps(data)) == data
    assert data["idle"]["monthly"] == 32.85
    assert data["idle"]["lines"][0]["source"].startswith("https://")
    assert data["run"]["least"] < data["run"]["on_demand"] == 0.12152
    assert {rate["what"] for rate in data["storage"]} == {"S3 Standard", "ECR images"}


def test_storage_is_told_as_a_rate():
    text = cost.render(cost.idle_cost([], "us-east-1"))

    assert re.search(r"S3 Standard +/ GB-month +\$0\.0230", text)
    assert re.search(r"ECR images +/ GB-month +\$0\.1000", text)


def test_every_price_has_a_source_and_a_date():
    table = json.loads(TABLE.read_text())
    groups = [table["everywhere"], *table["regions"].values()]

    assert date.fromisoformat(table["compiled"])
    for entry in (entry for group in groups for entry in group.values()):
        assert re.match(r"https://[a-z0-9.-]*aws[a-z0-9.-]*\.com/", entry["source"])
        assert re.fullmatch(r"20\d\d(-\d\d){0,2}", entry["as_of"])
        assert 0 < entry["price"] < 10
    for region, prices in table["regions"].items():
        assert {"nat_gateway_hour", "fargate_x86_64_vcpu_hour", "s3_gb_month"} <= set(prices)
        assert all(f"/{region}/" in entry["source"] for entry in prices.values())
