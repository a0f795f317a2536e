"""Push many images at once to the embedded cloud, and count what came of them.

The trainers end at once, inside this process: what is measured is the way from push to record.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from localcloud import Cloud, async_lambda, make_image
from localcloud.deployer import deploy
from localcloud.faults import AnswerLost, Error, Reset
from localcloud.tasks import StubTask

ROOT = Path(__file__).parent.parent
PUSHERS = 8
WORKERS = 8
"""Invocations at a time: under injected errors most of them wait, as boto3 does before a retry."""
PATIENCE_SECONDS = 1800
ROUNDS = 5
"""How often reconcile may look for what the events did not bring to its end."""
_DURATION = re.compile(r"\tDuration: ([\d.]+) ms")
_REFUSALS = {
    "s3": "SlowDown",
    "ecs": "ThrottlingException",
    "ssm": "ThrottlingException",
    "logs": "ThrottlingException",
    "events": "InternalException",
    "sns": "Throttling",
}


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one handler's invocations took, in milliseconds."""

    invocations: int
    p50: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a burst."""

    pushes: int
    error_percent: float
    errors: int
    """Calls of the handlers that failed, or whose answer was lost."""
    runs: int
    succeeded: int
    doubles: int
    """Runs with more than one task."""
    losses: int
    """Pushes without a run that ended well."""
    failed_events: int
    """Events that a handler failed on three times; reconcile did their work."""
    push_seconds: float
    seconds: float
    """From the first push until all was over."""
    handlers: dict[str, Latency]


def burst(pushes: int, error_percent: float, seed: int = 0) -> Result:
    """Deploy the stack, push, and wait until nothing is on its way any more."""
    workers, retry = async_lambda.WORKERS, async_lambda.RETRY_SECONDS
    async_lambda.WORKERS, async_lambda.RETRY_SECONDS = WORKERS, 0.1
    try:
        with tempfile.TemporaryDirectory() as folder, Cloud() as cloud:
            return _Burst(cloud, Path(folder)).run(pushes, error_percent, seed)
    finally:
        async_lambda.WORKERS, async_lambda.RETRY_SECONDS = workers, retry


class _Burst:
    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self._cloud = cloud
        self._s3 = cloud.client("s3")
        data = folder / "data.bin"
        data.write_bytes(b"one two three")
        self._outputs = deploy(
            cloud, ROOT, "dev", {"image.build": False, "data.path": str(data)}
        ).outputs
        self._bucket: str = self._outputs["bucket"]
        self._tasks: dict[str, set[str]] = defaultdict(set)
        cloud.watch(self._see)
        cloud.tasks.stub = self._train

    def run(self, pushes: int, error_percent: float, seed: int) -> Result:
        images = [
            make_image({"app/number": f"{seed}-{number}".encode()}, Entrypoint=["none"])
            for number in range(pushes)
        ]
        began = time.monotonic()
        with self._errors(error_percent / 100, seed) as count, ThreadPoolExecutor(PUSHERS) as pool:
            digests = list(pool.map(self._push, images, itertools.count()))
            pushed = time.monotonic() - began
            self._cloud.settle(PATIENCE_SECONDS)
        for _ in range(ROUNDS):
            if not self._keys("open/") and len(self._keys("runs/")) >= pushes:
                break
            self._reconcile()
        seconds = time.monotonic() - began
        states = {digest: self._state(digest) for digest in digests}
        return Result(
            pushes=pushes,
            error_percent=error_percent,
            errors=count(),
            runs=sum(state is not None for state in states.values()),
            succeeded=sum(state == "SUCCEEDED" for state in states.values()),
            doubles=sum(len(tasks) > 1 for tasks in self._tasks.values()),
            losses=sum(state != "SUCCEEDED" for state in states.values()),
            failed_events=self._failed_events(),
            push_seconds=round(pushed, 2),
            seconds=round(seconds, 2),
            handlers={name: self._latency(name) for name in ("invoke", "observe")},
        )

    @contextlib.contextmanager
    def _errors(self, share: float, seed: int) -> Generator[Any]:
        """Let that share of the handlers' calls fail: refused, cut off, or done unheard."""
        with contextlib.ExitStack() as stack:
            faults = [
                stack.enter_context(
                    self._cloud.faults.inject(
                        service, "*", effect, share=share / 3, seed=seed + number, by="pushtrain"
                    )
                )
                for service, code in _REFUSALS.items()
                for number, effect in enumerate((Error(code), Reset(), AnswerLost()))
                if share
            ]
            yield lambda: sum(fault.struck for fault in faults)

    def _push(self, image: Any, number: int) -> str:
        with self._cloud.registry() as registry:
            return registry.push(image, self._outputs["repositoryUrl"], f"g-{number}")

    def _train(self, task: StubTask) -> int:
        given, model = task.environment, b"a model"
        sha256 = hashlib.sha256(model).hexdigest()
        manifest = {
            "version": 1,
            "run": given["PUSHTRAIN_RUN"],
            "files": {"model": {"size": len(model), "sha256": sha256}},
            "metrics": {"accuracy": 0.5},
            "model": "model",
        }
        for name, body in (("model", model), ("manifest.json", json.dumps(manifest).encode())):
            key = given["PUSHTRAIN_RUN_PREFIX"] + name
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)
        return 0

    def _reconcile(self) -> None:
        """Let the schedule strike at the hour, half an hour later."""
        self._cloud.pass_time(timedelta(minutes=30))
        event = {
            "source": "aws.events",
            "detail-type": "Scheduled Event",
            "time": "2026-01-02T11:00:07Z",
        }
        self._cloud.client("lambda").invoke(
            FunctionName=self._outputs["reconcileFunction"], Payload=json.dumps(event)
        )
        self._cloud.settle(PATIENCE_SECONDS)

    def _see(self, _time: datetime, _source: str, kind: str, detail: dict[str, Any]) -> None:
        if kind == "ECS Task State Change":
            self._tasks[detail["startedBy"].rpartition("-a")[0]].add(detail["taskArn"])

    def _state(self, digest: str) -> str | None:
        key = f"runs/{digest.removeprefix('sha256:')[:12]}/run.json"
        try:
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return None
        return json.loads(body)["state"]

    def _keys(self, prefix: str) -> list[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix, Delimiter="" if prefix == "open/" else "/"
        )
        return [
            entry.get("Key") or entry["Prefix"]
            for page in pages
            for entry in [*page.get("Contents", []), *page.get("CommonPrefixes", [])]
        ]

    def _failed_events(self) -> int:
        total = 0
        for name in ("failedPushes", "failedEnds"):
            answer = self._cloud.client("sqs").get_queue_attributes(
                QueueUrl=self._outputs[name], AttributeNames=["ApproximateNumberOfMessages"]
            )
            total += int(answer["Attributes"]["ApproximateNumberOfMessages"])
        return total

    def _latency(self, handler: str) -> Latency:
        """Read the durations that Lambda reports in the function's log."""
        functions = self._cloud.client("lambda")
        name = self._outputs[f"{handler}Function"]
        group = functions.get_function_configuration(FunctionName=name)["LoggingConfig"]["LogGroup"]
        pages = (
            self._cloud.client("logs")
            .get_paginator("filter_log_events")
            .paginate(logGroupName=group, filterPattern="REPORT")
        )
        lines = [event["message"] for page in pages for event in page["events"]]
        times = [float(found[1]) for line in lines if (found := _DURATION.search(line))]
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        return Latency(invocations=len(times), p50=round(cuts[49], 1), p99=round(cuts[98], 1))


def table(result: Result) -> str:
    """Return the result for people."""
    facts: list[tuple[str, str]] = [
        ("pushes", f"{result.pushes} in {result.push_seconds:g} s"),
        ("errors", f"{result.errors} ({result.error_percent:g} % of the handlers' calls)"),
        ("runs started", str(result.runs)),
        ("succeeded", str(result.succeeded)),
        ("doubles", str(result.doubles)),
        ("losses", str(result.losses)),
        ("failed events", f"{result.failed_events}, their work done by reconcile"),
        ("all over after", f"{result.seconds:g} s"),
        *(
            (name, f"{it.invocations} invocations, p50 {it.p50:g} ms, p99 {it.p99:g} ms")
            for name, it in result.handlers.items()
        ),
    ]
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a burst; the exit code says whether each push was trained exactly once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--pushes", type=int, default=500)
    parser.add_argument("--errors", type=float, default=0.0, help="percent of the handlers' calls")
    parser.add_argument("--seed", type=int, default=0, help="which calls fail")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    result = burst(given.pushes, given.errors, given.seed)
    print(json.dumps(asdict(result), indent=1) if given.json else table(result))
    return 1 if result.doubles or result.losses else 0


if __name__ == "__main__":
    sys.exit(main())
