import http.server
import importlib
import json
import queue
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import httpx
import pytest

from localcloud import Cloud, adapter

pytestmark = pytest.mark.localcloud

AGAIN = """
import os
from pathlib import Path
from localcloud import Cloud

seen = []
before = dict(os.environ)
for time in (1, 2):
    with Cloud() as cloud:
        assert cloud.client("s3").list_buckets()["Buckets"] == [], "a new cloud is empty"
        cloud.client("s3").create_bucket(Bucket="kept")
        url = cloud.client("sqs").create_queue(QueueName="q")["QueueUrl"]
        assert url.startswith(cloud.url), url
        seen.append(cloud.url)
assert len(set(seen)) == 1
assert dict(os.environ) == before
assert not list(Path(os.environ["TMPDIR"]).iterdir()), list(Path(os.environ["TMPDIR"]).iterdir())
for wrong in ({"region": "eu-west-1"}, {"account": "111111111111"}, {"port": 1}):
    try:
        Cloud(**wrong).start()
    except RuntimeError as error:
        assert "must stay" in str(error)
    else:
        raise SystemExit(f"{wrong} was taken")
print("fine")
"""
ELSEWHERE = """
from localcloud import Cloud
with Cloud(port=%d, region="eu-west-1", account="123456789012") as cloud:
    identity = cloud.client("sts").get_caller_identity()
    repository = cloud.client("ecr").create_repository(repositoryName="train")["repository"]
    print(cloud.registry_host, identity["Account"], repository["repositoryUri"])
"""


def python(code, tmp_path):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
    )


def test_a_process_may_have_one_cloud_after_another(tmp_path):
    done = python(AGAIN, tmp_path)

    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_port_region_and_account_are_the_caller_s_to_choose(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = python(ELSEWHERE % port, tmp_path)

    assert (done.stdout, done.stderr) == (
        f"127.0.0.1:{port} 123456789012 123456789012.dkr.ecr.eu-west-1.amazonaws.com/train\n",
        "",
    )


def test_a_port_in_use_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = python(ELSEWHERE % taken.getsockname()[1], tmp_path)

    assert "port must be free, got" in done.stderr


def test_a_second_cloud_beside_the_first_is_refused(bench):
    with pytest.raises(RuntimeError, match="one cloud at a time must run in a process"):
        Cloud().start()
    assert bench.client("s3").list_buckets()["Buckets"] == []


def test_the_cloud_listens_on_the_loopback_only(bench):
    def listening(address):
        try:
            socket.create_connection((address, bench.cloud.port), 1).close()
        except OSError:
            return False
        return True

    assert listening("127.0.0.1")
    assert not listening("127.0.0.2")


def test_a_reset_leaves_nothing(bench):
    bench.client("s3").create_bucket(Bucket="mine")
    bench.repository()
    bench.cloud.reset()

    assert bench.client("s3").list_buckets()["Buckets"] == []
    assert bench.client("ecr").describe_repositories()["repositories"] == []


def test_the_environment_leads_boto3_to_the_cloud(bench, tmp_path):
    bench.client("s3").create_bucket(Bucket="mine")
    code = "import boto3; print(boto3.client('s3').list_buckets()['Buckets'][0]['Name'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), **bench.cloud.environment()},
    )

    assert done.stdout == "mine\n"


def test_a_watcher_that_fails_or_calls_back_stops_nobody(bench):
    called = []

    def failing(*_event):
        raise ValueError

    def calling(*_event):
        called.append(bench.client("ecr").describe_repositories()["repositories"])

    bench.cloud.watch(failing)
    bench.cloud.watch(calling)
    try:
        bench.repository()
        bench.push_script("")

        assert bench.event("ECR Image Action")["repository-name"] == "team/train"
        bench.until(lambda: called)
    finally:
        bench.cloud._bus._watchers[-2:] = []


def test_a_ministack_without_what_is_needed_is_refused(monkeypatch):
    needed = {"json": ("dumps", "no_such_function")}
    monkeypatch.setattr(adapter, "_NEEDED", needed)
    modules = {"json": __import__("json")}
    with pytest.raises(RuntimeError, match=r"ministack must be 1\.5\.33, got .*json\.no_such_func"):
        adapter._check(modules)


def test_everything_named_as_needed_is_there_and_used():
    source = Path(adapter.__file__).read_text()
    for symbols in adapter._NEEDED.values():
        for symbol in symbols:
            assert source.count(symbol) > 1, symbol


