"""The pictures of the 34-layer family: curves of several networks, and what happens inside.

Drawn as in `visualize`, whose palette and habits these share.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from visualize import (
    BLUE,
    GREEN,
    GREY,
    INK,
    NORMAL,
    ORANGE,
    SMALL,
    VERMILLION,
    _save,
    _tidy,
    _titled_figure,
)

SKY, PURPLE = "#56B4E9", "#CC79A7"  # of the Okabe-Ito palette, too
LOOKS = (  # colour, line style, marker: any one of them tells two networks apart
    (VERMILLION, "-", "o"),
    (BLUE, "-", "s"),
    (GREEN, "--", "^"),
    (ORANGE, "-.", "D"),
    (PURPLE, (0, (1, 1)), "v"),
    (INK, (0, (5, 1, 1, 1, 1, 1)), "P"),
    (SKY, "-", "X"),
    (GREY, "--", "*"),
)


def draw_side_by_side(runs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw loss (above) and accuracy or AUC (below), a column per network on the same scales.

    Args:
        runs: name of the network to its run, as of `family.read_run`.
        path: PNG to write; its folder must exist.
    """
    first = next(iter(runs.values()))
    figure = _titled_figure(
        f"{' and '.join(runs)}, seed {first['seed']}, {first['recipe']['image_size']} px\n"
        f"{first['data']['source']} · train n = {first['train']['n']}, val n = {first['val']['n']}",
        body_height=6.4,
    )
    panels = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
    measure, label = _measure(first)
    for column, (name, run) in enumerate(runs.items()):
        epochs = [row["epoch"] for row in run["history"]]
        for row, (key, scale) in enumerate((("loss", 1), (measure, 100))):
            axes = panels[row, column]
            for split, color, marker, width in (
                ("train", ORANGE, "o", 1.6),
                ("val", BLUE, "s", 2.2),
            ):
                values = [scale * entry.get(f"{split}_{key}", np.nan) for entry in run["history"]]
                size = 5 if len(epochs) <= 25 else 0
                style = {"color": color, "marker": marker, "markersize": size, "linewidth": width}
                axes.plot(epochs, values, **style)
            axes.axvline(run["best_epoch"], color=VERMILLION, linewidth=1.2, zorder=1.5)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
            _tidy(axes, "epoch" if row else "", ("loss", label)[row] if column == 0 else "")
        best = run["history"][run["best_epoch"] - 1]
        text = f"{name}: best epoch {run['best_epoch']}, val {_figure(best, measure)}"
        panels[0, column].set_title(text, fontsize=NORMAL, color=INK, pad=8)
    handles = [
        Line2D([], [], color=ORANGE, marker="o", label="training"),
        Line2D([], [], color=BLUE, marker="s", label="validation", linewidth=2.2),
        Line2D([], [], color=VERMILLION, linewidth=1.2, label="best epoch"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL + 0.5, frameon=False
    )
    _save(figure, path)


def _measure(run: Mapping[str, Any]) -> tuple[str, str]:
    """Column of the history and axis label of what a run is judged by."""
    if "threshold" in run:
        return "accuracy", "accuracy at 0.5 (%)"
    return "auc", "validation mean AUC x 100"


def _figure(row: Mapping[str, float], measure: str) -> str:
    value = row[f"val_{measure}"]
    return f"{100 * value:.1f} %" if measure == "accuracy" else f"mean AUC {value:.3f}"
