"""Pictures of cross-validated studies: gains of switches, learning curves, trials of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
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
    write_notes,
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
        for place, (_, verdict, gains) in enumerate(rows):
            color, marker, filled = MARKS[verdict]
            gain = gains[measure]
            ends = [[gain.value - gain.low], [gain.high - gain.value]]
            style = {"color": color, "marker": marker, "markersize": 7.5, "elinewidth": 2}
            style |= {"markerfacecolor": color if filled else "white", "markeredgecolor": INK}
            axes.errorbar([gain.value], [place], xerr=ends, capsize=3.5, linestyle="", **style)
        tidy(axes, label, "")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    panels[0].set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=SMALL + 0.5)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for verdict, (color, marker, filled) in MARKS.items():
        style = {"color": color, "marker": marker, "markeredgecolor": INK, "markersize": 7.5}
        style |= {"markerfacecolor": color if filled else "white", "linestyle": ""}
        panels[1].add_line(Line2D([], [], label=verdict, **style))
    legend(figure, panels[1], caption)
    save_figure(figure, path)


def draw_estimates(
    rows: Sequence[Mapping[str, Any]], path: Path, *, title: str, caption: str
) -> None:
    """Draw the AUC (left) and accuracy (right) of configurations with their 95 % intervals.

    Args:
        rows: from the top, mappings with ``configuration``, ``kind``, and for ``auc`` and
            ``accuracy`` the value and its ``_low`` and ``_high``.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        caption: says what the points and bars are.
    """
    figure = titled_figure(title, body_height=1.9 + 0.3 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    looks = {"network": (BLUE, "o", True), "estimated": (BLUE, "o", False)}
    looks |= {"average": (VERMILLION, "D", True), "yardstick": (GREY, "s", True)}
    for axes, measure, label in zip(panels, ("auc", "accuracy"), ("AUC", "accuracy"), strict=True):
        for place, row in enumerate(rows):
            color, marker, filled = looks[row["kind"]]
            value, low, high = (row[f"{measure}{end}"] for end in ("", "_low", "_high"))
            style = {"color": color, "marker": marker, "markersize": 7.5, "elinewidth": 2}
            style |= {"markerfacecolor": color if filled else "white", "markeredgecolor": INK}
            ends = [[value - low], [high - value]]
            axes.errorbar([value], [place], xerr=ends, capsize=3.5, linestyle="", **style)
        tidy(axes, label, "")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    names = [row["configuration"] for row in rows]
    panels[0].set_yticks(range(len(rows)), names, fontsize=SMALL + 0.5)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    write_notes(figure, [caption])
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
    # "yardstick" is how the rows of a learning curve's file call a baseline
    for kind, of_kind in (("network", LOOKS), ("yardstick", BASELINE_LOOKS)):
        members = dict.fromkeys(row["name"] for row in rows if row["kind"] == kind)
        looks |= zip(members, of_kind, strict=False)
    measured = [row["images"] for row in rows if not row["extrapolated"]]
    for axes, measure, label in zip(panels, ("auc", "accuracy"), ("AUC", "accuracy"), strict=True):
        for number, name in enumerate(names):
            of_name = [row for row in rows if row["name"] == name]
            # bars at the same place end in caps of different widths; moved aside, they would be
            # read at another number of images
            _draw_learning_curve(axes, of_name, measure, 2 + 1.5 * number, looks[name])
        if len(measured) < len(rows):
            axes.axvline(1.25 * max(measured), color=INK, linestyle=":", linewidth=1.4)
        axes.set_xscale("log")
        ticks = sorted({round(row["images"]) for row in rows})
        apart = [tick for tick, above in pairwise(ticks) if above > 1.4 * tick]
        apart.append(ticks[-1])
        axes.set_xticks(apart, [f"{tick:,}" for tick in apart])
        axes.minorticks_off()
        tidy(axes, "training images", label)
    legend(figure, panels[0], caption)
    save_figure(figure, path)


def _draw_learning_curve(
    axes: Axes, rows: Sequence[Mapping[str, Any]], measure: str, cap: float, look: tuple
) -> None:
    """One model's measured points as a line, its extrapolated ones hollow.

    Args:
        axes: of one measure.
        rows: of one model.
        measure: ``auc`` or ``accuracy``.
        cap: half the width of the bars' ends, in points.
        look: colour, line style and marker.
    """
    color, line, marker = look
    for extrapolated in (False, True):
        shown = [row for row in rows if row["extrapolated"] == extrapolated]
        x = np.array([row["images"] for row in shown])
        y = np.array([row[measure] for row in shown])
        low, high = ([row[f"{measure}_{end}"] for row in shown] for end in ("low", "high"))
        style = {"color": color, "marker": marker, "markersize": 6.5, "capsize": cap}
        style |= {
            "linestyle": "" if extrapolated else line,
            "elinewidth": 0.8 if color == GREY else 1.4,
        }
        if extrapolated:
            style |= {"markerfacecolor": "white", "markeredgewidth": 1.6}
        label = None if extrapolated else rows[0]["name"]
        if len(x):
            axes.errorbar(x, y, yerr=[y - low, high - y], label=label, **style)


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
    pruned = [row for row in rows if row["state"] == "pruned" and row["auc"] != ""]
    keys = {"trial": "trial", "lr": "learning rate", "weight_decay": "weight decay"}
    best = max(done, key=lambda row: row["auc"])
    for axes, (key, label) in zip(panels, keys.items(), strict=True):
        for shown, marker, fill, state in (
            (pruned, "s", "white", "given up, mean of its folds"),
            (done, "o", BLUE, "finished"),
            ([best], "*", VERMILLION, "best"),
        ):
            style = {"marker": marker, "markerfacecolor": fill, "markeredgecolor": INK}
            style |= {"linestyle": "", "markersize": 13 if marker == "*" else 6, "color": BLUE}
            x, y = [row[key] for row in shown], [row["auc"] for row in shown]
            axes.plot(x, y, label=state, **style)
        if key != "trial":
            values = [row[key] for row in (*pruned, *done)]
            axes.set_xscale("log")
            ticks = np.geomspace(min(values), max(values), 3)  # as few as fit below a narrow panel
            labels = sorted({f"{tick:.1e}" for tick in ticks}, key=float)
            axes.set_xticks(
                [float(text) for text in labels], [f"{float(text):g}" for text in labels]
            )
            axes.minorticks_off()
        tidy(axes, label, "mean AUC over the folds" if key == "trial" else "")
    highest = np.maximum.accumulate([row["auc"] for row in done])
    panels[0].step([row["trial"] for row in done], highest, where="post", color=INK, linewidth=1.2)
    panels[0].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    legend(figure, panels[0])
    save_figure(figure, path)
