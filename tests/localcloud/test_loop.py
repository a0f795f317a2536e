import pytest

pytestmark = pytest.mark.localcloud

INVOKE = """
import os
import boto3

def handler(event, context):
    detail = event["detail"]
    answer = boto3.client("ecs").run_task(
        cluster="training", taskDefinition="train", launchType="FARGATE",
        clientToken=event["id"], startedBy="run-a1",
        networkConfiguration={"awsvpcConfiguration": {"subnets": [os.environ["SUBNET"]]}},
        overrides={"containerOverrides": [{"name": "train", "environment": [
            {"name": "DIGEST", "value": detail["image-digest"]}]}]},
    )
    if answer["failures"]:
        raise RuntimeError(str(answer["failures"]))
"""
OBSERVE = """
import json, os
import boto3

def handler(event, context):
    boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE"], MessageBody=json.dumps(event))
"""
TRAIN = """
import os
import boto3
print("training", os.environ["DIGEST"])
boto3.client("s3").put_object(Bucket="models", Key=os.environ["DIGEST"], Body=b"a model")
print("done")
"""


def test_a_pushed_image_trains_and_the_end_is_observed(bench):
    bench.cluster()
    role = bench.client("iam").create_role(RoleName="task", AssumeRolePolicyDocument="{}")["Role"]
    bench.client("s3").create_bucket(Bucket="models")
    bench.define(definition={"taskRoleArn": role["Arn"]})
    url, _ = bench.queue("observed")
    invoke = bench.function({"invoke.py": INVOKE}, "invoke", "invoke.handler", SUBNET=bench.subnet)
    observe = bench.function({"observe.py": OBSERVE}, "observe", "observe.handler", QUEUE=url)
    bench.rule("pushed", {"source": ["aws.ecr"]}, invoke)
    stopped = {"source": ["aws.ecs"], "detail": {"lastStatus": ["STOPPED"]}}
    bench.rule("stopped", stopped, observe)
    digest = bench.push_script(TRAIN)

    detail = bench.message(url)[0]["detail"]
    assert detail["startedBy"] == "run-a1"
    assert detail["containers"][0]["exitCode"] == 0
    assert detail["containers"][0]["imageDigest"] == digest
    assert bench.lines(detail["taskArn"]) == [f"training {digest}", "done"]
    model = bench.client("s3").get_object(Bucket="models", Key=digest)
    assert model["Body"].read() == b"a model"
