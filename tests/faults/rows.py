"""The fault matrix: what goes wrong, where, and how the run ends nevertheless.

Each row is a function that acts on a stage; what must have come of it stands in its decorator.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from localcloud.faults import (
    Answer,
    AnswerLost,
    Delay,
    Error,
    Failures,
    Reset,
    Until,
    WorkerKilled,
)
from localcloud.tasks import StubTask
from tests.faults.stage import CHANGED, PUSHED, Stage, publishes

NO_CAPACITY = (
    "Capacity is unavailable at this time. Please try again later or in a different availability "
    "zone"
)
QUOTA = "You've reached the limit on the number of vCPUs you can run concurrently"
SPOT, ON_DEMAND = "FARGATE_SPOT", "FARGATE"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault, and what must have come of it once all has settled."""

    fault: str
    where: str
    act: Callable[[Stage], object]
    state: str
    cause: str | None
    """Of the run's diagnosis, where it did not succeed."""
    attempts: tuple[str | None, ...]
    """The cause that each attempt ended with; None of one that did its work."""
    providers: tuple[str, ...] | None
    """On which capacity each was, where that is the point."""
    tasks: int
    """How many were ever started for the run."""
    notices: int | None
    """How often people were told; None: at least once, which is all that is promised."""
    events: int | None
    """How often programs were."""
    queue: dict[str, int] = field(default_factory=dict[str, int])
    """What is left in the stack's queues."""


ROWS: list[Row] = []


def row(
    fault: str,
    where: str,
    *,
    state: str = "SUCCEEDED",
    cause: str | None = None,
    attempts: tuple[str | None, ...] = (None,),
    providers: tuple[str, ...] | None = None,
    tasks: int | None = None,
    notices: int | None = 1,
    events: int | None = 1,
    queue: dict[str, int] | None = None,
) -> Callable[[Callable[[Stage], object]], Callable[[Stage], object]]:
    """Enter a function into the table."""

    def enter(act: Callable[[Stage], object]) -> Callable[[Stage], object]:
        ROWS.append(
            Row(
                fault=fault,
                where=where,
                act=act,
                state=state,
                cause=cause,
                attempts=attempts,
                providers=providers,
                tasks=len(attempts) if tasks is None else tasks,
                notices=notices,
                events=events,
                queue=queue or {},
            )
        )
        return act

    return enter


# Trainers


def exits(code: int, *lines: str) -> Callable[[Stage, StubTask], int]:
    """Return a trainer that says something and ends with that code."""

    def train(_stage: Stage, task: StubTask) -> int:
        for line in lines:
            task.log(line)
        return code

    return train


def waits(_stage: Stage, task: StubTask) -> int:
    """Train until told to stop."""
    task.told.wait(120)
    return 143


def waits_at_first(stage: Stage, task: StubTask) -> int:
    """Train until told to stop, and to the end in any later attempt."""
    first = task.environment["PUSHTRAIN_ATTEMPT"] == "1"
    return waits(stage, task) if first else publishes(stage, task)


def stopped(detail: dict[str, object]) -> bool:
    """Say whether the event is of a task's end."""
    return detail["lastStatus"] == "STOPPED"


# Pushes


@row("none", "nowhere")
def good_day(stage: Stage) -> None:
    stage.push()


@row("the push event comes twice at once", "event bus")
def twice(stage: Stage) -> None:
    with stage.faults.events(PUSHED, "repeated"):
        stage.push()


@row("the push event comes 50 times at once", "event bus")
def fifty_times(stage: Stage) -> None:
    with stage.faults.events(PUSHED, "repeated", copies=50):
        stage.push()


@row("the push event comes again when the run is over", "event bus")
def push_after_the_end(stage: Stage) -> None:
    with stage.faults.events(PUSHED, "again") as again:
        stage.push()
        stage.settle()
        again.release()
        stage.settle()


@row("of two deliveries at once, one's claim arrives when the run is over", "invoke")
def late_claim(stage: Stage) -> None:
    with (
        stage.faults.inject(
            "s3", "PutObject", Until(stage.gate), times=1, by="invoke", where="run.json"
        ) as held,
        stage.faults.events(PUSHED, "repeated"),
    ):
        stage.push()
        stage.until(lambda: held.struck)
        stage.until(lambda: stage.state() == "SUCCEEDED")
        stage.gate.set()
        stage.settle()


@row(
    "another image's digest begins with the same twelve digits",
    "ECR",
    queue={"failedPushes": 1},
)
def digest_clash(stage: Stage) -> None:
    stage.push()
    stage.settle()
    event = stage.push_event()
    event["detail"]["image-digest"] = f"sha256:{stage.run}{'0' * 52}"
    stage.deliver("invoke", event)


@row("the push event is lost", "event bus")
def push_lost(stage: Stage) -> None:
    with stage.faults.events(PUSHED, "lost"):
        stage.push()
    stage.hourly()


@row(
    "the image is deleted between push and start",
    "ECR",
    state="FAILED",
    cause="image",
    attempts=("image",),
)
def image_deleted(stage: Stage) -> None:
    # The embedded registry still answers for a deleted image's manifest.
    gone = Error("MANIFEST_UNKNOWN", "Requested image not found")
    with stage.faults.inject("registry", "GetManifest", gone):
        with stage.faults.events(PUSHED, "late"):
            stage.push_script("print('never')")
            stage.delete_image()
        stage.settle()


