"""Which events start and end a run, and what the handlers are told."""

import json

import jsonschema
import pytest
from ministack.services.eventbridge import _matches_pattern

from components.push_trigger import push_pattern, stopped_pattern

CLUSTER = "arn:aws:ecs:us-east-1:123456789012:cluster/dev"
"""That of the recorded events; their repository is `trainer`."""
RULE = "aws:cloudwatch/eventRule:EventRule"


@pytest.fixture
def matches(root):
    """Return a function that says whether EventBridge would pass on a recorded event."""

    def match(pattern, name, **changes):
        event = json.loads((root / "tests" / "events" / f"{name}.json").read_text())
        return _matches_pattern(
            json.dumps(pattern),
            {
                "Source": event["source"],
                "DetailType": changes.pop("detail_type", event["detail-type"]),
                "Detail": json.dumps(event["detail"] | changes.pop("detail", {})),
                "Account": event["account"],
                "Region": event["region"],
                "Resources": event["resources"],
            },
        )

    return match


PUSHES = {
    "push-oci": True,
    "push-docker-v2": True,
    "push-without-media-types": True,
    # These are no images that could be trained; the handler, not the rule, can tell and says so.
    "push-index": True,
    "push-helm-chart": True,
    "push-attestation": True,
    "push-signature": True,
    "push-empty-tag": False,
    "push-without-tag": False,
    "push-failure": False,
    "push-other-repository": False,
    "delete": False,
    "task-succeeded": False,
}


@pytest.mark.parametrize(("name", "expected"), PUSHES.items())
def test_tagged_images_that_reached_the_repository_are_trained(matches, name, expected):
    assert matches(push_pattern("trainer", []), name) is expected


def test_other_kinds_of_ecr_events_are_not_pushes(matches):
    pattern = push_pattern("trainer", [])

    assert not matches(pattern, "push-oci", detail_type="ECR Image Scan")
    assert not matches(pattern, "push-oci", detail_type="ECR Pull Through Cache Action")
    assert not matches(pattern, "push-oci", detail={"action-type": "UPDATE_STORAGE_CLASS"})


@pytest.mark.parametrize(
    ("tag", "expected"),
    [("g-0123", True), ("c-0123", True), ("latest", False), ("xg-", False), ("", False)],
)
def test_with_prefixes_only_tags_that_begin_so_are_trained(matches, tag, expected):
    pattern = push_pattern("trainer", ["g-", "c-"])

    assert matches(pattern, "push-oci", detail={"image-tag": tag}) is expected


def test_with_prefixes_an_image_without_a_tag_is_not_trained(matches):
    assert not matches(push_pattern("trainer", ["g-"]), "push-without-tag")


ENDS = {
    "task-succeeded": True,
    "task-exit-1": True,
    "task-exit-137": True,
    "task-failed-to-start": True,
    "task-cannot-pull": True,
    "task-resource-initialization": True,
    "task-spot-interruption": True,
    "task-user-stopped": True,
    "task-running": False,
    "push-oci": False,
}


@pytest.mark.parametrize(("name", "expected"), ENDS.items())
def test_every_stop_of_a_task_is_observed_whatever_its_reason(matches, name, expected):
    assert matches(stopped_pattern(CLUSTER), name) is expected


def test_tasks_of_other_clusters_are_not_observed(matches):
    assert not matches(stopped_pattern(f"{CLUSTER}-2"), "task-succeeded")


@pytest.mark.parametrize("prefixes", [[], ["c-", "g-"]])
def test_rules_are_these_patterns_of_the_stacks_own_repository_and_cluster(deploy, prefixes):
    deployment = deploy.whole({"image.tagPrefixes": prefixes})
    cluster = "arn:aws:ecs:us-east-1:123456789012:cluster/pushtrain-training-cluster-0a1b2c3"

    assert deployment.document("pushtrain-trigger-invoke-rule", "eventPattern") == push_pattern(
        "pushtrain-images-repository-0a1b2c3", prefixes
    )
    assert deployment.document("pushtrain-trigger-observe-rule", "eventPattern") == stopped_pattern(
        cluster
    )
    assert {rule.inputs.get("state", "ENABLED") for rule in deployment.of_type(RULE)} == {"ENABLED"}


