"""Several runs, or the members of an ensemble, side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from chestlab.evaluation.tasks import GOAL
from chestlab.reporting.numbers import short_number
from chestlab.reporting.stored_runs import kind_of_average, networks_of
from chestlab.reporting.style import (
    BLUE,
    GOAL_PERCENT,
    GREEN,
    GREY,
    INK,
    NORMAL,
    ORANGE,
    PALE,
    SMALL,
    VERMILLION,
    finish,
    tidy,
    titled_figure,
)

KINDS = {  # colour and marker of a point
    "network": (BLUE, "o"),
    "ensemble": (VERMILLION, "D"),
    "baseline": (GREY, "s"),
}

GOAL_LINE: dict[str, Any] = {"color": INK, "linestyle": (0, (6, 3)), "linewidth": 1.3}

BEST_BASELINE: dict[str, Any] = {"color": GREY, "linestyle": "-", "linewidth": 1}

UNDEFINED: dict[str, Any] = {
    "fontsize": SMALL,
    "ha": "right",
    "va": "center",
    "color": GREY,
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1},
}

CHANCE: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1.4}


def draw_comparison(runs: Sequence[Mapping[str, Any]], path: Path | str, *, title: str) -> None:
    """Draw test accuracy and AUC of runs on the same images, with their size.

    A run has a row of its own, so that nothing lies over anything else and every point stands at
    its value.

    Args:
        runs: from the top, each with ``number``, ``name``, ``kind`` (a key of `KINDS`),
            ``accuracy`` and ``interval`` (low, high) in 0..1, ``auc``, ``auc_interval`` and
            ``parameters``; any of the last three is None where there is none.
        path: PNG to write; its folder must exist.
        title: of which data; a heading with the highest accuracy is put before it.

    Raises:
        OSError: ``path`` cannot be written.
    """
    names = [_in_lines(f"{run['name']}  {run['number']}", longest=40) for run in runs]
    lines = sum(name.count("\n") for name in names)
    height = 1.1 + 0.31 * len(runs) + 0.15 * lines
    figure = titled_figure(f"{_highest(runs)}\n{title}", body_height=height)
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1.6, 1.6, 0.9))
    columns = (
        ("accuracy", "interval", 100, "accuracy (%)"),
        ("auc", "auc_interval", 1, "AUC"),
        ("parameters", "", 1, "parameters"),
    )
    for axes, (key, interval, scale, label) in zip(panels, columns, strict=True):
        tidy(axes, label, "")
        if interval:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
            _draw_scores(axes, runs, key, interval, scale)
        else:
            _draw_costs(axes, runs, key)
    panels[0].axvline(GOAL_PERCENT, zorder=1, **GOAL_LINE)
    panels[1].axvline(0.5, zorder=1, **CHANCE)
    panels[0].set_yticks(range(len(runs)), names, fontsize=SMALL)
    panels[0].set_ylim(len(runs) - 0.4, -0.6)
    handles = [
        Line2D([], [], linestyle="", marker=m, color=c, markeredgecolor=INK, label=kind)
        for kind, (c, m) in KINDS.items()
        if any(run["kind"] == kind for run in runs)
    ]
    handles.append(Line2D([], [], label=f"{GOAL_PERCENT} % goal", **GOAL_LINE))
    handles.append(Line2D([], [], label="AUC of chance", **CHANCE))
    if any(run["kind"] == "baseline" for run in runs):
        handles.append(Line2D([], [], label="best baseline", **BEST_BASELINE))
    finish(figure, path, handles)


def _draw_scores(
    axes: Axes, runs: Sequence[Mapping[str, Any]], key: str, interval: str, scale: float
) -> None:
    """A score of every run with its interval, and a line at that of the best baseline."""
    for row, run in enumerate(runs):
        if run[key] is None:
            axes.annotate("undefined", (0.97, row), xycoords=("axes fraction", "data"), **UNDEFINED)
            continue
        color, _ = KINDS[run["kind"]]
        if run[interval] is not None:
            ends = [scale * end for end in run[interval]]
            axes.plot(ends, [row, row], color=color, linewidth=2, zorder=2)
        _draw_point(axes, scale * run[key], row, run["kind"])
    of_baselines = [run[key] for run in runs if run["kind"] == "baseline" and run[key] is not None]
    if of_baselines:
        axes.axvline(scale * max(of_baselines), zorder=1, **BEST_BASELINE)


def _draw_costs(axes: Axes, runs: Sequence[Mapping[str, Any]], key: str) -> None:
    """What every run costs, on a logarithmic axis with few ticks; 0 has no place on it."""
    values = [run[key] for run in runs if run[key]]
    axes.set_xscale("log")
    if not values:
        axes.set(xticks=[])
        return
    for row, run in enumerate(runs):
        if run[key]:
            _draw_point(axes, run[key], row, run["kind"])
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = 0.15 + 0.08 * (high - low)
    axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    ticks = _log_ticks(low - margin, high + margin)
    axes.set_xticks(ticks, [short_number(tick) for tick in ticks])
    axes.minorticks_off()


def _draw_point(axes: Axes, x: float, row: int, kind: str) -> None:
    color, marker = KINDS[kind]
    axes.plot(x, row, marker, color=color, markeredgecolor=INK, markersize=7, zorder=3)


def _highest(runs: Sequence[Mapping[str, Any]]) -> str:
    """The highest accuracy on test, whose it is, and whether it reaches the goal."""
    highest = max(run["accuracy"] for run in runs)
    reached = "" if highest >= GOAL else f"no run reaches {GOAL_PERCENT} %; "
    names = [
        f"{run['name']} ({100 * run['interval'][0]:.1f} to {100 * run['interval'][1]:.1f})"
        for run in runs
        if run["accuracy"] == highest
    ]
    return f"Test accuracy: {reached}the highest is {100 * highest:.1f} %, of {' and '.join(names)}"


def _log_ticks(low: float, high: float) -> list[float]:
    """Up to four numbers, of 1, 2 and 5 times the powers of ten, between two logarithms."""
    for digits in ((1, 2, 5), (1,)):
        ticks = [
            digit * 10.0**exponent
            for exponent in range(math.floor(low), math.ceil(high))
            for digit in digits
            if low <= exponent + math.log10(digit) <= high
        ]
        if len(ticks) <= 4:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 4)]


def draw_members(metrics: Mapping[str, Any], path: Path | str, *, title: str) -> None:
    """Draw accuracy (left) and AUC (right) of every member of an ensemble and of their average.

    Args:
        metrics: an ensemble's: ``members``, ``best_member``, and ``val``, ``oof`` and ``test`` of
            the average, as far as there are any.
        path: PNG to write; its folder must exist.
        title: of what run on which data; a heading with the figures is put before it.

    Raises:
        OSError: ``path`` cannot be written.
    """
    members = metrics["members"]
    best = _best_member(metrics)
    names = [
        f"{name} (best)" if member["name"] == best else name
        for name, member in zip(_member_names(members), members, strict=True)
    ]
    rows = [*map(_in_lines, names), "average of all"]
    heading = _of_average(metrics)
    figure = titled_figure(f"{heading}\n{title}", body_height=0.9 + 0.42 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    held_out = "held-out fold; last row: out of fold"
    if metrics.get("blend"):  # whose members are averages of folds
        held_out = "out of fold"
    looks = (  # split of a member, of the average, label, colour, marker, offset in rows
        ("val", "val", "val (as selected)", BLUE, "s", -0.16),
        ("held_out", "oof", held_out, GREEN, "^", 0.0),
        ("test", "test", "test (held out)", ORANGE, "o", 0.16),
    )
    last = len(rows) - 1
    for axes, measure, label in zip(
        panels, ("accuracy", "auc"), ("accuracy (%)", "AUC"), strict=True
    ):
        for of_member, of_average, name, color, marker, offset in looks:
            style = {"marker": marker, "linestyle": "", "markersize": 7, "color": color}
            style |= {"markeredgecolor": INK, "markeredgewidth": 0.8}
            scale = 100 if measure == "accuracy" else 1
            values = [m[of_member][measure] for m in members if of_member in m]
            values = [np.nan if value is None else scale * value for value in values]
            if len(values) < len(members):  # val may be a part of the held-out folds
                continue
            axes.plot(values, np.arange(last) + offset, label=name, **style)
            if (metrics.get(of_average) or {}).get(measure) is not None:
                _draw_average(axes, metrics[of_average], measure, last + offset, style)
        axes.axhspan(last - 0.5, last + 0.5, color=PALE, zorder=0)
        tidy(axes, label, "")
        axes.set_ylim(last + 0.5, -0.5)
    panels[0].set_yticks(range(len(rows)), rows, fontsize=NORMAL)
    handles = panels[0].get_legend_handles_labels()[0]
    note = "Bars: 95 % intervals."
    if metrics.get("oof"):
        note += " Out of fold: all folds together, each image only by networks that did not train"
        note += " on it, not by the average of all."
    if best:
        by = metrics["best_member"].get("chosen_on", "val")
        if metrics.get("blend"):
            by = by.replace("on its held-out fold", "out of fold")
        note += f" Best: the member that leads by {by}."
    finish(figure, path, handles, [note])


def _member_names(members: Sequence[Mapping[str, Any]]) -> list[str]:
    """What members are called: averages of different networks by these, others by their runs."""
    models = [member.get("model", "") for member in members]
    if all(models) and len(set(models)) == len(members):
        return [f"{m['model']}, {m['networks']} folds" for m in members]
    return _without_common_end([member["name"] for member in members])


def _in_lines(name: str, longest: int = 34) -> str:
    """A run's name in lines that end after an underscore, to leave the panels their width."""
    lines = textwrap.wrap(name.replace("_", "_ "), longest, break_long_words=False)
    return "\n".join(line.replace("_ ", "_") for line in lines)


