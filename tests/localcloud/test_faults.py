"""What can go wrong in the embedded cloud, as boto3 and a Lambda worker meet it."""

import functools
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from localcloud import async_lambda
from localcloud.faults import (
    AnswerLost,
    Delay,
    Error,
    Failures,
    Reset,
    Until,
    WorkerKilled,
)

pytestmark = pytest.mark.localcloud

PUSHED = "ECR Image Action"
PUTS = """
import os
import boto3

def handler(event, context):
    s3 = boto3.client("s3")
    s3.put_object(Bucket="models", Key=f"seen-{os.getpid()}", Body=b"")
    s3.put_object(Bucket="models", Key=f"done-{os.getpid()}", Body=b"")
"""


@pytest.fixture
def faults(bench):
    return bench.cloud.faults


@pytest.fixture
def impatient(bench):
    """Give clients that try everything once."""

    def client(service):
        session = boto3.Session("test", "test", region_name="us-east-1")
        config = Config(retries={"total_max_attempts": 1}, proxies={})
        return session.client(service, endpoint_url=bench.cloud.url, config=config)

    return client


def told(raised, part="Error"):
    """Give what an error answer holds."""
    answer: dict[str, Any] = raised.value.response
    return answer[part]


CALLS = [
    ("ecs", "ListClusters", "ThrottlingException", {}),
    ("ssm", "GetParameter", "InternalServerError", {"Name": "/a"}),
    ("logs", "DescribeLogGroups", "ServiceUnavailableException", {}),
    ("events", "ListRules", "AccessDeniedException", {}),
    ("sqs", "ListQueues", "RequestThrottled", {}),
    ("ecr", "DescribeRepositories", "ServerException", {}),
    ("sns", "ListTopics", "Throttling", {}),
    ("sts", "GetCallerIdentity", "ExpiredToken", {}),
    ("ec2", "DescribeSubnets", "UnauthorizedOperation", {}),
    ("s3", "PutObject", "SlowDown", {"Bucket": "models", "Key": "a/b"}),
    ("s3", "GetObject", "NoSuchKey", {"Bucket": "models", "Key": "a/b"}),
    ("s3", "ListObjectsV2", "AccessDenied", {"Bucket": "models"}),
    ("s3", "CreateMultipartUpload", "InternalError", {"Bucket": "models", "Key": "a"}),
    ("lambda", "Invoke", "TooManyRequestsException", {"FunctionName": "f"}),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: "-".join(call[:2]))
def test_a_call_is_refused_in_the_form_of_its_service(faults, impatient, call):
    service, operation, code, asked = call
    client = impatient(service)
    method = getattr(client, client_method(client, operation))
    with (
        faults.inject(service, operation, Error(code, "as told")) as fault,
        pytest.raises(ClientError) as raised,
    ):
        method(**asked)

    assert told(raised)["Code"] == code
    assert told(raised)["Message"] == "as told"
    assert fault.struck == 1


def client_method(client, operation):
    (name,) = [py for py, api in client.meta.method_to_api_mapping.items() if api == operation]
    return name


def test_a_refused_head_has_only_its_status(faults, impatient):
    with (
        faults.inject("s3", "HeadObject", Error("ServiceUnavailable")),
        pytest.raises(ClientError) as raised,
    ):
        impatient("s3").head_object(Bucket="models", Key="a")

    assert told(raised, "ResponseMetadata")["HTTPStatusCode"] == 503


def test_an_exceptions_own_members_arrive(faults, impatient):
    ecs = impatient("ecs")
    conflict = Error("ConflictException", "as told", {"resourceIds": ["arn:task"]})
    with (
        faults.inject("ecs", "ListClusters", conflict),
        pytest.raises(ecs.exceptions.ConflictException) as raised,
    ):
        ecs.list_clusters()

    assert told(raised, "resourceIds") == ["arn:task"]


def test_only_the_calls_asked_for_fail(faults, impatient):
    ecs, s3 = impatient("ecs"), impatient("s3")
    s3.create_bucket(Bucket="models")
    outcomes = []
    with faults.inject("ecs", "ListClusters", Error("ServerException"), skip=1, times=2):
        for _ in range(5):
            try:
                ecs.list_clusters()
                outcomes.append("well")
            except ClientError:
                outcomes.append("refused")
        ecs.list_task_definitions()
    with faults.inject("s3", "PutObject", Error("SlowDown"), where="runs/"):
        s3.put_object(Bucket="models", Key="data/dataset")
        with pytest.raises(ClientError):
            s3.put_object(Bucket="models", Key="runs/a")
    s3.put_object(Bucket="models", Key="runs/a")

    assert outcomes == ["well", "refused", "refused", "well", "well"]