def test_the_cloud_answers_at_its_url(bench):
    assert httpx.get(f"{bench.cloud.url}/_ministack/health", trust_env=False).status_code == 200


def test_an_endpoint_keeps_its_policy_and_its_names(bench):
    ec2 = bench.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    policy = '{"Statement": [{"Effect": "Allow", "Resource": "a<&b"}]}'
    ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName="com.amazonaws.us-east-1.s3",
        RouteTableIds=[table],
        PolicyDocument=policy,
    )
    (endpoint,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]

    assert endpoint["PolicyDocument"] == policy
    assert endpoint["RouteTableIds"] == [table]
    assert endpoint["PrivateDnsEnabled"] is False

    made = ec2.create_vpc_endpoint(
        VpcId=vpc,
        VpcEndpointType="Interface",
        ServiceName="com.amazonaws.us-east-1.logs",
        PrivateDnsEnabled=True,
    )["VpcEndpoint"]
    (endpoint,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[made["VpcEndpointId"]])["VpcEndpoints"]

    assert endpoint["PrivateDnsEnabled"] is True


@pytest.fixture
def webhook():
    """Give the URL of an HTTP server, and the messages that are posted to it."""
    messages = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            messages.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format, *_):  # noqa: A002 - the base's name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", messages
        server.shutdown()
        thread.join()


def test_a_webhook_is_known_by_its_arn_before_it_confirms(bench, webhook):
    sns = bench.client("sns")
    topic = sns.create_topic(Name="ends")["TopicArn"]
    url, messages = webhook
    told = {"TopicArn": topic, "Protocol": "http", "Endpoint": url}
    arn = sns.subscribe(**told, ReturnSubscriptionArn=True)["SubscriptionArn"]
    asked = messages.get(timeout=60)
    waiting = sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"]
    sns.confirm_subscription(TopicArn=topic, Token=asked["Token"])
    sns.publish(TopicArn=topic, Message="it ended")

    assert asked["Type"] == "SubscriptionConfirmation"
    assert waiting["PendingConfirmation"] == "true"
    assert messages.get(timeout=60)["Message"] == "it ended"
    other = {**told, "Endpoint": url + "other"}
    assert sns.subscribe(**other)["SubscriptionArn"] == "pending confirmation", "not asked for it"


def test_a_webhook_elsewhere_is_posted_nothing(bench, monkeypatch):
    opened = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, **_: opened.append(request))
    refused = queue.Queue()
    sns = importlib.import_module("ministack.services.sns")
    monkeypatch.setattr(sns.logger, "warning", lambda *said: refused.put(said))
    topic = bench.client("sns").create_topic(Name="ends")["TopicArn"]
    bench.client("sns").subscribe(
        TopicArn=topic, Protocol="https", Endpoint="https://chat.example.com/hook"
    )

    assert "chat.example.com" in str(refused.get(timeout=60))
    assert not opened


def test_a_command_of_the_cloud_gives_its_output(bench, tmp_path):
    assert bench.cloud.run([sys.executable, "-c", "print(6 * 7)"], tmp_path) == "42\n"


def test_a_command_of_the_cloud_that_fails_is_an_error(bench, tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        bench.cloud.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def test_a_large_version_is_downloaded_as_it_was(bench, tmp_path):
    s3 = bench.client("s3")
    s3.create_bucket(Bucket="versions")
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    content = bytes(range(256)) * 80_000  # above the 8 MiB where boto3 reads in parts
    (tmp_path / "up").write_bytes(content)
    s3.upload_file(str(tmp_path / "up"), "versions", "data")
    version = s3.head_object(Bucket="versions", Key="data")["VersionId"]
    s3.put_object(Bucket="versions", Key="data", Body=b"newer")
    s3.download_file("versions", "data", str(tmp_path / "down"), {"VersionId": version})

    assert (tmp_path / "down").read_bytes() == content


@pytest.mark.slow
def test_an_unused_connection_is_left_open_so_that_no_answer_is_lost_with_it(bench):
    with (
        socket.create_connection(("127.0.0.1", bench.cloud.port)) as connection,
        connection.makefile("rb") as answer,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        first = answer.readline()
        while answer.readline().strip():
            pass
        connection.settimeout(7)  # hypercorn's own limit is 5 s

        assert first.startswith(b"HTTP/1.1 200")
        with pytest.raises(TimeoutError):
            answer.read()
