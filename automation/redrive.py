"""Events that failed, back through the handler that they were for: nothing is lost for good."""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

from automation.aws import code_of, one_line, told_as
from automation.deployed import Deployed
from automation.errors import StackError
from automation.requests import Handlers, RequestError

BATCH: Final = 10
"""SQS gives no more at once."""
HIDDEN_SECONDS: Final = 3 * 3600
"""For so long nobody else gets a message; it is given back before, unless this process is killed.

A batch takes that long at the most: Lambda lets a handler run for 15 minutes.
"""
WAIT_SECONDS: Final = 1
"""Any wait at all makes SQS ask every one of its machines, and not a few."""


class RedriveError(StackError):
    """The queues cannot be read, or changed."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """Where events of one kind end up, and whose they are."""

    output: str
    function: str
    """The output that names the function."""
    what: str


QUEUES: Final = (
    Queue(output="undeliveredPushes", function="invokeFunction", what="push, undelivered"),
    Queue(output="failedPushes", function="invokeFunction", what="push, failed"),
    Queue(output="undeliveredEnds", function="observeFunction", what="end, undelivered"),
    Queue(output="failedEnds", function="observeFunction", what="end, failed"),
)
"""Pushes first: an end may belong to a run whose push has failed."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """An event in one of the queues, and why it is there."""

    queue: str
    message_id: str
    about: str
    """What happened, in words."""
    why: str
    """Of the failure."""
    since: str | None
    event: Any
    """None where the message holds none."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an event this time."""

    failed: Failed
    outcome: str
    """The handler's word; `failed` where it failed again; `listed` where it was not asked."""
    run: str | None = None
    state: str | None = None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            **asdict(self.failed),
            "outcome": self.outcome,
            "run": self.run,
            "state": self.state,
            "reason": self.reason,
        }


def redrive(
    deployed: Deployed, *, dry_run: bool, on_outcome: Callable[[Outcome], object]
) -> list[Outcome]:
    """Hand each failed event to its handler; a message is deleted once the handler is content.

    Those that fail again stay in their queue, and so does everything with `dry_run`.
    """
    handlers = Handlers(deployed)
    sqs = deployed.client("sqs")
    outcomes: list[Outcome] = []
    with told_as(RedriveError):
        for queue in QUEUES:
            url = deployed.output(queue.output)
            with _messages(sqs, url) as batches:
                for message in batches:
                    failed = read(queue, message)
                    outcome = _listed(failed) if dry_run else _again(handlers, queue, failed)
                    outcomes.append(outcome)
                    on_outcome(outcome)
                    if outcome.outcome not in ("failed", "listed"):
                        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return outcomes


def read(queue: Queue, message: Mapping[str, Any]) -> Failed:
    """Take the event out of a message: of Lambda's on-failure destination, or of a rule's queue.

    https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
    """
    try:
        body: object = json.loads(message["Body"])
    except (RecursionError, ValueError):
        body = None
    document = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    event: Any = document or None
    attributes: Mapping[str, Any] = message.get("MessageAttributes") or {}
    said = [str(each.get("StringValue", "")) for each in map(attributes.get, _SAID) if each]
    if "requestPayload" in document:
        event = document["requestPayload"]
        response = document.get("responsePayload")
        answer = cast("dict[str, Any]", response) if isinstance(response, dict) else {}
        context: dict[str, Any] = document.get("requestContext") or {}
        said = [str(answer.get("errorType") or ""), str(answer.get("errorMessage") or "")]
        said = list(filter(None, said)) or [str(context.get("condition") or "")]
    envelope = cast("dict[str, Any]", event) if isinstance(event, dict) else {}
    return Failed(
        queue=queue.what,
        message_id=message["MessageId"],
        about=_about(envelope),
        why=one_line(Exception(": ".join(filter(None, said)) or "no reason given")),
        since=envelope.get("time"),
        event=event,
    )


_SAID: Final = ("ERROR_CODE", "ERROR_MESSAGE")


def _about(event: Mapping[str, Any]) -> str:
    found = event.get("detail")
    detail = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if "image-digest" in detail:
        digest = str(detail["image-digest"])[:19]
        return f"push of {detail.get('repository-name')}:{detail.get('image-tag', '')} {digest}"
    if "taskArn" in detail:
        task = str(detail["taskArn"]).rpartition("/")[2]
        return f"end of {detail.get('startedBy') or 'a task'}, task {task}"
    return str(event.get("detail-type") or "not an event")


def _again(handlers: Handlers, queue: Queue, failed: Failed) -> Outcome:
    if failed.event is None:
        return Outcome(
            failed=failed,
            outcome="failed",
            reason="the message holds no event: read it in the SQS console, and delete it there",
        )
    try:
        answer = handlers.invoke(queue.function, failed.event)
    except RequestError as error:
        return Outcome(failed=failed, outcome="failed", reason=str(error))
    return Outcome(
        failed=failed,
        outcome=str(answer.get("outcome") or "done"),
        run=answer.get("run"),
        state=answer.get("state"),
        reason=str(answer.get("reason") or ""),
    )


def _listed(failed: Failed) -> Outcome:
    return Outcome(failed=failed, outcome="listed")


@contextmanager
def _messages(sqs: Any, url: str) -> Generator[Generator[dict[str, Any]]]:
    """Lend a queue's messages; those still there afterwards can be seen by others again."""
    taken: list[str] = []

    def each() -> Generator[dict[str, Any]]:
        while True:
            answer = sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=BATCH,
                VisibilityTimeout=HIDDEN_SECONDS,
                WaitTimeSeconds=WAIT_SECONDS,
                MessageAttributeNames=["All"],
            )
            messages = answer.get("Messages", [])
            if not messages:
                return
            taken.extend(message["ReceiptHandle"] for message in messages)
            yield from messages

    try:
        yield each()
    finally:
        for handle in taken:
            # SQS calls a receipt for a deleted message one of nothing, or lets it pass.
            try:
                sqs.change_message_visibility(
                    QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0
                )
            except sqs.exceptions.ClientError as error:
                code = code_of(error)
                if "InvalidParameterValue" not in code and "ReceiptHandle" not in code:
                    raise