def test_a_share_of_all_calls_fails_and_the_same_ones_each_time(faults, impatient):
    ecs = impatient("ecs")

    def failed():
        refused = []
        with faults.inject("*", "*", Error("ServerException"), share=0.2, seed=5):
            for number in range(60):
                try:
                    ecs.list_clusters()
                except ClientError:
                    refused.append(number)
        return refused

    first = failed()

    assert 4 <= len(first) <= 22
    assert failed() == first


def test_a_lost_answer_leaves_what_the_call_did_and_a_reset_nothing(faults, impatient):
    s3 = impatient("s3")
    s3.create_bucket(Bucket="models")
    for effect, key in ((AnswerLost(), "lost"), (Reset(), "reset")):
        with (
            faults.inject("s3", "PutObject", effect),
            pytest.raises(ConnectionClosedError),
        ):
            s3.put_object(Bucket="models", Key=key)
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket="models")["Contents"]]

    assert keys == ["lost"]


def test_boto3_goes_on_after_a_lost_answer_by_itself(faults, bench):
    s3 = bench.client("s3")
    with faults.inject("s3", "CreateBucket", AnswerLost(), times=1):
        s3.create_bucket(Bucket="models")
    with faults.inject("s3", "PutObject", AnswerLost(), times=1) as fault:
        s3.put_object(Bucket="models", Key="a", Body=b"once")

    assert fault.struck == 1
    assert s3.get_object(Bucket="models", Key="a")["Body"].read() == b"once"


def test_a_delayed_call_is_made(faults, bench):
    s3 = bench.client("s3")
    s3.create_bucket(Bucket="models")
    with faults.inject("s3", "PutObject", Delay(0.2)):
        s3.put_object(Bucket="models", Key="a")

    assert s3.head_object(Bucket="models", Key="a")


def test_a_call_may_wait_until_something_has_happened(faults, bench):
    s3, gate = bench.client("s3"), threading.Event()
    s3.create_bucket(Bucket="models")
    put = functools.partial(s3.put_object, Bucket="models", Key="held")
    with faults.inject("s3", "PutObject", Until(gate), where="held") as fault:
        waiting = threading.Thread(target=put)
        waiting.start()
        bench.until(lambda: fault.struck)
        before = s3.list_objects_v2(Bucket="models")["KeyCount"]
        gate.set()
        waiting.join(20)

    assert before == 0
    assert s3.list_objects_v2(Bucket="models")["KeyCount"] == 1


def test_run_task_that_failed_fails_again_for_the_same_token(faults, bench):
    bench.cluster()
    bench.define()
    ecs = bench.client("ecs")
    with faults.inject("ecs", "RunTask", Failures("RESOURCE:CPU", "AGENT"), times=1):
        first = ecs.run_task(**bench.request(clientToken="one"))
    again = ecs.run_task(**bench.request(clientToken="one"))
    other = ecs.run_task(**bench.request(clientToken="two"))

    assert first["tasks"] == again["tasks"] == []
    assert [failure["reason"] for failure in first["failures"]] == ["RESOURCE:CPU", "AGENT"]
    assert again["failures"] == first["failures"]
    assert len(other["tasks"]) == 1


@pytest.mark.parametrize(("when", "left"), [("before", []), ("after", ["seen"])])
def test_a_lambda_worker_dies_with_its_call_and_the_event_is_tried_again(
    faults, bench, monkeypatch, when, left
):
    monkeypatch.setattr(async_lambda, "RETRY_SECONDS", 0.01)
    s3 = bench.client("s3")
    s3.create_bucket(Bucket="models")
    bench.function({"handler/__init__.py": "", "handler/invoke.py": PUTS}, "puts")
    killed = WorkerKilled(when)
    with faults.inject("s3", "PutObject", killed, times=1, by="puts", where="seen") as fault:
        bench.client("lambda").invoke(FunctionName="puts", InvocationType="Event", Payload="{}")
        bench.cloud.settle()
    keys = [each["Key"].split("-") for each in s3.list_objects_v2(Bucket="models")["Contents"]]
    of_the_first = {pid for _, pid in keys} - {pid for word, pid in keys if word == "done"}

    assert fault.struck == 1
    assert [word for word, pid in keys if pid in of_the_first] == left
    assert sorted(word for word, pid in keys if pid not in of_the_first) == ["done", "seen"]


