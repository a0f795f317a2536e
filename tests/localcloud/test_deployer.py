"""The unchanged program on the embedded cloud, with a trainer of a few lines."""

import json
from pathlib import Path

import jsonschema
import pytest

from localcloud.deployer import DeployError, deploy, stack_config
from localcloud.image import build

pytestmark = pytest.mark.localcloud

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/run-record.schema.json").read_text())
DOCKERFILE = 'FROM scratch\nCOPY . /app/\nWORKDIR /app\nENTRYPOINT ["python", "train.py"]\n'
TRAINER = """
import json, os
import boto3
s3, e = boto3.client("s3"), os.environ
data = s3.get_object(
    Bucket=e["PUSHTRAIN_BUCKET"], Key=e["PUSHTRAIN_DATA_KEY"], VersionId=e["PUSHTRAIN_DATA_VERSION"]
)["Body"].read()
model = json.dumps({"data": data.decode(), "depth": e.get("PUSHTRAIN_PARAM_DEPTH")})
s3.put_object(Bucket=e["PUSHTRAIN_BUCKET"], Key=e["PUSHTRAIN_RUN_PREFIX"] + "model", Body=model)
print("trained", e["PUSHTRAIN_RUN"])
"""


class Stack:
    """A deployed stack, and the words of its tests."""

    def __init__(self, bench, folder):
        self.bench = bench
        self.folder = folder
        self.s3 = bench.client("s3")

    def trainer(self, script):
        """Write a build context that runs this script."""
        context = self.folder / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(DOCKERFILE)
        (context / "train.py").write_text(script)
        return context

    def deploy(self, script=TRAINER, *, name="dev", **settings):
        given = {"image.context": str(self.trainer(script)), **settings}
        self.deployment = deploy(self.bench.cloud, ROOT, name, given)
        self.outputs = self.deployment.outputs
        self.bucket = self.outputs["bucket"]
        return self

    def push(self, script, tag):
        with self.bench.cloud.registry() as registry:
            image = build(self.trainer(script))
            return registry.push(image, self.outputs["repositoryUrl"], tag)

    def record(self, digest):
        key = f"runs/{digest.rpartition(':')[2][:12]}/run.json"
        try:
            return json.loads(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        except self.s3.exceptions.NoSuchKey:
            return None

    def until(self, digest, *states):
        """Wait for a run to be in one of the states; its record keeps to the schema."""

        def reached():
            record = self.record(digest)
            return record if record and record["state"] in states else None

        record = self.bench.until(reached, seconds=60)
        jsonschema.validate(record, {"$ref": "#/$defs/run", "$defs": SCHEMA["$defs"]})
        return record

    def published(self, digest, name):
        key = f"runs/{digest.rpartition(':')[2][:12]}/{name}"
        return json.loads(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())


@pytest.fixture
def stack(bench, tmp_path):
    return Stack(bench, tmp_path)


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "data.bin"
    file.write_text("one two three")
    return str(file)


def test_the_image_that_was_deployed_trains_on_the_data_that_came_with_it(stack, data):
    stack.deploy(**{"data.path": data, "parameters": ["depth=3"]})
    digest = stack.outputs["image"]
    record = stack.until(digest, "SUCCEEDED")

    assert record["image"]["digest"] == digest.rpartition("@")[2]
    assert record["attempts"][0]["exit_code"] == 0
    assert stack.published(digest, "model") == {"data": "one two three", "depth": "3"}
    manifest = stack.published(digest, "manifest.json")
    assert list(manifest["files"]) == ["model"], "observe writes one for a trainer that left files"
    families = stack.bench.client("ecs").list_task_definitions(status="ACTIVE")
    assert [arn.split("/")[1] for arn in families["taskDefinitionArns"]] == ["dev-task-template:1"]


def test_a_known_image_under_another_tag_starts_nothing(stack, data):
    stack.deploy(**{"data.path": data})
    first = stack.until(stack.outputs["image"], "SUCCEEDED")
    digest = stack.push(TRAINER, "g-same")
    stack.bench.until(lambda: "g-same" in stack.record(digest)["image"]["tags"])

    assert digest == first["image"]["digest"]
    assert len(stack.record(digest)["attempts"]) == 1
    prefixes = stack.s3.list_objects_v2(Bucket=stack.bucket, Prefix="runs/", Delimiter="/")
    assert len(prefixes["CommonPrefixes"]) == 1


def test_a_run_without_data_waits_and_the_next_push_of_it_goes_on(stack):
    stack.deploy()
    waiting = stack.until(stack.outputs["image"], "WAITING")
    stack.s3.put_object(Bucket=stack.bucket, Key="data/dataset", Body=b"late")
    digest = stack.push(TRAINER, "g-again")
    record = stack.until(digest, "SUCCEEDED")

    assert waiting["waiting"]["why"] == "data"
    assert record["run"] == waiting["run"]
    assert stack.published(digest, "model")["data"] == "late"


def test_the_users_parameters_go_over_the_stacks_without_a_deploy(stack, data):
    stack.deploy(**{"data.path": data, "parameters": ["depth=3"]})
    stack.until(stack.outputs["image"], "SUCCEEDED")
    stack.bench.client("ssm").put_parameter(
        Name=stack.outputs["trainingParameter"], Type="String", Value='{"depth": 5}'
    )
    digest = stack.push(TRAINER + "# changed\n", "g-deeper")
    record = stack.until(digest, "SUCCEEDED")

    assert record["parameters"] == {"depth": "5"}
    assert stack.published(digest, "model")["depth"] == "5"


def test_a_trainer_that_fails_leaves_a_diagnosis_with_its_last_words(stack, data):
    stack.deploy("raise SystemExit('out of luck')", **{"data.path": data})
    record = stack.until(stack.outputs["image"], "FAILED")

    assert record["attempts"][0]["exit_code"] == 1
    assert "out of luck" in record["diagnosis"]["detail"]
    assert record["diagnosis"]["action"]


def test_a_trainer_that_publishes_nothing_has_failed(stack, data):
    stack.deploy("print('all well')", **{"data.path": data})
    record = stack.until(stack.outputs["image"], "FAILED")

    assert record["attempts"][0]["exit_code"] == 0
    assert "published" in record["diagnosis"]["summary"] + record["diagnosis"]["detail"]


def test_a_push_that_the_tag_prefixes_leave_out_trains_nothing(stack, data):
    stack.deploy(**{"data.path": data, "image.tagPrefixes": ["c-"]})
    stack.until(stack.outputs["image"], "SUCCEEDED")
    digest = stack.push(TRAINER + "# other\n", "cache-1")
    wanted = stack.push(TRAINER + "# third\n", "c-third")
    stack.until(wanted, "SUCCEEDED")

    assert stack.record(digest) is None


def test_an_event_that_no_handler_can_take_lies_in_the_queue(stack):
    stack.deploy()
    stack.until(stack.outputs["image"], "WAITING")
    stack.bench.client("ssm").put_parameter(
        Name=stack.outputs["wiringParameter"], Type="String", Value="{}", Overwrite=True
    )
    digest = stack.push(TRAINER + "# unlucky\n", "g-unlucky")
    queue = stack.outputs["failedPushes"]

    def message():
        answer = stack.bench.client("sqs").receive_message(QueueUrl=queue, WaitTimeSeconds=1)
        return answer.get("Messages")

    (failed,) = stack.bench.until(message, seconds=30)
    assert json.loads(failed["Body"])["requestPayload"]["detail"]["image-digest"] == digest


def test_every_resource_of_the_program_is_created_and_reported(stack, data):
    told = []
    settings = {"image.context": str(stack.trainer(TRAINER)), "data.path": data}
    deployment = deploy(
        stack.bench.cloud, ROOT, "dev", settings, lambda kind, name: told.append((kind, name))
    )

    assert len(told) == len(deployment.ids) == len({name for _, name in told})
    assert told[-1][0] == "docker:index/image:Image", "the push comes last"
    assert set(deployment.outputs) >= {"bucket", "repositoryUrl", "image", "logGroup"}


def test_the_topic_keeps_its_policy_and_the_addresses_that_are_told(stack):
    told = {"notify.emails": ["ann@example.com"], "notify.webhooks": ["https://example.com/hook"]}
    stack.deploy(**told)
    sns = stack.bench.client("sns")
    topic = stack.outputs["topic"]
    policy = json.loads(sns.get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"])
    subscriptions = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]

    assert [statement["Sid"] for statement in policy["Statement"]] == ["TlsOnly", "NoPlainWebhooks"]
    assert {(each["Protocol"], each["Endpoint"]) for each in subscriptions} == {
        ("email", "ann@example.com"),
        ("https", "https://example.com/hook"),
    }


def test_reconcile_has_its_schedule(stack):
    stack.deploy()
    rules = stack.bench.client("events").list_rules()["Rules"]

    assert [rule["ScheduleExpression"] for rule in rules if "ScheduleExpression" in rule] == [
        "rate(5 minutes)"
    ]


def program(folder, text):
    """Write a project of one line."""
    (folder / "Pulumi.yaml").write_text("name: other\nruntime: python\nconfig: {}\n")
    (folder / "Pulumi.dev.yaml").write_text("config: {}\n")
    (folder / "__main__.py").write_text(text)
    return folder


def test_a_resource_type_that_the_cloud_does_not_know_is_an_error_that_names_it(bench, tmp_path):
    root = program(tmp_path, "import pulumi_aws as a\na.sfn.Activity('bell')\n")
    with pytest.raises(DeployError, match=r"got aws:sfn/activity:Activity \(bell\)"):
        deploy(bench.cloud, root, "dev")


def test_a_look_up_that_the_cloud_does_not_know_is_an_error_that_names_it(bench, tmp_path):
    root = program(tmp_path, "import pulumi_aws as a\na.ec2.get_ami(most_recent=True)\n")
    with pytest.raises(DeployError, match="got aws:ec2/getAmi:getAmi"):
        deploy(bench.cloud, root, "dev")


def test_bad_settings_create_nothing(bench):
    with pytest.raises(ValueError, match="cpu must be one of"):
        deploy(bench.cloud, ROOT, "dev", {"cpu": 3})

    assert bench.client("s3").list_buckets()["Buckets"] == []
    assert bench.client("iam").list_roles()["Roles"] == []


def test_config_is_what_the_cli_would_hand_over(tmp_path):
    (tmp_path / "Pulumi.yaml").write_text(
        "name: p\nconfig:\n"
        "  size: {type: integer, default: 3}\n"
        '  \'["data.path"]\': {type: string, default: ""}\n'
        "  list: {type: array, items: {type: string}, default: [a]}\n"
    )
    (tmp_path / "Pulumi.dev.yaml").write_text("config:\n  aws:region: us-east-1\n  p:size: 4\n")

    assert stack_config(tmp_path, "dev", {"data.path": "x"}) == {
        "p:size": "4",
        "p:data.path": "x",
        "p:list": '["a"]',
        "aws:region": "us-east-1",
    }


def test_settings_win_over_the_stack_file_and_that_over_defaults(tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("name: p\nconfig: {size: {type: integer, default: 3}}\n")
    (tmp_path / "Pulumi.dev.yaml").write_text("config:\n  p:size: 4\n")

    assert stack_config(tmp_path, "dev", {}) == {"p:size": "4"}
    assert stack_config(tmp_path, "dev", {"size": 5}) == {"p:size": "5"}


def test_a_stack_without_a_file_is_refused(tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("name: p\n")
    with pytest.raises(DeployError, match=r"Pulumi\.prod\.yaml"):
        stack_config(tmp_path, "prod", {})


def test_an_encrypted_value_is_refused_by_name(tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("name: p\n")
    (tmp_path / "Pulumi.dev.yaml").write_text("config:\n  p:key: {secure: abc}\n")
    with pytest.raises(DeployError, match="p:key"):
        stack_config(tmp_path, "dev", {})


def rules(groups, direction):
    """Return where each group lets something through: groups, prefix lists, addresses."""
    return {
        group["GroupName"].rpartition("-")[0]: [
            way.get("FromPort", "any")
            for way in group[direction]
            for _ in [*way["UserIdGroupPairs"], *way["PrefixListIds"], *way["IpRanges"]]
        ]
        for group in groups
        if group["GroupName"] != "default"
    }


def test_the_production_stack_trains_too_and_its_tasks_have_no_way_out(stack, data):
    """By what this cloud has of it: it makes each part, but enforces no network and no key."""
    stack.deploy(name="prod", **{"data.path": data})
    ec2 = stack.bench.client("ec2")
    digest = stack.push(TRAINER, "g-1")
    record = stack.until(digest, "SUCCEEDED")
    vpc = stack.deployment.ids["pushtrain-network-vpc"]
    own = {"Filters": [{"Name": "vpc-id", "Values": [vpc]}]}
    groups = ec2.describe_security_groups(**own)["SecurityGroups"]
    model = stack.s3.head_object(Bucket=stack.bucket, Key=f"runs/{record['run']}/model")
    key = stack.deployment.ids["pushtrain-encryption-key"]
    alarms = stack.bench.client("cloudwatch").describe_alarms(AlarmNamePrefix="pushtrain-")

    told = [alarm["AlarmActions"] for alarm in alarms["MetricAlarms"]]
    assert told == [[stack.outputs["topic"]]] * 21
    assert stack.published(digest, "model")["data"] == "one two three"
    assert (model["ServerSideEncryption"], key in model["SSEKMSKeyId"]) == ("aws:kms", True)
    tables = ec2.describe_route_tables(**own)["RouteTables"]
    assert {route["DestinationCidrBlock"] for each in tables for route in each["Routes"]} == {
        "10.20.0.0/16"
    }
    assert rules(groups, "IpPermissions") == {
        "pushtrain-network-tasks": [],
        "pushtrain-network-endpoints": [443],
    }
    # To the endpoints; MiniStack keeps no rule to a prefix list, which would be S3's.
    assert rules(groups, "IpPermissionsEgress") == {
        "pushtrain-network-tasks": [443],
        "pushtrain-network-endpoints": [],
    }


def test_a_network_that_exists_is_trained_in(stack, data):
    ec2 = stack.bench.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    stack.deploy(
        **{
            "data.path": data,
            "network": "existing",
            "network.vpcId": vpc,
            "network.subnetIds": [subnet],
        }
    )
    record = stack.until(stack.outputs["image"], "SUCCEEDED")
    where = record["attempts"][0]["request"]["networkConfiguration"]["awsvpcConfiguration"]
    (group,) = ec2.describe_security_groups(GroupIds=where["securityGroups"])["SecurityGroups"]

    assert (where["subnets"], where["assignPublicIp"]) == ([subnet], "DISABLED")
    assert group["VpcId"] == vpc


def test_a_trainer_finds_its_secrets_and_nothing_else_does(stack, data):
    value = "hunter2-of-the-vault"
    secret = stack.bench.client("secretsmanager").create_secret(Name="vault", SecretString=value)
    ssm = stack.bench.client("ssm")
    ssm.put_parameter(Name="/mine/token", Type="SecureString", Value="hunter2-of-ssm")
    parameter = f"arn:aws:ssm:us-east-1:{secret['ARN'].split(':')[4]}:parameter/mine/token"
    script = TRAINER.replace('"depth": e.get("PUSHTRAIN_PARAM_DEPTH")', '"got": [e["A"], e["B"]]')
    stack.deploy(script, **{"data.path": data, "secrets": [f"A={secret['ARN']}", f"B={parameter}"]})
    digest = stack.outputs["image"]
    record = stack.until(digest, "SUCCEEDED")
    arn = record["attempts"][0]["request"]["taskDefinition"]
    logs = stack.bench.client("logs")
    told = [
        event["message"]
        for group in logs.describe_log_groups()["logGroups"]
        for event in logs.filter_log_events(logGroupName=group["logGroupName"])["events"]
    ]

    assert stack.published(digest, "model")["got"] == [value, "hunter2-of-ssm"]
    assert told
    assert "hunter2" not in json.dumps([record, told, dict(stack.outputs)])
    assert "hunter2" not in json.dumps(
        stack.bench.client("ecs").describe_task_definition(taskDefinition=arn), default=str
    )
