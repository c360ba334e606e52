"""The picture of the first page: every experiment against the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator, ScalarFormatter

from chestlab.reporting.comparison_plots import BEST_BASELINE, GOAL_LINE, UNDEFINED
from chestlab.reporting.style import (
    BLUE,
    GOAL_PERCENT,
    GREY,
    INK,
    PALE,
    SMALL,
    VERMILLION,
    finish,
    tidy,
    titled_figure,
)

KINDS = {  # colour, marker, whether it is filled, and the line, another one for no interval
    "network": (BLUE, "o", True, "-"),
    "seeds": (BLUE, "o", False, ":"),
    "average": (VERMILLION, "D", True, "-"),
    "baseline": (GREY, "s", True, "-"),
}

Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class Point:
    """A row of the picture.

    Attributes:
        label: left of it.
        kinds: of the left and the right value, keys of `KINDS`.
        left, right: values with their intervals, or None where there are none.
        missing: written in the place of a left value.
    """

    label: str
    kinds: tuple[str, str]
    left: Interval | None
    right: Interval | None
    missing: str


def draw_front(
    points: Sequence[Point],
    path: Path,
    *,
    title: str,
    axis: tuple[str, str],
    words: Mapping[str, str],
    goal: bool,
    decimal_mark: str = ".",
    notes: Sequence[str] = (),
) -> None:
    """Draw two panels of intervals with a line at the best baseline of each.

    Args:
        points: from the top.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        axis: what the left panel shows (an AUC), and the right one (an accuracy in percent).
        words: ``goal`` and ``best`` for the two lines, and a name for each of `KINDS`.
        goal: draw the line of the reports' goal in the right panel.
        decimal_mark: of the numbers at the axes.
        notes: below the picture, a line each.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = titled_figure(title, body_height=0.8 + 0.24 * len(points))
    panels = figure.subplots(1, 2, sharey=True)
    sides = (
        [(point.kinds[0], point.left) for point in points],
        [(point.kinds[1], point.right) for point in points],
    )
    for axes, values, label in zip(panels, sides, axis, strict=True):
        tidy(axes, label, "")
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(_Formatter(decimal_mark))
        _draw_rows(axes, values)
    left, right = panels
    left.set_yticks(range(len(points)), [point.label for point in points], fontsize=SMALL)
    left.set_ylim(len(points) - 0.4, -0.6)
    for place, point in enumerate(points):
        if point.left is None:
            at = (0.03, place), ("axes fraction", "data")  # away from the line of the baseline
            left.annotate(point.missing, at[0], xycoords=at[1], **{**UNDEFINED, "ha": "left"})
    handles = [
        Line2D([], [], **_line(kind), **_marker(kind), label=words[kind])
        for kind in KINDS
        if any(kind in point.kinds for point in points)
    ]
    if any("baseline" in point.kinds for point in points):
        handles.append(Line2D([], [], label=words["best"], **BEST_BASELINE))
    if goal:
        right.axvline(GOAL_PERCENT, zorder=1, **GOAL_LINE)
        right.xaxis.set_major_locator(MultipleLocator(10))  # with a tick at the goal
        handles.append(Line2D([], [], label=words["goal"], **GOAL_LINE))
    finish(figure, path, handles, notes)


class _Formatter(ScalarFormatter):
    """Numbers of an axis with the decimal mark of a language."""

    def __init__(self, decimal_mark: str) -> None:
        super().__init__()
        self.decimal_mark = decimal_mark

    def __call__(self, x: float, pos: int | None = None) -> str:
        return super().__call__(x, pos).replace(".", self.decimal_mark)


def _line(kind: str) -> dict[str, Any]:
    return {"linestyle": KINDS[kind][3], "linewidth": 2}


def _marker(kind: str) -> dict[str, Any]:
    color, marker, filled, _ = KINDS[kind]
    face = color if filled else "white"
    return {
        "color": color,
        "marker": marker,
        "markerfacecolor": face,
        "markeredgecolor": INK,
        "markersize": 6.5,
    }


def _draw_rows(axes: Axes, values: Sequence[tuple[str, Interval | None]]) -> None:
    baselines = []
    for place, (kind, value) in enumerate(values):
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color=PALE, alpha=0.35, linewidth=0, zorder=0)
        if value is None:
            continue
        middle, low, high = value
        axes.plot([low, high], [place, place], color=KINDS[kind][0], zorder=2, **_line(kind))
        axes.plot(middle, place, linestyle="", zorder=3, **_marker(kind))
        if kind == "baseline":
            baselines.append(middle)
    if baselines:
        axes.axvline(max(baselines), zorder=1, **BEST_BASELINE)
