"""Prints, as JSON, what a cloud has; with `deploy PROJECT STACK...`, what is made in this process.

The cloud's made-up parts of names are left out, so that two deployments can be compared.
"""

import json
import re
import sys
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

from localcloud import Cloud
from localcloud.deployer import deploy

MADE_UP = re.compile(
    r"(?<=-)(?:[0-9a-f]{7,8}|[0-9a-f]{17})\b"  # ends of names and ids
    r"|(?<=task-template:)\d+"  # revisions
    r"|(?:127\.0\.0\.1|localhost):\d+|\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com"  # registries
)


def paged(client, operation, key, **request):
    return [
        item for page in client.get_paginator(operation).paginate(**request) for item in page[key]
    ]


def bucket(s3, name):
    try:
        rules = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    except ClientError:
        return "bare: its configuration is destroyed"
    return {
        "versioning": s3.get_bucket_versioning(Bucket=name)["Status"],
        "policy": json.loads(s3.get_bucket_policy(Bucket=name)["Policy"]),
        "lifecycle": sorted(rules, key=lambda rule: rule["ID"]),
        "private": s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"],
        "ownership": s3.get_bucket_ownership_controls(Bucket=name)["OwnershipControls"]["Rules"],
        "encryption": [
            rule["ApplyServerSideEncryptionByDefault"]
            for rule in s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"][
                "Rules"
            ]
        ],
    }


def role(iam, found):
    name = found["RoleName"]
    policies = paged(iam, "list_role_policies", "PolicyNames", RoleName=name)
    return {
        "trust": found["AssumeRolePolicyDocument"],
        "policies": {
            policy: iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for policy in policies
        },
    }


def function(client, found):
    name = found["FunctionName"]
    wanted = ("Runtime", "Handler", "Timeout", "MemorySize", "Environment", "Role", "LoggingConfig")
    invoke = client.get_function_event_invoke_config(FunctionName=name)
    policy = json.loads(client.get_policy(FunctionName=name)["Policy"])
    return {
        **{key: found[key] for key in wanted},
        "invoke": [invoke["MaximumRetryAttempts"], invoke["DestinationConfig"]],
        "policy": [
            [each["Action"], each["Principal"], each["Condition"]] for each in policy["Statement"]
        ],
    }


def queue(sqs, url):
    wanted = ["MessageRetentionPeriod", "SqsManagedSseEnabled", "Policy"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=wanted).get("Attributes", {})
    return {**found, "Policy": json.loads(found.get("Policy", "{}"))}


def rule(events, found):
    targets = events.list_targets_by_rule(Rule=found["Name"])["Targets"]
    return {
        "pattern": json.loads(found.get("EventPattern", "null")),
        "schedule": found.get("ScheduleExpression"),
        "state": found["State"],
        "targets": [
            {key: each.get(key) for key in ("Arn", "RetryPolicy", "DeadLetterConfig")}
            for each in targets
        ],
    }


def topic(sns, arn):
    found = sns.get_topic_attributes(TopicArn=arn)["Attributes"]
    subscribed = paged(sns, "list_subscriptions_by_topic", "Subscriptions", TopicArn=arn)
    return {
        "policy": json.loads(found["Policy"]),
        "key": found.get("KmsMasterKeyId"),
        "subscribed": sorted((each["Protocol"], each["Endpoint"]) for each in subscribed),
    }


