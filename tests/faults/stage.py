"""A deployed stack on the embedded cloud, whose trainers are functions: what a row acts on."""

import contextlib
import hashlib
import io
import itertools
import json
import re
import threading
import time
import zipfile
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema

from localcloud import Cloud, make_image
from localcloud.deployer import deploy
from localcloud.tasks import StubTask
from tests.faults.guards import Guard

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "run-record.schema.json").read_text())
PUSHED = "ECR Image Action"
CHANGED = "ECS Task State Change"
QUEUES = ("failedPushes", "failedEnds", "undeliveredPushes", "undeliveredEnds")
FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

Trainer = Callable[["Stage", StubTask], int]


def publishes(stage: "Stage", task: StubTask) -> int:
    """Train well: the model, then the manifest."""
    given, model = task.environment, b"a model"
    sha256 = hashlib.sha256(model).hexdigest()
    manifest = {
        "version": 1,
        "run": given["PUSHTRAIN_RUN"],
        "attempt": int(given["PUSHTRAIN_ATTEMPT"]),
        "image_digest": given["PUSHTRAIN_IMAGE_DIGEST"],
        "files": {"model": {"size": len(model), "sha256": sha256}},
        "metrics": {"accuracy": 0.5},
        "model": "model",
    }
    for name, body in (("model", model), ("manifest.json", json.dumps(manifest).encode())):
        stage.put(given["PUSHTRAIN_RUN_PREFIX"] + name, body)
    return 0


