"""The template of every training task, and the cluster that it runs on."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.training_task import container_definition

TASK_DEFINITION = "arn:aws:ecs:us-east-1:123456789012:task-definition"


def test_container_is_exactly_this(dev):
    # Whatever ECS would fill in stands here too, or each preview would show a change.
    assert dev.document("pushtrain-training-template", "containerDefinitions") == [
        {
            "name": "trainer",
            "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com"
            "/pushtrain-images-repository-0a1b2c3:template",
            "essential": True,
            "cpu": 0,
            "memory": 8192,
            "user": "10001:10001",
            "environment": [],
            "mountPoints": [],
            "portMappings": [],
            "systemControls": [],
            "volumesFrom": [],
            "linuxParameters": {"initProcessEnabled": True},
            "stopTimeout": 120,
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": "pushtrain-training-logs-0a1b2c3",
                    "awslogs-region": "us-east-1",
                    "awslogs-stream-prefix": "run",
                },
            },
        }
    ]


def test_container_json_is_sorted_so_that_it_never_changes_by_itself(dev):
    text = dev.inputs("pushtrain-training-template")["containerDefinitions"]

    assert text.index('"cpu"') < text.index('"image"') < text.index('"volumesFrom"')


def test_template_is_for_fargate(dev):
    template = dev.inputs("pushtrain-training-template")

    assert template["requiresCompatibilities"] == ["FARGATE"]
    assert template["networkMode"] == "awsvpc"
    assert (template["cpu"], template["memory"]) == ("2048", "8192")
    assert template["executionRoleArn"].endswith("role/pushtrain-training-execution-0a1b2c3")
    assert template["taskRoleArn"].endswith("role/pushtrain-training-task-0a1b2c3")


def test_container_may_use_all_the_memory_that_is_paid_for(deploy):
    deployment = deploy.whole({"cpu": 4096, "memory": 30720})
    (container,) = deployment.document("pushtrain-training-template", "containerDefinitions")

    assert deployment.inputs("pushtrain-training-template")["memory"] == "30720"
    assert container["memory"] == 30720


@pytest.mark.parametrize(
    ("architecture", "processor", "platform"),
    [("x86_64", "X86_64", "linux/amd64"), ("arm64", "ARM64", "linux/arm64")],
)
def test_one_setting_decides_processor_and_image_platform(
    deploy, architecture, processor, platform
):
    deployment = deploy.whole({"architecture": architecture})

    assert deployment.inputs("pushtrain-training-template")["runtimePlatform"] == {
        "operatingSystemFamily": "LINUX",
        "cpuArchitecture": processor,
    }
    assert deployment.inputs("pushtrain-trainer-image")["build"]["platform"] == platform


def test_container_never_runs_as_root():
    definition = container_definition(image="i", memory=512, log_group="g", region="r", secrets={})
    user, group = definition["user"].split(":")

    assert int(user) > 0
    assert int(group) > 0
    assert "privileged" not in definition


def test_cluster_knows_spot_and_on_demand(dev):
    capacity = dev.inputs("pushtrain-training-capacity")

    assert capacity["clusterName"] == "pushtrain-training-cluster-0a1b2c3"
    assert capacity["capacityProviders"] == ["FARGATE", "FARGATE_SPOT"]


@pytest.mark.parametrize(("wanted", "value"), [(True, "enabled"), (False, "disabled")])
def test_container_insights_are_as_set(deploy, wanted, value):
    deployment = deploy.whole({"containerInsights": wanted})

    assert deployment.inputs("pushtrain-training-cluster")["settings"] == [
        {"name": "containerInsights", "value": value}
    ]


def test_what_container_insights_logs_ends_and_is_encrypted_as_all_logs(deploy, dev):
    deployment = deploy.whole(
        {"containerInsights": True, "logRetentionDays": 5, "customerKey": True}
    )

    assert deployment.inputs("pushtrain-training-insights") == {
        "name": "/aws/ecs/containerinsights/pushtrain-training-cluster-0a1b2c3/performance",
        "retentionInDays": 5,
        "kmsKeyId": deployment.inputs("pushtrain-training-logs")["kmsKeyId"],
    }
    key = deployment.document("pushtrain-encryption-key", "policy")
    (groups,) = (each for each in key["Statement"] if each["Sid"] == "LogGroups")
    assert groups["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"] == [
        "arn:aws:logs:us-east-1:123456789012:log-group:pushtrain-*",
        "arn:aws:logs:us-east-1:123456789012:log-group:/aws/ecs/containerinsights/pushtrain-*",
    ]
    assert not [made for made in dev.registrations if "insights" in made.name]


def test_every_log_group_expires_as_set(deploy):
    groups = deploy.whole({"logRetentionDays": 5}).of_type("aws:cloudwatch/logGroup:LogGroup")

    assert sorted(group.name for group in groups) == [
        "pushtrain-training-logs",
        "pushtrain-trigger-invoke-logs",
        "pushtrain-trigger-observe-logs",
        "pushtrain-trigger-reconcile-logs",
    ]
    assert {group.inputs["retentionInDays"] for group in groups} == {5}


def test_whoever_knows_the_template_finds_its_policies_in_place(dev):
    template = dev.one("pushtrain-training-template")

    assert {
        dev.one("pushtrain-training-capacity").urn,
        dev.one("pushtrain-training-execution-policy").urn,
        dev.one("pushtrain-training-task-policy").urn,
    } <= template.dependencies


def startable(deployment):
    """Return the one resource pattern of what the invoke Lambda may start."""
    policy = deployment.document("pushtrain-trigger-invoke-work-policy", "policy")
    (statement,) = [one for one in policy["Statement"] if "ecs:RunTask" in one["Action"]]
    (pattern,) = statement["Resource"]
    return pattern


def test_lambda_may_start_families_of_its_own_digests_only(dev):
    pattern = startable(dev)
    template = dev.inputs("pushtrain-training-template")["family"]

    assert fnmatchcase(f"{TASK_DEFINITION}/dev-0123456789ab:7", pattern)
    assert not fnmatchcase(f"{TASK_DEFINITION}/dev-2-0123456789ab:1", pattern)
    assert not fnmatchcase(f"{TASK_DEFINITION}/{template}:1", pattern)
    assert not fnmatchcase(f"{TASK_DEFINITION}/prod-0123456789ab:1", pattern)
    assert not fnmatchcase(f"{TASK_DEFINITION}/dev-0123456789ab", pattern)


@example("abc")  # with it a family of `template` would be as long as one of a digest
@given(other=st.from_regex(r"[A-Za-z0-9_-]{0,20}", fullmatch=True))
def test_lambda_may_start_nothing_of_a_stack_whose_name_begins_alike(dev, other):
    family = dev.inputs("pushtrain-training-template")["family"].replace("dev", f"dev-{other}", 1)

    assert not fnmatchcase(f"{TASK_DEFINITION}/{family}:1", startable(dev))
    assert not fnmatchcase(f"{TASK_DEFINITION}/dev-{other}-0123456789ab:1", startable(dev))
