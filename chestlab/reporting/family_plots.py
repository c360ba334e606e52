"""The pictures of the 34-layer family: training curves, gradients, silent units, ablation of SE."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from chestlab.reporting.numbers import readable_number
from chestlab.reporting.style import (
    BLUE,
    DPI,
    GOAL_PERCENT,
    GREEN,
    GREY,
    INK,
    NORMAL,
    ORANGE,
    PURPLE,
    SMALL,
    VERMILLION,
    finish,
    set_padding,
    tidy,
    titled_figure,
)

LOOKS = (  # colour, line style, marker: each alone tells two networks apart
    (VERMILLION, "-", "o"),
    (BLUE, "-", "s"),
    (GREEN, "--", "^"),
    (ORANGE, "-.", "D"),
    (PURPLE, (0, (1, 1)), "v"),
    (INK, (0, (5, 1, 1, 1)), "P"),
)

RANGE = "Line: mean over seeds; area: from the lowest to the highest."

NAMES = {"accuracy": "accuracy", "auc": "mean AUC"}

OTHERS: dict[str, Any] = {"color": "#B0B0B0", "linewidth": 1}

Runs = Mapping[
    str, Sequence[Mapping[str, Any]]
]  # name of the network to `stored_runs.read_run` of each


SCREEN = 1280 / DPI, 720 / DPI  # inches: the side-by-side picture fits a small screen whole


def draw_side_by_side(runs: Runs, path: Path, note: str = "") -> None:
    """Draw loss (above) and accuracy or AUC (below), a column per network on the same scales.

    The grey lines in a panel are the validation curves of the other networks. The picture is 1280
    px wide and at most 720 high.

    Args:
        runs: one or more per network; the lines are means over them, the areas reach from the
            lowest to the highest.
        path: PNG to write; its folder must exist.
        note: whether differences are shown, below the picture.
    """
    first = next(iter(runs.values()))
    measure = measure_of(first[0])
    label = {"accuracy": "accuracy (%)", "auc": "mean AUC"}[measure]
    figure = titled_figure(_title(_range(runs, measure), first), 2, width=SCREEN[0])
    panels = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
    set_padding(figure, w_pad=0.05, h_pad=0.05)
    for column, (name, of_name) in enumerate(runs.items()):
        for row, key in enumerate(("loss", measure)):
            axes = panels[row, column]
            for other in runs.values():
                mean = np.nanmean(_epochs(other, f"val_{key}"), axis=0)
                axes.plot(np.arange(1, len(mean) + 1), mean, zorder=1.2, **OTHERS)
            _draw_splits(axes, of_name, key)
            ylabel = ("loss", label)[row] if column == 0 else ""
            tidy(axes, "epoch" if row else "", ylabel)
        narrow = len(runs) > 3
        heading = re.sub(r"(?<=.)(-?) ?(?=ResNet)", r"\1\n", name, count=1) if narrow else name
        figures = ("\n" if narrow else ", ").join(_figures(of_name, measure))
        style = {"fontsize": SMALL, "color": INK, "linespacing": 1.2}
        panels[0, column].set_title(f"{heading}\n{figures}", **style)
    entries = {
        label: handle
        for axes in panels[:, 0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    handles = list(entries.values())
    if len(runs) > 1:
        handles.append(Line2D([], [], label="the others", **OTHERS))
    meaning = [RANGE if len(first) > 1 else "", _smoothing(first[0]["recipe"])]
    finish(figure, path, handles, [" ".join(filter(None, meaning)), note], 5, SCREEN[1])


def _smoothing(recipe: Mapping[str, Any]) -> str:
    """Why the two losses are not on one scale; empty where they are."""
    if not recipe.get("label_smoothing"):
        return ""
    return f"Label smoothing ({recipe['label_smoothing']:g}) in the training loss alone."


def _figures(runs: Sequence[Mapping[str, Any]], measure: str) -> list[str]:
    """Mean figures over the seeds, as selected on val and, where it was looked at, on test."""
    values = {
        split: [run[split][measure] for run in runs if run.get(split) is not None]
        for split in ("val", "test")
    }
    return [
        f"{split} {_shown(float(np.mean(of_split)), measure)}"
        for split, of_split in values.items()
        if of_split and None not in of_split
    ]


def _shown(value: float, measure: str) -> str:
    return f"{100 * value:.1f} %" if measure == "accuracy" else f"{value:.3f}"


def _range(runs: Runs, measure: str) -> str:
    """The networks with the lowest and the highest figure on the validation images."""
    means = {
        name: float(np.mean([run["val"][measure] or np.nan for run in of_name]))
        for name, of_name in runs.items()
    }
    shown = {
        name: f"{_shown(mean, measure)} ({name})"
        for name, mean in sorted(means.items(), key=lambda item: item[1])
        if np.isfinite(mean)
    }
    if len(shown) < 3:
        return f"Validation {NAMES[measure]}: {' and '.join(shown.values()) or 'undefined'}"
    lowest, *_, highest = shown.values()
    return f"{len(runs)} networks: validation {NAMES[measure]} {lowest} to {highest}"


def draw_gradients(
    norms: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
    path: Path,
    *,
    title: str,
    caption: str,
) -> None:
    """Draw gradient norms over the depth, a panel per moment, a line per network.

    Args:
        norms: moment to network to one mapping of layer to norm per seed.
        path: PNG to write; its folder must exist.
        title: of which networks and data; a heading with the figures is put before it.
        caption: says what was measured.
    """
    moment, networks = list(norms.items())[-1]
    ratios = ", ".join(
        f"{name} {readable_number(first_over_last(seeds), 2)}" for name, seeds in networks.items()
    )
    heading = f"Gradient in the first convolution over that in the last, {moment}: {ratios}"
    figure = titled_figure(f"{heading}\n{title}", body_height=3.9)
    panels = figure.subplots(1, len(norms), sharey=True, squeeze=False)[0]
    for axes, (moment, networks) in zip(panels, norms.items(), strict=True):
        for (name, seeds), look in zip(networks.items(), LOOKS, strict=False):
            # a norm of 0 has no place on a logarithmic scale
            values = np.array([list(layers.values()) for layers in seeds])
            _band(axes, np.where(values > 0, values, np.nan), look, name)
        axes.set_yscale("log")
        axes.set_title(moment, fontsize=NORMAL, color=INK, pad=8)
        tidy(
            axes, "convolution, from the input", "norm of the gradient" if axes is panels[0] else ""
        )
    finish(figure, path, panels[0].get_legend_handles_labels()[0], [caption])


def first_over_last(seeds: Sequence[Mapping[str, float]]) -> float:
    """Geometric mean over seeds of the first layer's norm over that of the last."""
    norms = [list(layers.values()) for layers in seeds]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.exp(np.mean(np.log([layers[0] / layers[-1] for layers in norms]))))


