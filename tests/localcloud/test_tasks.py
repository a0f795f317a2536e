import json
import os
import sys
import time
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import ClientError

from localcloud import make_image

pytestmark = pytest.mark.localcloud

STATES = ["PROVISIONING", "PENDING", "RUNNING", "DEPROVISIONING", "STOPPED"]
CHANGED = "ECS Task State Change"
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def tasks(bench):
    bench.cluster()
    return bench


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rsplit(")", 1)[1].split()[0] == "Z"  # nobody may be there to reap an orphan


def test_a_task_goes_through_every_state_and_each_is_told(tasks):
    digest = tasks.push_script("print('one'); print('two')")
    definition = tasks.define()
    arn = tasks.run(startedBy="run-a1")
    told = []
    while not told or told[-1]["lastStatus"] != "STOPPED":
        told.append(tasks.event(CHANGED, taskArn=arn))

    assert [detail["lastStatus"] for detail in told] == STATES
    assert [detail["version"] for detail in told] == sorted({d["version"] for d in told})
    last = told[-1]
    assert len(arn.rsplit("/", 1)[1]) == 32
    assert last["clusterArn"].endswith(":cluster/training")
    assert last["taskDefinitionArn"] == definition
    assert last["desiredStatus"] == "STOPPED"
    assert last["startedBy"] == "run-a1"
    assert last["group"] == "family:train"
    assert last["launchType"] == "FARGATE"
    assert last["stopCode"] == "EssentialContainerExited"
    assert last["stoppedReason"] == "Essential container in task exited"
    times = ("createdAt", "pullStartedAt", "pullStoppedAt", "startedAt", "stoppingAt", "stoppedAt")
    assert [last[name] for name in times] == sorted(last[name] for name in times)
    (container,) = last["containers"]
    assert container["name"] == "train"
    assert container["exitCode"] == 0
    assert container["lastStatus"] == "STOPPED"
    assert container["imageDigest"] == digest
    assert "stopCode" not in told[2]
    assert "exitCode" not in told[2]["containers"][0]
    assert tasks.lines(arn) == ["one", "two"]


def test_describe_tasks_says_what_the_events_say(tasks):
    tasks.push_script("raise SystemExit(3)")
    tasks.define()
    arn = tasks.run(launchType="", capacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT"}])
    tasks.stopped(arn)
    (task,) = tasks.client("ecs").describe_tasks(cluster="training", tasks=[arn])["tasks"]

    assert task["lastStatus"] == "STOPPED"
    assert task["containers"][0]["exitCode"] == 3
    assert task["capacityProviderName"] == "FARGATE_SPOT"
    assert task["stoppedAt"] >= task["startedAt"]


def test_a_state_change_reaches_a_rule(tasks):
    url, arn = tasks.queue("stops")
    pattern = {"source": ["aws.ecs"], "detail": {"lastStatus": ["STOPPED"]}}
    tasks.rule("stops", pattern, arn)
    tasks.push_script("")
    tasks.define()
    task = tasks.run()

    event, _ = tasks.message(url)
    assert event["resources"] == [task]
    assert event["detail-type"] == CHANGED
    assert event["detail"]["taskArn"] == task


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_code_is_the_process_own(tasks, code):
    tasks.push_script(f"import os; os._exit({code})")
    tasks.define()

    assert tasks.stopped(tasks.run())["containers"][0]["exitCode"] == code


def test_a_killed_process_has_128_and_its_signal(tasks):
    tasks.push_script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    tasks.define()

    assert tasks.stopped(tasks.run())["containers"][0]["exitCode"] == 137


def test_stop_task_is_sigterm_and_the_last_lines_arrive(tasks):
    tasks.push_script(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(7)))\n"
        "print('ready')\n"
        "time.sleep(600)\n"
    )
    tasks.define()
    arn = tasks.run()
    tasks.event(CHANGED, lastStatus="RUNNING")
    tasks.until(lambda: tasks.lines(arn) == ["ready"])
    answer = tasks.client("ecs").stop_task(cluster="training", task=arn, reason="enough")["task"]

    assert answer["desiredStatus"] == "STOPPED"
    assert answer["lastStatus"] == "RUNNING"
    last = tasks.stopped(arn)
    assert last["stopCode"] == "UserInitiated"
    assert last["stoppedReason"] == "enough"
    assert last["containers"][0]["exitCode"] == 7
    assert tasks.lines(arn) == ["ready", "bye"]