def test_wiring_is_exactly_this(dev):
    assert dev.inputs("pushtrain-trigger-wiring")["name"] == "/pushtrain/dev/wiring"
    assert dev.document("pushtrain-trigger-wiring", "value") == {
        "stack": "dev",
        "bucket": "pushtrain-store-bucket-0a1b2c3",
        "data_key": "data/dataset",
        "repository": "pushtrain-images-repository-0a1b2c3",
        "cluster": "arn:aws:ecs:us-east-1:123456789012:cluster/pushtrain-training-cluster-0a1b2c3",
        "template": "arn:aws:ecs:us-east-1:123456789012:task-definition/dev-task-template:1",
        "container": "trainer",
        "subnets": [
            "pushtrain-network-public-us-east-1a-id",
            "pushtrain-network-public-us-east-1b-id",
        ],
        "security_groups": ["pushtrain-network-egress-only-id"],
        "assign_public_ip": True,
        "capacity_providers": ["FARGATE_SPOT", "FARGATE"],
        "log_group": "pushtrain-training-logs-0a1b2c3",
        "log_stream_prefix": "run",
        "parameters": {},
        "parameters_name": "/pushtrain/dev/training",
        "tag_prefixes": [],
        "cpu": 2048,
        "memory": 8192,
        "architecture": "x86_64",
        "max_concurrent_runs": 0,
        "max_run_minutes": 1440,
        "topic": "arn:aws:sns:us-east-1:123456789012:pushtrain-notices-topic-0a1b2c3",
        "champion_metric": "accuracy",
        "champion_goal": "max",
        "metrics": False,
    }


def test_wiring_keeps_to_the_contract(dev, root):
    schema = json.loads((root / "docs" / "run-record.schema.json").read_text())

    jsonschema.validate(
        dev.document("pushtrain-trigger-wiring", "value"), {**schema, "$ref": "#/$defs/wiring"}
    )


def test_wiring_names_the_container_and_logs_of_the_template(dev):
    wiring = dev.document("pushtrain-trigger-wiring", "value")
    (container,) = dev.document("pushtrain-training-template", "containerDefinitions")
    options = container["logConfiguration"]["options"]

    assert wiring["container"] == container["name"]
    assert wiring["log_group"] == options["awslogs-group"]
    assert wiring["log_stream_prefix"] == options["awslogs-stream-prefix"]


def test_settings_reach_the_wiring(deploy):
    deployment = deploy.whole(
        {
            "cpu": 4096,
            "memory": 16384,
            "architecture": "arm64",
            "spot": False,
            "parameters": ["epochs=20"],
            "image.tagPrefixes": ["c-", "g-"],
            "maxConcurrentRuns": 3,
            "maxRunMinutes": 90,
            "champion.metric": "loss",
            "champion.goal": "min",
            "metrics": True,
        },
        stack="prod-1",
    )
    wiring = deployment.document("pushtrain-trigger-wiring", "value")

    assert wiring["capacity_providers"] == ["FARGATE"]
    assert wiring["parameters"] == {"epochs": "20"}
    assert wiring["stack"] == "prod-1"
    assert (wiring["cpu"], wiring["memory"], wiring["architecture"]) == (4096, 16384, "arm64")
    assert wiring["tag_prefixes"] == ["c-", "g-"]
    assert (wiring["max_concurrent_runs"], wiring["max_run_minutes"]) == (3, 90)
    assert (wiring["champion_metric"], wiring["champion_goal"]) == ("loss", "min")
    assert wiring["metrics"] is True
    assert deployment.inputs("pushtrain-trigger-wiring")["name"] == "/pushtrain/prod-1/wiring"


def test_longest_wiring_fits_into_a_standard_parameter(deploy):
    prefixes = ["c-", *(f"{number}{'x' * 127}" for number in range(9))]
    settings = {
        "parameters": [f"note={'n' * (2048 - 18 - len(json.dumps(prefixes)) - 2)}"],
        "image.tagPrefixes": prefixes,
        "champion.metric": "m" * 64,
        "maxConcurrentRuns": 10000,
        "maxRunMinutes": 40320,
    }
    longest = deploy.whole(settings, stack="s" * 100)
    wiring = longest.inputs("pushtrain-trigger-wiring")

    assert wiring["type"] == "String"
    assert len(wiring["value"]) <= 4096


def test_users_own_parameters_are_no_resource(dev):
    assert [made.name for made in dev.of_type("aws:ssm/parameter:Parameter")] == [
        "pushtrain-trigger-wiring"
    ]


def test_no_run_starts_before_its_end_would_be_noticed(dev):
    invoke, observe = (dev.one(f"pushtrain-trigger-{part}") for part in ("invoke", "observe"))

    assert dev.one("pushtrain-trigger-observe-target").urn in invoke.dependencies
    assert dev.one("pushtrain-trigger-wiring").urn in invoke.dependencies & observe.dependencies
    assert dev.one("pushtrain-trigger-invoke-target").parent == invoke.urn
