"""Pictures of cross-validated studies: gains of switches, learning curves, trials of a search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from chestlab.evaluation.verdicts import Estimate
from chestlab.reporting.family_plots import LOOKS
from chestlab.reporting.numbers import readable_number
from chestlab.reporting.style import (
    BLUE,
    GREY,
    INK,
    SMALL,
    VERMILLION,
    finish,
    tidy,
    titled_figure,
)

BASELINE_LOOKS = (  # grey, so that networks stand out
    (GREY, ":", "<"),
    (GREY, "--", ">"),
    (GREY, "-.", "p"),
    (GREY, "-", "h"),
)


ASIDE = 4.0  # points between learning curves

TICK_SPACE = 0.08  # of the logarithmic axis, below which two ticks' labels would touch


def _point(color: str, marker: str, filled: bool = True) -> dict[str, Any]:
    """Look of a point without a line."""
    face = color if filled else "white"
    style = {"color": color, "marker": marker, "markerfacecolor": face, "markersize": 7.5}
    return {**style, "markeredgecolor": INK, "linestyle": ""}


MARKS = {  # verdicts after and without Holm's correction: what they say, and the look of the point
    ("supported", "supported"): ("helps, after Holm", _point(BLUE, "o")),
    ("undecided", "supported"): ("helps without correction only", _point(BLUE, "o", False)),
    ("undecided", "undecided"): ("undecided", _point(GREY, "s", False)),
    ("undecided", "refuted"): ("hurts without correction only", _point(VERMILLION, "X", False)),
    ("refuted", "refuted"): ("hurts, after Holm", _point(VERMILLION, "X")),
}

KINDS = {  # of an estimate: what it is called, and the look of its point
    "network": ("single networks", _point(BLUE, "o")),
    "estimated": ("single networks, statistics estimated", _point(BLUE, "o", False)),
    "average": ("average", _point(VERMILLION, "D")),
    "yardstick": ("classical classifier", _point(GREY, "s")),
}


def draw_gains(
    rows: Sequence[tuple[str, tuple[str, str], Mapping[str, Estimate]]],
    path: Path,
    *,
    title: str,
    caption: str,
) -> None:
    """Draw a forest plot: AUC (left) and accuracy (right) with a switch less without it.

    Args:
        rows: from the top, the switch, verdicts on the AUC after and without Holm's correction (a
            key of `MARKS`), and the gain with its 95 % interval by measure.
        path: PNG to write; its folder must exist.
        title: of which data; a heading with the figures is put before it.
        caption: says what the bars are.
    """
    counts = Counter(after_holm for _, (after_holm, _), _ in rows)
    heading = (
        f"Effect of {len(rows)} switch{'es' if len(rows) > 1 else ''} on the AUC, after Holm: "
        f"helps {counts['supported']}, hurts {counts['refuted']}, undecided {counts['undecided']}"
    )
    figure = titled_figure(f"{heading}\n{title}", body_height=0.9 + 0.3 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, label in zip(panels, ("auc", "accuracy"), ("AUC", "accuracy"), strict=True):
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        for place, (_, verdicts, gains) in enumerate(rows):
            gain = gains[measure]
            ends = [[gain.value - gain.low], [gain.high - gain.value]]
            look = MARKS[verdicts][1]
            axes.errorbar([gain.value], [place], xerr=ends, elinewidth=2, capsize=3.5, **look)
        tidy(axes, f"\N{LEFTWARDS ARROW} hurts   {label}   helps \N{RIGHTWARDS ARROW}", "")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    panels[0].set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=SMALL)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    shown = {verdicts for _, verdicts, _ in rows}
    handles = [
        Line2D([], [], label=text, **MARKS[key][1])
        for key, (text, _) in MARKS.items()
        if key in shown
    ]
    finish(figure, path, handles, [caption])


def draw_estimates(
    rows: Sequence[Mapping[str, Any]], path: Path, *, title: str, caption: str
) -> None:
    """Draw the AUC (left) and accuracy (right) of configurations with their 95 % intervals.

    Args:
        rows: from the top, mappings with ``configuration``, ``kind``, and for ``auc`` and
            ``accuracy`` the value and its ``_low`` and ``_high``.
        path: PNG to write; its folder must exist.
        title: of which data; a heading with the highest AUC is put before it.
        caption: says what the points and bars are.
    """
    best = max(rows, key=lambda row: row["auc"])
    ends = f"({best['auc_low']:.3f} to {best['auc_high']:.3f})"
    heading = f"Highest AUC of {len(rows)}: {best['auc']:.3f} {ends}, {best['configuration']}"
    figure = titled_figure(f"{heading}\n{title}", body_height=0.9 + 0.3 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, label in zip(panels, ("auc", "accuracy"), ("AUC", "accuracy"), strict=True):
        for place, row in enumerate(rows):
            value, low, high = (row[f"{measure}{end}"] for end in ("", "_low", "_high"))
            bars = [[value - low], [high - value]]
            look = KINDS[row["kind"]][1]
            axes.errorbar([value], [place], xerr=bars, elinewidth=2, capsize=3.5, **look)
        tidy(axes, label, "")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    names = [row["configuration"] for row in rows]
    panels[0].set_yticks(range(len(rows)), names, fontsize=SMALL)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    shown = {row["kind"] for row in rows}
    handles = [
        Line2D([], [], label=text, **look) for kind, (text, look) in KINDS.items() if kind in shown
    ]
    finish(figure, path, handles, [caption])


def draw_learning_curves(
    rows: Sequence[Mapping[str, Any]], path: Path, *, title: str, caption: str
) -> None:
    """Draw AUC (left) and accuracy (right) over the number of training images.

    Args:
        rows: of `learning_curve.table`.
        path: PNG to write; its folder must exist.
        title: of which data; a heading with the figures is put before it.
        caption: says what is measured and what is not.
    """
    best = max((row for row in rows if not row["extrapolated"]), key=lambda row: row["auc"])
    heading = (
        f"Learning curves: {best['name']} reaches AUC {best['auc']:.3f} "
        f"({best['auc_low']:.3f} to {best['auc_high']:.3f}) with {best['images']:,.0f} images"
    )
    figure = titled_figure(f"{heading}\n{title}", body_height=4)
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
            aside = ASIDE * (number - (len(names) - 1) / 2)
            _draw_learning_curve(axes, of_name, measure, aside, looks[name])
        if len(measured) < len(rows):
            axes.axvline(1.25 * max(measured), color=INK, linestyle=":", linewidth=1.4)
        axes.set_xscale("log")
        ticks = sorted({round(row["images"]) for row in rows})
        least = (ticks[-1] / ticks[0]) ** TICK_SPACE
        apart = [tick for tick, above in pairwise(ticks) if above > least * tick]
        apart.append(ticks[-1])
        axes.set_xticks(apart, [f"{tick:,}" for tick in apart])
        axes.minorticks_off()
        tidy(axes, "training images", label)
    aside = "Curves are drawn side by side; the numbers of images are those of the axis."
    notes = [f"{caption} {aside}".strip() if len(names) > 1 else caption]
    finish(figure, path, panels[0].get_legend_handles_labels()[0], notes)


def _draw_learning_curve(
    axes: Axes, rows: Sequence[Mapping[str, Any]], measure: str, aside: float, look: tuple
) -> None:
    """One model's measured points as a line, its extrapolated ones hollow.

    Args:
        axes: of one measure.
        rows: of one model.
        measure: ``auc`` or ``accuracy``.
        aside: how far to the right everything is drawn, in points, so that bars at the same number
            of images do not lie over each other; on the axis they keep their number.
        look: colour, line style and marker.
    """
    color, line, marker = look
    moved = ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
    for extrapolated in (False, True):
        shown = [row for row in rows if row["extrapolated"] == extrapolated]
        x = np.array([row["images"] for row in shown])
        y = np.array([row[measure] for row in shown])
        low, high = ([row[f"{measure}_{end}"] for row in shown] for end in ("low", "high"))
        style = {"color": color, "marker": marker, "markersize": 6.5, "capsize": 2.5}
        style |= {
            "linestyle": "" if extrapolated else line,
            "elinewidth": 0.8 if color == GREY else 1.4,
        }
        if extrapolated:
            style |= {"markerfacecolor": "white", "markeredgewidth": 1.6}
        label = None if extrapolated else rows[0]["name"]
        if len(x):
            drawn = axes.errorbar(x, y, yerr=[y - low, high - y], label=label, **style)
            for artist in drawn.get_children():
                artist.set_transform(axes.transData + moved)


def draw_trials(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw a search: AUC over the trials, over the learning rate and over the weight decay.

    Args:
        rows: one mapping per trial with ``trial``, ``state``, ``auc`` (empty where there is none),
            ``lr`` and ``weight_decay``.
        path: PNG to write; its folder must exist.
        title: of which data; a heading with the figures is put before it.
    """
    done = [row for row in rows if row["state"] == "complete"]
    pruned = [row for row in rows if row["state"] == "pruned" and row["auc"] != ""]
    keys = {"trial": "trial", "lr": "learning rate", "weight_decay": "weight decay"}
    best = max(done, key=lambda row: row["auc"])
    heading = f"Best of {len(rows)} trials: AUC {best['auc']:.3f} in trial {best['trial']}"
    figure = titled_figure(f"{heading}\n{title}", body_height=3.3)
    panels = figure.subplots(1, 3, sharey=True)
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
                [float(text) for text in labels], [readable_number(float(text)) for text in labels]
            )
            axes.minorticks_off()
        tidy(axes, label, "mean AUC over the folds" if key == "trial" else "")
    highest = np.maximum.accumulate([row["auc"] for row in done])
    panels[0].step([row["trial"] for row in done], highest, where="post", color=INK, linewidth=1.2)
    panels[0].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    finish(figure, path, panels[0].get_legend_handles_labels()[0])