def test_a_stubborn_task_is_killed_with_all_it_started_when_its_time_is_over(tasks):
    tasks.push_script(STUBBORN)
    tasks.define(stopTimeout=2)
    arn = tasks.run()
    tasks.event(CHANGED, lastStatus="RUNNING")
    (child,) = tasks.until(lambda: tasks.lines(arn))
    before = time.monotonic()
    tasks.client("ecs").stop_task(cluster="training", task=arn)

    assert tasks.stopped(arn)["containers"][0]["exitCode"] == 137
    assert 1.9 < time.monotonic() - before < 10
    tasks.until(lambda: gone(int(child)), 5)


def test_what_a_task_leaves_running_ends_with_it(tasks):
    tasks.push_script(
        "import subprocess, sys\n"
        "code = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)'\n"
        "print(subprocess.Popen([sys.executable, '-c', code]).pid)\n"
    )
    tasks.define()
    arn = tasks.run()

    assert tasks.stopped(arn)["containers"][0]["exitCode"] == 0
    (child,) = tasks.lines(arn)
    tasks.until(lambda: gone(int(child)), 5)


def test_a_stopped_task_leaves_no_files(tasks):
    tasks.push_script("import os; print(os.getcwd()); open('made', 'w').close()")
    tasks.define()
    arn = tasks.run()
    tasks.stopped(arn)

    (folder,) = tasks.lines(arn)
    assert folder.endswith("/app")
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("team/train:no", "failed to resolve ref team/train:no: not found"),
        ("docker.io/library/python:3", "image must be in this cloud's own registry"),
    ],
)
def test_an_image_that_cannot_be_pulled_says_so(tasks, image, reason):
    tasks.define(image)
    last = tasks.stopped(tasks.run())

    assert last["stopCode"] == "TaskFailedToStart"
    assert last["stoppedReason"].startswith("CannotPullContainerError: ")
    assert reason in last["stoppedReason"]
    assert "exitCode" not in last["containers"][0]
    assert "startedAt" not in last


def test_a_command_that_is_not_there_says_so(tasks):
    tasks.push(make_image({"a": b""}, Entrypoint=["no-such-program"]))
    tasks.define()
    last = tasks.stopped(tasks.run())

    assert last["stopCode"] == "TaskFailedToStart"
    assert last["stoppedReason"].startswith('CannotStartContainerError: exec: "no-such-program"')


def test_a_missing_log_group_keeps_a_task_from_starting(tasks):
    tasks.push_script("")
    tasks.define()
    tasks.client("logs").delete_log_group(logGroupName="/ecs/train")
    last = tasks.stopped(tasks.run())

    assert last["stopCode"] == "TaskFailedToStart"
    assert last["stoppedReason"].startswith("ResourceInitializationError: ")
    assert "ResourceNotFoundException" in last["stoppedReason"]


def test_the_caller_s_environment_comes_before_the_task_s_and_that_before_the_image_s(tasks):
    tasks.push_script(
        "import os; print(os.environ['A'], os.environ['B'], os.environ['C'])",
        Env=["A=image", "B=image", "C=image"],
    )
    tasks.define(environment=[{"name": name, "value": "task"} for name in "BC"])
    override = {"name": "train", "environment": [{"name": "C", "value": "caller"}]}
    arn = tasks.run(overrides={"containerOverrides": [override]})
    tasks.stopped(arn)

    assert tasks.lines(arn) == ["image task caller"]