@row("Lambda killed with its mark made, before the claim", "invoke")
def killed_before_claim(stage: Stage) -> None:
    dies = WorkerKilled("after")
    with stage.faults.inject("s3", "PutObject", dies, times=1, by="invoke", where="open/"):
        stage.push()
        stage.settle()


@row("Lambda killed after claiming", "invoke")
def killed_after_claim(stage: Stage) -> None:
    dies = WorkerKilled("after")
    with stage.faults.inject("s3", "PutObject", dies, times=1, by="invoke", where="run.json"):
        stage.push()
        stage.settle()


@row("Lambda killed after registering the task definition", "invoke")
def killed_after_registering(stage: Stage) -> None:
    with stage.faults.inject(
        "ecs", "RegisterTaskDefinition", WorkerKilled("after"), times=1, by="invoke"
    ):
        stage.push()
        stage.settle()


@row("Lambda killed with the request on record, before RunTask", "invoke")
def killed_before_run_task(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", WorkerKilled("before"), times=1):
        stage.push()
        stage.settle()


@row("Lambda killed after RunTask, before recording the task", "invoke")
def killed_after_run_task(stage: Stage) -> None:
    stage.trainer = waits_until_recorded
    with stage.faults.inject("ecs", "RunTask", WorkerKilled("after"), times=1):
        stage.push()
        stage.settle()


def waits_until_recorded(stage: Stage, task: StubTask) -> int:
    """Train until the record names the task."""
    run = task.environment["PUSHTRAIN_RUN"]
    stage.until(lambda: stage.record(run)["state"] == "STARTED")
    return publishes(stage, task)


@row(
    "Lambda killed after RunTask, each of three times; the task's end tells of it",
    "invoke",
    queue={"failedPushes": 1},
)
def killed_after_run_task_always(stage: Stage) -> None:
    stage.trainer = waits_at_the_gate
    with stage.faults.inject("ecs", "RunTask", WorkerKilled("after"), by="invoke"):
        stage.push()
        stage.until(lambda: stage.queued().get("failedPushes"))
    stage.gate.set()


def waits_at_the_gate(stage: Stage, task: StubTask) -> int:
    """Train when the row says so."""
    stage.gate.wait(60)
    return publishes(stage, task)


@row(
    "the same, and the event of the task's end is lost",
    "invoke, event bus",
    queue={"failedPushes": 1},
)
def killed_and_never_told(stage: Stage) -> None:
    with stage.faults.events(CHANGED, "lost", when=stopped):
        killed_after_run_task_always(stage)
        stage.settle()
    stage.reconcile(minutes=6)
    stage.reconcile(minutes=6)


# RunTask


@row(
    "RunTask answers failures[] with RESOURCE",
    "ECS",
    attempts=("capacity", None),
    providers=(SPOT, ON_DEMAND),
    tasks=1,
)
def failures_resource(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Failures("RESOURCE:CPU"), times=1):
        stage.push()
        stage.settle()


@row(
    "RunTask answers failures[] with CAPACITY: no Spot capacity in any zone",
    "ECS",
    attempts=("capacity", None),
    providers=(SPOT, ON_DEMAND),
    tasks=1,
)
def failures_capacity(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Failures(NO_CAPACITY), times=1):
        stage.push()
        stage.settle()


@row("RunTask answers failures[] with AGENT", "ECS", attempts=("capacity", None), tasks=1)
def failures_agent(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Failures("AGENT"), times=1):
        stage.push()
        stage.settle()


@row("RunTask answers failures[] with MISSING", "ECS", attempts=("capacity", None), tasks=1)
def failures_missing(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Failures("MISSING"), times=1):
        stage.push()
        stage.settle()


@row(
    "no capacity at all; the run waits, and starts when there is some",
    "ECS",
    attempts=("capacity", "capacity", None),
    providers=(SPOT, ON_DEMAND, SPOT),
    tasks=1,
)
def no_capacity(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Failures(NO_CAPACITY), times=2):
        stage.push()
        stage.settle()
    assert stage.record()["waiting"]["why"] == "capacity"
    stage.reconcile()
    assert stage.record()["state"] == "WAITING", "not before its time"
    stage.reconcile(minutes=6)


@row(
    "the account's vCPU quota is used up; the run waits for it",
    "ECS",
    attempts=("limit", None),
    tasks=1,
)
def quota(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Failures(QUOTA), times=1):
        stage.push()
        stage.settle()
    assert stage.record()["waiting"]["why"] == "limit"
    stage.reconcile(minutes=6)


@row("RunTask is throttled twice", "ECS")
def throttled(stage: Stage) -> None:
    throttle = Error("ThrottlingException", "Rate exceeded")
    with stage.faults.inject("ecs", "RunTask", throttle, times=2):
        stage.push()
        stage.settle()


@row("RunTask's answer is lost", "ECS")
def run_task_answer_lost(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", AnswerLost(), times=1):
        stage.push()
        stage.settle()


@row("RunTask is denied until a person gives the right", "IAM", queue={"failedPushes": 1})
def run_task_denied(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Error("AccessDeniedException"), by="invoke"):
        stage.push()
        stage.settle()
    stage.reconcile(minutes=6)


@row(
    "RunTask refuses each request",
    "ECS",
    state="FAILED",
    cause="refused",
    attempts=("refused", "refused", "refused"),
    tasks=0,
)
def run_task_refused(stage: Stage) -> None:
    refusal = Error("InvalidParameterException", "Subnet does not exist")
    with stage.faults.inject("ecs", "RunTask", refusal):
        stage.push()
        stage.settle()
        for minutes in (6, 11, 21, 41):
            stage.reconcile(minutes=minutes)


@row(
    "the request of the record is not the one that started the task: ConflictException",
    "ECS",
    queue={"failedPushes": 1},
)
def conflict(stage: Stage) -> None:
    stage.trainer = waits_until_recorded
    with stage.faults.inject("ecs", "RunTask", WorkerKilled("after"), by="invoke") as fault:
        stage.push()
        stage.until(lambda: fault.struck == 3)
    record = stage.record()
    container = record["attempts"][0]["request"]["overrides"]["containerOverrides"][0]
    container["environment"].append({"name": "CHANGED", "value": "1"})
    stage.put(f"runs/{stage.run}/run.json", json.dumps(record).encode())
    stage.invoke("invoke", stage.push_event())


@row("ConflictException that names no task, once", "ECS")
def conflict_without_a_task(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Error("ConflictException"), times=1):
        stage.push()
        stage.settle()


@row(
    "the task definition was deregistered before RunTask",
    "ECS",
    attempts=("refused", None),
    tasks=1,
)
def definition_gone(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Until(stage.gate), times=1) as fault:
        stage.push()
        stage.until(lambda: fault.struck)
        stage.cloud.client("ecs").deregister_task_definition(
            taskDefinition=stage.record()["attempts"][0]["request"]["taskDefinition"]
        )
        stage.gate.set()
        stage.settle()
    stage.reconcile(minutes=6)


@row("two pushes register a definition at once, and ECS takes one", "ECS")
def registering_refused(stage: Stage) -> None:
    refusal = Error(
        "ClientException",
        "Too many concurrent attempts to create a new revision of the specified family.",
    )
    with stage.faults.inject("ecs", "RegisterTaskDefinition", refusal, times=1):
        stage.push()
        stage.settle()


# S3, SSM and what lies there


@row("S3 is slow and says 503", "S3")
def slow_down(stage: Stage) -> None:
    with (
        stage.faults.inject("s3", "PutObject", Error("SlowDown"), times=2, by="invoke"),
        stage.faults.inject("s3", "GetObject", Error("SlowDown"), times=1, by="observe"),
    ):
        stage.push()
        stage.settle()


@row("S3 answers a change with 412: another writer was faster", "S3")
def precondition_failed(stage: Stage) -> None:
    with (
        stage.faults.inject(
            "s3", "PutObject", Error("PreconditionFailed"), skip=1, times=2, where="run.json"
        ) as fault,
    ):
        stage.push()
        stage.settle()
        assert fault.struck == 2


@row("S3 answers the claim with 409: two conditional writes met", "S3")
def conditional_conflict(stage: Stage) -> None:
    conflict = Error("ConditionalRequestConflict")
    with stage.faults.inject("s3", "PutObject", conflict, times=1, where="run.json"):
        stage.push()
        stage.settle()


@row("the answer to the claim is lost, and S3 refuses its repetition", "S3")
def claim_answer_lost(stage: Stage) -> None:
    with stage.faults.inject("s3", "PutObject", AnswerLost(), times=1, where="run.json"):
        stage.push()
        stage.settle()


@row("the answer to every second change of the record is lost", "S3")
def change_answers_lost(stage: Stage) -> None:
    with stage.faults.inject("s3", "PutObject", AnswerLost(), times=4, share=0.5, where="run.json"):
        stage.push()
        stage.settle()


@row("connections to S3 break", "network")
def connections_break(stage: Stage) -> None:
    with (
        stage.faults.inject("s3", "GetObject", Reset(), times=1, by="invoke"),
        stage.faults.inject("s3", "PutObject", Reset(), times=1, by="invoke"),
    ):
        stage.push()
        stage.settle()


@row("SSM has errors", "SSM")
def ssm_errors(stage: Stage) -> None:
    with stage.faults.inject("ssm", "GetParameter", Error("InternalServerError"), times=2):
        stage.push()
        stage.settle()


@row(
    "SSM is out of reach for all three tries; the push is found an hour later",
    "SSM",
    queue={"failedPushes": 1},
)
def ssm_out(stage: Stage) -> None:
    with stage.faults.inject("ssm", "GetParameter", Error("AccessDeniedException"), by="invoke"):
        stage.push()
        stage.settle()
    stage.hourly()


@row("there is no data yet; the run waits for them", "S3")
def no_data(stage: Stage) -> None:
    stage.s3.delete_object(Bucket=stage.bucket, Key="data/dataset")
    stage.push()
    stage.settle()
    assert stage.record()["waiting"]["why"] == "data"
    stage.put("data/dataset", b"late")
    stage.reconcile(minutes=6)


# The limit of concurrent runs


@row("as many runs are at work as may; the next one waits, and starts when one ends", "limit")
def limit(stage: Stage) -> None:
    stage.wire(max_concurrent_runs=1)
    stage.trainer = waits
    stage.push()
    first = stage.running()
    stage.trainer = publishes
    stage.push()
    stage.until(lambda: stage.waits_for("limit"))
    stage.cloud.tasks.kill(first)
    stage.settle()
    stage.reconcile(minutes=6)


@row("two pushes ask for the last slot at once", "limit")
def last_slot(stage: Stage) -> None:
    stage.wire(max_concurrent_runs=1)
    stage.trainer = waits
    with stage.faults.inject(
        "s3", "PutObject", Until(stage.gate), times=1, where="slots.json"
    ) as held:
        slow = stage.push()
        stage.until(lambda: held.struck)
        stage.push()
        fast = stage.started()
        stage.gate.set()
        stage.digest = slow
        stage.until(lambda: stage.waits_for("limit"))
    assert stage.cloud.tasks.living() == [fast]
    stage.trainer = publishes
    stage.cloud.tasks.kill(fast)
    stage.settle()
    stage.reconcile(minutes=6)


@row("a slot is held by a run whose record is damaged, another by one that is gone", "S3")
def slots_of_strangers(stage: Stage) -> None:
    stage.wire(max_concurrent_runs=2)
    stage.put("runs/0123456789ab/run.json", b"{half a rec")
    stage.put("slots.json", b'["0123456789ab", "fedcba987654"]')
    stage.push()
    stage.settle()
    assert stage.waits_for("limit")
    with pytest.raises(RuntimeError, match="0123456789ab"):
        stage.reconcile(minutes=6)
    stage.settle()
    assert json.loads(stage.read("slots.json")) == ["0123456789ab"], "nobody knows what it does"
    stage.put("slots.json", b"[]")


@row("Lambda killed with a slot taken, before its first attempt", "invoke")
def killed_with_slot(stage: Stage) -> None:
    stage.wire(max_concurrent_runs=1)
    dies = WorkerKilled("after")
    with stage.faults.inject("s3", "PutObject", dies, times=1, where="slots.json"):
        stage.push()
        stage.settle()


# Records, wiring and parameters that cannot be read


@row(
    "the record is not valid JSON; nothing starts beside it, and restored it goes on",
    "S3",
    attempts=("capacity", "capacity", None),
    tasks=1,
    queue={"failedPushes": 1},
)
def record_not_json(stage: Stage) -> None:
    damage(stage, b"{half a rec")


@row(
    "the record is of a newer version; nothing starts beside it",
    "S3",
    attempts=("capacity", "capacity", None),
    tasks=1,
    queue={"failedPushes": 1},
)
def record_newer(stage: Stage) -> None:
    damage(stage, b'{"version": 2}')


def damage(stage: Stage, body: bytes) -> None:
    """Let the record of a run that waits be unreadable for a while."""
    with stage.faults.inject("ecs", "RunTask", Failures(NO_CAPACITY), times=2):
        stage.push()
        stage.settle()
    key = f"runs/{stage.run}/run.json"
    sound = stage.read(key)
    stage.put(key, body)
    stage.deliver("invoke", stage.push_event())
    for look in (stage.reconcile, stage.hourly):
        with pytest.raises(RuntimeError, match=r"run\.json must"):
            look(minutes=6)
    assert stage.read(key) == body
    assert stage.tasks() == []
    stage.put(key, sound)
    stage.reconcile(minutes=6)


@row(
    "another run's record is damaged; the others go on",
    "S3",
    attempts=("capacity", "capacity", None),
    tasks=1,
)
def damaged_neighbour(stage: Stage) -> None:
    for name in ("0123456789ab", "fedcba987654"):
        stage.put(f"open/{name}", b"")
        stage.put(f"runs/{name}/run.json", b"{half a rec")
    with stage.faults.inject("ecs", "RunTask", Failures(NO_CAPACITY), times=2):
        stage.push()
        stage.settle()
    with pytest.raises(RuntimeError, match=r"0123456789ab.*fedcba987654"):
        stage.reconcile(minutes=6)
    stage.settle()
    for key in [*stage.keys("open/0123"), *stage.keys("open/fedc")]:
        stage.s3.delete_object(Bucket=stage.bucket, Key=key)


@row("the push event is lost, and another image's record is damaged", "event bus, S3")
def push_lost_beside_damage(stage: Stage) -> None:
    stage.push()
    stage.settle()
    other = stage.run
    sound = stage.read(f"runs/{other}/run.json")
    stage.put(f"runs/{other}/run.json", b"{half a rec")
    with stage.faults.events(PUSHED, "lost"):
        stage.push()
    with pytest.raises(RuntimeError, match=other):
        stage.hourly()
    stage.settle()
    stage.put(f"runs/{other}/run.json", sound)


@row("the wiring is not JSON; the push is found an hour later", "SSM", queue={"failedPushes": 1})
def wiring_broken(stage: Stage) -> None:
    stage.ssm.put_parameter(
        Name=stage.outputs["wiringParameter"], Type="String", Value="{half", Overwrite=True
    )
    stage.push()
    stage.settle()
    assert stage.keys("runs/") == []
    stage.wire()
    stage.hourly()


@row(
    "the user's parameters are refused before the claim, and corrected",
    "SSM",
    queue={"failedPushes": 1},
)
def parameters_broken(stage: Stage) -> None:
    stage.train_with('{"epochs": [1, 2]}')
    stage.push()
    stage.settle()
    assert stage.keys("runs/") == []
    stage.train_with('{"epochs": 2}')
    stage.hourly()
    assert stage.record()["parameters"]["epochs"] == "2"


@row(
    "the parameters do not fit into a RunTask request",
    "SSM",
    queue={"failedPushes": 1},
)
def parameters_too_long(stage: Stage) -> None:
    stage.train_with(json.dumps({"notes": "\u00e4" * 1500}, ensure_ascii=False))
    stage.push()
    stage.settle()
    assert stage.keys("runs/") == []
    stage.train_with("{}")
    stage.hourly()


# How tasks end


@row("exit 1 with a traceback", "trainer", state="FAILED", cause="exit", attempts=("exit",))
def exit_1(stage: Stage) -> None:
    stage.trainer = exits(1, "Traceback (most recent call last):", "ValueError: no such column")
    stage.push()
    stage.settle()
    assert "ValueError: no such column" in stage.record()["diagnosis"]["detail"]


@row(
    "killed for want of memory: 137 and a reason",
    "trainer",
    state="FAILED",
    cause="memory",
    attempts=("memory",),
)
def out_of_memory(stage: Stage) -> None:
    stage.push_script("import time\ntime.sleep(600)")
    stage.cloud.tasks.kill(
        stage.running(), "OutOfMemoryError: Container killed due to memory usage"
    )


@row("SIGKILL without a word: 137", "trainer", state="FAILED", cause="killed", attempts=("killed",))
def killed(stage: Stage) -> None:
    stage.push_script("import os\nos.kill(os.getpid(), 9)")


@row("crash in native code: 139", "trainer", state="FAILED", cause="crash", attempts=("crash",))
def crash(stage: Stage) -> None:
    stage.push_script("import os\nos.kill(os.getpid(), 11)")


@row(
    "entry point that is not there: 127",
    "trainer",
    state="FAILED",
    cause="command",
    attempts=("command",),
)
def no_entry_point(stage: Stage) -> None:
    stage.trainer = exits(127, "sh: train: not found")
    stage.push()


@row(
    "exit 0, and nothing published",
    "trainer",
    state="FAILED",
    cause="unpublished",
    attempts=("unpublished",),
)
def nothing_published(stage: Stage) -> None:
    stage.trainer = exits(0)
    stage.push()


@row(
    "a file is not what the manifest says",
    "trainer",
    state="FAILED",
    cause="unpublished",
    attempts=("unpublished",),
)
def wrong_hash(stage: Stage) -> None:
    def train(stage: Stage, task: StubTask) -> int:
        publishes(stage, task)
        stage.put(task.environment["PUSHTRAIN_RUN_PREFIX"] + "model", b"another")
        return 0

    stage.trainer = train
    stage.push()


@row(
    "a user stops the task: SIGTERM",
    "ECS console",
    state="CANCELLED",
    cause="user",
    attempts=("user",),
)
def user_stop(stage: Stage) -> None:
    stage.trainer = waits
    stage.push()
    stage.stop_task(stage.running())


@row("Spot reclaim", "Fargate", attempts=("spot", None), providers=(SPOT, ON_DEMAND))
def spot(stage: Stage) -> None:
    stage.trainer = waits_at_first
    stage.push()
    stage.cloud.tasks.reclaim(stage.running())


def reclaim_at(step: int) -> Callable[[Stage], None]:
    """Return a row whose trainer of ten steps loses its capacity at that one."""

    def act(stage: Stage) -> None:
        steps: list[int] = []

        def train(stage: Stage, task: StubTask) -> int:
            key = task.environment["PUSHTRAIN_CHECKPOINT_PREFIX"] + "step"
            found = stage.keys(key)
            begin = int(stage.read(key)) if found else 0
            for number in range(begin, 10):
                if number == step and not found and task.told.wait(60):
                    return 143
                steps.append(number)
                stage.put(key, str(number + 1).encode())
            return publishes(stage, task)

        stage.trainer = train
        stage.push()
        arn = stage.running()
        stage.until(lambda: len(steps) == step)
        stage.cloud.tasks.reclaim(arn)
        stage.settle()
        assert steps == list(range(10)), "each step is made once"

    return act


for percent in (10, 50, 90):
    row(
        f"Spot reclaim at {percent} % of a training",
        "Fargate",
        attempts=("spot", None),
        providers=(SPOT, ON_DEMAND),
    )(reclaim_at(percent // 10))


@row("the host fails", "Fargate", attempts=("infrastructure", None))
def host_fails(stage: Stage) -> None:
    stage.trainer = waits_at_first
    stage.push()
    stage.cloud.tasks.lose_host(stage.running())


@row("Fargate retires the host: TerminationNotice", "Fargate", attempts=("spot", None))
def termination_notice(stage: Stage) -> None:
    stage.trainer = waits_at_first
    stage.push()
    stage.cloud.tasks.reclaim(
        stage.running(), "TerminationNotice", "The task was stopped for maintenance."
    )


@row("the task vanishes: no event, and ECS does not know it", "Fargate", attempts=("lost", None))
def vanished(stage: Stage) -> None:
    stage.trainer = waits_at_first
    stage.push()
    arn = stage.running()
    stage.until(lambda: stage.record()["state"] == "STARTED")
    stage.vanish(arn)
    stage.reconcile(minutes=20)
    assert stage.record()["state"] == "STARTED", "it may yet be there"
    stage.reconcile(minutes=60)


@row("TaskFailedToStart with empty containers, once", "ECS", attempts=("start", None))
def fails_to_start(stage: Stage) -> None:
    with stage.faults.starts("Unexpected EC2 error while attempting to create a network interface"):
        stage.push()
        stage.settle()


@row(
    "TaskFailedToStart each time",
    "ECS",
    state="FAILED",
    cause="start",
    attempts=("start", "start", "start"),
)
def never_starts(stage: Stage) -> None:
    with stage.faults.starts("Unexpected EC2 error", times=9):
        stage.push()
        stage.settle()


@row("CannotPullContainerError once", "ECS", attempts=("pull", None))
def cannot_pull(stage: Stage) -> None:
    reason = "CannotPullContainerError: pull image manifest has been retried 5 time(s): i/o timeout"
    with stage.faults.starts(reason, containers=True):
        stage.push()
        stage.settle()


@row(
    "CannotPullContainerError each time",
    "ECS",
    state="FAILED",
    cause="pull",
    attempts=("pull", "pull", "pull"),
)
def can_never_pull(stage: Stage) -> None:
    reason = "CannotPullContainerError: pull image manifest has been retried 5 time(s): i/o timeout"
    with stage.faults.starts(reason, times=9, containers=True):
        stage.push()
        stage.settle()


@row(
    "ResourceInitializationError once: no log stream",
    "CloudWatch Logs",
    attempts=("resources", None),
)
def resources(stage: Stage) -> None:
    with stage.faults.inject("logs", "CreateLogStream", Error("AccessDeniedException"), times=1):
        stage.push()
        stage.settle()


@row(
    "ResourceInitializationError each time",
    "CloudWatch Logs",
    state="FAILED",
    cause="resources",
    attempts=("resources", "resources", "resources"),
)
def resources_never(stage: Stage) -> None:
    with stage.faults.inject("logs", "CreateLogStream", Error("AccessDeniedException")):
        stage.push()
        stage.settle()


@row("Spot is reclaimed each time", "Fargate", state="FAILED", cause="spot", attempts=("spot",) * 5)
def spot_always(stage: Stage) -> None:
    def train(stage: Stage, task: StubTask) -> int:
        stage.cloud.tasks.reclaim(stage.running())
        return waits(stage, task)

    stage.trainer = train
    stage.push()


# Time and cancel


@row("the task never ends", "trainer", state="FAILED", cause="time", attempts=("time",))
def never_ends(stage: Stage) -> None:
    stage.wire(max_run_minutes=60)
    stage.trainer = waits
    stage.push()
    stage.started()
    stage.reconcile_only(minutes=55)
    assert stage.record()["stop"] is None
    stage.reconcile(minutes=10)


@row(
    "two attempts together are over the run's time",
    "trainer",
    state="FAILED",
    cause="time",
    attempts=("spot", "time"),
)
def time_over_attempts(stage: Stage) -> None:
    stage.wire(max_run_minutes=60)
    stage.trainer = waits
    stage.push()
    first = stage.started()
    stage.pass_time(40)
    stage.cloud.tasks.reclaim(first)
    stage.until(lambda: stage.started() != first)
    stage.reconcile(minutes=25)


@row(
    "a task vanishes, and its time counts",
    "Fargate",
    state="FAILED",
    cause="time",
    attempts=("lost", "time"),
)
def time_of_a_lost_task(stage: Stage) -> None:
    stage.wire(max_run_minutes=100)
    stage.trainer = waits
    stage.push()
    first = stage.started()
    stage.vanish(first)
    stage.reconcile_only(minutes=80)
    stage.until(lambda: stage.started() != first)
    stage.reconcile(minutes=25)


@row(
    "the task never ends, and ECS refuses to stop it at first",
    "ECS",
    state="FAILED",
    cause="time",
    attempts=("time",),
)
def stop_refused(stage: Stage) -> None:
    stage.wire(max_run_minutes=60)
    stage.trainer = waits
    stage.push()
    stage.started()
    with (
        stage.faults.inject("ecs", "StopTask", Error("AccessDeniedException"), times=1),
        pytest.raises(RuntimeError, match="AccessDenied"),
    ):
        stage.reconcile_only(minutes=65)
    assert stage.record()["stop"]["why"] == "time"
    stage.reconcile(minutes=5)


@row(
    "Lambda killed with the stop on record, before StopTask",
    "reconcile",
    state="FAILED",
    cause="time",
    attempts=("time",),
)
def killed_before_stop(stage: Stage) -> None:
    stage.wire(max_run_minutes=60)
    stage.trainer = waits
    stage.push()
    stage.started()
    with (
        stage.faults.inject("ecs", "StopTask", WorkerKilled("before"), times=1),
        pytest.raises(RuntimeError, match="died"),
    ):
        stage.reconcile_only(minutes=65)
    stage.reconcile(minutes=5)


@row("cancelled", "command", state="CANCELLED", cause="cancel", attempts=("cancel",))
def cancelled(stage: Stage) -> None:
    stage.trainer = waits
    stage.push()
    stage.started()
    stage.cancel()


@row(
    "cancelled as Spot is reclaimed: never tried again",
    "command, Fargate",
    state="CANCELLED",
    cause="cancel",
    attempts=("cancel",),
)
def cancelled_and_reclaimed(stage: Stage) -> None:
    stage.trainer = waits
    stage.push()
    arn = stage.started()
    with (
        stage.faults.inject("ecs", "StopTask", Error("AccessDeniedException"), times=1),
        pytest.raises(RuntimeError, match="AccessDenied"),
    ):
        stage.cancel()
    stage.cloud.tasks.reclaim(arn)


@row("cancelled while it waits for data", "command", state="CANCELLED", cause="cancel", attempts=())
def cancelled_waiting(stage: Stage) -> None:
    stage.s3.delete_object(Bucket=stage.bucket, Key="data/dataset")
    stage.push()
    stage.settle()
    stage.cancel()


@row(
    "cancelled between RunTask and its record",
    "command, invoke",
    state="CANCELLED",
    cause="cancel",
    attempts=("cancel",),
    queue={"failedPushes": 1},
)
def cancelled_unrecorded(stage: Stage) -> None:
    stage.trainer = waits
    with stage.faults.inject("ecs", "RunTask", WorkerKilled("after"), by="invoke"):
        stage.push()
        stage.until(lambda: stage.queued().get("failedPushes"))
    stage.cancel()


@row(
    "cancelled while capacity lacks: no attempt follows",
    "command",
    state="CANCELLED",
    cause="cancel",
    attempts=("capacity", "capacity"),
    tasks=0,
)
def cancelled_without_capacity(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Failures(NO_CAPACITY), times=2):
        stage.push()
        stage.settle()
    stage.cancel()
    stage.reconcile(minutes=6)


# The events of tasks, and observe


@row("the event of the task's end is lost", "event bus")
def end_lost(stage: Stage) -> None:
    with stage.faults.events(CHANGED, "lost", when=stopped):
        stage.push()
        stage.settle()
    stage.reconcile(minutes=6)


@row("the event of the task's end is lost, and ECS forgets the task", "event bus, ECS")
def end_lost_and_forgotten(stage: Stage) -> None:
    with stage.faults.events(CHANGED, "lost", when=stopped):
        stage.push()
        stage.settle()
    stage.reconcile(minutes=90)


@row(
    "the same of a trainer that failed: it is tried again",
    "event bus, ECS",
    attempts=("lost", None),
)
def failure_lost_and_forgotten(stage: Stage) -> None:
    stage.trainer = exits(1)
    with stage.faults.events(CHANGED, "lost", when=stopped):
        stage.push()
        stage.settle()
    stage.trainer = publishes
    stage.reconcile(minutes=90)


@row("the event of the task's end comes five times at once", "event bus", notices=None, events=None)
def end_repeated(stage: Stage) -> None:
    with stage.faults.events(CHANGED, "repeated", copies=5, when=stopped):
        stage.push()
        stage.settle()


@row("all events of the task come in reverse order", "event bus")
def out_of_order(stage: Stage) -> None:
    with stage.faults.events(CHANGED, "late") as late:
        stage.push()
        stage.settle()
        late.release()
        stage.settle()


@row("the event of the task's end comes again when the run is over", "event bus")
def end_again(stage: Stage) -> None:
    with stage.faults.events(CHANGED, "again", when=stopped) as again:
        stage.push()
        stage.settle()
        again.release()
        stage.settle()


@row(
    "the end of the first attempt is told again while the second one is at work",
    "event bus",
    attempts=("spot", None),
)
def old_end_again(stage: Stage) -> None:
    def train(stage: Stage, task: StubTask) -> int:
        first = task.environment["PUSHTRAIN_ATTEMPT"] == "1"
        return waits(stage, task) if first else waits_at_the_gate(stage, task)

    stage.trainer = train
    with stage.faults.events(CHANGED, "again", when=stopped, times=1) as again:
        stage.push()
        first = stage.started()
        stage.cloud.tasks.reclaim(first)
        stage.until(lambda: stage.started() != first)
        again.release()
        stage.until(stage.cloud.quiet)
        stage.gate.set()


@row("the task ends before RunTask's answer is on record", "invoke, event bus")
def ends_before_recorded(stage: Stage) -> None:
    # After the claim and the attempt comes the answer.
    with stage.faults.inject(
        "s3", "PutObject", Until(stage.gate), skip=2, times=1, by="invoke", where="run.json"
    ):
        stage.push()
        stage.until(lambda: stage.state() == "SUCCEEDED")
        # Observe's own last change could hide what the late answer overwrites.
        stage.until(lambda: not stage.keys("open/"))
        stage.gate.set()


@row("observe fails three times; reconcile does its work", "observe", queue={"failedEnds": 1})
def observe_fails(stage: Stage) -> None:
    with stage.faults.inject("s3", "GetObject", Error("AccessDenied"), by="observe"):
        stage.push()
        stage.settle()
    assert stage.record()["state"] == "STARTED"
    stage.reconcile(minutes=6)


@row("Lambda killed with the end on record, before anybody is told", "observe")
def killed_before_notice(stage: Stage) -> None:
    with stage.faults.inject("events", "PutEvents", WorkerKilled("before"), times=1):
        stage.push()
        stage.settle()


@row("Lambda killed with programs told, before people are", "observe", events=2)
def killed_between_notices(stage: Stage) -> None:
    with stage.faults.inject("sns", "Publish", WorkerKilled("before"), times=1):
        stage.push()
        stage.settle()


@row("SNS is throttled", "SNS")
def sns_throttled(stage: Stage) -> None:
    with stage.faults.inject("sns", "Publish", Error("Throttling"), times=1):
        stage.push()
        stage.settle()


@row(
    "SNS denies for all three tries; the notice is sent later",
    "SNS",
    events=4,
    queue={"failedEnds": 1},
)
def sns_denied(stage: Stage) -> None:
    with stage.faults.inject("sns", "Publish", Error("AuthorizationError")):
        stage.push()
        stage.settle()
    record = stage.record()
    assert record["state"] == "SUCCEEDED"
    assert record["notified_at"] is None
    stage.reconcile(minutes=6)


@row("the event bus takes the event of the end only the second time", "EventBridge")
def put_events_fails(stage: Stage) -> None:
    failure = {"ErrorCode": "InternalFailure", "ErrorMessage": "try again"}
    with stage.faults.inject(
        "events", "PutEvents", Answer({"FailedEntryCount": 1, "Entries": [failure]}), times=1
    ):
        stage.push()
        stage.settle()


@row("more to tell than SNS takes", "trainer", state="FAILED", cause="exit", attempts=("exit",))
def much_to_tell(stage: Stage) -> None:
    stage.trainer = exits(1, *["\x1b[31m\u2028ünïcödé \U0001f4a5" + "\x00" * 9000] * 40)
    stage.push("g-" + "x" * 120)


@row("Lambda killed with the champion written, before the record says so", "observe")
def killed_after_promotion(stage: Stage) -> None:
    with stage.faults.inject(
        "s3", "PutObject", WorkerKilled("after"), times=1, by="observe", where="champion.json"
    ):
        stage.push()
        stage.settle()
    assert stage.record()["promotion"]["decision"] == "promoted"


@row("a better champion is written while the run is weighed against none", "S3")
def champion_meanwhile(stage: Stage) -> None:
    stage.push()
    stage.settle()
    best = json.loads(stage.read("models/champion.json"))
    stage.s3.delete_object(Bucket=stage.bucket, Key="models/champion.json")
    with stage.faults.inject(
        "s3", "PutObject", Until(stage.gate), times=1, by="observe", where="champion.json"
    ) as held:
        stage.push()
        stage.until(lambda: held.struck)
        stage.put("models/champion.json", json.dumps(best | {"value": 0.9}).encode())
        stage.gate.set()
        stage.settle()
    assert stage.record()["promotion"]["decision"] == "kept"
    assert json.loads(stage.read("models/champion.json"))["value"] == 0.9


@row("somebody else changes the champion meanwhile: 412", "S3")
def champion_race(stage: Stage) -> None:
    with stage.faults.inject(
        "s3", "PutObject", Error("PreconditionFailed"), times=2, where="champion.json"
    ):
        stage.push()
        stage.settle()
    assert stage.record()["promotion"]["decision"] == "promoted"


# Reconcile


@row(
    "reconcile runs twice at once, and the schedule is late",
    "schedule",
    attempts=("capacity", "capacity", None),
    tasks=1,
)
def reconcile_at_once(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Failures(NO_CAPACITY), times=2):
        stage.push()
        stage.settle()
    stage.pass_time(6)
    stage.at_once([stage.reconcile_only, stage.reconcile_only])


@row(
    "Lambda killed as it starts what waited",
    "reconcile",
    attempts=("capacity", "capacity", None),
    tasks=1,
)
def reconcile_killed(stage: Stage) -> None:
    with stage.faults.inject("ecs", "RunTask", Failures(NO_CAPACITY), times=2):
        stage.push()
        stage.settle()
    with (
        stage.faults.inject("ecs", "RunTask", WorkerKilled("after"), times=1, by="reconcile"),
        pytest.raises(RuntimeError, match="died"),
    ):
        stage.reconcile(minutes=6)
    stage.settle()
    stage.reconcile(minutes=5)


@row("nothing goes wrong: reconcile writes nothing", "schedule")
def healthy_day(stage: Stage) -> None:
    stage.push()
    stage.settle()
    with (
        stage.faults.inject("s3", "PutObject", Delay(0), by="reconcile") as writes,
        stage.faults.inject("ecs", "*", Delay(0), by="reconcile") as asks,
    ):
        stage.reconcile(minutes=6)
        assert asks.struck == 0
        stage.hourly(minutes=6)
    assert writes.struck == 0


# Repeats


@row("a repeat is asked for twice with one token", "command")
def repeat_twice(stage: Stage) -> None:
    stage.push()
    stage.settle()
    digest = stage.digest
    asked = {"digest": digest, "tag": "again", "parameters": {"epochs": "9"}, "by": "me"}
    first, second = (stage.command("invoke", "Train Request", **asked, token="t") for _ in "12")
    stage.settle()
    assert first["run"] == second["run"] == f"{stage.run}-2"
    assert len(stage.tasks(f"{stage.run}-2")) == 1
    assert stage.record(f"{stage.run}-2")["state"] == "SUCCEEDED"
