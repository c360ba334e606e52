"""Several runs, or the members of an ensemble, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

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
    save_figure,
    short_number,
    tidy,
    titled_figure,
)

KINDS = {  # colour and marker of a point
    "network": (BLUE, "o"),
    "ensemble": (VERMILLION, "D"),
    "baseline": (GREY, "s"),
}

POINT = {"markersize": 13, "markeredgewidth": 1.6, "zorder": 3}


def draw_comparison(runs: Sequence[Mapping[str, Any]], path: Path | str, *, title: str) -> None:
    """Draw the test accuracy of runs on the same images over their parameters and their time.

    Args:
        runs: each with ``number`` (printed in its point), ``kind`` (a key of `KINDS`),
            ``accuracy`` and ``interval`` (low, high) in 0..1, ``parameters`` and ``seconds``,
            either of them None where there is none.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = titled_figure(title, body_height=8.4)
    panels = figure.subplots(2, 1)
    lows, highs = zip(*(run["interval"] for run in runs), strict=True)
    bottom = max(0, 5 * math.floor(20 * min(lows)) - 2)
    top = max(GOAL_PERCENT + 4, min(101, 100 * max(highs) + 2))
    columns = (("parameters", "parameters"), ("seconds", "training time (seconds)"))
    for axes, (key, xlabel) in zip(panels, columns, strict=True):
        axes.set_ylim(bottom, top)
        axes.axhline(GOAL_PERCENT, color=GREY, linestyle="--", linewidth=1.4, zorder=1)
        tidy(axes, xlabel, "test accuracy (%)")
        shown = [run for run in runs if run[key]]
        if shown:
            _draw_points(axes, shown, np.log10([run[key] for run in shown]))
        else:
            axes.set(xticks=[])
    handles = [
        Line2D(
            [], [], linestyle="", marker=m, color="white", markeredgecolor=c, label=kind, **POINT
        )
        for kind, (c, m) in KINDS.items()
        if any(run["kind"] == kind for run in runs)
    ]
    goal = {"color": GREY, "linestyle": "--", "linewidth": 1.4}
    label = f"{GOAL_PERCENT} %, the goal of the reports on validation images"
    handles.append(Line2D([], [], label=label, **goal))
    legend = {"loc": "outside lower center", "ncols": 4, "fontsize": SMALL + 0.5, "frameon": False}
    figure.legend(handles=handles, **legend)
    save_figure(figure, path)


def _draw_points(axes: Axes, runs: Sequence[Mapping[str, Any]], exponents: np.ndarray) -> None:
    """Draw the accuracy of each run with its interval and its number, on a logarithmic x axis.

    Args:
        axes: with its y range set.
        runs: as of `draw_comparison`.
        exponents: (N,) decimal logarithm of each run's x.
    """
    margin = 0.1 + 0.05 * float(np.ptp(exponents))
    low, high = exponents.min() - margin, exponents.max() + margin
    axes.set_xlim(low, high)
    ticks = _log_ticks(low, high)
    axes.set_xticks(ticks, [short_number(10**tick) for tick in ticks])
    bottom, top = axes.get_ylim()
    places = np.stack(
        [
            (exponents - low) / (high - low),
            [(100 * run["accuracy"] - bottom) / (top - bottom) for run in runs],
        ],
        axis=1,
    )
    for run, place in zip(runs, _side_by_side(places), strict=True):
        color, marker = KINDS[run["kind"]]
        x, y = low + place * (high - low), 100 * run["accuracy"]
        ends = [100 * end for end in run["interval"]]
        axes.plot([x, x], ends, color=color, linewidth=1.3, zorder=2)
        axes.plot(x, y, marker, color="white", markeredgecolor=color, **POINT)
        text = {"ha": "center", "va": "center_baseline", "color": INK, "zorder": 4}
        axes.text(x, y, str(run["number"]), fontsize=SMALL - 1, **text)


def _log_ticks(low: float, high: float) -> list[float]:
    """Decimal logarithms of 1, 2 and 5 times the powers of ten between two logarithms."""
    digits = (1,) if high - low > 2.5 else (1, 2, 5)
    ticks = [
        exponent + math.log10(digit)
        for exponent in range(math.floor(low), math.ceil(high))
        for digit in digits
    ]
    return [tick for tick in ticks if low <= tick <= high]


def _side_by_side(
    points: np.ndarray, width: float = 0.03, height: float = 0.065, bar: float = 0.008
) -> list[float]:
    """First coordinates that keep markers, and the bars through them, from covering each other.

    No point is moved by more than three widths: then it rather covers another.

    Args:
        points: (N, 2) in 0..1.
        width, height: of a marker.
        bar: distance to be kept between the bars.
    """
    placed: list[tuple[float, float]] = []
    result = [0.0] * len(points)
    for number in np.lexsort(points.T[::-1]):
        x, y = points[number]
        shifts = (sign * step * bar / 2 for step in range(int(6 * width / bar)) for sign in (1, -1))
        free = (
            x + shift
            for shift in shifts
            if 0 <= x + shift <= 1
            and all(
                abs(x + shift - a) >= (width if abs(y - b) < height else bar) for a, b in placed
            )
        )
        result[number] = float(next(free, x))
        placed.append((result[number], y))
    return result


def draw_members(metrics: Mapping[str, Any], path: Path | str, *, title: str) -> None:
    """Draw accuracy (left) and AUC (right) of every member of an ensemble and of their average.

    Args:
        metrics: an ensemble's: ``members``, ``best_member``, and ``val``, ``oof`` and ``test`` of
            the average, as far as there are any.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.

    Raises:
        OSError: ``path`` cannot be written.
    """
    members = metrics["members"]
    best = metrics["best_member"]["name"]
    short = _without_common_end([m["name"] for m in members])
    names = [
        f"{name} (chosen)" if member["name"] == best else name
        for name, member in zip(short, members, strict=True)
    ]
    rows = [*names, "average of all"]
    figure = titled_figure(title, body_height=1.7 + 0.42 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    looks = (  # split of a member, of the average, label, colour, marker, offset in rows
        ("val", "val", "val (as selected)", BLUE, "s", -0.16),
        ("held_out", "oof", "images left out of the fold", GREEN, "^", 0.0),
        ("test", "test", "test (held out)", ORANGE, "o", 0.16),
    )
    last = len(rows) - 1
    for axes, measure, label in zip(
        panels, ("accuracy", "auc"), ("accuracy, %", "AUC"), strict=True
    ):
        for of_member, of_average, name, color, marker, offset in looks:
            style = {"marker": marker, "linestyle": "", "markersize": 7, "color": color}
            style |= {"markeredgecolor": INK, "markeredgewidth": 0.8}
            scale = 100 if measure == "accuracy" else 1
            values = [m[of_member][measure] for m in members if of_member in m]
            values = [np.nan if value is None else scale * value for value in values]
            if len(values) < len(members):  # val may be a part of what was left out of the folds
                continue
            axes.plot(values, np.arange(last) + offset, label=name, **style)
            if (metrics.get(of_average) or {}).get(measure) is not None:
                _draw_average(axes, metrics[of_average], measure, last + offset, style)
        axes.axhspan(last - 0.5, last + 0.5, color=PALE, zorder=0)
        tidy(axes, label, "")
        axes.set_ylim(last + 0.5, -0.5)
    panels[0].set_yticks(range(len(rows)), rows, fontsize=NORMAL)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=NORMAL
    )
    save_figure(figure, path)


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
