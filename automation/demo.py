"""The whole loop, told as it happens: deploy, push, train, push again, push the same again."""

import json
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from botocore.exceptions import ClientError
from rich.console import Console
from rich.table import Table

from automation.digits import write_digits
from automation.follow import FINAL_STATES, STATIONS, Event, TaskLog, log_stream, part, stations
from localcloud.cloud import Cloud
from localcloud.deployer import Deployment, deploy
from localcloud.image import ImageError, build

ROOT: Final = Path(__file__).parent.parent
STACK: Final = "dev"
RUNS: Final = 2
POLL_SECONDS: Final = 0.1
MOST_RUN_SECONDS: Final = 3600
MOST_SETTLE_SECONDS: Final = 30
"""How long the cloud may take over something that trains nothing."""
CHANGED_TAG: Final = "g-changed"
SAME_TAG: Final = "g-same-again"


class DemoError(RuntimeError):
    """The loop did not close, or could not begin."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for."""

    data: Path | None
    json_file: Path | None
    output: Path
    keep: bool


@dataclass(kw_only=True)
class RunResult:
    """One run, from push to model."""

    run: str
    tags: list[str]
    accuracy: float
    model: Path
    """On this machine's disk."""
    milliseconds: dict[str, int]
    """From the push to each of STATIONS."""

    def as_json(self) -> dict[str, Any]:
        """Return the run as the --json file has it."""
        return {**asdict(self), "model": str(self.model)}


def run(options: Options) -> None:
    """Run the demo; raise DemoError where the loop does not close."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pushtrain-demo-") as folder:
        work = Path(folder)
        story = _Story()
        data = options.data
        if data is None:
            data = work / "digits.zip"
            write_digits(data)
            story.tell("data", f"scikit-learn's digits, {data.stat().st_size // 1024} KiB of PNG")
        else:
            story.tell("data", f"{data}, {data.stat().st_size / 1e6:.1f} MB")
        ready = time.monotonic()
        with Cloud(region=_stack_region()) as cloud:
            loop = _Loop(cloud, story, work, options)
            report = loop.close(data.resolve())
            report["milliseconds"]["data"] = _milliseconds(ready - began)
            report["milliseconds"]["total"] = _milliseconds(time.monotonic() - began)
            if options.json_file:
                options.json_file.write_text(json.dumps(report, indent=2) + "\n")
            if options.keep:
                loop.keep()


def _stack_region() -> str:
    """Return the region of the stack's file: the embedded cloud is in it."""
    return yaml.safe_load((ROOT / f"Pulumi.{STACK}.yaml").read_text())["config"]["aws:region"]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


