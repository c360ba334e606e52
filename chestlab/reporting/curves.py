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

from chestlab.reporting.numbers import number, readable_number
from chestlab.reporting.style import (
    BLUE,
    GOAL_PERCENT,
    GREY,
    INK,
    NORMAL,
    ORANGE,
    VERMILLION,
    finish,
    tidy,
    titled_figure,
)

LOOKS: dict[str, dict[str, Any]] = {
    "train": {"color": ORANGE, "marker": "o", "linestyle": (0, (4, 1.2))},
    "val": {"color": BLUE, "marker": "s", "linestyle": "-"},
}

STAGE_CHANGE: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1.6}

GOAL_LINE: dict[str, Any] = {"color": INK, "linestyle": (0, (6, 3)), "linewidth": 1.3}

RING: dict[str, Any] = {  # around the epoch whose weights were kept
    "marker": "o",
    "markersize": 13,
    "markerfacecolor": "none",
    "markeredgewidth": 2,
    "color": VERMILLION,
    "linewidth": 1.2,
    "zorder": 4,
}

FEW_EPOCHS = 10  # fewer are drawn as they are: a mean would hide what there is


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
    """Draw loss, accuracy and AUC over the epochs: each epoch pale, their running mean strong.

    Losses far above the rest are shown as triangles at the upper edge and named in the legend.

    Args:
        history: one mapping per finished epoch with ``epoch``, ``train_loss``, ``val_loss``,
            ``train_accuracy``, ``val_accuracy`` and ``val_auc`` (the last three in 0..1); missing,
            None and non-finite values are left out. May be empty.
        path: PNG to write; its folder must exist.
        title: of what run on which data; a heading with the figures is put before it.
        best_epoch: epoch whose weights were kept, if any.
        kept: why: ``best``, or ``last`` where nothing was chosen.
        stage_changes: first epoch of every later training stage.
        measure: ``accuracy``, or another name for the AUC, which is then drawn without the
            accuracy: with 14 findings nearly every answer is a correct no.

    Raises:
        OSError: ``path`` cannot be written.
    """
    epochs = [int(entry["epoch"]) for entry in history]
    row = epochs.index(best_epoch) if best_epoch in epochs else None
    panels = {"loss": "loss", "accuracy": "accuracy at 0.5 (%)", "auc": "AUC"}
    if measure != "accuracy":
        panels = {"loss": "loss", "auc": measure}
    values = {
        f"{split}_{key}": (100 if key == "accuracy" else 1) * _values(history, f"{split}_{key}")
        for key in panels
        for split in LOOKS
        if (split, key) != ("train", "auc")
    }
    heading = _heading(values, row, len(epochs), kept, measure)
    figure = titled_figure(f"{heading}\n{title}", body_height=3.5)
    changes = [epoch for epoch in stage_changes if min(epochs, default=1) < epoch]
    changes = [epoch for epoch in changes if epoch <= max(epochs, default=1)]
    starts = [epochs.index(epoch) for epoch in changes]
    spikes: list[float] = []
    for axes, (key, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        curves = {split: values[f"{split}_{key}"] for split in LOOKS if f"{split}_{key}" in values}
        spikes += _draw_panel(axes, epochs, curves, key, starts)
        if row is not None:
            _mark_kept_epoch(axes, epochs[row], values[f"val_{key}"][row], key)
        tidy(axes, "epoch", label)
        for line in axes.lines:
            line.set_in_layout(False)  # a line without points would claim the figure's corner
    window = smoothing_window(len(epochs))
    smoothed = f"Pale: each epoch. Strong: mean of {window} epochs around it."
    handles = _handles(values, row, kept, changes, spikes, len(epochs))
    finish(figure, path, handles, [smoothed if window > 1 else ""], columns=4)


def _draw_panel(
    axes: Axes,
    epochs: Sequence[int],
    curves: Mapping[str, np.ndarray],
    key: str,
    starts: Sequence[int],
) -> list[float]:
    """Draw the curves of one measure, with the goal and the starts of later stages.

    Args:
        axes: of the panel.
        epochs: (N,) numbers of the epochs.
        curves: (N,) values by split.
        key: ``loss``, ``accuracy`` (in percent) or ``auc``.
        starts: rows at which a later stage starts, rising.

    Returns:
        losses above the axis.
    """
    spikes: list[float] = []
    if key == "loss":
        spikes = _limit_loss(axes, epochs, curves)
        top = axes.get_ylim()[1]
        curves = {split: np.where(v > top, np.nan, v) for split, v in curves.items()}
    else:
        _limit_score(axes, curves, 100 if key == "accuracy" else 1)
    for split, raw in curves.items():
        smoothed = running_mean(raw, smoothing_window(len(epochs)), starts)
        _draw_curve(axes, epochs, raw, smoothed, split)
    if key == "accuracy":
        axes.axhline(GOAL_PERCENT, zorder=1, **GOAL_LINE)
    for start in starts:
        axes.axvline(epochs[start] - 0.5, zorder=1, **STAGE_CHANGE)
    axes.set_xlim(min(epochs, default=1) - 0.6, max(epochs, default=1) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    return spikes


def smoothing_window(epochs: int) -> int:
    """Epochs whose mean is drawn: an odd number, 1 (no smoothing) of fewer than `FEW_EPOCHS`."""
    return 1 if epochs < FEW_EPOCHS else max(5, epochs // 12 // 2 * 2 + 1)


def running_mean(values: np.ndarray, window: int, starts: Sequence[int] = ()) -> np.ndarray:
    """Centred means of up to ``window`` values, never over the start of another stage.

    Near an end the window shrinks on both sides, so that the first and last value stay.

    Args:
        values: (N,); those that are not finite are left out of the means.
        window: odd.
        starts: rows at which a stage starts, rising.

    Returns:
        (N,), NaN where the value is.
    """
    result = np.full(len(values), np.nan)
    bounds = [0, *starts, len(values)]
    for i in np.flatnonzero(np.isfinite(values)):
        low = max(bound for bound in bounds if bound <= i)
        high = min(bound for bound in bounds if bound > i)
        half = min(window // 2, i - low, high - 1 - i)
        result[i] = np.nanmean(values[i - half : i + half + 1])
    return result


def _values(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """(epochs,) of a column of the history; NaN where there is no finite value."""
    values = [np.nan if entry.get(key) is None else entry[key] for entry in history]
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _heading(
    values: Mapping[str, np.ndarray], row: int | None, epochs: int, kept: str, measure: str
) -> str:
    """What the curves say of the epoch that was kept."""
    if not epochs:
        return "Training curves: no finished epoch"
    if row is None:
        return f"Training curves of {epochs} epoch{'s' if epochs > 1 else ''}"
    auc = number(values["val_auc"][row], ".3f")
    figures, passed = f"{measure} {auc}", "single pass"
    if "val_accuracy" in values:
        figures = f"accuracy {number(values['val_accuracy'][row], '.1f')} %, AUC {auc}"
        passed = "single pass, at 0.5"
    return f"Validation {figures} ({passed}) at the {kept} epoch, {row + 1} of {epochs}"


def _draw_curve(
    axes: Axes, epochs: Sequence[int], raw: np.ndarray, smoothed: np.ndarray, split: str
) -> None:
    """One curve: every epoch pale, the running mean strong; few epochs with markers."""
    look = LOOKS[split]
    if len(epochs) < FEW_EPOCHS:
        axes.plot(epochs, raw, markersize=5, linewidth=2, **look)
        return
    axes.plot(epochs, raw, color=look["color"], linewidth=1, alpha=0.45)
    axes.plot(epochs, smoothed, color=look["color"], linestyle=look["linestyle"], linewidth=2.2)


def _limit_score(axes: Axes, curves: Mapping[str, np.ndarray], top: float) -> None:
    """Set the y range of a score of at most ``top``, with the goal in it."""
    known = np.concatenate(list(curves.values()))
    known = known[np.isfinite(known)]
    step = top / 20
    lowest = step * math.floor(min(known.min(initial=0.5 * top), 0.85 * top) / step)
    axes.set_ylim(max(-0.01 * top, lowest - 0.4 * step), 1.015 * top)


def _mark_kept_epoch(axes: Axes, epoch: int, value: float, key: str) -> None:
    """Mark the epoch by a line and, where it has a value, a ring; the value is the heading."""
    axes.axvline(epoch, color=VERMILLION, linewidth=1.2, zorder=1.5)
    axes.plot(epoch, np.clip(value, *axes.get_ylim()), clip_on=False, **RING)
    shown = f"{number(value, '.1f')} %" if key == "accuracy" else number(value, ".3f")
    axes.set_title(f"epoch {epoch}: val {shown}", fontsize=NORMAL, color=INK, pad=8)


def _handles(
    values: Mapping[str, np.ndarray],
    row: int | None,
    kept: str,
    changes: Sequence[int],
    spikes: Sequence[float],
    epochs: int,
) -> list[Line2D]:
    """Entries of the legend; spikes and losses that are not finite are told there."""
    size = {"linewidth": 2.2, "markersize": 5 if epochs < FEW_EPOCHS else 0}
    names = {"train": "training", "val": "validation"}
    handles = [Line2D([], [], label=names[split], **LOOKS[split], **size) for split in LOOKS]
    if "val_accuracy" in values:
        handles.append(Line2D([], [], label=f"{GOAL_PERCENT} % goal", **GOAL_LINE))
    if row is not None:
        handles.append(Line2D([], [], label=f"{kept} epoch, kept", **RING))
    if changes:
        label = "stage change (epoch " + ", ".join(map(str, changes[:3]))
        label += ", ...)" if len(changes) > 3 else ")"
        handles.append(Line2D([], [], label=label, **STAGE_CHANGE))
    if spikes:
        label = f"loss above the axis (up to {readable_number(max(spikes))})"
        triangle = {"marker": "^", "markersize": 8, "color": "white", "markeredgecolor": INK}
        handles.append(Line2D([], [], linestyle="", label=label, **triangle))
    losses = np.concatenate([values["train_loss"], values["val_loss"]])
    if missing := int(np.isnan(losses).sum()):
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
    rate = readable_number(suggestion, 2)
    figure = titled_figure(f"Search for a learning rate: {rate} suggested\n{title}", 3.8)
    axes = figure.subplots()
    handles = [
        *axes.plot(rates, losses, ".", color=GREY, markersize=4, label="one step"),
        *axes.plot(rates, smoothed, color=BLUE, linewidth=2.2, label="running mean"),
        axes.axvline(
            suggestion,
            color=VERMILLION,
            linestyle="--",
            linewidth=1.6,
            label=f"steepest fall: {rate}",
        ),
    ]
    axes.set_xscale("log")
    low, high = smoothed.min(), np.percentile(smoothed, 90)
    margin = max(0.5 * (high - low), 0.05)
    axes.set_ylim(max(0, low - margin), high + 2 * margin)
    tidy(axes, "learning rate", "training loss")
    finish(figure, path, handles)


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
    for split, series in losses.items():
        color = LOOKS[split]["color"]
        above = [epoch for epoch, value in zip(epochs, series, strict=True) if value > ceiling]
        top = [high + margin] * len(above)
        axes.plot(above, top, "^", color=color, markeredgecolor=INK, markersize=8, clip_on=False)
    return values[values > ceiling].tolist()