class Stage:
    """One stack for all rows; `clear` leaves nothing of the row before."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.faults = cloud.faults
        self.s3, self.sqs, self.ssm = (cloud.client(name) for name in ("s3", "sqs", "ssm"))
        data = folder / "data.bin"
        data.write_bytes(b"one two three")
        self.outputs = deploy(
            cloud, ROOT, "dev", {"image.build": False, "data.path": str(data)}
        ).outputs
        self.bucket: str = self.outputs["bucket"]
        self.cluster: str = self.outputs["cluster"]
        self.repository: str = self.outputs["repositoryUrl"].partition("/")[2]
        self.wiring: str = self._parameter()
        self.notices = self._subscribe()
        self._numbers = itertools.count()
        self.patience = 60.0
        """Seconds to wait for anything."""
        self.gate = threading.Event()
        """Lets trainers that wait at it go on."""
        self._lock = threading.Lock()
        self.told: list[dict[str, Any]] = []
        cloud.watch(self._see)
        cloud.tasks.stub = self._train
        self.trainer: Trainer = publishes
        self.digest = ""

    def clear(self) -> None:
        """Begin a row: no run, no message, no champion, no task, all well."""
        self.faults.clear()
        self.cloud.tasks.stub = self._train
        self.ssm.delete_parameters(Names=[self.outputs["trainingParameter"]])
        self.gate.set()
        self.trainer = lambda _stage, _task: 1  # an end that nothing follows
        for task in self.cloud.tasks.living():
            self.cloud.tasks.kill(task)
        self.cloud.settle()
        for name in self.definitions():
            self.cloud.client("ecs").deregister_task_definition(taskDefinition=name)
        self.gate = threading.Event()
        for prefix in ("runs/", "open/", "checkpoints/", "models/", "slots.json"):
            for key in self.keys(prefix):
                self.s3.delete_object(Bucket=self.bucket, Key=key)
        for url in [*self._queue_urls().values(), *self.notices.values()]:
            self.sqs.purge_queue(QueueUrl=url)
        self.wire()
        self.trainer = publishes
        self.digest = ""
        for image in self.images():
            self.cloud.client("ecr").batch_delete_image(
                repositoryName=self.repository, imageIds=[image]
            )
        with self._lock:
            self.told.clear()
        if not self.keys("data/dataset"):
            self.put("data/dataset", b"one two three")

    # What a row does

    def push(self, tag: str = "") -> str:
        """Push an image that nobody has pushed before, and give its digest."""
        number = next(self._numbers)
        image = make_image({"app/number": str(number).encode()}, Entrypoint=["none"])
        with self.cloud.registry() as registry:
            self.digest = registry.push(image, self.outputs["repositoryUrl"], tag or f"g-{number}")
        return self.digest

    def push_script(self, script: str) -> str:
        """Push an image that runs a Python script, as a process."""
        self.cloud.tasks.stub = None
        image = make_image(
            {"app/main.py": f"# {next(self._numbers)}\n{script}".encode()},
            Entrypoint=["python", "-u", "/app/main.py"],
        )
        with self.cloud.registry() as registry:
            self.digest = registry.push(image, self.outputs["repositoryUrl"], "g-script")
        return self.digest

    def settle(self) -> None:
        """Wait until nothing is on its way any more."""
        self.cloud.settle(self.patience)

    def wire(self, **changes: Any) -> None:
        """Change the wiring, as `pulumi up` would."""
        document = json.dumps({**json.loads(self.wiring), **changes})
        self.ssm.put_parameter(
            Name=self.outputs["wiringParameter"], Type="String", Value=document, Overwrite=True
        )

    def invoke(self, function: str, event: object) -> Any:
        """Invoke a function and give its answer; what it raised is an error here too."""
        answer = self.cloud.client("lambda").invoke(
            FunctionName=self.outputs[f"{function}Function"], Payload=json.dumps(event)
        )
        document = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise RuntimeError(f"{function}: {document}")
        return document

    def deliver(self, function: str, event: object) -> None:
        """Let a function take an event as if a rule had sent it, with all its retries."""
        self.cloud.client("lambda").invoke(
            FunctionName=self.outputs[f"{function}Function"],
            InvocationType="Event",
            Payload=json.dumps(event),
        )
        self.settle()

    def command(self, function: str, kind: str, **detail: Any) -> Any:
        """Ask a function for something, as the command line does."""
        return self.invoke(function, {"source": "pushtrain", "detail-type": kind, "detail": detail})

    def push_event(self) -> dict[str, Any]:
        """Give the event of the last push, as the bus would have told it."""
        account, region = self.cloud.account, self.cloud.region
        return {
            "version": "0",
            "id": "again",
            "detail-type": PUSHED,
            "source": "aws.ecr",
            "account": account,
            "region": region,
            "time": "2026-01-02T03:04:05Z",
            "resources": [],
            "detail": {
                "result": "SUCCESS",
                "repository-name": self.repository,
                "image-digest": self.digest,
                "action-type": "PUSH",
                "image-tag": f"g-{self.run}",
            },
        }

    def delete_image(self) -> None:
        """Delete the image that was pushed last."""
        self.cloud.client("ecr").batch_delete_image(
            repositoryName=self.repository, imageIds=[{"imageDigest": self.digest}]
        )

    def stop_task(self, arn: str) -> None:
        """Stop a task as somebody may in the console."""
        self.cloud.client("ecs").stop_task(cluster=self.cluster, task=arn)

    def vanish(self, arn: str) -> None:
        """Let a task be gone with its host, and nobody know."""
        self.cloud.tasks.lose_host(arn, told=False)
        with self._lock:
            (last,) = [each for each in self.told if each["taskArn"] == arn][-1:]
            self.told.append({**last, "lastStatus": "STOPPED"})

    def pass_time(self, minutes: float) -> None:
        """Make all that there is, records too, that many minutes older."""
        self.cloud.pass_time(timedelta(minutes=minutes))
        for key in self.keys("runs/"):
            if key.endswith("/run.json"):
                text = self.read(key).decode()
                self.put(key, _TIME.sub(lambda time: _earlier(time[0], minutes), text).encode())

    def reconcile(self, minutes: float = 0, at: str = "10:20") -> Any:
        """Let that much time pass, and the schedule strike; wait for what comes of it."""
        answer = self.reconcile_only(minutes, at)
        self.settle()
        return answer

    def reconcile_only(self, minutes: float = 0, at: str = "10:20") -> Any:
        """Let that much time pass, and the schedule strike, at that time of day."""
        self.pass_time(minutes)
        return self.invoke("reconcile", scheduled(at))

    def hourly(self, minutes: float = 30) -> Any:
        """Let that much time pass, and the schedule strike at the hour."""
        return self.reconcile(minutes, at="11:00")

    def cancel(self) -> Any:
        """Ask for the end of the last image's run."""
        return self.command("reconcile", "Cancel Request", run=self.run, by="me", reason="enough")

    def train_with(self, parameters: str) -> None:
        """Write the user's own parameters."""
        self.ssm.put_parameter(
            Name=self.outputs["trainingParameter"], Type="String", Value=parameters, Overwrite=True
        )

    @staticmethod
    def at_once(works: list[Callable[[], object]]) -> None:
        """Do several things in threads of their own, and raise what one of them raised."""
        with ThreadPoolExecutor(len(works)) as pool:
            for done in [pool.submit(work) for work in works]:
                done.result()

    @contextlib.contextmanager
    def without(self, guard: Guard) -> Generator[None]:
        """Let the functions run without one of their guards."""
        files = {file.name: file.read_text() for file in (ROOT / "handler").glob("*.py")}
        whole = dict(files)
        for name, text, instead in guard.changes:
            files[name] = files[name].replace(text, instead)
        self._deploy(files)
        try:
            yield
        finally:
            self.clear()
            self._deploy(whole)

    def _deploy(self, files: Mapping[str, str]) -> None:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as made:
            for name, text in files.items():
                made.writestr(f"handler/{name}", text)
        for function in ("invoke", "observe", "reconcile"):
            self.cloud.client("lambda").update_function_code(
                FunctionName=self.outputs[f"{function}Function"], ZipFile=archive.getvalue()
            )

    def until(self, ask: Callable[[], Any], seconds: float = 0) -> Any:
        """Ask again and again, until there is an answer."""
        seconds = seconds or self.patience
        deadline = time.monotonic() + seconds
        while not (answer := ask()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing after {seconds} s")
            time.sleep(0.01)
        return answer

    def put(self, key: str, body: bytes) -> None:
        """Write an object of the stack's bucket."""
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)

    # What a row sees

    @property
    def run(self) -> str:
        """The run of the image that was pushed last."""
        return self.digest.removeprefix("sha256:")[:12]

    def record(self, run: str = "") -> dict[str, Any]:
        """Read a record; it must keep to the schema."""
        record = json.loads(self.read(f"runs/{run or self.run}/run.json"))
        jsonschema.validate(record, {"$ref": "#/$defs/run", "$defs": SCHEMA["$defs"]})
        return record

    def state(self) -> str:
        """Give the state of the last image's run; empty before the claim."""
        known = self.keys(f"runs/{self.run}/run.json")
        return self.record()["state"] if known else ""

    def waits_for(self, why: str) -> bool:
        """Say whether the last image's run waits for that."""
        if not self.keys(f"runs/{self.run}/run.json"):
            return False
        waiting = self.record()["waiting"]
        return bool(waiting) and waiting["why"] == why

    def images(self) -> list[dict[str, str]]:
        """Give the digests in the repository."""
        details = self.cloud.client("ecr").describe_images(repositoryName=self.repository)
        return [{"imageDigest": each["imageDigest"]} for each in details["imageDetails"]]

    def keys(self, prefix: str) -> list[str]:
        """Give the names of the objects that begin so."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def tasks(self, run: str = "") -> list[str]:
        """Every task that was ever started for a run, or for any."""
        with self._lock:
            details = [each for each in self.told if belongs(each, run)]
        return list(dict.fromkeys(each["taskArn"] for each in details))

    def most_at_once(self, run: str) -> int:
        """The most tasks of a run that lived at the same time."""
        alive: set[str] = set()
        most = 0
        with self._lock:
            for detail in self.told:
                if belongs(detail, run):
                    change = alive.discard if detail["lastStatus"] == "STOPPED" else alive.add
                    change(detail["taskArn"])
                    most = max(most, len(alive))
        return most

    def running(self) -> str:
        """Wait for the run's task to run, and give its ARN."""

        def found() -> str:
            with self._lock:
                running = [each["taskArn"] for each in self.told if each["lastStatus"] == "RUNNING"]
            living = set(self.cloud.tasks.living())
            found = [arn for arn in self.tasks(self.run) if arn in running and arn in living]
            return found[-1] if found else ""

        return self.until(found)

    def started(self) -> str:
        """Wait for the run's task to run and to be on record, and give its ARN."""
        arn = self.running()
        self.until(lambda: self.record()["attempts"][-1]["task_arn"] == arn)
        return arn

    def read(self, key: str) -> bytes:
        """Read an object of the stack's bucket."""
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def queued(self) -> dict[str, int]:
        """How many messages lie in each of the stack's queues, of those that have any."""
        counts = {name: self.count(url) for name, url in self._queue_urls().items()}
        return {name: number for name, number in counts.items() if number}

    def count(self, url: str) -> int:
        """Tell how many messages lie in a queue."""
        answer = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    def messages(self, url: str) -> list[Any]:
        """Take all messages of a queue, read."""
        bodies: list[Any] = []
        while found := self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for message in found:
                bodies.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return bodies

    def definitions(self) -> list[str]:
        """The active task definitions that are not the stack's own."""
        answer = self.cloud.client("ecs").list_task_definitions(status="ACTIVE")
        names = [arn.rpartition("/")[2] for arn in answer["taskDefinitionArns"]]
        return [name for name in names if not name.startswith("dev-task-template")]

    # Inside

    def _parameter(self) -> str:
        name = self.outputs["wiringParameter"]
        return self.ssm.get_parameter(Name=name)["Parameter"]["Value"]

    def _queue_urls(self) -> Mapping[str, str]:
        return {name: self.outputs[name] for name in QUEUES if name in self.outputs}

    def _subscribe(self) -> dict[str, str]:
        """Make a queue for what people are told, and one for what programs are."""
        urls: dict[str, str] = {}
        for name in ("people", "programs"):
            urls[name] = self.sqs.create_queue(QueueName=f"test-{name}")["QueueUrl"]
        if "topic" in self.outputs:
            self.cloud.client("sns").subscribe(
                TopicArn=self.outputs["topic"], Protocol="sqs", Endpoint=self._arn(urls["people"])
            )
        events = self.cloud.client("events")
        events.put_rule(Name="test-ended", EventPattern=json.dumps({"source": ["pushtrain"]}))
        events.put_targets(
            Rule="test-ended", Targets=[{"Id": "queue", "Arn": self._arn(urls["programs"])}]
        )
        return urls

    def _arn(self, url: str) -> str:
        answer = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return answer["Attributes"]["QueueArn"]

    def _see(self, _time: object, _source: str, kind: str, detail: dict[str, Any]) -> None:
        if kind == CHANGED:
            with self._lock:
                self.told.append({"startedBy": None, **detail})

    def _train(self, task: StubTask) -> int:
        return self.trainer(self, task)


def belongs(detail: dict[str, Any], run: str) -> bool:
    """Say whether a task is of the run, or of any run if that is empty."""
    started_by: str = detail["startedBy"] or ""
    return started_by.rpartition("-a")[0] == run if run else True


def scheduled(at: str) -> dict[str, Any]:
    """Return the schedule's event, of that time of day."""
    return {
        "version": "0",
        "id": "scheduled",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "000000000000",
        "region": "us-east-1",
        "time": f"2026-01-02T{at}:07Z",
        "resources": [],
        "detail": {},
    }


def _earlier(time: str, minutes: float) -> str:
    moved = datetime.fromisoformat(time) - timedelta(minutes=minutes)
    return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")