def draw_silent_units(
    shares: Mapping[str, Sequence[Mapping[str, float]]], path: Path, *, title: str, caption: str
) -> None:
    """Draw the share of silent units over the depth, a line per network.

    Args:
        shares: network to one mapping of layer to share per seed.
        path: PNG to write; its folder must exist.
        title: of which networks and data; a heading with the figures is put before it.
        caption: says what silent means.
    """
    means = ", ".join(
        f"{name} {100 * np.mean([list(layers.values()) for layers in seeds]):.2f} %"
        for name, seeds in shares.items()
    )
    figure = titled_figure(f"Silent units, mean over the layers: {means}\n{title}", 3.6)
    axes = figure.subplots()
    for (name, seeds), look in zip(shares.items(), LOOKS, strict=False):
        _band(axes, 100 * np.array([list(layers.values()) for layers in seeds]), look, name)
    axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])
    tidy(axes, "activation layer, from the input", "silent units (%)")
    finish(figure, path, axes.get_legend_handles_labels()[0], [caption])


def draw_ablation(
    rows: Sequence[Mapping[str, Any]], path: Path, *, finding: str, title: str, caption: str
) -> None:
    """Draw AUC over parameters with 95 % intervals, validation and test.

    Args:
        rows: of ``se_ablation.csv``: ``reduction``, ``parameters``, AUC of ``val`` and ``test``.
        path: PNG to write; its folder must exist.
        finding: whether a reduction differs from no SE; a heading with the figures ends with it.
        title: of which networks and data.
        caption: says what the bars are.
    """
    of_test = [row["test_auc"] for row in rows]
    figures = f"test AUC from {min(of_test):.3f} to {max(of_test):.3f}"
    heading = f"Reduction of the attention: {figures}. {finding}"
    figure = titled_figure(f"{heading}\n{title}", body_height=3.8)
    axes = figure.subplots()
    for split, label, shift, color, marker in (
        ("val", "validation (as selected)", -1, BLUE, "s"),
        ("test", "test (held out)", 1, ORANGE, "o"),
    ):
        positions = np.arange(len(rows)) + 0.08 * shift
        values, low, high = (
            np.array([row[f"{split}_auc{end}"] for row in rows]) for end in ("", "_low", "_high")
        )
        errors = [values - low, high - values]
        style = {"color": color, "marker": marker, "markersize": 8, "markeredgecolor": INK}
        style |= {"linestyle": "", "capsize": 5, "elinewidth": 2.2}
        axes.errorbar(positions, values, yerr=errors, label=label, **style)
    labels = [r if isinstance(r, str) else f"r = {r}" for r in (row["reduction"] for row in rows)]
    names = [f"{label}\n{row['parameters']:,}" for label, row in zip(labels, rows, strict=True)]
    axes.set_xticks(range(len(rows)), names)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    tidy(axes, "reduction (parameters below)", "AUC, mean over seeds")
    finish(figure, path, axes.get_legend_handles_labels()[0], [caption])


