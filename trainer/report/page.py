"""The page itself: figures, charts and pictures, poured into one template."""

# Jinja leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from trainer.report.champion import Champion
from trainer.report.charts import Line, confusion, curves
from trainer.report.mistakes import Mistake

TEMPLATE = Path(__file__).with_name("page.html")
_MOST_IN_MATRIX = 30
"""Classes; of more, those with the most mistakes are drawn."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run has to say of itself."""

    run: str
    figures: Mapping[str, Any]
    """As in metrics.json: accuracy, loss, classes, per_class, confusion, epochs."""
    mistakes: Sequence[Mistake]
    champion: Champion
    facts: Mapping[str, Mapping[str, Any]]
    """Tables of name and value, by title: lineage, parameters and the like."""


def render(report: Report) -> bytes:
    """Write the page; the same report comes to the same bytes."""
    # Names of classes and tags come from outside: all of it is escaped.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(percent=_percent, points=_points, plain=_plain)
    figures = report.figures
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    drawn = _drawn_classes(figures)
    page = template.render(
        report=report,
        figures=figures,
        champion=report.champion,
        rival=report.champion.figures,
        wrong=sum(map(sum, figures["confusion"])) - _trace(figures["confusion"]),
        images=sum(map(sum, figures["confusion"])),
        loss_chart=Markup(_loss_chart(report)),  # noqa: S704 - matplotlib escapes its text
        accuracy_chart=Markup(_accuracy_chart(report)),  # noqa: S704 - as above
        confusion_chart=Markup(_confusion_chart(figures, drawn)),  # noqa: S704 - as above
        left_out=len(figures["classes"]) - len(drawn),
    )
    return page.encode()


def _trace(counts: Sequence[Sequence[int]]) -> int:
    return sum(row[number] for number, row in enumerate(counts))


def _drawn_classes(figures: Mapping[str, Any]) -> list[int]:
    counts: Sequence[Sequence[int]] = figures["confusion"]
    wrong = [sum(row) - row[number] for number, row in enumerate(counts)]
    worst = sorted(range(len(counts)), key=lambda number: -wrong[number])
    return sorted(worst[:_MOST_IN_MATRIX])


def _confusion_chart(figures: Mapping[str, Any], drawn: Sequence[int]) -> str:
    names = [figures["classes"][number] for number in drawn]
    counts = figures["confusion"]
    return confusion(names, [[counts[row][column] for column in drawn] for row in drawn])


def _by_epoch(figures: Mapping[str, Any] | None, what: str) -> list[tuple[float, float]]:
    return [(epoch["epoch"], epoch[what]) for epoch in (figures or {}).get("epochs", [])]


def _loss_chart(report: Report) -> str:
    lines = [Line(name="training, this run", values=_by_epoch(report.figures, "loss"))]
    if theirs := _by_epoch(report.champion.figures, "loss"):
        lines.append(Line(name="training, champion", values=theirs, own=False))
    return curves("loss", lines)


def _accuracy_chart(report: Report) -> str:
    lines = [Line(name="training, this run", values=_by_epoch(report.figures, "accuracy"))]
    levels = [Line(name="test, this run", values=[(0, report.figures["accuracy"])])]
    rival = report.champion.figures
    if rival:
        lines.append(
            Line(name="training, champion", values=_by_epoch(rival, "accuracy"), own=False)
        )
        levels.append(Line(name="test, champion", values=[(0, rival["accuracy"])], own=False))
    return curves("accuracy", lines, levels)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f}"


def _plain(value: object) -> str:
    """Write a value as a person would."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))  # pyright: ignore[reportUnknownArgumentType]
    return str(value)