def test_a_task_acts_with_its_role_and_nothing_of_this_machine(tasks, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "mine")
    monkeypatch.setenv("MY_SECRET", "mine")
    iam = tasks.client("iam")
    role = iam.create_role(RoleName="trainer", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    tasks.push_script(
        "import boto3, os\n"
        "print(boto3.client('sts').get_caller_identity()['Arn'])\n"
        "print('mine' in os.environ.values())\n"
    )
    tasks.define(definition={"taskRoleArn": role})
    arn = tasks.run()
    tasks.stopped(arn)

    identity, leaked = tasks.lines(arn)
    assert identity == (f"arn:aws:sts::000000000000:assumed-role/trainer/{arn.rsplit('/', 1)[1]}")
    assert leaked == "False"


def test_a_task_without_a_role_has_no_credentials(tasks):
    tasks.push_script("import os; print([name for name in os.environ if 'KEY' in name])")
    tasks.define()
    arn = tasks.run()
    tasks.stopped(arn)

    assert tasks.lines(arn) == ["[]"]


def test_secrets_reach_the_task(tasks):
    tasks.client("ssm").put_parameter(Name="/a/b", Value="told", Type="String")
    tasks.push_script("import os; print(os.environ['SECRET'])")
    tasks.define(secrets=[{"name": "SECRET", "valueFrom": "/a/b"}])
    arn = tasks.run()
    tasks.stopped(arn)

    assert tasks.lines(arn) == ["told"]


def test_a_secret_that_is_missing_keeps_a_task_from_starting(tasks):
    tasks.push_script("")
    tasks.define(secrets=[{"name": "SECRET", "valueFrom": "/none"}])
    last = tasks.stopped(tasks.run())

    assert last["stopCode"] == "TaskFailedToStart"
    assert "/none" in last["stoppedReason"]


def test_the_image_s_python_and_paths_are_this_machine_s(tasks):
    files = {
        "opt/tool.py": b"import sys, os; print(sys.executable, os.environ['HERE'], sys.argv[1:])",
        "opt/data": b"",
    }
    image = make_image(
        files,
        Entrypoint=["/usr/local/bin/python3", "/opt/tool.py"],
        Cmd=["/opt/data", "/etc/hostname"],
        Env=["HERE=/opt"],
    )
    tasks.push(image)
    tasks.define()
    arn = tasks.run()
    tasks.stopped(arn)

    (line,) = tasks.lines(arn)
    python, here, arguments = line.split(" ", 2)
    assert python == sys.executable
    assert here.endswith("/image/opt")
    assert arguments.endswith("/image/opt/data', '/etc/hostname']")


def test_folders_that_a_skipped_run_would_have_made_are_there(tasks):
    tasks.push_script(
        "import os, tempfile\n"
        "print(tempfile.gettempdir())\n"
        "print(os.path.expanduser('~'), os.path.isdir(os.path.expanduser('~')))\n",
        Env=["TMPDIR=/home/trainer", "HOME=/home/other"],
    )
    tasks.define()
    arn = tasks.run()
    tasks.stopped(arn)

    temporary, home = tasks.lines(arn)
    assert temporary.endswith("/image/home/trainer")
    assert home.endswith("/image/home/other True")


def test_a_task_definition_may_change_entry_point_command_and_folder(tasks):
    image = make_image({"work/x": b""}, Entrypoint=["false"], Cmd=["dropped"], WorkingDir="/else")
    tasks.push(image)
    tasks.define(entryPoint=["sh", "-c"], command=["echo defined; ls"], workingDirectory="/work")
    defined = tasks.run()
    override = {"name": "train", "command": ["echo overridden"]}
    overridden = tasks.run(overrides={"containerOverrides": [override]})
    tasks.stopped(defined)
    tasks.stopped(overridden)

    assert tasks.lines(defined) == ["defined", "x"]
    assert tasks.lines(overridden) == ["overridden"]


def test_a_digest_runs_exactly_what_was_pushed_though_the_tag_moved(tasks):
    digest = tasks.push_script("print('old')")
    tasks.push_script("print('new')")
    tasks.define(f"team/train@{digest}")
    arn = tasks.run()

    assert tasks.stopped(arn)["containers"][0]["imageDigest"] == digest
    assert tasks.lines(arn) == ["old"]


def test_an_index_leads_to_the_image_of_the_task_s_platform(tasks):
    digest = tasks.push_script("print('arm')")
    child = {"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": "arm64"}}
    kind = "application/vnd.oci.image.index.v1+json"
    httpx.put(
        f"{tasks.cloud.url}/v2/team/train/manifests/multi",
        content=json.dumps({"mediaType": kind, "manifests": [child]}),
        headers={"Content-Type": kind},
        trust_env=False,
    ).raise_for_status()
    platform = {"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"}
    tasks.define("team/train:multi", {"runtimePlatform": platform})
    arm = tasks.stopped(tasks.run())
    tasks.define("team/train:multi")
    intel = tasks.stopped(tasks.run())

    assert arm["containers"][0]["imageDigest"] == digest
    assert "image must have a manifest for linux/amd64" in intel["stoppedReason"]