def test_calls_of_a_task_can_be_told_from_others(faults, bench):
    bench.cluster()
    role = bench.client("iam").create_role(RoleName="task", AssumeRolePolicyDocument="{}")["Role"]
    bench.push_script(
        "import boto3\nboto3.client('s3').put_object(Bucket='models', Key='of-task')\n"
    )
    bench.define(definition={"taskRoleArn": role["Arn"]})
    s3 = bench.client("s3")
    s3.create_bucket(Bucket="models")
    with faults.inject("s3", "PutObject", Error("AccessDenied"), by="task-") as fault:
        s3.put_object(Bucket="models", Key="of-ours")
        arn = bench.run()
        detail = bench.stopped(arn)

    assert detail["containers"][0]["exitCode"] == 1
    assert fault.struck == 1
    assert any("AccessDenied" in line for line in bench.lines(arn))


# Events


@pytest.fixture
def pushes(bench):
    """Give a function that pushes tags, and one that reads which of them the bus told of."""
    bench.repository()
    url, arn = bench.queue("pushes")
    bench.rule("pushes", {"source": ["aws.ecr"]}, arn)

    def told(number):
        return [bench.message(url)[0]["detail"]["image-tag"] for _ in range(number)]

    def nothing_more():
        return "Messages" not in bench.client("sqs").receive_message(QueueUrl=url)

    return told, nothing_more


def test_a_lost_event_reaches_nobody_on_the_bus(faults, bench, pushes):
    told, nothing_more = pushes
    with faults.events(PUSHED, "lost", times=1) as lost:
        bench.push_script("one", "v1")
        bench.push_script("two", "v2")

    assert told(1) == ["v2"]
    assert nothing_more()
    assert [detail["image-tag"] for detail in lost.met] == ["v1"]


def test_a_repeated_event_comes_several_times(faults, bench, pushes):
    told, nothing_more = pushes
    with faults.events(PUSHED, "repeated", when=lambda detail: detail["image-tag"] == "v1"):
        bench.push_script("one", "v1")
        bench.push_script("two", "v2")

    assert told(3) == ["v1", "v1", "v2"]
    assert nothing_more()


def test_late_events_come_in_reverse_when_they_are_released(faults, bench, pushes):
    told, nothing_more = pushes
    with faults.events(PUSHED, "late", times=2) as late:
        for tag in ("v1", "v2", "v3"):
            bench.push_script(tag, tag)
        assert told(1) == ["v3"]
        assert nothing_more()
        late.release()
        assert told(2) == ["v2", "v1"]


def test_an_event_may_come_in_time_and_again_later(faults, bench, pushes):
    told, nothing_more = pushes
    with faults.events(PUSHED, "again") as again:
        bench.push_script("one", "v1")
        assert told(1) == ["v1"]
        assert nothing_more()
        again.release()
        assert told(1) == ["v1"]


# Tasks


def running(bench, script, stop_timeout=30):
    bench.cluster()
    bench.push_script(script)
    bench.define(stopTimeout=stop_timeout)
    arn = bench.run()
    bench.until(lambda: "ready" in bench.lines(arn))
    return arn


TERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("ready")
time.sleep(600)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("told"))
print("ready")
while True:
    time.sleep(1)
