"""The whole program, as the dev stack has it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

URNS = (Path(__file__).parent / "urns.txt").read_text().splitlines()


def urns(deployment):
    return sorted(made.urn.split("::", 2)[2] for made in deployment.registrations)


def test_urns_are_these(dev):
    # Another name is another resource: the old one is deleted, with what is in it.
    assert urns(dev) == URNS


def test_urns_are_unique(dev):
    assert len({made.urn for made in dev.registrations}) == len(dev.registrations)


def test_names_do_not_depend_on_the_stack(deploy):
    assert urns(deploy.whole(stack="prod")) == URNS


def test_every_resource_belongs_to_a_component(dev):
    components = {made.urn for made in dev.registrations if not made.custom}
    orphans = [made.name for made in dev.registrations if made.parent not in components]

    assert orphans == ["pushtrain"]


def test_every_component_has_a_type_of_its_own(dev):
    types = [made.typ for made in dev.registrations if not made.custom]

    assert all(typ.startswith("pushtrain:") and typ.count(":") == 2 for typ in types)


def test_outputs_are_what_a_person_or_script_needs(dev):
    queue = "https://sqs.us-east-1.amazonaws.com/123456789012/pushtrain-trigger"
    registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"

    assert {name: export.value for name, export in dev.exports.items()} == {
        "bucket": "pushtrain-store-bucket-0a1b2c3",
        "networkIdleCost": "$0 a month",
        "repositoryUrl": f"{registry}/pushtrain-images-repository-0a1b2c3",
        "cluster": "arn:aws:ecs:us-east-1:123456789012:cluster/pushtrain-training-cluster-0a1b2c3",
        "logGroup": "pushtrain-training-logs-0a1b2c3",
        "wiringParameter": "/pushtrain/dev/wiring",
        "trainingParameter": "/pushtrain/dev/training",
        "invokeFunction": "pushtrain-trigger-invoke-function-0a1b2c3",
        "observeFunction": "pushtrain-trigger-observe-function-0a1b2c3",
        "reconcileFunction": "pushtrain-trigger-reconcile-function-0a1b2c3",
        "topic": "arn:aws:sns:us-east-1:123456789012:pushtrain-notices-topic-0a1b2c3",
        "failedPushes": f"{queue}-invoke-failed-0a1b2c3",
        "failedEnds": f"{queue}-observe-failed-0a1b2c3",
        "undeliveredPushes": f"{queue}-invoke-undelivered-0a1b2c3",
        "undeliveredEnds": f"{queue}-observe-undelivered-0a1b2c3",
        "image": f"{registry}/pushed@sha256:{'0' * 64}",
    }


def test_no_output_is_a_secret(dev):
    assert not [name for name, export in dev.exports.items() if export.secret]


def test_preview_registers_the_same_resources_without_knowing_what_aws_will_say(deploy):
    preview = deploy.whole(preview=True)

    assert urns(preview) == URNS
    assert preview.exports["bucket"].value is None


def test_dev_stack_leaves_nothing_behind(dev):
    kept = [made.name for made in dev.registrations if made.protect or made.retain_on_delete]

    assert kept == []


def test_other_stacks_keep_models_and_images(deploy):
    deployment = deploy.whole({"destroyable": False})
    protected = {made.name for made in deployment.registrations if made.protect}

    assert protected == {"pushtrain-store-bucket", "pushtrain-images-repository"}
    assert protected == {made.name for made in deployment.registrations if made.retain_on_delete}


def test_no_document_holds_what_nobody_knows(dev, deploy, context):
    everything = deploy.whole(
        {
            "data.path": str(context / "train.py"),
            "parameters": ["epochs=1"],
            "image.tagPrefixes": ["c-"],
            "destroyable": False,
        }
    )

    for deployment in (dev, everything):
        documents = deployment.documents()
        assert len(documents) == 27
        for place, document in documents.items():
            text = json.dumps(document)
            assert not [word for word in ("null", "None", "Output") if word in text], place


def test_every_role_is_within_the_boundary(deploy, dev):
    boundary = "arn:aws:iam::123456789012:policy/boundary"
    bounded = deploy.whole({"permissionsBoundary": boundary})

    for deployment, given in ((bounded, boundary), (dev, None)):
        roles = deployment.of_type("aws:iam/role:Role")
        assert {made.inputs.get("permissionsBoundary") for made in roles} == {given}


def test_no_used_resource_is_deprecated(deploy, caplog):
    deploy.whole()

    assert [record.message for record in caplog.records] == []


def test_unexpected_look_ups_are_refused(deploy):
    import pulumi_aws as aws  # noqa: PLC0415 - for this one test

    with pytest.raises(Exception, match="unexpected look-up aws:ec2/getAmi:getAmi"):
        deploy(lambda: aws.ec2.get_ami(most_recent=True))


def test_importing_components_touches_no_network(root):
    program = """
import importlib, pathlib, socket
def refuse(*args, **kwargs):
    raise SystemExit(f"network call {args}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
for file in sorted(pathlib.Path("components").glob("*.py")):
    importlib.import_module(f"components.{file.stem}")
    print(file.stem)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "pipeline" in done.stdout.split()


def test_every_test_file_is_collected(root):
    # A file of another name would be passed over without a word.
    files = [path for path in (root / "tests").rglob("*.py") if "\ndef test_" in path.read_text()]

    assert [path.name for path in files if not path.name.startswith("test_")] == []
