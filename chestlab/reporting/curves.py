"""Curves over the epochs of a run, and over rising learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from chestlab.reporting.style import (
    BLUE,
    GOAL_PERCENT,
    GREY,
    INK,
    NORMAL,
    ORANGE,
    SMALL,
    VERMILLION,
    number,
    save_figure,
    series_color,
    tidy,
    titled_figure,
)


def draw_training_curves(
    history: Sequence[Mapping[str, Any]],
    path: Path | str,
    *,
    title: str,
    best_epoch: int | None = None,
    kept: str = "best",
    stage_changes: Sequence[int] = (),
    measure: str = "accuracy",
) -> None:
    """Draw loss (left) and accuracy with the validation AUC (right) over the epochs.

    Losses far above the rest are shown as triangles at the upper edge and named in the legend.

    Args:
        history: one mapping per finished epoch with ``epoch``, ``train_loss``, ``val_loss``,
            ``train_accuracy``, ``val_accuracy`` and ``val_auc`` (the last three in 0..1); missing,
            None and non-finite values are left out. May be empty.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        best_epoch: epoch whose weights were kept, if any.
        kept: why: ``best``, or ``last`` where nothing was chosen.
        stage_changes: first epoch of every later training stage.
        measure: what is right: ``accuracy``, or another name for the AUC, which is then alone:
            with 14 findings nearly every answer is a right no.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = titled_figure(title, body_height=4.4)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = [int(entry["epoch"]) for entry in history]
    train_loss, val_loss = series_color(history, "train_loss"), series_color(history, "val_loss")
    auc_percent = 100 * series_color(history, "val_auc")
    accurate = measure == "accuracy"
    train_percent = 100 * series_color(history, "train_accuracy") if accurate else auc_percent
    val_percent = 100 * series_color(history, "val_accuracy") if accurate else auc_percent
    # a single epoch has no line, and many markers would hide the line
    size = 5 if len(epochs) <= 25 else 0
    train = {"color": ORANGE, "marker": "o", "linewidth": 1.6, "markersize": size}
    val = {"color": BLUE, "marker": "s", "linewidth": 2.2, "markersize": size}
    auc = {"color": INK, "marker": "d", "linewidth": 1.1, "markersize": size, "linestyle": "-."}
    loss_axes.plot(epochs, train_loss, **train)
    loss_axes.plot(epochs, val_loss, **val)
    if accurate:
        accuracy_axes.plot(epochs, train_percent, label="training", **train)
        accuracy_axes.plot(epochs, val_percent, label="validation", **val)
        accuracy_axes.plot(epochs, auc_percent, label="validation AUC x 100", **auc)
        handles = accuracy_axes.get_legend_handles_labels()[0]
    else:
        accuracy_axes.plot(epochs, auc_percent, **val)
        handles = [Line2D([], [], label="training", **train)]
        handles.append(Line2D([], [], label="validation", **val))

    spikes = _limit_loss(loss_axes, epochs, {ORANGE: train_loss, BLUE: val_loss})
    seen = np.concatenate([train_percent, val_percent, auc_percent])
    lowest = np.nanmin(seen) if np.isfinite(seen).any() else 50
    accuracy_axes.set_ylim(max(-1, 5 * math.floor(lowest / 5) - 2), 101)
    if accurate:
        accuracy_axes.axhline(GOAL_PERCENT, color=GREY, linestyle="--", linewidth=1.4, zorder=1)
        beside = {"xycoords": ("axes fraction", "data"), "va": "center", "color": INK}
        text = f"{GOAL_PERCENT} % goal"
        accuracy_axes.annotate(text, (1.02, GOAL_PERCENT), fontsize=SMALL, **beside)

    first, last = min(epochs, default=1), max(epochs, default=1)
    changes = [epoch for epoch in stage_changes if first < epoch <= last]
    right_label = "accuracy (%)" if accurate else f"{measure} x 100"
    for axes, ylabel in ((loss_axes, "loss"), (accuracy_axes, right_label)):
        for epoch in changes:
            axes.axvline(epoch - 0.5, color=GREY, linestyle=":", linewidth=1.6, zorder=1)
        axes.set_xlim(first - 0.6, last + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        tidy(axes, "epoch", ylabel)
    if not epochs:
        loss_axes.set_title("no finished epoch", fontsize=NORMAL, color=INK, pad=10)
    if best_epoch in epochs:
        best = epochs.index(best_epoch)
        ring = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 2}
        ring |= {"color": VERMILLION, "linewidth": 1.2, "zorder": 4}
        auc_text = f"{measure} {number(auc_percent[best] / 100, '.3f')}"
        if accurate:
            auc_text = f"val {number(val_percent[best], '.1f')} %, AUC {auc_text.split()[-1]}"
        for axes, values, text in (
            (loss_axes, val_loss, f"val loss {number(val_loss[best], '.3f')}"),
            (accuracy_axes, val_percent, auc_text),
        ):
            axes.axvline(best_epoch, color=VERMILLION, linewidth=1.2, zorder=1.5)
            axes.plot(best_epoch, min(values[best], axes.get_ylim()[1]), clip_on=False, **ring)
            axes.set_title(f"{kept} epoch {best_epoch}: {text}", fontsize=NORMAL, color=INK, pad=10)
        handles.append(Line2D([], [], label=f"{kept} epoch", **ring))
    if changes:
        label = "stage change (epoch " + ", ".join(map(str, changes[:3]))
        label += ", ...)" if len(changes) > 3 else ")"
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.6, label=label))
    if spikes:
        label = f"loss above the axis (up to {max(spikes):.3g})"
        triangle = {"marker": "^", "markersize": 8, "color": "white", "markeredgecolor": INK}
        handles.append(Line2D([], [], linestyle="", label=label, **triangle))
    missing = int(np.isnan(np.concatenate([train_loss, val_loss])).sum())
    if missing:
        label = f"losses not finite: {missing}"
        handles.append(Line2D([], [], linestyle="", label=label))
    for line in (*loss_axes.lines, *accuracy_axes.lines):
        line.set_in_layout(False)  # a line without points would claim the figure's corner
    legend = {"loc": "outside lower center", "ncols": 3, "fontsize": SMALL + 0.5, "frameon": False}
    figure.legend(handles=handles, handlelength=2.8, **legend)
    save_figure(figure, path)


