"""One cloud for all tests of a process, and what they do with it."""

import io
import json
import queue
import time
import zipfile

import pytest

from localcloud import Cloud, make_image

REPOSITORY = "team/train"
LOG_GROUP = "/ecs/train"
ECR = "000000000000.dkr.ecr.us-east-1.amazonaws.com"


class Bench:
    """An empty cloud, and short words for what a test of it needs."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.client = cloud.client
        self.events = queue.SimpleQueue()
        self.passed_over = []

    def until(self, ask, seconds=20):
        """Ask again and again, until there is an answer."""
        deadline = time.monotonic() + seconds
        while not (answer := ask()):
            if time.monotonic() > deadline:
                pytest.fail(f"nothing after {seconds} s")
            time.sleep(0.02)
        return answer

    def event(self, detail_type, seconds=20, **wanted):
        """Wait for the first event of this kind, by what its detail says; gives the detail."""
        deadline = time.monotonic() + seconds
        waiting, self.passed_over = self.passed_over, []
        while True:
            try:
                event = (
                    waiting.pop(0)
                    if waiting
                    else self.events.get(timeout=max(0, deadline - time.monotonic()))
                )
            except queue.Empty:
                pytest.fail(f"no {detail_type} with {wanted} after {seconds} s")
            _, _, kind, detail = event
            if kind == detail_type and wanted.items() <= detail.items():
                self.passed_over += waiting
                return detail
            self.passed_over.append(event)

    # Images

    def repository(self, **options):
        return self.client("ecr").create_repository(repositoryName=REPOSITORY, **options)

    def push(self, image, tag="v1"):
        with self.cloud.registry() as registry:
            return registry.push(image, REPOSITORY, tag)

    def push_script(self, script, tag="v1", **settings):
        """Push an image that runs a Python script."""
        image = make_image(
            {"app/main.py": script.encode()},
            **{"Entrypoint": ["python", "-u", "main.py"], "WorkingDir": "/app", **settings},
        )
        return self.push(image, tag)

    # Tasks

    def cluster(self):
        """Make what every task needs: repository, cluster, log group."""
        self.repository()
        self.client("ecs").create_cluster(
            clusterName="training", capacityProviders=["FARGATE", "FARGATE_SPOT"]
        )
        self.client("logs").create_log_group(logGroupName=LOG_GROUP)
        self.subnet = self.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]

    def define(self, image=f"{REPOSITORY}:v1", definition=None, **container):
        """Register a task definition of one container, and give its ARN."""
        has_host = "." in image.split("/")[0]
        options = {"awslogs-group": LOG_GROUP, "awslogs-region": "us-east-1"}
        whole = {
            "name": "train",
            "image": image if has_host else f"{ECR}/{image}",
            "essential": True,
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {**options, "awslogs-stream-prefix": "t"},
            },
            **container,
        }
        made = self.client("ecs").register_task_definition(
            family="train",
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            cpu="256",
            memory="512",
            containerDefinitions=[whole],
            **(definition or {}),
        )
        return made["taskDefinition"]["taskDefinitionArn"]

    def request(self, **fields):
        """Give a RunTask request that is right."""
        network = {"awsvpcConfiguration": {"subnets": [self.subnet]}}
        return {
            "cluster": "training",
            "taskDefinition": "train",
            "launchType": "FARGATE",
            "networkConfiguration": network,
            **fields,
        }

    def run(self, **fields):
        """Start one task, and give its ARN."""
        (task,) = self.client("ecs").run_task(**self.request(**fields))["tasks"]
        return task["taskArn"]

    def stopped(self, arn, seconds=20):
        """Wait until a task has stopped, and give it as its last event told."""
        return self.event("ECS Task State Change", seconds, taskArn=arn, lastStatus="STOPPED")

    def lines(self, arn):
        """Give what a task has logged; nothing while it has no stream yet."""
        logs = self.client("logs")
        stream = f"t/train/{arn.rsplit('/', 1)[1]}"
        try:
            answer = logs.get_log_events(
                logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True
            )
        except logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in answer["events"]]

    # Lambda, rules and queues

    def queue(self, name):
        """Make a queue, and give its URL and ARN."""
        sqs = self.client("sqs")
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
        answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return url, answer["Attributes"]["QueueArn"]

    def message(self, url, seconds=20):
        """Wait for a message, and give its body as JSON and its attributes as text."""
        answer = self.until(
            lambda: (
                self.client("sqs")
                .receive_message(QueueUrl=url, MaxNumberOfMessages=1, MessageAttributeNames=["All"])
                .get("Messages")
            ),
            seconds,
        )
        self.client("sqs").delete_message(QueueUrl=url, ReceiptHandle=answer[0]["ReceiptHandle"])
        attributes = answer[0].get("MessageAttributes", {})
        said = {name: value["StringValue"] for name, value in attributes.items()}
        return json.loads(answer[0]["Body"]), said

    def function(self, files, name="f", handler="handler.invoke.handler", **variables):
        """Make a function from files, and give its ARN."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as made:
            for path, text in files.items():
                made.writestr(path, text)
        function = self.client("lambda").create_function(
            FunctionName=name,
            Runtime="python3.11",
            Handler=handler,
            Role="arn:aws:iam::000000000000:role/lambda",
            Timeout=30,
            Code={"ZipFile": archive.getvalue()},
            Environment={"Variables": variables},
        )
        return function["FunctionArn"]

    def rule(self, name, pattern, target, permit=True, **options):
        """Send what matches the pattern to a target."""
        events = self.client("events")
        rule = events.put_rule(Name=name, EventPattern=json.dumps(pattern))["RuleArn"]
        events.put_targets(Rule=name, Targets=[{"Id": "target", "Arn": target, **options}])
        if permit and ":function:" in target:
            self.client("lambda").add_permission(
                FunctionName=target.rsplit(":", 1)[1],
                StatementId=name,
                Action="lambda:InvokeFunction",
                Principal="events.amazonaws.com",
                SourceArn=rule,
            )


@pytest.fixture(scope="module")
def one_cloud():
    watchers = []
    with Cloud(on_event=lambda *event: [tell(event) for tell in watchers]) as cloud:
        yield cloud, watchers


@pytest.fixture
def bench(one_cloud):
    cloud, watchers = one_cloud
    cloud.reset()
    bench = Bench(cloud)
    watchers[:] = [bench.events.put]
    return bench
