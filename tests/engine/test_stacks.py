"""The program through the real engine, on an embedded cloud: two stacks, from nothing to nothing.

An up takes a minute or two, so the tests share two stacks and go on in this order.
"""

import json
import runpy
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from automation.errors import LockedStackError, OperationError, ProtectedError, UnknownStackError
from localcloud import Registry, build

ROOT = Path(__file__).parents[2]
SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
time.sleep(300)
"""
LOG_GROUPS = {
    "pushtrain-training-logs",
    "pushtrain-trigger-invoke-logs",
    "pushtrain-trigger-observe-logs",
    "pushtrain-trigger-reconcile-logs",
}
WEBHOOK_SECRET = "b4d5ec9e"
WEBHOOKS = [f"https://{name}.invalid/{WEBHOOK_SECRET}" for name in ("chat", "pager")]


class Stacks:
    """One stack whose first image does not build, one whose first `up` is interrupted."""

    def __init__(self, bench):
        self.bench = bench
        broken = bench.context(dockerfile="FROM scratch\nCOPY no-such-file /\n")
        self.settings = {
            "image.context": broken,
            "data.path": str(bench.data),
            "parameters": ["depth=3"],
            "notify.emails": ["ann@example.com", "bob@example.com"],
            "notify.webhooks": WEBHOOKS,
        }
        self.one = bench.stack("one", **self.settings)
        self.two = bench.stack("two", **{"image.build": False, "destroyable": False})

    def up(self):
        with ThreadPoolExecutor() as pool:
            two = pool.submit(self.up_two)
            self.up_one()
            two.result()

    def up_one(self):
        with pytest.raises(UnknownStackError) as caught:
            self.one.preview()
        self.unknown = str(caught.value)
        self.one.create()
        self.planned = self.one.preview()
        with pytest.raises(OperationError) as caught:
            self.one.up()
        self.failure = str(caught.value)
        self.survivors = {each["urn"] for each in self.one.resources()}
        self.bench.context()
        self.repair = self.one.up()
        self.outputs = self.repair.outputs

    def up_two(self):
        self.two.create()
        self.two.preview()  # writes the settings, which the command then finds
        with self.bench.pushtrain("up", "-s", "two", "--yes") as command:
            for line in command.stderr:
                if "pushtrain-network-vpc" in line:
                    command.send_signal(signal.SIGINT)
                    break
            self.interrupted = command.stderr.read(), command.wait()
        self.begun = {each["urn"] for each in self.two.resources()}
        self.two_outputs = self.two.up().outputs

    def with_settings(self, **settings):
        return self.bench.stack("one", **{**self.settings, **settings})


@pytest.fixture(scope="module")
def stacks(bench):
    stacks = Stacks(bench)
    stacks.up()
    return stacks


def changed(result):
    return {change.name: change.op for change in result.changes}


def kinds(stack):
    return [each["type"] for each in stack.resources()]


def test_a_stack_that_is_not_there_is_refused_with_the_command_that_makes_it(stacks):
    assert stacks.unknown == (
        "there is no stack one in this backend; create it: pushtrain up -s one"
    )


def test_preview_tells_what_up_then_makes(stacks):
    assert {change.op for change in stacks.planned.changes} == {"create"}
    assert {change.urn for change in stacks.planned.changes} == {
        each["urn"] for each in stacks.one.resources()
    }


def test_an_image_that_cannot_be_built_is_named(stacks):
    assert stacks.failure.startswith("pushtrain-trainer-image: ")
    assert "no-such-file" in stacks.failure
    assert "Traceback" not in stacks.failure


def test_the_next_up_makes_only_what_the_failed_one_did_not(stacks):
    assert changed(stacks.repair) == {"pushtrain-trainer-image": "create"}
    assert len(stacks.survivors) > 50


def test_an_interrupted_up_says_so_and_the_next_goes_on_from_there(stacks):
    said, code = stacks.interrupted

    assert code == 130
    assert "pushtrain up -s two" in said
    assert 0 < len(stacks.begun) < len(stacks.two.resources())
    assert stacks.two.preview().changes == ()


def test_a_second_up_changes_nothing(stacks):
    result = stacks.one.up()

    assert result.changes == ()
    providers = [each for each in kinds(stacks.one) if each.startswith("pulumi:providers:")]
    assert result.counts == {"same": len(kinds(stacks.one)) - len(providers)}
    assert result.outputs == stacks.outputs


def test_two_stacks_share_nothing(stacks):
    def own(stack):
        kinds = ("aws:iam/rolePolicy:RolePolicy", "pulumi:providers:aws", "pulumi:providers:docker")
        return {
            str(each["id"])
            for each in stack.resources()
            if each.get("id") and each["type"] not in kinds
        }

    assert own(stacks.one) & own(stacks.two) == set()
    assert stacks.two_outputs["wiringParameter"] == "/pushtrain/two/wiring"
    assert stacks.outputs["wiringParameter"] == "/pushtrain/one/wiring"


def test_no_secret_is_in_clear_in_what_the_engine_keeps(stacks, bench):
    (answer,) = bench.client("ecr").get_authorization_token()["authorizationData"]
    images = [each for each in stacks.one.resources() if each["type"].startswith("docker:")]
    files = [file for file in bench.state.rglob("*.json*") if file.is_file()]

    password = images[0]["inputs"]["registry"]["password"]
    assert "ciphertext" in password
    assert "plaintext" not in password
    assert len(files) > 3
    for file in files:
        assert answer["authorizationToken"] not in file.read_text()
    for file in (bench.state / ".pulumi/stacks").rglob("*.json*"):
        assert WEBHOOK_SECRET not in file.read_text()


def test_the_image_that_up_pushed_trains_a_model_as_the_example_waits_for(stacks, bench):
    example = runpy.run_path(str(ROOT / "examples/train_from_a_script.py"))
    record = example["train"](stacks.one)
    image = stacks.outputs["image"]

    assert record["state"] == "SUCCEEDED", record["diagnosis"]
    assert record["image"]["digest"] == image.rpartition("@")[2]
    key = f"runs/{record['run']}/model"
    model = bench.client("s3").get_object(Bucket=stacks.outputs["bucket"], Key=key)["Body"]
    assert json.loads(model.read()) == {"data": "one two three", "depth": "3"}


def test_its_runs_are_listed_by_what_the_engine_knows_of_the_stack(stacks, bench):
    with bench.pushtrain("runs", "-s", "one", "--json") as command:
        out, err = command.communicate(timeout=120)
    rows = json.loads(out)

    assert command.returncode == 0, err
    assert "SUCCEEDED" in {row["state"] for row in rows}
    assert stacks.one.deployed().output("bucket") == stacks.one.outputs()["bucket"]


def test_a_subscriber_who_leaves_takes_nobody_along(stacks):
    settings = {"notify.emails": ["bob@example.com"], "notify.webhooks": WEBHOOKS[1:]}
    result = stacks.with_settings(**settings).preview()
    stacks.with_settings().create()

    assert set(changed(result).values()) == {"delete"}
    assert [name.rpartition("-notices-")[2][:12] for name in sorted(changed(result))] == [
        "email-ann@ex",
        "webhook-chat",
    ]


def test_more_memory_is_a_new_template_and_its_wiring_and_nothing_else(stacks):
    result = stacks.with_settings(memory=16384).up()

    assert changed(result) == {
        "pushtrain-training-template": "replace",
        "pushtrain-trigger-wiring": "update",
    }
    (template,) = [change for change in result.changes if change.op == "replace"]
    assert "memory" in template.forced_by


def test_other_retention_changes_the_log_groups_and_nothing_else(stacks):
    result = stacks.with_settings(logRetentionDays=3).preview()
    stacks.with_settings(logRetentionDays=1, memory=16384).create()

    assert changed(result) == dict.fromkeys(LOG_GROUPS, "update")


def test_drift_and_refresh_find_a_change_made_behind_their_back(stacks, bench):
    logs = bench.client("logs")
    name = stacks.outputs["logGroup"]
    logs.put_retention_policy(logGroupName=name, retentionInDays=5)
    drift = stacks.one.drift()
    before = stacks.one.drift()
    refreshed = stacks.one.refresh()
    restored = stacks.one.up()
    (group,) = logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]

    assert [change.properties for change in drift.changes] == [("retentionInDays",)]
    assert changed(drift) == {"pushtrain-training-logs": "update"}
    assert drift == before, "drift writes nothing"
    assert changed(refreshed) == changed(restored) == changed(drift)
    assert group["retentionInDays"] == 1


def test_an_image_that_the_registry_lost_is_drift(stacks, bench):
    repository = stacks.outputs["repositoryUrl"].rpartition("/")[2]
    before = stacks.one.drift()
    images = bench.client("ecr").list_images(repositoryName=repository)["imageIds"]
    bench.client("ecr").batch_delete_image(repositoryName=repository, imageIds=images)
    command = bench.pushtrain("drift", "-s", "one")
    said, told = command.communicate()

    assert not before
    assert command.returncode == 2, told
    assert f"missing  image {bench.url.removeprefix('http://')}/{repository}:c-" in said


def test_the_deployer_and_the_engine_make_the_same(stacks, bench):
    def types_and_names(urns):
        """The SDK's mock monitor knows but the nearest of a resource's parents."""
        found = [(urn.split("::")[2].rpartition("$")[2], urn.rpartition("::")[2]) for urn in urns]
        return sorted(each for each in found if not each[0].startswith("pulumi:"))

    engine = bench.inventory()
    deployer = bench.inventory("deploy", str(bench.project), "one", "two")

    assert {service for service, things in engine.items() if things} == set(engine)
    assert engine == deployer["inventory"]
    for stack in (stacks.one, stacks.two):
        urns = [each["urn"] for each in stack.resources()]
        assert types_and_names(urns) == types_and_names(deployer["urns"][stack.name])


@pytest.mark.usefixtures("stacks")
@pytest.mark.parametrize(
    ("command", "environment", "told"),
    [
        (["outputs", "-s", "nine"], {}, "there is no stack nine in this backend; create it: "),
        (
            ["preview", "-s", "one"],
            {"PULUMI_CONFIG_PASSPHRASE": "another"},
            "the passphrase must be the one that stack one was created with: ",
        ),
        (
            ["outputs", "-s", "one"],
            {"PULUMI_BACKEND_URL": "file:///no/such/folder"},
            "unable to open state directory",
        ),
        (["up", "-s", "one"], {}, "nobody can answer 'Change stack one?' here; give --yes"),
    ],
    ids=["stack", "passphrase", "backend", "nobody to ask"],
)
def test_what_is_wrong_is_told_in_one_line(bench, command, environment, told):
    with bench.pushtrain(*command, stdin=subprocess.DEVNULL, environment=environment) as process:
        said, errors = process.communicate()
    (line,) = [each for each in errors.splitlines() if "error:" in each]

    assert process.returncode == 1
    assert said == ""
    assert line.startswith(f"error: {told}")
    assert errors.endswith(f"{line}\n")


def test_a_locked_stack_is_told_with_the_way_out(stacks, bench):
    lock = bench.state / ".pulumi/locks/organization/pushtrain/one/0.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text('{"pid": 1, "username": "me", "hostname": "here"}')
    with pytest.raises(LockedStackError, match="if none is running any more: pulumi cancel -s one"):
        stacks.one.refresh()
    lock.unlink()


def test_a_protected_stack_is_not_destroyed_and_the_way_out_is_told(stacks):
    before = stacks.two.resources()
    with pytest.raises(ProtectedError, match="pushtrain:destroyable true") as caught:
        stacks.two.destroy()

    for name in ("pushtrain-store-bucket", "pushtrain-images-repository"):
        assert name in str(caught.value)
    assert stacks.two.resources() == before


def test_destroy_stops_what_runs_and_leaves_but_what_is_retained(stacks, bench):
    with Registry(bench.url.removeprefix("http://")) as registry:
        image = build(Path(bench.context("sleeper", SLEEPER)))
        registry.push(image, stacks.outputs["repositoryUrl"], "g-sleeper")
    running = bench.until(stacks.one.running_tasks)
    bench.pulumi("state", "unprotect", "--all", "--yes", "-s", "two")
    with bench.pushtrain("destroy", "-s", "one", "--yes") as command:
        kept = stacks.two.destroy().retained
        _, told = command.communicate()

    assert command.returncode == 0, told
    assert f"running: {running[0].run}" in told
    assert {each.partition(" ")[0] for each in kept} == {
        "aws:s3/bucket:Bucket",
        "aws:ecr/repository:Repository",
    }
    assert {service: len(things) for service, things in bench.inventory().items() if things} == {
        "buckets": 1,
        "repositories": 1,
    }
    assert bench.client("ecs").list_task_definitions(status="ACTIVE")["taskDefinitionArns"] == []