def _best_member(metrics: Mapping[str, Any]) -> str:
    """The best member; none of folds, which were judged on different images."""
    return "" if kind_of_average(metrics) == "folds" else metrics["best_member"]["name"]


def _of_average(metrics: Mapping[str, Any]) -> str:
    """The figures of an average on the images that tell most: test, else out of fold, else val."""
    names = {"test": "test", "oof": "out of fold", "val": "val"}
    split = next(split for split in names if metrics.get(split))
    figures, members = metrics[split], f"{len(metrics['members'])} networks"
    if metrics.get("blend"):
        members = f"{len(metrics['members'])} averages"
        if networks := networks_of(metrics):
            members += f" ({networks} networks)"
    auc = "undefined" if figures["auc"] is None else f"{figures['auc']:.3f}"
    return (
        f"Average of {members} and each alone: {names[split]} accuracy "
        f"{100 * figures['accuracy']:.1f} %, AUC {auc}"
    )


def _draw_average(
    axes: Axes, figures: Mapping[str, Any], measure: str, y: float, style: Mapping[str, Any]
) -> None:
    """The figure of the average with its interval, in percent for the accuracy."""
    scale = 100 if measure == "accuracy" else 1
    value = scale * figures[measure]
    low, high = (scale * end for end in figures[f"{measure}_ci95"])
    bars = [[max(0, value - low)], [max(0, high - value)]]
    bar = {**style, "markersize": 9, "ecolor": INK, "elinewidth": 1.4, "capsize": 4}
    axes.errorbar([value], [y], xerr=bars, **bar)


def _without_common_end(names: Sequence[str]) -> list[str]:
    """Names without the parts, set off by underscores, that all of them end with."""
    parts = [name.split("_") for name in names]
    while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    return ["_".join(part) for part in parts]