def measure_of(run: Mapping[str, Any]) -> str:
    """The measure of a run's task, as the history names it: ``accuracy`` or ``auc``."""
    return "accuracy" if "threshold" in run else "auc"


def _title(what: str, runs: Sequence[Mapping[str, Any]]) -> str:
    first = runs[0]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    return (
        f"{what}\n{first['data']['source']} · train n = {first['train']['n']:,}, "
        f"val n = {first['val']['n']:,} · {first['recipe']['image_size']} px · recipe "
        f"{first['recipe_name']} · {'seeds' if len(runs) > 1 else 'seed'} {seeds}"
    )


def _epochs(runs: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    """(seeds, epochs) of a column, accuracies in percent; NaN where a run had stopped."""
    scale = 100 if column.endswith("accuracy") else 1
    lengths = [len(run["history"]["epoch"]) for run in runs]
    values = np.full((len(runs), max(lengths)), np.nan)
    for row, (run, length) in enumerate(zip(runs, lengths, strict=True)):
        values[row, :length] = scale * np.array(run["history"][column])
    return values


def _draw_splits(axes: Axes, runs: Sequence[Mapping[str, Any]], key: str) -> None:
    if key != "auc":
        _band(axes, _epochs(runs, f"train_{key}"), (ORANGE, (0, (4, 1.2)), ""), "training")
    _band(axes, _epochs(runs, f"val_{key}"), (BLUE, "-", ""), "validation")
    for number, run in enumerate(runs):
        label = "best epoch" + (" of each seed" if len(runs) > 1 else "")
        style = {"color": GREY, "linewidth": 1.2, "linestyle": ":", "zorder": 1.5}
        axes.axvline(run["best_epoch"], label=None if number else label, **style)
    _goal(axes, key)


def _goal(axes: Axes, key: str) -> None:
    if key == "accuracy":
        style = {"color": INK, "linestyle": "--", "linewidth": 1.2, "zorder": 1}
        axes.axhline(GOAL_PERCENT, label=f"{GOAL_PERCENT} % goal", **style)


def _band(axes: Axes, values: np.ndarray, look: tuple, label: str, alpha: float = 0.15) -> None:
    """The mean over rows as a line, and the range from the lowest to the highest as an area."""
    color, line, marker = look
    known = np.isfinite(values).any(0)
    positions = np.arange(1, values.shape[1] + 1)[known]
    values = values[:, known]
    if len(values) > 1:
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        axes.fill_between(positions, low, high, color=color, alpha=alpha, linewidth=0)
    style = {"color": color, "linestyle": line, "marker": marker, "linewidth": 1.9}
    size = 5 if len(positions) <= 35 else 0
    axes.plot(positions, np.nanmean(values, axis=0), label=label, markersize=size, **style)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
