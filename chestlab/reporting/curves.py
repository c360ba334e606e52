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
    tidy,
    titled_figure,
)

TRAIN: dict[str, Any] = {"color": ORANGE, "marker": "o", "linewidth": 1.6}

VAL: dict[str, Any] = {"color": BLUE, "marker": "s", "linewidth": 2.2}

AUC: dict[str, Any] = {"color": INK, "marker": "d", "linewidth": 1.1, "linestyle": "-."}

STAGE_CHANGE: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1.6}

RING: dict[str, Any] = {  # around the epoch whose weights were kept
    "marker": "o",
    "markersize": 14,
    "markerfacecolor": "none",
    "markeredgewidth": 2,
    "color": VERMILLION,
    "linewidth": 1.2,
    "zorder": 4,
}


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
        measure: of the right panel: ``accuracy``, or another name for the AUC, which is then
            alone: with 14 findings nearly every answer is a correct no.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = titled_figure(title, body_height=4.4)
    loss_axes, score_axes = figure.subplots(1, 2)
    epochs = [int(entry["epoch"]) for entry in history]
    losses = {split: _values(history, f"{split}_loss") for split in ("train", "val")}
    keys = ["train_accuracy", "val_accuracy", "val_auc"] if measure == "accuracy" else ["val_auc"]
    scores = {key: 100 * _values(history, key) for key in keys}
    handles = _plot_lines(loss_axes, score_axes, epochs, losses, scores)
    spikes = _limit_loss(loss_axes, epochs, {ORANGE: losses["train"], BLUE: losses["val"]})
    _limit_score(score_axes, scores)
    changes = [epoch for epoch in stage_changes if min(epochs, default=1) < epoch]
    changes = [epoch for epoch in changes if epoch <= max(epochs, default=1)]
    score_label = "accuracy (%)" if measure == "accuracy" else f"{measure} x 100"
    _finish_axes(loss_axes, epochs, changes, "loss")
    _finish_axes(score_axes, epochs, changes, score_label)
    if not epochs:
        loss_axes.set_title("no finished epoch", fontsize=NORMAL, color=INK, pad=10)
    if best_epoch in epochs:
        best = epochs.index(best_epoch)
        curves = {
            loss_axes: losses["val"],
            score_axes: scores.get("val_accuracy", scores["val_auc"]),
        }
        texts = [
            f"val loss {number(losses['val'][best], '.3f')}",
            _score_text(scores, best, measure),
        ]
        for (axes, values), text in zip(curves.items(), texts, strict=True):
            _mark_kept_epoch(axes, best_epoch, values[best], f"{kept} epoch {best_epoch}: {text}")
        handles.append(Line2D([], [], label=f"{kept} epoch", **RING))
    missing = int(np.isnan(np.concatenate(list(losses.values()))).sum())
    handles += _notes(changes, spikes, missing)
    for line in (*loss_axes.lines, *score_axes.lines):
        line.set_in_layout(False)  # a line without points would claim the figure's corner
    legend = {"loc": "outside lower center", "ncols": 3, "fontsize": SMALL + 0.5, "frameon": False}
    figure.legend(handles=handles, handlelength=2.8, **legend)
    save_figure(figure, path)


def _values(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """(epochs,) of a column of the history; NaN where there is no finite value."""
    values = [np.nan if entry.get(key) is None else entry[key] for entry in history]
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _plot_lines(
    loss_axes: Axes,
    score_axes: Axes,
    epochs: Sequence[int],
    losses: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
) -> list[Line2D]:
    """Draw the curves of both panels and return their handles for the legend."""
    # a single epoch has no line, and many markers would hide the line
    size: dict[str, Any] = {"markersize": 5 if len(epochs) <= 25 else 0}
    loss_axes.plot(epochs, losses["train"], **TRAIN, **size)
    loss_axes.plot(epochs, losses["val"], **VAL, **size)
    if "train_accuracy" not in scores:
        score_axes.plot(epochs, scores["val_auc"], **VAL, **size)
        looks = {"training": TRAIN, "validation": VAL}
        return [Line2D([], [], label=label, **look, **size) for label, look in looks.items()]
    return [
        *score_axes.plot(epochs, scores["train_accuracy"], label="training", **TRAIN, **size),
        *score_axes.plot(epochs, scores["val_accuracy"], label="validation", **VAL, **size),
        *score_axes.plot(epochs, scores["val_auc"], label="validation AUC x 100", **AUC, **size),
    ]


def _limit_score(axes: Axes, scores: Mapping[str, np.ndarray]) -> None:
    """Set the y range, in percent, and draw the goal where the scores are accuracies."""
    values = np.concatenate(list(scores.values()))
    lowest = np.nanmin(values) if np.isfinite(values).any() else 50
    axes.set_ylim(max(-1, 5 * math.floor(lowest / 5) - 2), 101)
    if "val_accuracy" in scores:
        axes.axhline(GOAL_PERCENT, color=GREY, linestyle="--", linewidth=1.4, zorder=1)
        beside = {"xycoords": ("axes fraction", "data"), "va": "center", "color": INK}
        axes.annotate(f"{GOAL_PERCENT} % goal", (1.02, GOAL_PERCENT), fontsize=SMALL, **beside)


def _finish_axes(axes: Axes, epochs: Sequence[int], changes: Sequence[int], ylabel: str) -> None:
    for epoch in changes:
        axes.axvline(epoch - 0.5, zorder=1, **STAGE_CHANGE)
    axes.set_xlim(min(epochs, default=1) - 0.6, max(epochs, default=1) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    tidy(axes, "epoch", ylabel)


def _score_text(scores: Mapping[str, np.ndarray], row: int, measure: str) -> str:
    """The validation scores of one epoch in words."""
    auc = number(scores["val_auc"][row] / 100, ".3f")
    if "val_accuracy" not in scores:
        return f"{measure} {auc}"
    return f"val {number(scores['val_accuracy'][row], '.1f')} % at 0.5, AUC {auc}, single pass"


def _mark_kept_epoch(axes: Axes, epoch: int, value: float, heading: str) -> None:
    axes.axvline(epoch, color=VERMILLION, linewidth=1.2, zorder=1.5)
    axes.plot(epoch, min(value, axes.get_ylim()[1]), clip_on=False, **RING)
    axes.set_title(heading, fontsize=NORMAL, color=INK, pad=10)


def _notes(changes: Sequence[int], spikes: Sequence[float], missing: int) -> list[Line2D]:
    """Lines of the legend on stage changes, on losses above the axis and on missing ones."""
    handles = []
    if changes:
        label = "stage change (epoch " + ", ".join(map(str, changes[:3]))
        label += ", ...)" if len(changes) > 3 else ")"
        handles.append(Line2D([], [], label=label, **STAGE_CHANGE))
    if spikes:
        label = f"loss above the axis (up to {max(spikes):.3g})"
        triangle = {"marker": "^", "markersize": 8, "color": "white", "markeredgecolor": INK}
        handles.append(Line2D([], [], linestyle="", label=label, **triangle))
    if missing:
        handles.append(Line2D([], [], linestyle="", label=f"losses not finite: {missing}"))
    return handles


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
