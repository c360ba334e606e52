"""Pictures of cross-validated comparisons: gains of switches, learning curves, a search's trials.

As in `visualize`, colour never says alone what shape or text does not say, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.lines import Line2D

from verdicts import Estimate
from visualize import (
    BLUE,
    GREY,
    INK,
    SMALL,
    VERMILLION,
    _save,
    _tidy,
    _titled_figure,
)
from visualize_family import _legend

MARKS = {  # verdict: colour, marker, filled
    "supported": (BLUE, "o", True),
    "undecided": (GREY, "s", False),
    "refuted": (VERMILLION, "X", True),
}


def draw_gains(
    rows: Sequence[tuple[str, str, Mapping[str, Estimate]]], path: Path, *, title: str, caption: str
) -> None:
    """Draw a forest plot: gains of AUC (left) and accuracy (right) with their 95 % intervals.

    Args:
        rows: from the top, label, verdict on the AUC, and the gain by measure.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        caption: says what the bars are.
    """
    figure = _titled_figure(title, body_height=1.9 + 0.3 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, label in zip(
        panels, ("auc", "accuracy"), ("gain in AUC", "gain in accuracy"), strict=True
    ):
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        for place, (_, said, gains) in enumerate(rows):
            color, marker, filled = MARKS[said]
            one = gains[measure]
            ends = [[one.value - one.low], [one.high - one.value]]
            style = {"color": color, "marker": marker, "markersize": 7.5, "elinewidth": 2}
            style |= {"markerfacecolor": color if filled else "white", "markeredgecolor": INK}
            axes.errorbar([one.value], [place], xerr=ends, capsize=3.5, linestyle="", **style)
        _tidy(axes, label, "")
    panels[0].set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=SMALL + 0.5)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for said, (color, marker, filled) in MARKS.items():
        style = {"color": color, "marker": marker, "markeredgecolor": INK, "markersize": 7.5}
        style |= {"markerfacecolor": color if filled else "white", "linestyle": ""}
        panels[1].add_line(Line2D([], [], label=said, **style))
    _legend(figure, panels[1], caption)
    _save(figure, path)
