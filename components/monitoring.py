"""Who is told, and of what, when the stack itself is not well."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_aws import cloudwatch

from components.event_function import EventFunction

NAMESPACE: Final = "pushtrain"
"""Of the metrics that handlers and trainers write into their logs, each by stack."""
RUNBOOK: Final = "docs/runbook.md"
WINDOW_SECONDS: Final = 300
"""As long as a round of reconcile: nothing of a stack is known sooner."""
SILENCE_SECONDS: Final = 900
SILENT_WINDOWS: Final = 2
"""Half an hour, six rounds: one that Lambda was late with is no silence."""

WhenMissing: TypeAlias = Literal["breaching", "ignore", "notBreaching"]


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One metric, and the value of it that somebody must hear of."""

    name: str
    entry: str
    """Heading of the runbook, as a link has it."""
    meaning: str
    namespace: str
    metric: str
    dimensions: Mapping[str, Input[str]]
    statistic: Literal["Maximum", "Sum"]
    when_missing: WhenMissing
    at_least: int = 1
    seconds: int = WINDOW_SECONDS
    windows: int = 1
    is_about_too_little: bool = False
    """True rings below the value, not at or above it."""


@dataclass(frozen=True, kw_only=True)
class MonitoringArgs:
    """What is watched, and who is told."""

    stack: str
    no_model_hours: int
    functions: Mapping[str, EventFunction]
    """Name -> function; one is `reconcile`, which never rests."""
    topic_arn: Input[str]


class Monitoring(ComponentResource):
    """Every alarm tells the notice topic, and leads to its entry in the runbook."""

    def __init__(
        self, name: str, args: MonitoringArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("pushtrain:monitoring:Monitoring", name, None, opts)
        child = ResourceOptions(parent=self)

        for alarm in alarms(args):
            cloudwatch.MetricAlarm(
                f"{name}-{alarm.name}",
                alarm_description=f"{alarm.meaning}: {RUNBOOK}#{alarm.entry}",
                namespace=alarm.namespace,
                metric_name=alarm.metric,
                dimensions=alarm.dimensions,
                statistic=alarm.statistic,
                period=alarm.seconds,
                evaluation_periods=alarm.windows,
                threshold=alarm.at_least,
                comparison_operator=(
                    "LessThanThreshold"
                    if alarm.is_about_too_little
                    else "GreaterThanOrEqualToThreshold"
                ),
                treat_missing_data=alarm.when_missing,
                alarm_actions=[args.topic_arn],
                opts=child,
            )
        self.register_outputs({})


def alarms(args: MonitoringArgs) -> Iterator[Alarm]:
    """Yield every alarm of a stack."""
    for part, function in args.functions.items():
        yield from _of_function(part, function)
    yield Alarm(
        name="reconcile-silent",
        entry="reconcile-is-silent",
        meaning="Nothing has looked after runs for half an hour",
        namespace="AWS/Lambda",
        metric="Invocations",
        dimensions={"FunctionName": args.functions["reconcile"].function_name},
        statistic="Sum",
        # Lambda counts what it runs: a function that never ran has no number at all.
        when_missing="breaching",
        seconds=SILENCE_SECONDS,
        windows=SILENT_WINDOWS,
        is_about_too_little=True,
    )
    of_stack = {"stack": args.stack}
    yield Alarm(
        name="run-failed",
        entry="a-run-failed",
        meaning="A run has failed",
        namespace=NAMESPACE,
        metric="RunsFailed",
        dimensions=of_stack,
        statistic="Sum",
        # Written when a run fails, and at no other time.
        when_missing="notBreaching",
    )
    yield Alarm(
        name="no-model",
        entry="no-model-after-a-push",
        meaning=f"An image was pushed {args.no_model_hours} hours ago, and its run has not ended",
        namespace=NAMESPACE,
        metric="HoursWithoutModel",
        dimensions=of_stack,
        statistic="Maximum",
        # Written in each round. Without rounds the run is as old as before: it stays as it was,
        # and that there are none is an alarm of its own.
        when_missing="ignore",
        at_least=args.no_model_hours,
    )


def _of_function(part: str, function: EventFunction) -> Iterator[Alarm]:
    waiting: tuple[tuple[str, str, str, Output[str]], ...] = (
        (
            *("failed", "failed-events", f"{part} failed three times on an event"),
            function.failed_queue_name,
        ),
        (
            *("undelivered", "undelivered-events", f"An event did not get to {part}"),
            function.undelivered_queue_name,
        ),
    )
    for fate, entry, meaning, queue in waiting:
        yield Alarm(
            name=f"{part}-{fate}",
            entry=entry,
            meaning=f"{meaning} and waits in its queue",
            namespace="AWS/SQS",
            metric="ApproximateNumberOfMessagesVisible",
            dimensions={"QueueName": queue},
            statistic="Maximum",
            # SQS stops counting a queue that nobody has asked for six hours, even one with an
            # event in it: what is known of it stays true until somebody does.
            when_missing="ignore",
        )
    counted = (
        (
            *("errors", "function-errors", f"{part} ended with an error"),
            *("AWS/Lambda", "Errors"),
        ),
        (
            *("throttles", "function-throttles", f"Lambda had no room to run {part}"),
            *("AWS/Lambda", "Throttles"),
        ),
        (
            *("rule-failed", "rule-failures", f"The rule of {part} could not hand an event over"),
            *("AWS/Events", "FailedInvocations"),
        ),
        (
            *(
                "rule-lost",
                "lost-events",
                f"An event for {part} is lost: its queue did not take it",
            ),
            *("AWS/Events", "InvocationsFailedToBeSentToDlq"),
        ),
    )
    for what, entry, meaning, namespace, metric in counted:
        named = (
            {"FunctionName": function.function_name}
            if namespace == "AWS/Lambda"
            else {"RuleName": function.rule_name}
        )
        yield Alarm(
            name=f"{part}-{what}",
            entry=entry,
            meaning=meaning,
            namespace=namespace,
            metric=metric,
            dimensions=named,
            statistic="Sum",
            # No number means that nothing was to be done: nothing went wrong.
            when_missing="notBreaching",
        )
