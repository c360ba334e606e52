"""The pictures of the 34-layer family: training curves, gradients, silent units, ablation of SE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from chestlab.reporting.style import (
    BLUE,
    GOAL_PERCENT,
    GREEN,
    GREY,
    INK,
    NORMAL,
    ORANGE,
    SMALL,
    VERMILLION,
    save_figure,
    tidy,
    titled_figure,
    wrapped,
)

PURPLE = "#CC79A7"  # of the Okabe-Ito palette, too

LOOKS = (  # colour, line style, marker: each alone tells two networks apart
    (VERMILLION, "-", "o"),
    (BLUE, "-", "s"),
    (GREEN, "--", "^"),
    (ORANGE, "-.", "D"),
    (PURPLE, (0, (1, 1)), "v"),
    (INK, (0, (5, 1, 1, 1)), "P"),
)

RANGE = "Line: mean over seeds; area: from the lowest to the highest."

Runs = Mapping[
    str, Sequence[Mapping[str, Any]]
]  # name of the network to `stored_runs.read_run` of each


def draw_side_by_side(runs: Runs, path: Path) -> None:
    """Draw loss (above) and accuracy or AUC (below), a column per network on the same scales.

    Args:
        runs: one or more per network; the lines are means over them, the areas reach from the
            lowest to the highest.
        path: PNG to write; its folder must exist.
    """
    first = next(iter(runs.values()))
    figure = titled_figure(_title(" and ".join(runs), first), body_height=6.4)
    panels = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
    measure, label = measure_of(first[0])
    for column, (name, of_name) in enumerate(runs.items()):
        for row, key in enumerate(("loss", measure)):
            _draw_splits(panels[row, column], of_name, key)
            ylabel = ("loss", label)[row] if column == 0 else ""
            tidy(panels[row, column], "epoch" if row else "", ylabel)
        panels[0, column].set_title(name, fontsize=NORMAL, color=INK, pad=8)
    legend(figure, panels[1, 0], RANGE if len(first) > 1 else "")
    save_figure(figure, path)


def draw_curve(name: str, runs: Sequence[Mapping[str, Any]], key: str, path: Path) -> None:
    """Draw training and validation of one network over the epochs, mean and range over seeds.

    Args:
        name: of the network.
        runs: as of `stored_runs.read_run`.
        key: ``loss``, ``accuracy`` or ``auc``; of the last there is no training curve.
        path: PNG to write; its folder must exist.
    """
    figure = titled_figure(_title(name, runs), body_height=4.4)
    axes = figure.subplots()
    _draw_splits(axes, runs, key)
    tidy(axes, "epoch", "loss" if key == "loss" else measure_of(runs[0])[1])
    legend(figure, axes, RANGE if len(runs) > 1 else "")
    save_figure(figure, path)


def draw_overlay(runs: Runs, path: Path) -> None:
    """Draw the validation curves of all networks, mean and range over seeds.

    Args:
        runs: at most as many networks as there are `LOOKS`.
        path: PNG to write; its folder must exist.
    """
    first = next(iter(runs.values()))
    measure, label = measure_of(first[0])
    figure = titled_figure(_title("Validation", first), body_height=5.2)
    panels = figure.subplots(1, 2)
    for axes, key, ylabel in zip(
        panels, ("loss", measure), ("validation loss", label), strict=True
    ):
        for (name, of_name), look in zip(runs.items(), LOOKS, strict=False):
            _band(axes, _epochs(of_name, f"val_{key}"), look, name, alpha=0.08)
        _goal(axes, key)
        tidy(axes, "epoch", ylabel)
    legend(figure, panels[1], RANGE if len(first) > 1 else "")
    save_figure(figure, path)


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
        title: wrapped to the width of the picture.
        caption: says what was measured.
    """
    figure = titled_figure(title, body_height=4.9)
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
    legend(figure, panels[0], caption)
    save_figure(figure, path)