class _Story:
    """Tells on stderr what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def tell(self, what: str, text: str, style: str = "bold") -> None:
        """Write one line."""
        seconds = time.monotonic() - self._began
        with self._lock:
            self.console.print(f"[dim]{seconds:7.2f} s[/]  [{style}]{what:<10}[/]", end="")
            self.console.print(text, markup=False, soft_wrap=True)


class _Loop:
    """The demo on one cloud."""

    def __init__(self, cloud: Cloud, story: _Story, work: Path, options: Options) -> None:
        self.cloud = cloud
        self.story = story
        self.work = work
        self.options = options
        self.events: list[Event] = []
        cloud.watch(lambda at, _source, kind, detail: self.events.append((at, kind, detail)))

    def close(self, data: Path) -> dict[str, Any]:
        """Go the whole way; return what the --json file holds."""
        self.story.tell("cloud", f"an AWS cloud in this process, at {self.cloud.url}")
        deployment = self._deploy(data)
        self.bucket: str = deployment.outputs["bucket"]
        self.log_group: str = deployment.outputs["logGroup"]

        first = self._follow(deployment.outputs["image"].rpartition("@")[2])
        context = self._changed_trainer()
        changed = self._push(deployment, context, CHANGED_TAG)
        second = self._follow(changed)
        if second.run == first.run:
            raise DemoError(f"the changed trainer must be another run, got {second.run} again")
        self._push_same_again(deployment, context, second)
        prediction = self._predict(data, second)
        self._show([first, second], prediction)
        return {
            "cloud": self.cloud.url,
            "resources": len(deployment.ids),
            "milliseconds": {"deploy": _milliseconds(deployment.seconds)},
            "runs": [first.as_json(), second.as_json()],
            "prediction": prediction,
        }

    def keep(self) -> None:
        """Leave the cloud up until somebody ends it."""
        lines = [f"export {name}={value}" for name, value in self.cloud.environment().items()]
        self.story.console.print("\nThe cloud stays up until Ctrl-C. Point aws or boto3 at it:\n")
        print("\n".join(lines), flush=True)
        self.story.console.print(
            f"\n  aws s3 ls --recursive s3://{self.bucket}/\n", highlight=False
        )
        while True:
            time.sleep(3600)

    def _deploy(self, data: Path) -> Deployment:
        made: list[str] = []

        def on_resource(kind: str, _name: str) -> None:
            made.append(kind)
            status.update(f"[bold]deploy[/]  {len(made)} resources, {kind.rpartition(':')[2]}")

        with self.story.console.status("[bold]deploy[/]") as status:
            try:
                deployment = deploy(self.cloud, ROOT, STACK, {"data.path": str(data)}, on_resource)
            except (ValueError, ClientError) as error:
                raise DemoError(str(error)) from error
        self.story.tell(
            "deploy",
            f"{len(made)} resources of stack {STACK} in {deployment.seconds:.1f} s: "
            "the data set and the trainer image are two of them",
        )
        self._tell_skipped(deployment.notes)
        return deployment

    def _tell_skipped(self, notes: tuple[str, ...]) -> None:
        if notes:
            self.story.tell(
                "image",
                f"without Docker, {len(notes)} lines of the Dockerfile were skipped (FROM, RUN): "
                "this machine's Python runs what was copied",
            )

    def _changed_trainer(self) -> Path:
        """Return a copy of the trainer that differs in its seed."""
        context = self.work / "changed"
        shutil.copytree(ROOT / "trainer", context, ignore=shutil.ignore_patterns("__pycache__"))
        with (context / "Dockerfile").open("a") as dockerfile:
            dockerfile.write("\nENV PUSHTRAIN_PARAM_SEED=1\n")
        return context

    def _push(self, deployment: Deployment, context: Path, tag: str) -> str:
        try:
            image = build(context)
        except ImageError as error:
            raise DemoError(str(error)) from error
        with self.cloud.registry() as registry:
            digest = registry.push(image, deployment.outputs["repositoryUrl"], tag)
        self.story.tell("push", f"the trainer with another seed, as {tag}: {digest[:19]}")
        return digest

    def _push_same_again(self, deployment: Deployment, context: Path, before: RunResult) -> None:
        """Push a known image under a new tag, and see the push arrive without a run."""
        self._push(deployment, context, SAME_TAG)
        ends = time.monotonic() + MOST_SETTLE_SECONDS
        while SAME_TAG not in (record := self._known_record(before.run))["image"]["tags"]:
            if time.monotonic() > ends:
                raise DemoError(f"run {before.run} must learn of its tag {SAME_TAG}, and did not")
            time.sleep(POLL_SECONDS)
        runs = self._runs()
        if len(record["attempts"]) != 1 or len(runs) != RUNS:
            raise DemoError(f"a known image must start nothing, but there are {len(runs)} runs")
        before.tags = record["image"]["tags"]
        self.story.tell("same", f"{SAME_TAG} is the image of run {before.run}: nothing starts")

    def _follow(self, digest: str) -> RunResult:
        """Tell a run as it goes on, until its record is final."""
        run = digest.removeprefix("sha256:")[:12]
        log = TaskLog(self.cloud.client("logs"), self.log_group)
        told: dict[str, float] = {}
        ends = time.monotonic() + MOST_RUN_SECONDS
        while True:
            record = self._record(run)
            lines = log.read(stream) if (stream := log_stream(record)) else []
            reached = stations(digest, self.events, record, log.first_at)
            for name, milliseconds in reached.items():
                if name not in told:
                    told[name] = milliseconds
                    self.story.tell(name, f"{milliseconds:.0f} ms after the push")
            for line in lines:
                self.story.tell("", line, "dim")
            # The last lines of the log may arrive after the record is final.
            if record and record["state"] in FINAL_STATES and not lines:
                break
            if time.monotonic() > ends:
                raise DemoError(f"run {run} must end within {MOST_RUN_SECONDS} s, and did not")
            time.sleep(POLL_SECONDS)
        if record["state"] != "SUCCEEDED":
            found = record["diagnosis"]
            raise DemoError(
                f"run {run} ended {record['state']}: {found['summary']}. {found['detail']} "
                f"{found['action']}"
            )
        if missing := [name for name in STATIONS if name not in told]:
            raise DemoError(f"run {run} must come past every station, but missed {missing}")
        accuracy = record["metrics"]["accuracy"]
        self.story.tell("model", f"run {run} SUCCEEDED, test accuracy {accuracy:.1%}", "green")
        if promotion := part(record, "promotion"):
            self.story.tell(promotion["decision"], promotion["reason"])
        return RunResult(
            run=run,
            tags=record["image"]["tags"],
            accuracy=accuracy,
            model=self._fetch(run),
            milliseconds={name: round(value) for name, value in told.items()},
        )

    def _fetch(self, run: str) -> Path:
        """Copy what a run published to the output folder; return where its model lies."""
        s3, target = self.cloud.client("s3"), self.options.output / run
        shutil.rmtree(target, ignore_errors=True)
        prefix = f"runs/{run}/"
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                file = target / entry["Key"].removeprefix(prefix)
                file.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(self.bucket, entry["Key"], str(file))
        return target / json.loads((target / "manifest.json").read_text())["model"]

    def _predict(self, data: Path, result: RunResult) -> dict[str, Any] | None:
        """Classify a test image with the model, as a user would."""
        found = _test_image(data, self.work)
        if found is None:
            return None
        image, label = found
        command = [sys.executable, "-m", "trainer.predict", str(image), "--json"]
        command += ["--model", str(result.model.parent)]
        answer = json.loads(self.cloud.run(command, cwd=ROOT))
        return {"image": image.name, "label": label, **answer["classes"][0]}

    def _record(self, run: str) -> dict[str, Any] | None:
        s3 = self.cloud.client("s3")
        try:
            body = s3.get_object(Bucket=self.bucket, Key=f"runs/{run}/run.json")["Body"]
        except s3.exceptions.NoSuchKey:
            return None
        return json.loads(body.read())

    def _known_record(self, run: str) -> dict[str, Any]:
        record = self._record(run)
        if record is None:
            raise DemoError(f"run {run} must have a record, and has none any more")
        return record

    def _runs(self) -> list[str]:
        answer = self.cloud.client("s3").list_objects_v2(
            Bucket=self.bucket, Prefix="runs/", Delimiter="/"
        )
        return [entry["Prefix"] for entry in answer.get("CommonPrefixes", [])]

    def _show(self, runs: list[RunResult], prediction: dict[str, Any] | None) -> None:
        """Print what there is at the end, to stdout."""
        table = Table("run", "tags", "test accuracy", "push to log", "push to model", "model")
        for result in runs:
            table.add_row(
                result.run,
                ", ".join(result.tags),
                f"{result.accuracy:.1%}",
                f"{result.milliseconds['log']} ms",
                f"{result.milliseconds['recorded'] / 1000:.1f} s",
                str(result.model),
            )
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        if prediction is None:
            print("prediction: the data set holds no image files to try one of")
        else:
            print(
                f"prediction: {prediction['image']} is {prediction['class']}, "
                f"{prediction['probability']:.1%} sure (labelled {prediction['label']})"
            )


def _test_image(data: Path, work: Path) -> tuple[Path, str] | None:
    """Take the first test image out of a zip of class folders: its file and its class."""
    if not zipfile.is_zipfile(data):
        return None
    with zipfile.ZipFile(data) as archive:
        for name in sorted(archive.namelist()):
            *_, part, label, file = ["", "", *name.split("/")]
            if part == "test" and file and not file.startswith("."):
                image = work / file
                image.write_bytes(archive.read(name))
                return image, label
    return None
