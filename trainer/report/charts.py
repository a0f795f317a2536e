"""Charts as SVG that takes its colours from the page, so that light and dark need one of each.

Matplotlib draws; each of its colours here stands for one that the page names.
"""

# Matplotlib leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import io
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_TEXT, _OWN, _OTHER, _RULE, _WRONG = "#010101", "#020202", "#030303", "#040404", "#050505"
_PAGE = {
    _TEXT: "currentColor",
    _OWN: "var(--own)",
    _OTHER: "var(--other)",
    _RULE: "var(--rule)",
    _WRONG: "var(--wrong)",
}
_STYLE: Final[dict[Any, Any]] = {
    "axes.edgecolor": _RULE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.color": _RULE,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "svg.fonttype": "none",
    "text.color": _TEXT,
    # A class may be called $x$, and mean it.
    "text.parse_math": False,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "ytick.major.size": 0,
}
_MOST_COUNTS = 15
"""Classes for which a matrix has room for numbers in its cells."""
_LONGEST_NAME = 14


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: `own` for this run, otherwise that of the champion."""

    name: str
    values: Sequence[tuple[float, float]]
    own: bool = True


def curves(name: str, lines: Sequence[Line], levels: Sequence[Line] = ()) -> str:
    """Draw values by epoch; levels are single values, drawn across."""
    with _figure(name, 4.6, 2.7) as (figure, svg):
        axes = figure.add_subplot()
        for line in lines:
            xs, ys = zip(*line.values, strict=True) if line.values else ((), ())
            marker = "o" if len(xs) < 12 else ""
            style = "-" if line.own else "--"
            colour = _OWN if line.own else _OTHER
            axes.plot(xs, ys, style, marker=marker, ms=3, color=colour, label=line.name)
        for level in levels:
            colour = _OWN if level.own else _OTHER
            axes.axhline(level.values[0][1], ls=":", color=colour, lw=1.5, label=level.name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(name)
        axes.legend(fontsize=8)
    return svg.text


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw a matrix, each row as shares of its class; mistakes in a colour of their own."""
    table = np.array(counts, float)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = min(6.4, 2.2 + 0.3 * len(classes))
    with _figure("confusion", side, side) as (figure, svg):
        axes = figure.add_subplot()
        axes.grid(visible=False)
        for row, column in np.ndindex(*table.shape):
            if not table[row, column]:
                continue
            right = row == column
            # The root shows a mistake that a hundredth of a class has part in.
            axes.fill(
                [column - 0.5, column + 0.5, column + 0.5, column - 0.5],
                [row - 0.5, row - 0.5, row + 0.5, row + 0.5],
                color=_OWN if right else _WRONG,
                alpha=float(np.sqrt(shares[row, column])) * (0.5 if right else 0.85),
                lw=0,
            )
            if len(classes) <= _MOST_COUNTS:
                axes.text(
                    column, row, f"{table[row, column]:.0f}", ha="center", va="center", size=8
                )
        size = 8 if len(classes) <= _MOST_COUNTS else 6
        names = [_short(name) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90, size=size)
        axes.set_yticks(range(len(names)), names, size=size)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.tick_params(length=0)
        axes.set_xlabel("answer")
        axes.set_ylabel("class")
    return svg.text


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


class _Svg:
    """Is filled when its figure is done."""

    text = ""


@contextmanager
def _figure(name: str, width: float, height: float) -> Generator[tuple[Figure, _Svg]]:
    svg = _Svg()
    with rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A class name may have letters that its font lacks; the browser has others.
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, svg
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg.text = _for_page(buffer.getvalue(), name)


def _for_page(text: str, name: str) -> str:
    """Take from a file what a page needs, with the page's colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # In a page, this would be a style of everything.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{name}">',
        text,
        count=1,
        flags=re.DOTALL,
    )
    for colour, page in _PAGE.items():
        text = text.replace(colour, page)
    return text
