"""The handlers at work in the account of tests/handler, and each call that they make there."""

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from handler.events import rfc3339
from handler.observe import UnknownTaskError
from tests.handler.conftest import WIRING, Aws, account
from tests.least_privilege.access import Call

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
RUN = DIGEST[7:19]
NO_CAPACITY = "Capacity is unavailable at this time"

Event = Callable[..., dict[str, Any]]


@dataclass
class Scene:
    """An account whose handlers are listened to."""

    aws: Aws
    event: Event

    def push(self) -> None:
        """Tell invoke of a push."""
        self.aws.push(self.event("push-oci"))

    def repeat(self) -> None:
        """Ask for another run of the image."""
        asked = {"digest": DIGEST, "tag": "latest", "by": "me", "token": "t"}
        self.aws.push(_asked("Train Request", **asked))

    def publish(self, run: str = RUN, *, manifest: bool = True) -> None:
        """Leave what a trainer leaves."""
        self.aws.put(f"runs/{run}/model.bin", b"weights")
        entry = {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
        document = {
            "version": 1,
            "run": run,
            "files": {"model.bin": entry},
            "metrics": {"accuracy": 0.5},
            "model": "model.bin",
        }
        if manifest:
            self.aws.put(f"runs/{run}/manifest.json", json.dumps(document).encode())

    def end(self, name: str = "task-succeeded", run: str = RUN, *, told: bool = True) -> Any:
        """Let the run's latest task end; observe is told, unless the event is lost."""
        attempt = self.aws.record(run)["attempts"][-1]
        detail = {"taskArn": attempt["task_arn"], "startedBy": f"{run}-a{attempt['number']}"}
        event = self.aws.end(self.event(name, detail=detail))
        if told:
            self.aws.stop(event)
        return event

    def reconcile(self, *, hourly: bool = False) -> None:
        """Let the schedule strike."""
        self.aws.reconcile(_asked("Reconcile Request", pushes=True) if hourly else None)

    def cancel(self) -> None:
        """Ask for the run's end."""
        self.aws.reconcile(_asked("Cancel Request", run=RUN, by="me", reason="enough"))

    def wait_is_over(self) -> None:
        """Let the time pass that a run waits."""
        self.aws.change(RUN, waiting={"not_before": _ago(seconds=1)})

    def limit(self, runs: int) -> None:
        """Let no more runs than that be at work at once."""
        wiring = json.dumps(WIRING | {"max_concurrent_runs": runs})
        self.aws.parameters["/pushtrain/dev/wiring"] = wiring


def _asked(kind: str, **detail: Any) -> dict[str, Any]:
    return {"source": "pushtrain", "detail-type": kind, "detail": detail}


def _ago(**time: float) -> str:
    return rfc3339(datetime.now(UTC) - timedelta(**time))


def succeeds_and_is_promoted(scene: Scene) -> None:
    scene.aws.parameters["/pushtrain/dev/training"] = '{"lr": "0.1"}'
    scene.push()
    scene.publish()
    scene.end()
    assert scene.aws.record(RUN)["promotion"]["decision"] == "promoted"


def replaces_the_champion_by_word(scene: Scene) -> None:
    succeeds_and_is_promoted(scene)
    scene.repeat()
    scene.publish(f"{RUN}-2")
    scene.end(run=f"{RUN}-2")
    request = _asked("Promote Request", run=f"{RUN}-2", by="me", reason="smaller")
    assert scene.aws.stop(request)["outcome"] == "promoted"


def leaves_plain_files(scene: Scene) -> None:
    scene.push()
    scene.publish(manifest=False)
    scene.end()
    assert f"runs/{RUN}/manifest.json" in scene.aws.objects


def leaves_nothing(scene: Scene) -> None:
    scene.push()
    scene.end()
    assert scene.aws.record(RUN)["state"] == "FAILED"


def names_a_file_that_is_not_there(scene: Scene, *, told: bool) -> None:
    scene.push()
    scene.publish()
    scene.aws.objects.pop(f"runs/{RUN}/model.bin")
    scene.end(told=told)
    scene.reconcile()
    assert scene.aws.record(RUN)["state"] == "FAILED"


def fails_with_a_log(scene: Scene) -> None:
    scene.push()
    scene.end("task-exit-1")
    assert scene.aws.record(RUN)["state"] == "FAILED"


def is_tried_again(scene: Scene) -> None:
    scene.push()
    scene.end("task-spot-interruption")
    assert len(scene.aws.record(RUN)["attempts"]) == 2


def waits_for_data(scene: Scene) -> None:
    dataset = scene.aws.objects.pop("data/dataset")
    scene.push()
    scene.reconcile()
    scene.aws.objects["data/dataset"] = dataset
    scene.reconcile()
    assert scene.aws.record(RUN)["state"] == "STARTED"


def waits_for_capacity(scene: Scene) -> None:
    scene.aws.failures = [NO_CAPACITY] * 2
    scene.push()
    scene.wait_is_over()
    scene.reconcile()
    assert scene.aws.record(RUN)["state"] == "STARTED"


def needs_a_new_definition(scene: Scene) -> None:
    """ECS refuses the second attempt; when its wait is over, the first one's end is told again."""
    scene.push()
    scene.aws.errors["RunTask"] = ["ClientException"]
    first = scene.end("task-spot-interruption")
    assert scene.aws.record(RUN)["attempts"][-1]["cause"] == "refused"
    scene.wait_is_over()
    for definition in scene.aws.active():
        scene.aws.definitions[definition]["status"] = "INACTIVE"
    scene.aws.stop(first)
    assert len(scene.aws.record(RUN)["attempts"]) == 3


def waits_for_a_place(scene: Scene) -> None:
    scene.limit(1)
    scene.push()
    scene.repeat()
    assert scene.aws.record(f"{RUN}-2")["waiting"]["why"] == "limit"
    scene.end("task-exit-1")
    scene.reconcile()
    assert scene.aws.record(f"{RUN}-2")["state"] == "STARTED"
    scene.end("task-spot-interruption", run=f"{RUN}-2")
    scene.end("task-exit-1", run=f"{RUN}-2", told=False)
    scene.reconcile()


def meets_a_limit_that_is_new(scene: Scene) -> None:
    """Nobody has taken a place yet, as the limit comes."""
    dataset = scene.aws.objects.pop("data/dataset")
    scene.push()
    scene.limit(1)
    scene.aws.objects["data/dataset"] = dataset
    scene.reconcile()
    assert scene.aws.record(RUN)["state"] == "STARTED"
    scene.aws.objects.pop("slots.json")
    scene.end("task-exit-1")
    assert scene.aws.record(RUN)["state"] == "FAILED"


def is_cancelled(scene: Scene) -> None:
    scene.push()
    scene.cancel()
    scene.end("task-user-stopped")
    assert scene.aws.record(RUN)["state"] == "CANCELLED"


def is_cancelled_before_its_task_is_known(scene: Scene) -> None:
    """Whoever sends the request again stops the task that came of it."""
    scene.push()
    _cancel_unknown(scene)
    scene.push()
    assert scene.aws.running() == []


def is_cancelled_as_a_late_event_comes(scene: Scene) -> None:
    """Observe sends the second attempt's request again, as it is told of the first one's end."""
    scene.push()
    first = scene.end("task-spot-interruption")
    _cancel_unknown(scene)
    scene.aws.stop(first)
    assert scene.aws.running() == []


def _cancel_unknown(scene: Scene) -> None:
    attempts = scene.aws.record(RUN)["attempts"]
    attempts[-1]["task_arn"] = None
    stop = {"why": "cancel", "by": "me", "reason": "enough", "at": _ago(seconds=1)}
    scene.aws.change(RUN, state="CLAIMED", attempts=attempts, stop=stop)


def loses_its_end(scene: Scene) -> None:
    scene.push()
    scene.publish()
    scene.end(told=False)
    scene.reconcile()
    assert scene.aws.record(RUN)["state"] == "SUCCEEDED"


def leaves_plain_files_and_loses_its_end(scene: Scene) -> None:
    scene.push()
    scene.publish(manifest=False)
    scene.end(told=False)
    scene.reconcile()
    assert f"runs/{RUN}/manifest.json" in scene.aws.objects


def fails_and_loses_its_end(scene: Scene) -> None:
    scene.push()
    scene.end("task-exit-1", told=False)
    scene.reconcile()
    assert scene.aws.record(RUN)["state"] == "FAILED"


def is_forgotten(scene: Scene) -> None:
    scene.push()
    attempts = scene.aws.record(RUN)["attempts"]
    attempts[-1]["requested_at"] = _ago(hours=2)
    scene.aws.change(RUN, attempts=attempts)
    scene.aws.tasks.clear()
    scene.reconcile()
    assert scene.aws.record(RUN)["attempts"][0]["cause"] == "lost"


def loses_its_push(scene: Scene) -> None:
    scene.aws.images = [
        {
            "imageDigest": DIGEST,
            "imageTags": ["g-1"],
            "imagePushedAt": datetime.now(UTC) - timedelta(hours=1),
            "imageManifestMediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactMediaType": "application/vnd.oci.image.config.v1+json",
        }
    ]
    scene.reconcile(hourly=True)
    assert scene.aws.record(RUN)["state"] == "STARTED"


def leaves_a_stray_task(scene: Scene) -> None:
    scene.push()
    attempts = scene.aws.record(RUN)["attempts"]
    attempts[-1]["task_arn"] = attempts[-1]["task_arn"][:-1] + "f"
    scene.aws.change(RUN, attempts=attempts)
    scene.reconcile(hourly=True)
    assert scene.aws.running() == []


def is_nobody_s_task(scene: Scene) -> None:
    with contextlib.suppress(UnknownTaskError):
        scene.aws.stop(scene.event("task-exit-1"))


def leaves_a_mark_without_a_record(scene: Scene) -> None:
    scene.aws.put(f"open/{RUN}", b"")
    scene.aws.objects[f"open/{RUN}"][-1].time -= timedelta(days=1)
    scene.reconcile()
    assert f"open/{RUN}" not in scene.aws.objects


SCENES: tuple[Callable[[Scene], None], ...] = (
    succeeds_and_is_promoted,
    replaces_the_champion_by_word,
    leaves_plain_files,
    leaves_nothing,
    lambda scene: names_a_file_that_is_not_there(scene, told=True),
    lambda scene: names_a_file_that_is_not_there(scene, told=False),
    fails_with_a_log,
    is_tried_again,
    waits_for_data,
    waits_for_capacity,
    needs_a_new_definition,
    waits_for_a_place,
    meets_a_limit_that_is_new,
    is_cancelled,
    is_cancelled_before_its_task_is_known,
    is_cancelled_as_a_late_event_comes,
    loses_its_end,
    leaves_plain_files_and_loses_its_end,
    fails_and_loses_its_end,
    is_forgotten,
    loses_its_push,
    leaves_a_stray_task,
    is_nobody_s_task,
    leaves_a_mark_without_a_record,
)


def record(event: Event) -> dict[str, list[Call]]:
    """Play every scene, and return the calls of each handler."""
    made: dict[str, list[Call]] = defaultdict(list)
    for scene in SCENES:
        aws = account()
        _listen(aws, made)
        scene(Scene(aws, event))
    return made


def _listen(aws: Aws, made: dict[str, list[Call]]) -> None:
    judge = aws.judge

    def listen(handler: str, call: Call) -> None:
        made[handler].append(call)
        judge(handler, call)

    aws.judge = listen