def test_lines_arrive_while_the_task_runs_in_order_and_none_is_lost(tasks):
    tasks.push_script(
        "import time\n"
        "print('first')\n"
        "time.sleep(2)\n"
        "for n in range(3000): print(n)\n"
        "print()\n"
        "print('x' * 300_000)\n"
        "print('last', end='')\n"
    )
    tasks.define()
    arn = tasks.run()
    tasks.until(lambda: tasks.lines(arn) == ["first"])

    assert running(tasks, arn)
    tasks.stopped(arn)
    client, lines, token = tasks.client("logs"), [], {}
    while True:
        page = client.get_log_events(
            logGroupName="/ecs/train",
            logStreamName=f"t/train/{arn.rsplit('/', 1)[1]}",
            startFromHead=True,
            **token,
        )
        if not page["events"]:
            break
        lines += [event["message"] for event in page["events"]]
        token = {"nextToken": page["nextForwardToken"]}
    assert lines[:3001] == ["first", *map(str, range(3000))]
    assert "".join(lines[3001:-1]) == "x" * 300_000
    assert lines[-1] == "last"


def running(tasks, arn):
    (task,) = tasks.client("ecs").describe_tasks(cluster="training", tasks=[arn])["tasks"]
    return task["lastStatus"] == "RUNNING"


def test_a_task_that_is_stopped_before_its_start_never_runs(tasks):
    # The image's pull is what holds it up: the registry does not answer while this test stops it.
    tasks.push_script("print('ran')")
    tasks.define()
    pull = tasks.cloud._registry.pull
    arns = []

    def slow(*args):
        tasks.until(lambda: arns)
        tasks.client("ecs").stop_task(cluster="training", task=arns[0])
        return pull(*args)

    tasks.cloud._registry.pull = slow
    try:
        arns.append(tasks.run())
        last = tasks.stopped(arns[0])
    finally:
        del tasks.cloud._registry.pull

    assert last["stopCode"] == "UserInitiated"
    assert "exitCode" not in last["containers"][0]
    assert tasks.lines(arns[0]) == []


def test_a_client_token_starts_nothing_twice(tasks):
    tasks.push_script("import time; time.sleep(600)")
    tasks.define()
    first = tasks.run(clientToken="t")

    assert tasks.run(clientToken="t") == first
    assert tasks.run(clientToken="u") != first
    ecs = tasks.client("ecs")
    with pytest.raises(ecs.exceptions.ConflictException) as caught:
        ecs.run_task(**tasks.request(clientToken="t", startedBy="else"))
    assert dict(caught.value.response)["resourceIds"] == [first]
    tasks.client("ecs").create_cluster(clusterName="other")
    assert tasks.run(clientToken="t", cluster="other") != first