"""


def test_a_reclaimed_spot_task_is_told_first(bench):
    arn = running(bench, TERM)
    bench.cloud.tasks.reclaim(arn)
    detail = bench.stopped(arn)

    assert detail["stopCode"] == "SpotInterruption"
    assert detail["stoppedReason"] == "Your Spot Task was interrupted."
    assert detail["containers"][0]["exitCode"] == 143


def test_a_reclaimed_spot_task_that_does_not_listen_is_ended(bench):
    arn = running(bench, STUBBORN, stop_timeout=2)
    bench.cloud.tasks.reclaim(arn)
    detail = bench.stopped(arn)

    assert detail["containers"][0]["exitCode"] == 137
    assert "told" in bench.lines(arn)


def test_a_lost_host_tells_no_exit_code(bench):
    arn = running(bench, TERM)
    bench.cloud.tasks.lose_host(arn)
    detail = bench.stopped(arn)

    assert detail["stopCode"] == "InfrastructureHealth"
    assert "exitCode" not in detail["containers"][0]


def test_a_task_may_be_gone_without_a_word(bench):
    arn = running(bench, TERM)
    bench.cloud.tasks.lose_host(arn, told=False)
    bench.cloud.settle()
    answer = bench.client("ecs").describe_tasks(cluster="training", tasks=[arn])
    told = []
    while not bench.events.empty():
        told.append(bench.events.get()[3])

    assert answer["tasks"] == []
    assert answer["failures"][0]["reason"] == "MISSING"
    assert [detail for detail in told if detail.get("lastStatus") == "STOPPED"] == []


def test_a_killed_container_ends_with_137_and_the_reason_given(bench):
    arn = running(bench, TERM)
    bench.cloud.tasks.kill(arn, "OutOfMemoryError: Container killed due to memory usage")
    detail = bench.stopped(arn)

    assert detail["stopCode"] == "EssentialContainerExited"
    assert detail["containers"][0]["exitCode"] == 137
    assert detail["containers"][0]["reason"].startswith("OutOfMemoryError")


@pytest.mark.parametrize("containers", [True, False])
def test_a_task_that_fails_to_start_may_have_no_container(faults, bench, containers):
    bench.cluster()
    bench.push_script("print('never')")
    bench.define()
    with faults.starts("Unexpected EC2 error", containers=containers):
        detail = bench.stopped(bench.run())
    after = bench.stopped(bench.run())

    assert detail["stopCode"] == "TaskFailedToStart"
    assert detail["stoppedReason"] == "Unexpected EC2 error"
    assert bool(detail["containers"]) is containers
    assert after["stopCode"] == "EssentialContainerExited"


def test_a_function_may_stand_in_for_the_trainer(bench, monkeypatch):
    bench.cluster()
    bench.define(environment=[{"name": "A", "value": "1"}])
    begun = threading.Event()

    def train(task):
        task.log(f"A={task.environment['A']}")
        begun.set()
        return 7 if task.told.wait(60) else 0

    monkeypatch.setattr(bench.cloud.tasks, "stub", train)
    arn = bench.run()
    assert begun.wait(20)
    bench.client("ecs").stop_task(cluster="training", task=arn)
    detail = bench.stopped(arn)

    assert detail["stopCode"] == "UserInitiated"
    assert detail["containers"][0]["exitCode"] == 7
    assert bench.lines(arn) == ["A=1"]


def test_a_cloud_that_is_reset_is_well_again(faults, bench, impatient):
    with faults.inject("ecs", "*", Error("ServerException")):
        bench.cloud.reset()
        impatient("ecs").list_clusters()


def test_a_cloud_that_stays_busy_says_so(bench):
    running(bench, TERM)
    with pytest.raises(TimeoutError, match="must be idle"):
        bench.cloud.settle(0.1)


def test_what_a_refusal_says_may_hold_any_characters(faults, impatient):
    with (
        faults.inject("sns", "ListTopics", Error("Throttling", '<slow> & "down"')),
        pytest.raises(ClientError) as raised,
    ):
        impatient("sns").list_topics()

    assert told(raised)["Message"] == '<slow> & "down"'


def test_time_that_passes_makes_everything_older_and_ecs_forgets(bench):
    bench.cluster()
    bench.client("s3").create_bucket(Bucket="models")
    bench.client("s3").put_object(Bucket="models", Key="a")
    bench.push_script("print('old words')")
    bench.define()
    arn = bench.run()
    bench.stopped(arn)
    asked = {"cluster": "training", "tasks": [arn]}
    before = bench.client("ecs").describe_tasks(**asked)["tasks"][0]["stoppedAt"]
    bench.cloud.pass_time(timedelta(minutes=50))
    after = bench.client("ecs").describe_tasks(**asked)["tasks"][0]["stoppedAt"]
    bench.cloud.pass_time(timedelta(minutes=20))
    hour_ago = datetime.now(UTC) - timedelta(minutes=60)
    (image,) = bench.client("ecr").describe_images(repositoryName="team/train")["imageDetails"]
    line = bench.client("logs").filter_log_events(logGroupName="/ecs/train")["events"][0]

    assert before - after == timedelta(minutes=50)
    assert bench.client("ecs").describe_tasks(**asked)["tasks"] == []
    assert bench.client("s3").head_object(Bucket="models", Key="a")["LastModified"] < hour_ago
    assert image["imagePushedAt"] < hour_ago
    assert line["timestamp"] < hour_ago.timestamp() * 1000
