"""Lambda's queue for asynchronous invocations, for rules too: bounded, retried, nothing lost."""

import contextvars
import heapq
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from localcloud.adapter import MiniStack, Record, entries, section

WORKERS = 2
RETRY_SECONDS = 0.5
"""Before the first retry, and doubled for each after it; AWS waits a minute and then two."""

_log = logging.getLogger(__name__)
_delivery: contextvars.ContextVar[tuple[Record, Record]] = contextvars.ContextVar("delivery")


@dataclass(frozen=True)
class _Invocation:
    """One event on its way to one function, and how often that was tried."""

    function: Record
    event: Any
    context: contextvars.Context
    born: float
    generation: int
    failures: int = 0
    throttles: int = 0


class AsyncLambda:
    """Runs asynchronous invocations with a few workers, as Lambda's own queue would."""

    def __init__(self, ministack: MiniStack, dead_letter: Callable[[str, Record], None]) -> None:
        """`dead_letter(queue_arn, message)` sends what a rule could not deliver."""
        self._ministack = ministack
        self._dead_letter = dead_letter
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._wake = threading.Condition()
        self._closed = False
        self._busy = 0
        self._generation = 0
        ministack.on_target(self._target)
        ministack.on_lambda_target(self._from_rule)
        ministack.on_asynchronous_invocation(self._invoke)
        self._threads = [
            threading.Thread(target=self._work, name=f"cloud-lambda-{number}", daemon=True)
            for number in range(WORKERS)
        ]
        for thread in self._threads:
            thread.start()

    def clear(self, end_workers: Callable[[], None]) -> None:
        """Forget what waits, and end what runs by ending the worker processes that run it."""
        with self._wake:
            self._generation += 1
            self._due.clear()
        end_workers()
        with self._wake:
            while not self._wake.wait_for(lambda: not self._busy, 0.1):
                end_workers()  # one that had just been about to start

    @property
    def idle(self) -> bool:
        """Whether no invocation runs or waits, for its retry say."""
        with self._wake:
            return not self._due and not self._busy

    def close(self, end_workers: Callable[[], None]) -> None:
        """Run nothing more."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self.clear(end_workers)
        for thread in self._threads:
            thread.join(5)

    def _target(
        self,
        pass_on: Callable[..., None],
        target: Record,
        event: Any,
        rule: Record,
        view: Any = None,
    ) -> None:
        """Keep what the delivery of an event needs and MiniStack does not hand on."""
        token = _delivery.set((target, rule))
        try:
            pass_on(target, event, rule, view)
        finally:
            _delivery.reset(token)

    def _from_rule(self, arn: str, payload: str) -> None:
        target, rule = _delivery.get()
        function = self._ministack.function(arn)
        if function and _may_invoke(function, rule["Arn"]):
            return self._invoke(function, json.loads(payload))
        # AWS counts neither as worth a retry: the event goes to the target's queue, or is lost.
        code = "NO_PERMISSIONS" if function else "RESOURCE_NOT_FOUND"
        _log.error("rule %s cannot invoke %s: %s", rule["Name"], arn, code)
        queue: str = section(target, "DeadLetterConfig").get("Arn", "")
        if queue:
            said = {"ERROR_CODE": code, "RULE_ARN": rule["Arn"], "TARGET_ARN": arn}
            message = {
                "MessageBody": payload,
                "MessageAttributes": {
                    name: {"DataType": "String", "StringValue": text} for name, text in said.items()
                },
            }
            self._put(0, lambda: self._dead_letter(queue, message))
        return None

    def _invoke(self, function: Record, event: Any) -> None:
        context = contextvars.copy_context()
        invocation = _Invocation(function, event, context, time.monotonic(), self._generation)
        self._put(0, lambda: self._attempt(invocation))

    def _put(self, delay: float, work: Callable[[], None]) -> None:
        with self._wake:
            heapq.heappush(self._due, (time.monotonic() + delay, next(self._number), work))
            self._wake.notify_all()

    def _work(self) -> None:
        while work := self._next():
            try:
                work()
            except Exception:  # noqa: BLE001 -- MiniStack's own fault: the thread must live on
                if not self._closed:
                    _log.exception("an asynchronous invocation failed inside the cloud")
            finally:
                with self._wake:
                    self._busy -= 1
                    self._wake.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._wake:
            while not self._closed:
                delay = self._due[0][0] - time.monotonic() if self._due else None
                if delay is not None and delay <= 0:
                    self._busy += 1
                    return heapq.heappop(self._due)[2]
                self._wake.wait(delay)
        return None

    def _attempt(self, this: _Invocation) -> None:
        result = this.context.run(self._ministack.execute, this.function, this.event)
        error, throttle = bool(result.get("error")), bool(result.get("throttle"))
        if this.generation != self._generation or not (error or throttle):
            return
        if throttle:  # AWS tries again for up to six hours, and counts no attempt
            this = replace(this, throttles=this.throttles + 1)
            delay = min(0.1 * this.throttles, 2.0)
        else:
            this = replace(this, failures=this.failures + 1)
            delay = RETRY_SECONDS * 2 ** (this.failures - 1)
        policy = section(this.function, "event_invoke_config") or section(
            section(this.function, "event_invoke_configs"), "$LATEST"
        )
        retries = policy.get("MaximumRetryAttempts")
        age = time.monotonic() - this.born + delay
        may_retry = this.failures <= (2 if retries is None else retries)
        if may_retry and age <= (policy.get("MaximumEventAgeInSeconds") or 21600):
            self._put(delay, lambda: self._attempt(this))
            return
        configuration: Record = this.function["config"]
        on_failure = section(section(policy, "DestinationConfig"), "OnFailure")
        letters = section(configuration, "DeadLetterConfig")
        if target := on_failure.get("Destination") or letters.get("TargetArn"):
            name = configuration["FunctionName"]
            this.context.run(self._ministack.send_failure, target, name, this.event, result)


def _may_invoke(function: Record, rule_arn: str) -> bool:
    """Tell whether the function's policy lets EventBridge invoke it for this rule."""
    for statement in entries(section(function, "policy"), "Statement"):
        principal = statement["Principal"]
        service = principal if principal == "*" else principal.get("Service")
        source = section(section(statement, "Condition"), "ArnLike").get("AWS:SourceArn", "*")
        if (
            service in ("events.amazonaws.com", "*")
            and statement["Action"] in ("lambda:InvokeFunction", "lambda:*")
            and fnmatchcase(rule_arn, source)
        ):
            return True
    return False
