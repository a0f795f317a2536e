"""One page of a stack's runs, from the metrics that handlers and trainers write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_aws import cloudwatch

from components.monitoring import NAMESPACE

DAY_SECONDS: Final = 24 * 3600
HOUR_SECONDS: Final = 3600
WIDTH: Final = 12
"""Of a widget; CloudWatch's page has 24 columns."""
HEIGHT: Final = 6
MOST_RUNS: Final = 50
"""Rows of the table of runs."""


@dataclass(frozen=True, kw_only=True)
class DashboardArgs:
    """Whose runs are shown, and where the handlers write of them."""

    stack: str
    champion_metric: str
    region: Input[str]
    log_groups: Sequence[Input[str]]
    """Of the functions that end runs."""


class Dashboard(ComponentResource):
    """Runs, durations, the champion's metric, capacity and cost, over time and run by run."""

    def __init__(self, name: str, args: DashboardArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("pushtrain:monitoring:Dashboard", name, None, opts)

        cloudwatch.Dashboard(
            f"{name}-page",
            # CloudWatch makes up no name. An account's dashboards are told apart by it.
            dashboard_name=f"pushtrain-{args.stack}",
            dashboard_body=Output.json_dumps({"widgets": _placed(widgets(args))}, sort_keys=True),
            opts=ResourceOptions(parent=self),
        )
        self.register_outputs({})


def widgets(args: DashboardArgs) -> list[dict[str, Any]]:
    """Return what the page shows, in order."""
    metric = args.champion_metric
    return [
        _over_time(
            *(args, "Runs that ended", "Sum", DAY_SECONDS, True),
            ["RunsSucceeded", "RunsFailed", "RunsCancelled"],
        ),
        _over_time(
            args, "Seconds from claim to end", "Maximum", HOUR_SECONDS, False, ["RunSeconds"]
        ),
        _over_time(args, f"Each run's {metric}", "Maximum", HOUR_SECONDS, False, [metric]),
        _by_run(args),
        _over_time(
            *(args, "Attempts by capacity provider", "Sum", DAY_SECONDS, True),
            ["AttemptsSpot", "AttemptsOnDemand"],
        ),
        _over_time(args, "USD, at most, by list prices", "Sum", DAY_SECONDS, True, ["CostUsd"]),
        _over_time(
            *(args, "Open runs, and hours of the oldest", "Maximum", HOUR_SECONDS, False),
            ["OpenRuns", "HoursWithoutModel"],
        ),
        _over_time(
            *(args, "Training, epoch by epoch", "Average", 60, False),
            ["TrainingLoss", "TrainingAccuracy"],
        ),
    ]


def _over_time(  # noqa: PLR0913, PLR0917 (what a graph is)
    args: DashboardArgs,
    title: str,
    statistic: str,
    seconds: int,
    stacked: bool,
    names: Sequence[str],
) -> dict[str, Any]:
    return {
        "type": "metric",
        "properties": {
            "title": title,
            "region": args.region,
            "stat": statistic,
            "period": seconds,
            "view": "timeSeries",
            "stacked": stacked,
            "metrics": [[NAMESPACE, name, "stack", args.stack] for name in names],
        },
    }


def _by_run(args: DashboardArgs) -> dict[str, Any]:
    """Return a table of runs: a metric for each run would be billed for each run."""
    sources = [Output.format("SOURCE '{0}'", group) for group in args.log_groups]
    fields = f"@timestamp, run, image_tag, state, `{args.champion_metric}`, RunSeconds, CostUsd"
    rest = [
        f"fields {fields}",
        "filter ispresent(RunSeconds)",
        "sort @timestamp desc",
        f"limit {MOST_RUNS}",
    ]
    return {
        "type": "log",
        "properties": {
            "title": f"{args.champion_metric} by run",
            "region": args.region,
            "view": "table",
            "query": Output.all(*sources).apply(lambda known: " | ".join([*known, *rest])),
        },
    }


def _placed(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lay widgets out, two in a row."""
    return [
        {
            **widget,
            "x": number % 2 * WIDTH,
            "y": number // 2 * HEIGHT,
            "width": WIDTH,
            "height": HEIGHT,
        }
        for number, widget in enumerate(found)
    ]