def draw_silent_units(
    shares: Mapping[str, Sequence[Mapping[str, float]]], path: Path, *, title: str, caption: str
) -> None:
    """Draw the share of silent units over the depth, a line per network.

    Args:
        shares: network to one mapping of layer to share per seed.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        caption: says what silent means.
    """
    figure = titled_figure(title, body_height=4.4)
    axes = figure.subplots()
    for (name, seeds), look in zip(shares.items(), LOOKS, strict=False):
        _band(axes, 100 * np.array([list(layers.values()) for layers in seeds]), look, name)
    axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])
    tidy(axes, "activation layer, from the input", "silent units (%)")
    legend(figure, axes, caption)
    save_figure(figure, path)


def draw_ablation(
    points: Sequence[tuple[str, int, Mapping[str, Any]]], path: Path, *, title: str, caption: str
) -> None:
    """Draw AUC over parameters with 95 % intervals, validation and test.

    Args:
        points: label, parameters, and the `verdicts.Estimate` of ``val`` and of ``test``.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        caption: says what the bars are.
    """
    figure = titled_figure(title, body_height=4.6)
    axes = figure.subplots()
    for split, label, shift, color, marker in (
        ("val", "validation (as selected)", -1, BLUE, "s"),
        ("test", "test (held out)", 1, ORANGE, "o"),
    ):
        of_split = [estimates[split] for _, _, estimates in points]
        positions = np.arange(len(points)) + 0.08 * shift
        values = np.array([estimate.value for estimate in of_split])
        low, high = ([getattr(e, end) for e in of_split] for end in ("low", "high"))
        errors = [values - low, high - values]
        style = {"color": color, "marker": marker, "markersize": 8, "markeredgecolor": INK}
        style |= {"linestyle": "", "capsize": 5, "elinewidth": 2.2}
        axes.errorbar(positions, values, yerr=errors, label=label, **style)
    names = [f"{label}\n{parameters:,}" for label, parameters, _ in points]
    axes.set_xticks(range(len(points)), names)
    axes.set_xlim(-0.5, len(points) - 0.5)
    tidy(axes, "parameters", "AUC, mean over seeds")
    legend(figure, axes, caption)
    save_figure(figure, path)


def measure_of(run: Mapping[str, Any]) -> tuple[str, str]:
    """The measure of a run's task: its name in the history, and the label of its axis."""
    if "threshold" in run:
        return "accuracy", "accuracy at 0.5 (%)"
    return "auc", "validation mean AUC x 100"


def _title(what: str, runs: Sequence[Mapping[str, Any]]) -> str:
    first = runs[0]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    return (
        f"{what}, {'seeds' if len(runs) > 1 else 'seed'} {seeds}, "
        f"{first['recipe']['image_size']} px, recipe {first['recipe_name']}\n"
        f"{first['data']['source']} · train n = {first['train']['n']}, val n = {first['val']['n']}"
    )


def _epochs(runs: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    """(seeds, epochs) of a column, in percent but for losses; NaN where a run had stopped."""
    scale = 1 if column.endswith("loss") else 100
    lengths = [len(run["history"]["epoch"]) for run in runs]
    values = np.full((len(runs), max(lengths)), np.nan)
    for row, (run, length) in enumerate(zip(runs, lengths, strict=True)):
        values[row, :length] = scale * np.array(run["history"][column])
    return values


def _draw_splits(axes: Axes, runs: Sequence[Mapping[str, Any]], key: str) -> None:
    if key != "auc":
        _band(axes, _epochs(runs, f"train_{key}"), (ORANGE, "-", "o"), "training")
    _band(axes, _epochs(runs, f"val_{key}"), (BLUE, "-", "s"), "validation")
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


def legend(figure: Figure, axes: Axes, caption: str = "") -> None:
    """Put a figure's legend below its panels, with the caption as the legend's title.

    Args:
        figure: gets the legend.
        axes: whose labelled artists it names.
        caption: wrapped to the width of the figure; may be empty.
    """
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 3, "handlelength": 3.4}
    style = {"fontsize": SMALL + 0.5, "title_fontsize": SMALL, "frameon": False}
    text = wrapped(figure, caption, SMALL) if caption else None
    legend = figure.legend(handles, labels, title=text, **place, **style)
    legend.get_title().set(multialignment="center", parse_math=False)