def test_run_task_starts_as_many_as_asked(tasks):
    tasks.push_script("print('here')")
    tasks.define()
    started = tasks.client("ecs").run_task(**tasks.request(count=3))["tasks"]
    arns = {task["taskArn"] for task in started}

    assert {task["lastStatus"] for task in started} == {"PROVISIONING"}
    assert {tasks.event(CHANGED, lastStatus="STOPPED")["taskArn"] for _ in range(3)} == arns
    assert [tasks.lines(arn) for arn in arns] == [["here"]] * 3


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"cluster": "none"}, "ClusterNotFoundException", "Cluster not found"),
        ({"taskDefinition": "none"}, "ClientException", "TaskDefinition not found"),
        ({"taskDefinition": "train:9"}, "ClientException", "TaskDefinition not found"),
        ({"networkConfiguration": {}}, "InvalidParameterException", "Network Configuration"),
        (
            {"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-0"]}}},
            "InvalidParameterException",
            "subnet-0",
        ),
        ({"count": 11}, "InvalidParameterException", "between 1 and 10"),
        ({"startedBy": "x" * 129}, "InvalidParameterException", "startedBy"),
        ({"startedBy": "a b"}, "InvalidParameterException", "startedBy"),
        (
            {"overrides": {"containerOverrides": [{"name": "other"}]}},
            "InvalidParameterException",
            "container named other",
        ),
        (
            {"overrides": {"containerOverrides": [{"name": "train", "command": ["x" * 8192]}]}},
            "InvalidParameterException",
            "8192",
        ),
        (
            {"launchType": "", "capacityProviderStrategy": [{"capacityProvider": "MINE"}]},
            "InvalidParameterException",
            "MINE is not associated",
        ),
    ],
)
def test_a_request_that_ecs_would_refuse_is_refused(tasks, change, code, message):
    tasks.define()
    with pytest.raises(ClientError, match=message) as caught:
        tasks.run(**change)

    assert code in str(caught.value)
    assert tasks.client("ecs").list_tasks(cluster="training")["taskArns"] == []


def test_an_inactive_task_definition_is_refused(tasks):
    arn = tasks.define()
    tasks.client("ecs").deregister_task_definition(taskDefinition=arn)
    with pytest.raises(ClientError, match="inactive"):
        tasks.run(taskDefinition=arn)


def test_a_second_container_is_refused(tasks):
    sidecar = {"name": "sidecar", "image": "a", "essential": False}
    made = tasks.client("ecs").register_task_definition(
        family="two", containerDefinitions=[{**sidecar, "name": "train"}, sidecar]
    )
    with pytest.raises(ClientError, match="one container a task"):
        tasks.run(taskDefinition=made["taskDefinition"]["taskDefinitionArn"])


def test_stop_task_refuses_what_is_not_there(tasks):
    ecs = tasks.client("ecs")
    with pytest.raises(ecs.exceptions.ClusterNotFoundException):
        ecs.stop_task(cluster="none", task="0")
    with pytest.raises(ecs.exceptions.InvalidParameterException):
        ecs.stop_task(cluster="training", task="0" * 32)


def test_a_stopped_task_may_be_stopped_again(tasks):
    tasks.push_script("")
    tasks.define()
    arn = tasks.run()
    tasks.stopped(arn)
    task = tasks.client("ecs").stop_task(cluster="training", task=arn)["task"]

    assert task["stopCode"] == "EssentialContainerExited"


def test_a_reset_ends_tasks_without_a_word(tasks):
    tasks.push_script(STUBBORN)
    tasks.define()
    arn = tasks.run()
    (child,) = tasks.until(lambda: tasks.lines(arn))
    tasks.event(CHANGED, lastStatus="RUNNING")
    tasks.cloud.reset()

    tasks.until(lambda: gone(int(child)), 5)
    assert tasks.events.empty()
    assert tasks.client("ecs").list_clusters()["clusterArns"] == []