def template(ecs):
    arns = [
        arn
        for arn in ecs.list_task_definitions(status="ACTIVE")["taskDefinitionArns"]
        if "template" in arn
    ]
    wanted = ("family", "cpu", "memory", "networkMode", "runtimePlatform", "containerDefinitions")
    found = [ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"] for arn in arns]
    return [{key: each[key] for key in (*wanted, "taskRoleArn")} for each in found]


def expiry(ecr, name):
    try:
        return json.loads(ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"])
    except ClientError:
        return None


def cluster(found):
    providers = sorted(found["capacityProviders"])
    return {"status": found["status"], "settings": found["settings"], "providers": providers}


def inventory(client):
    """Give what programs made, by service: pairs of name and what is to be known of it."""
    s3, iam, functions, ecr = client("s3"), client("iam"), client("lambda"), client("ecr")
    sqs, events, ecs, ec2 = client("sqs"), client("events"), client("ecs"), client("ec2")
    logs, ssm, sns = client("logs"), client("ssm"), client("sns")
    vpcs = [each for each in ec2.describe_vpcs()["Vpcs"] if not each["IsDefault"]]
    of_vpc = [{"Name": "vpc-id", "Values": [each["VpcId"] for each in vpcs] or ["none"]}]
    clusters = ecs.describe_clusters(
        clusters=ecs.list_clusters()["clusterArns"], include=["SETTINGS"]
    )
    found = {
        "buckets": [
            (each["Name"], bucket(s3, each["Name"])) for each in s3.list_buckets()["Buckets"]
        ],
        "roles": [
            (each["RoleName"], role(iam, each)) for each in paged(iam, "list_roles", "Roles")
        ],
        "functions": [
            (each["FunctionName"], function(functions, each))
            for each in paged(functions, "list_functions", "Functions")
        ],
        "queues": [
            (url.rpartition("/")[2], queue(sqs, url))
            for url in sqs.list_queues().get("QueueUrls", [])
        ],
        "rules": [(each["Name"], rule(events, each)) for each in events.list_rules()["Rules"]],
        "topics": [
            (arn.rpartition(":")[2], topic(sns, arn))
            for arn in (each["TopicArn"] for each in paged(sns, "list_topics", "Topics"))
        ],
        "repositories": [
            (
                each["repositoryName"],
                each["imageTagMutability"],
                each["imageScanningConfiguration"],
                expiry(ecr, each["repositoryName"]),
            )
            for each in ecr.describe_repositories()["repositories"]
        ],
        "clusters": [(each["clusterName"], cluster(each)) for each in clusters["clusters"]],
        "templates": template(ecs),
        "logs": [
            (each["logGroupName"], each.get("retentionInDays"))
            for each in paged(logs, "describe_log_groups", "logGroups")
        ],
        "parameters": [
            (
                each["Name"],
                json.loads(ssm.get_parameter(Name=each["Name"])["Parameter"]["Value"]),
            )
            for each in ssm.describe_parameters()["Parameters"]
        ],
        "vpcs": [each["CidrBlock"] for each in vpcs],
        "subnets": [
            (each["CidrBlock"], each["AvailabilityZone"])
            for each in ec2.describe_subnets(Filters=of_vpc)["Subnets"]
        ],
        "groups": [
            (each["GroupName"], len(each["IpPermissions"]), len(each["IpPermissionsEgress"]))
            for each in ec2.describe_security_groups(Filters=of_vpc)["SecurityGroups"]
        ],
        "endpoints": [
            (each["ServiceName"], each["VpcEndpointType"], json.loads(each["PolicyDocument"]))
            for each in ec2.describe_vpc_endpoints(Filters=of_vpc)["VpcEndpoints"]
        ],
    }
    text = MADE_UP.sub("x", json.dumps(found, sort_keys=True))
    return {
        service: sorted(things, key=lambda thing: json.dumps(thing, sort_keys=True))
        for service, things in json.loads(text).items()
    }


def deployed(project, *stacks):
    """Deploy stacks in this process; give the inventory, and the URNs of each."""
    with Cloud() as cloud:
        settings = {"image.registry": cloud.registry_host}
        urns = {stack: deploy(cloud, Path(project), stack, settings).urns for stack in stacks}
        return {"inventory": inventory(cloud.client), "urns": urns}


if __name__ == "__main__":
    asked = sys.argv[2:]
    json.dump(deployed(*asked) if asked else inventory(boto3.client), sys.stdout)