def draw_lr_finder(
    rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    suggestion: float,
    path: Path | str,
    *,
    title: str,
) -> None:
    """Draw the training loss over a rising learning rate, and the rate that it suggests.

    Args:
        rates: (N,) learning rates, rising.
        losses: (N,) of single steps.
        smoothed: (N,) running means of these.
        suggestion: learning rate.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = titled_figure(title, body_height=4.2)
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color=GREY, markersize=4, label="one step")
    axes.plot(rates, smoothed, color=BLUE, linewidth=2.2, label="running mean")
    axes.axvline(
        suggestion,
        color=VERMILLION,
        linestyle="--",
        linewidth=1.6,
        label=f"steepest fall: {suggestion:.2g}",
    )
    axes.set_xscale("log")
    low, high = smoothed.min(), np.percentile(smoothed, 90)
    margin = max(0.5 * (high - low), 0.05)
    axes.set_ylim(max(0, low - margin), high + 2 * margin)
    tidy(axes, "learning rate", "training loss")
    figure.legend(loc="outside lower center", ncols=3, fontsize=SMALL + 0.5, frameon=False)
    save_figure(figure, path)


def _limit_loss(axes: Axes, epochs: Sequence[int], losses: Mapping[str, np.ndarray]) -> list[float]:
    """Keep spikes out of the y range, mark them at its upper edge and return their values."""
    values = np.concatenate(list(losses.values()))
    values = values[np.isfinite(values)]
    if not values.size:
        return []
    usual = np.percentile(values, 80, method="lower")
    ceiling = 4 * usual if values.size >= 4 and usual > 0 else np.inf
    low, high = values.min(), values[values <= ceiling].max()
    margin = max(0.06 * (high - low), 0.03 * abs(high), 1e-6)
    axes.set_ylim(low - margin, high + margin)
    for color, series in losses.items():
        above = [epoch for epoch, value in zip(epochs, series, strict=True) if value > ceiling]
        top = [high + margin] * len(above)
        axes.plot(above, top, "^", color=color, markeredgecolor=INK, markersize=8, clip_on=False)
    return values[values > ceiling].tolist()
