"""A key of the stack's own: used for all that is kept, and by whom."""

import pytest

from components.image_repository import ImageRepository, ImageRepositoryArgs

KEY = "arn:aws:kms:us-east-1:123456789012:key/0123abcd"


@pytest.fixture(scope="module")
def keyed(deploy):
    return deploy.whole({"customerKey": True})


def test_no_stack_has_a_key_unless_it_asks_for_one(dev):
    assert dev.of_type("aws:kms/key:Key") == []


def test_everything_that_is_kept_is_encrypted_with_it(keyed):
    (rule,) = keyed.inputs("pushtrain-store-encryption")["rules"]
    queues = keyed.of_type("aws:sqs/queue:Queue")
    groups = keyed.of_type("aws:cloudwatch/logGroup:LogGroup")

    assert rule == {
        "applyServerSideEncryptionByDefault": {"sseAlgorithm": "aws:kms", "kmsMasterKeyId": KEY},
        "bucketKeyEnabled": True,
    }
    assert {queue.inputs["kmsMasterKeyId"] for queue in queues} == {KEY}
    assert not any("sqsManagedSseEnabled" in queue.inputs for queue in queues)
    assert {group.inputs["kmsKeyId"] for group in groups} == {KEY}
    assert (len(queues), len(groups)) == (6, 4)
    assert keyed.inputs("pushtrain-notices-topic")["kmsMasterKeyId"] == KEY
    assert keyed.inputs("pushtrain-images-repository")["encryptionConfigurations"] == [
        {"encryptionType": "KMS", "kmsKey": KEY}
    ]


@pytest.mark.parametrize("destroyable", [True, False])
def test_the_key_stays_as_long_as_the_data(deploy, destroyable):
    key = deploy.whole({"customerKey": True, "destroyable": destroyable}).one(
        "pushtrain-encryption-key"
    )

    assert key.inputs["enableKeyRotation"] is True
    assert key.inputs["deletionWindowInDays"] == 30
    assert key.protect is not destroyable
    assert key.retain_on_delete is not destroyable


def test_its_policy_is_exactly_this(keyed):
    use = ["kms:Decrypt", "kms:GenerateDataKey"]
    here = "us-east-1:123456789012"

    assert keyed.document("pushtrain-encryption-key", "policy")["Statement"] == [
        {
            "Sid": "AccountDecides",
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
            "Action": "kms:*",
            "Resource": "*",
        },
        {
            "Sid": "LogGroups",
            "Effect": "Allow",
            "Principal": {"Service": "logs.us-east-1.amazonaws.com"},
            "Action": [
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            "Resource": "*",
            "Condition": {
                "ArnLike": {
                    "kms:EncryptionContext:aws:logs:arn": [
                        f"arn:aws:logs:{here}:log-group:pushtrain-*",
                    ]
                }
            },
        },
        {
            "Sid": "UndeliveredEvents",
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": use,
            "Resource": "*",
        },
        {
            "Sid": "AlarmsToTopic",
            "Effect": "Allow",
            "Principal": {"Service": "cloudwatch.amazonaws.com"},
            "Action": use,
            "Resource": "*",
            "Condition": {
                "StringEquals": {"aws:SourceAccount": "123456789012"},
                "ArnLike": {"aws:SourceArn": f"arn:aws:cloudwatch:{here}:alarm:pushtrain-*"},
            },
        },
    ]


def test_log_groups_are_named_as_the_key_knows_them(keyed):
    names = [group.name for group in keyed.of_type("aws:cloudwatch/logGroup:LogGroup")]

    assert all(name.startswith("pushtrain-") for name in names)


@pytest.mark.parametrize(
    ("key_arn", "made", "key"), [(KEY, "AES256", "false"), (None, "KMS", "true")]
)
def test_images_that_are_there_are_never_replaced_for_a_key(
    deploy, monkeypatch, key_arn, made, key
):
    args = ImageRepositoryArgs(immutable_tags=True, destroyable=True, key_arn=key_arn)
    recorder = type(deploy.latest)
    answer = recorder.new_resource

    def as_it_was_made(self, request):
        """Answer as the engine does where a change is ignored: with what is there."""
        identity, outputs = answer(self, request)
        was = {"encryptionConfigurations": [{"encryptionType": made}]}
        return identity, outputs | (was if "encryptionConfigurations" in outputs else {})

    monkeypatch.setattr(recorder, "new_resource", as_it_was_made)

    with pytest.raises(Exception, match=rf"customerKey must stay {key} .*docs/production.md"):
        deploy(lambda: ImageRepository("images", args).name)


def test_secrets_are_told_by_address_and_read_by_the_agent_alone(deploy):
    secret = "arn:aws:secretsmanager:us-east-1:123456789012:secret:token-AbCdEf"
    parameter = "arn:aws:ssm:us-east-1:123456789012:parameter/token"
    deployment = deploy.whole({"secrets": [f"B={secret}:key::", f"A={parameter}"]})
    (container,) = deployment.document("pushtrain-training-template", "containerDefinitions")
    reading = {
        (name, action): statement["Resource"]
        for (name, _), document in deployment.documents().items()
        if isinstance(document, dict)
        for statement in document.get("Statement", [])
        for action in statement["Action"]
        if action in ("secretsmanager:GetSecretValue", "ssm:GetParameters")
    }

    assert container["secrets"] == [
        {"name": "A", "valueFrom": parameter},
        {"name": "B", "valueFrom": f"{secret}:key::"},
    ]
    assert reading == {
        ("pushtrain-training-execution-policy", "secretsmanager:GetSecretValue"): [secret],
        ("pushtrain-training-execution-policy", "ssm:GetParameters"): [parameter],
    }
