"""Pictures of cross-validated comparisons: gains of switches, learning curves, a search's trials.

As in `visualize`, colour never says alone what shape or text does not say, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from chestlab.evaluation.verdicts import Estimate
from chestlab.reporting.family_plots import LOOKS, legend
from chestlab.reporting.style import (
    BLUE,
    GREY,
    INK,
    SMALL,
    VERMILLION,
    save_figure,
    tidy,
    titled_figure,
)

BASELINE_LOOKS = (  # grey, so that networks stand out
    (GREY, ":", "<"),
    (GREY, "--", ">"),
    (GREY, "-.", "p"),
    (GREY, "-", "h"),
)

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
    figure = titled_figure(title, body_height=1.9 + 0.3 * len(rows))
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
        tidy(axes, label, "")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    panels[0].set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=SMALL + 0.5)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for said, (color, marker, filled) in MARKS.items():
        style = {"color": color, "marker": marker, "markeredgecolor": INK, "markersize": 7.5}
        style |= {"markerfacecolor": color if filled else "white", "linestyle": ""}
        panels[1].add_line(Line2D([], [], label=said, **style))
    legend(figure, panels[1], caption)
    save_figure(figure, path)


def draw_learning_curves(
    rows: Sequence[Mapping[str, Any]], path: Path, *, title: str, caption: str
) -> None:
    """Draw AUC (left) and accuracy (right) over the number of training images.

    Args:
        rows: of `learning_curve.table`.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        caption: says what is measured and what is not.
    """
    figure = titled_figure(title, body_height=5.4)
    panels = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["name"] for row in rows))
    looks = {}
    for kind, some in (("network", LOOKS), ("yardstick", BASELINE_LOOKS)):
        of_kind = dict.fromkeys(row["name"] for row in rows if row["kind"] == kind)
        looks |= zip(of_kind, some, strict=False)
    measured = [row["images"] for row in rows if not row["extrapolated"]]
    for axes, measure, label in zip(panels, ("auc", "accuracy"), ("AUC", "accuracy"), strict=True):
        for number, name in enumerate(names):
            of_name = [row for row in rows if row["name"] == name]
            color, line, marker = looks[name]
            # a little aside, so that bars of the same place stay apart
            aside = 1 + 0.035 * (number - (len(names) - 1) / 2)
            for ahead in (False, True):
                some = [row for row in of_name if row["extrapolated"] == ahead]
                x = np.array([row["images"] for row in some]) * aside
                y = np.array([row[measure] for row in some])
                ends = [[row[f"{measure}_{end}"] for row in some] for end in ("low", "high")]
                style = {"color": color, "marker": marker, "markersize": 6.5, "capsize": 3}
                style |= {
                    "linestyle": "" if ahead else line,
                    "elinewidth": 0.8 if color == GREY else 1.4,
                }
                if ahead:
                    style |= {"markerfacecolor": "white", "markeredgewidth": 1.6}
                bars = [y - ends[0], ends[1] - y]
                axes.errorbar(x, y, yerr=bars, label=None if ahead else name, **style)
        axes.axvline(1.25 * max(measured), color=INK, linestyle=":", linewidth=1.4)
        axes.set_xscale("log")
        ticks = sorted({round(row["images"]) for row in rows})
        apart = [on_step for on_step, above in pairwise(ticks) if above > 1.4 * on_step]
        apart.append(ticks[-1])
        axes.set_xticks(apart, [f"{on_step:,}" for on_step in apart])
        axes.minorticks_off()
        tidy(axes, "training images", label)
    legend(figure, panels[0], caption)
    save_figure(figure, path)


def draw_trials(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw a search: AUC over the trials, over the learning rate and over the weight decay.

    Args:
        rows: one mapping per trial with ``trial``, ``state``, ``auc`` (empty where there is none),
            ``lr`` and ``weight_decay``.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
    """
    figure = titled_figure(title, body_height=4.0)
    panels = figure.subplots(1, 3, sharey=True)
    done = [row for row in rows if row["state"] == "complete"]
    gave_up = [row for row in rows if row["state"] == "pruned" and row["auc"] != ""]
    keys = {"trial": "trial", "lr": "learning rate", "weight_decay": "weight decay"}
    best = max(done, key=lambda row: row["auc"])
    for axes, (key, label) in zip(panels, keys.items(), strict=True):
        for some, marker, fill, said in (
            (gave_up, "s", "white", "given up, mean of its folds"),
            (done, "o", BLUE, "finished"),
            ([best], "*", VERMILLION, "best"),
        ):
            style = {"marker": marker, "markerfacecolor": fill, "markeredgecolor": INK}
            style |= {"linestyle": "", "markersize": 13 if marker == "*" else 6, "color": BLUE}
            x, y = [row[key] for row in some], [row["auc"] for row in some]
            axes.plot(x, y, label=said, **style)
        if key != "trial":
            values = [row[key] for row in (*gave_up, *done)]
            axes.set_xscale("log")
            ticks = np.geomspace(min(values), max(values), 3)  # as few as fit below a narrow panel
            labels = sorted({f"{on_step:.1e}" for on_step in ticks}, key=float)
            axes.set_xticks([float(one) for one in labels], [f"{float(one):g}" for one in labels])
            axes.minorticks_off()
        tidy(axes, label, "mean AUC over the folds" if key == "trial" else "")
    highest = np.maximum.accumulate([row["auc"] for row in done])
    panels[0].step([row["trial"] for row in done], highest, where="post", color=INK, linewidth=1.2)
    panels[0].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    legend(figure, panels[0])
    save_figure(figure, path)
