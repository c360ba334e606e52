"""Every picture, and the page that shows them all.

    python visualize.py                               # every run -> results/README.md
    python visualize.py --lang id                     # the same in Indonesian: README.id.md
    python visualize.py pair RUN RUN                  # two runs compared on the test images
    python visualize.py mistakes --data FILE.npz      # what the runs on these images got wrong
    python visualize.py names --data FILE.npz         # which image of the NIH each one is
    python visualize.py augmentation --data FILE.npz  # what experiment 2's random warps do

Every figure is drawn on its own ``Figure`` and Agg canvas, never through pyplot: no window system
is needed and no figure stays in memory. The same input gives the same bytes.
Colours are from the Okabe-Ito palette; line style, shape or text says the same thing again.
"""

from __future__ import annotations

import argparse
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from datareader import CLASS_NAMES, NIH_CREDIT, PHANTOM_MARK
from metrics import calibration
from notebook_cell import command_line, leave, show
from storage import InputError, OneLineParser, atomic_write, check_writable
from tasks import GOAL

GOAL_PERCENT = round(100 * GOAL)

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, GREY, PALE = "#222222", "#666666", "#E4E4E4"

WIDTH = 8.3  # inches; a code host shows about 830 px, so 10 pt text is about 14 px high there
DPI = 150
SMALL, NORMAL, LARGE = 9, 10.5, 22  # points
GRID_COLUMNS, GRID_IMAGES = 5, 20
GRADCAM_PAIRS, GRADCAM_COLORS = 3, "inferno"
KINDS = {"network": (BLUE, "o"), "ensemble": (VERMILLION, "D"), "yardstick": (GREY, "s")}
POINT = {"markersize": 13, "markeredgewidth": 1.6, "zorder": 3}
MAX_SIDE = 64  # px; larger images are averaged down, which keeps the picture under 300 kB


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
    figure = _titled_figure(title, body_height=4.4)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = [int(entry["epoch"]) for entry in history]
    train_loss, val_loss = _series(history, "train_loss"), _series(history, "val_loss")
    auc_percent = 100 * _series(history, "val_auc")
    accurate = measure == "accuracy"
    train_percent = 100 * _series(history, "train_accuracy") if accurate else auc_percent
    val_percent = 100 * _series(history, "val_accuracy") if accurate else auc_percent
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
        _tidy(axes, "epoch", ylabel)
    if not epochs:
        loss_axes.set_title("no finished epoch", fontsize=NORMAL, color=INK, pad=10)
    if best_epoch in epochs:
        best = epochs.index(best_epoch)
        ring = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 2}
        ring |= {"color": VERMILLION, "linewidth": 1.2, "zorder": 4}
        auc_text = f"{measure} {_number(auc_percent[best] / 100, '.3f')}"
        if accurate:
            auc_text = f"val {_number(val_percent[best], '.1f')} %, AUC {auc_text.split()[-1]}"
        for axes, values, text in (
            (loss_axes, val_loss, f"val loss {_number(val_loss[best], '.3f')}"),
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
    _save(figure, path)


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
    figure = _titled_figure(title, body_height=4.2)
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
    _tidy(axes, "learning rate", "training loss")
    figure.legend(loc="outside lower center", ncols=3, fontsize=SMALL + 0.5, frameon=False)
    _save(figure, path)


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


def draw_predictions(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    indices: np.ndarray,
    path: Path | str,
    *,
    threshold: float,
    title: str,
    credit: str,
    seed: int = 0,
) -> None:
    """Draw up to 20 random images with their true class, predicted class and confidence.

    Args:
        images: (N, H, W) uint8, N at least 1.
        labels: (N,) class indices, 0 or 1.
        probabilities: (N,) probability of class 1.
        indices: (N,) number of each image in its data file.
        path: PNG to write; its folder must exist.
        threshold: class 1 is predicted when its probability is at least this.
        title: wrapped to the width of the picture.
        credit: source of the images, printed at the bottom; may be empty.
        seed: chooses the images.

    Raises:
        ValueError: there is no image, or the lengths differ.
        OSError: ``path`` cannot be written.
    """
    lengths = [len(values) for values in (images, labels, probabilities, indices)]
    if min(lengths) == 0 or len(set(lengths)) > 1:
        raise ValueError(
            f"images, labels, probabilities and indices have lengths {lengths}: "
            "they must be equal and at least 1"
        )
    shown = min(len(images), GRID_IMAGES)
    chosen = np.sort(np.random.default_rng(seed).choice(len(images), size=shown, replace=False))
    rows = math.ceil(shown / GRID_COLUMNS)
    figure = _titled_figure(title, body_height=2.45 * rows + 0.8)
    figure.get_layout_engine().set(hspace=0.06)
    grid = figure.subplots(rows, GRID_COLUMNS, squeeze=False).ravel()
    right = 0
    for axes, number in zip(grid, chosen, strict=False):
        case = images[number], labels[number], probabilities[number], indices[number]
        right += _draw_case(axes, *case, threshold)
    for axes in grid[shown:]:
        axes.set_axis_off()
    notes = (
        f"Shown: {right} right, {shown - right} wrong. "
        "Confidence is the probability of the predicted class.",
        f"{CLASS_NAMES[1].capitalize()} is predicted when its probability is at least "
        f"{threshold:.3g}.",
        credit,
    )
    text = "\n".join(_wrapped(figure, note, SMALL) for note in notes if note)
    figure.supxlabel(text, fontsize=SMALL, color=INK, parse_math=False)
    _save(figure, path)


def _draw_case(
    axes: Axes, image: np.ndarray, label: int, probability: float, index: int, threshold: float
) -> bool:
    """One image (H, W) framed by whether its prediction is right, which is returned."""
    predicted = int(probability >= threshold)
    confidence = probability if predicted else 1 - probability
    correct = predicted == label
    mark, color, dashes = "✓ right", GREEN, "-"
    if not correct:
        mark, color, dashes = "✗ WRONG", VERMILLION, (0, (1.6, 0.8))
    axes.imshow(_reduced(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=color, linewidth=4, linestyle=dashes, capstyle="butt")
    axes.set_title(mark, fontsize=NORMAL, color=color, weight="bold", pad=5)
    text = (
        f"true: {CLASS_NAMES[int(label)]}\npred: {CLASS_NAMES[predicted]}\n"
        f"confidence {_number(100 * confidence, '.1f')} %\nindex {index}"
    )
    axes.set_xlabel(text, fontsize=SMALL, color=INK, labelpad=5)
    return bool(correct)


def draw_mistakes(
    groups: Mapping[str, Sequence[tuple[np.ndarray, int, float, int]]],
    path: Path | str,
    *,
    threshold: float,
    title: str,
    notes: Sequence[str] = (),
) -> None:
    """Draw a row of up to five images for every group.

    Args:
        groups: heading to cases (image (H, W) uint8, label, probability of class 1, index).
        path: PNG to write; its folder must exist.
        threshold: class 1 is predicted when its probability is at least this.
        title: wrapped to the width of the picture.
        notes: lines at the bottom.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = _titled_figure(title, body_height=2.85 * len(groups) + 0.1)
    text = "\n".join(_wrapped(figure, note, SMALL) for note in notes)
    figure.set_figheight(figure.get_figheight() + 0.17 * len(text.splitlines()))
    figure.get_layout_engine().set(hspace=0.03)
    bands = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for band, (heading, cases) in zip(bands, groups.items(), strict=True):
        band.suptitle(heading, fontsize=NORMAL + 1, weight="bold", color=INK)
        tiles = band.subplots(1, GRID_COLUMNS)
        for axes, case in zip(tiles, cases, strict=False):
            _draw_case(axes, *case, threshold)
        for axes in tiles[len(cases) :]:
            axes.set_axis_off()
    figure.supxlabel(text, fontsize=SMALL, color=INK, parse_math=False)
    _save(figure, path)


def draw_evaluation(
    folder: Path,
    splits: Mapping[str, tuple[np.ndarray, np.ndarray, Mapping[str, Any]]],
    *,
    title: str,
    threshold: float,
) -> None:
    """Draw what any set of probabilities gets: confusion matrices, ROC curves and calibration.

    Args:
        folder: gets ``confusion_matrix.png``, ``roc_curve.png`` and ``calibration.png``.
        splits: title of one or two splits to labels (N,), probabilities (N,) of class 1 and the
            figures of `metrics.evaluate`.
        title: wrapped to the width of the pictures.
        threshold: class 1 is predicted when its probability is at least this.

    Raises:
        OSError: a picture cannot be written.
    """
    draw_confusion_matrix(
        {name: figures["confusion"] for name, (_, _, figures) in splits.items()},
        folder / "confusion_matrix.png",
        title=f"{title}, threshold {threshold:.2f}",
    )
    curves = {
        name: {
            "labels": labels,
            "probabilities": probabilities,
            "auc": figures["auc"],
            "auc_ci95": figures["auc_ci95"],
        }
        for name, (labels, probabilities, figures) in splits.items()
    }
    draw_roc_curve(curves, folder / "roc_curve.png", title=title, threshold=threshold)
    draw_calibration(curves, folder / "calibration.png", title=title, threshold=threshold)


def draw_confusion_matrix(
    confusions: Mapping[str, Sequence[Sequence[int]]], path: Path | str, *, title: str
) -> None:
    """Draw one panel per named confusion matrix, with accuracy, sensitivity and specificity.

    Args:
        confusions: name to [[TN, FP], [FN, TP]], rows are true classes; one or two of them.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = _titled_figure(title, body_height=5.6, width=WIDTH if len(confusions) > 1 else 6)
    panels = figure.subplots(1, len(confusions), squeeze=False)[0]
    # pale throughout, so that dark text is readable in every cell and in a grey print
    blues = LinearSegmentedColormap.from_list("blues", ["white", "#7DB7DC"])
    for axes, (name, confusion) in zip(panels, confusions.items(), strict=True):
        counts = np.asarray(confusion, dtype=int)
        totals = counts.sum(axis=1)
        share = counts / np.maximum(totals, 1)[:, None]
        axes.imshow(share, cmap=blues, vmin=0, vmax=1)
        for row, column in np.ndindex(2, 2):
            style = {"ha": "center", "color": INK}
            percent = _percent(counts[row, column], totals[row])
            axes.text(column, row, f"{counts[row, column]}", fontsize=LARGE, **style)
            axes.text(column, row + 0.2, f"{percent} of row", fontsize=NORMAL, **style)
        axes.axhline(0.5, color=INK, linewidth=0.8)
        axes.axvline(0.5, color=INK, linewidth=0.8)
        axes.set_title(name, fontsize=NORMAL + 1, weight="bold", color=INK)
        axes.set_xticks([0, 1], CLASS_NAMES, fontsize=NORMAL)
        axes.set_yticks([0, 1], CLASS_NAMES, fontsize=NORMAL, rotation=90, va="center")
        axes.tick_params(length=0)
        axes.set_anchor("N")  # spare height goes below the panel, not between it and the title
        axes.set_ylabel("true class", fontsize=NORMAL)
        (tn, _), (_, tp) = counts
        summary = (
            "predicted class\n\n"
            f"accuracy {_percent(tn + tp, totals.sum())}  ({tn + tp}/{totals.sum()})\n"
            f"sensitivity {_percent(tp, totals[1])}  ({tp}/{totals[1]} {CLASS_NAMES[1]})\n"
            f"specificity {_percent(tn, totals[0])}  ({tn}/{totals[0]} {CLASS_NAMES[0]})"
        )
        axes.set_xlabel(summary, fontsize=NORMAL, linespacing=1.35)
    _save(figure, path)


def draw_roc_curve(
    curves: Mapping[str, Mapping[str, Any]], path: Path | str, *, title: str, threshold: float
) -> None:
    """Draw one or two ROC curves with the operating points at 0.5 and at ``threshold``.

    Args:
        curves: name to ``labels`` (N,) of 0 and 1, ``probabilities`` (N,) of class 1, ``auc``, and
            ``auc_ci95`` as (low, high) or None. A set with one class only gets no curve.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        threshold: class 1 is predicted when its probability is at least this.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = _titled_figure(title, body_height=4.9)
    axes = figure.subplots()
    handles = []
    looks = ((BLUE, "-"), (ORANGE, (0, (4, 1.5))))
    for (name, curve), (color, line) in zip(curves.items(), looks, strict=False):
        labels, probabilities = np.asarray(curve["labels"]), np.asarray(curve["probabilities"])
        style = {"color": color, "linestyle": line, "linewidth": 2.4}
        if len(np.unique(labels)) < 2:
            handles.append(Line2D([], [], label=f"{name}\nno curve: only one class", **style))
            continue
        label = f"{name}\nAUC {_number(curve['auc'], '.3f')}"
        if curve.get("auc_ci95") is not None:
            label += " (95 % CI {:.3f} to {:.3f})".format(*curve["auc_ci95"])
        # a hollow circle around the filled diamond: both stay visible where they coincide
        for cut, marker, size, face in ((0.5, "o", 150, "none"), (threshold, "D", 45, color)):
            false_positive_rate = np.mean(probabilities[labels == 0] >= cut)
            sensitivity = np.mean(probabilities[labels == 1] >= cut)
            point = {"marker": marker, "s": size, "facecolor": face, "linewidth": 1.6}
            point["edgecolor"] = INK if marker == "D" else color
            axes.scatter(false_positive_rate, sensitivity, clip_on=False, zorder=4, **point)
            specificity = 1 - false_positive_rate
            if marker == "o" or cut != 0.5:
                label += f"\nat {cut:.3g}: sens. {100 * sensitivity:.1f} %, "
                label += f"spec. {100 * specificity:.1f} %"
        rates = roc_points(labels, probabilities)
        handles += axes.plot(*rates, label=label, clip_on=False, **style)
    handles += axes.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.4, label="chance (AUC 0.5)")
    edge = {"linestyle": "", "markeredgecolor": INK, "markeredgewidth": 1.4}
    for label, marker, size, face in (
        ("threshold 0.5", "o", 12, "none"),
        (f"chosen threshold {threshold:.3g}", "D", 6.5, GREY),
    ):
        point = {"marker": marker, "markersize": size, "markerfacecolor": face, **edge}
        handles.append(Line2D([], [], label=label, **point))
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    _tidy(axes, "false positive rate (1 - specificity)", f"sensitivity for {CLASS_NAMES[1]}")
    beside = {"loc": "upper left", "bbox_to_anchor": (1.03, 1), "borderaxespad": 0}
    style = {"fontsize": SMALL + 0.5, "frameon": False, "labelspacing": 1.1, "handlelength": 3}
    axes.legend(handles=handles, **beside, **style)
    _save(figure, path)


def draw_calibration(
    curves: Mapping[str, Mapping[str, Any]], path: Path | str, *, title: str, threshold: float
) -> None:
    """Draw one or two calibration curves, and the confidences of right and wrong predictions.

    Args:
        curves: name to ``labels`` (N,) of 0 and 1 and ``probabilities`` (N,) of class 1.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        threshold: class 1 is predicted when its probability is at least this.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = _titled_figure(title, body_height=4.9)
    grid = figure.add_gridspec(len(curves), 2, width_ratios=(1.15, 1))
    axes = figure.add_subplot(grid[:, 0])
    diagonal = {"color": GREY, "linestyle": ":", "linewidth": 1.6, "label": "perfect calibration"}
    handles = axes.plot([0, 1], [0, 1], **diagonal)
    looks = ((BLUE, "-", "s"), (ORANGE, (0, (4, 1.5)), "o"))
    for row, ((name, curve), (color, line, marker)) in enumerate(
        zip(curves.items(), looks, strict=False)
    ):
        labels = np.asarray(curve["labels"])
        probabilities = np.asarray(curve["probabilities"], dtype=float)
        result = calibration(labels, probabilities)
        points = [(bin["probability"], bin["share"]) for bin in result["bins"]]
        label = f"{name}: expected calibration error {result['error']:.3f}"
        style = {"color": color, "linestyle": line, "linewidth": 1.6}
        axes.plot(*zip(*points, strict=True), clip_on=False, **style)
        edge = {"marker": marker, "markersize": 8, "markeredgecolor": INK}
        handles.append(Line2D([], [], label=label, **style, **edge))
        sizes = [12 + 260 * bin["n"] / len(labels) for bin in result["bins"]]
        edge = {"edgecolor": INK, "linewidth": 0.9, "clip_on": False, "zorder": 3}
        axes.scatter(*zip(*points, strict=True), s=sizes, color=color, marker=marker, **edge)

        beside = figure.add_subplot(grid[row, 1])
        predicted = probabilities >= threshold
        confidence = np.where(predicted, probabilities, 1 - probabilities)
        hits = predicted == (labels == 1)
        lowest = math.floor(20 * min(0.5, threshold, 1 - threshold) + 1e-9)
        edges = np.arange(lowest, 21) / 20
        parts = {
            f"right ({hits.sum()})": (confidence[hits], {"color": GREEN}),
            f"wrong ({(~hits).sum()})": (
                confidence[~hits],
                {"color": "white", "edgecolor": VERMILLION, "hatch": "/////"},
            ),
        }
        width, tallest = 0.021, 1
        for side, (label, (values, look)) in zip((-1, 1), parts.items(), strict=True):
            counts = np.histogram(values, edges)[0]
            centers = (edges[:-1] + edges[1:]) / 2 + side * width / 2
            beside.bar(centers, counts, width, label=label, linewidth=1, **look)
            tallest = max(tallest, counts.max())
        beside.set_ylim(0, 1.3 * tallest)  # room for the legend above the bars
        beside.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
        beside.set_title(name, fontsize=NORMAL, weight="bold", color=INK)
        beside.legend(loc="upper left", fontsize=SMALL + 0.5, frameon=False, ncols=2)
        _tidy(beside, "confidence in the predicted class", "images")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    _tidy(axes, f"mean predicted probability of {CLASS_NAMES[1]}", f"share of {CLASS_NAMES[1]}")
    axes.set_title("ten bins, larger points hold more images", fontsize=NORMAL, color=INK, pad=10)
    for line in axes.lines:
        line.set_in_layout(False)
    legend = {"loc": "outside lower center", "ncols": 1, "fontsize": SMALL + 0.5, "frameon": False}
    figure.legend(handles=handles, handlelength=3.5, **legend)
    _save(figure, path)


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
    figure = _titled_figure(title, body_height=8.4)
    panels = figure.subplots(2, 1)
    lows, highs = zip(*(run["interval"] for run in runs), strict=True)
    bottom = max(0, 5 * math.floor(20 * min(lows)) - 2)
    top = max(GOAL_PERCENT + 4, min(101, 100 * max(highs) + 2))
    columns = (("parameters", "parameters"), ("seconds", "training time (seconds)"))
    for axes, (key, xlabel) in zip(panels, columns, strict=True):
        shown = [run for run in runs if run[key]]
        axes.set_ylim(bottom, top)
        axes.axhline(GOAL_PERCENT, color=GREY, linestyle="--", linewidth=1.4, zorder=1)
        _tidy(axes, xlabel, "test accuracy (%)")
        if not shown:
            axes.set(xticks=[])
            continue
        exponents = np.log10([run[key] for run in shown])
        margin = 0.1 + 0.05 * float(np.ptp(exponents))
        low, high = exponents.min() - margin, exponents.max() + margin
        axes.set_xlim(low, high)
        ticks = [
            exponent + math.log10(digit)
            for exponent in range(math.floor(low), math.ceil(high))
            for digit in ((1,) if high - low > 2.5 else (1, 2, 5))
        ]
        ticks = [tick for tick in ticks if low <= tick <= high]
        axes.set_xticks(ticks, [_short_number(10**tick) for tick in ticks])
        wanted = np.stack(
            [
                (exponents - low) / (high - low),
                [(100 * run["accuracy"] - bottom) / (top - bottom) for run in shown],
            ],
            axis=1,
        )
        for run, x in zip(shown, _side_by_side(wanted), strict=True):
            color, marker = KINDS[run["kind"]]
            x, y = low + x * (high - low), 100 * run["accuracy"]
            ends = [100 * end for end in run["interval"]]
            axes.plot([x, x], ends, color=color, linewidth=1.3, zorder=2)
            axes.plot(x, y, marker, color="white", markeredgecolor=color, **POINT)
            text = {"ha": "center", "va": "center_baseline", "color": INK, "zorder": 4}
            axes.text(x, y, str(run["number"]), fontsize=SMALL - 1, **text)
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
    _save(figure, path)


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


def _short_number(value: float) -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.999 * factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


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
    figure = _titled_figure(title, body_height=1.7 + 0.42 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    looks = (  # split of a member, of the average, label, colour, marker, offset in rows
        ("val", "val", "val (as selected)", BLUE, "s", -0.16),
        ("held_out", "oof", "images left out of the fold", GREEN, "^", 0.0),
        ("test", "test", "test (held out)", ORANGE, "o", 0.16),
    )
    last = len(rows) - 1
    for axes, figure_name, label in zip(
        panels, ("accuracy", "auc"), ("accuracy, %", "AUC"), strict=True
    ):
        scale = 100 if figure_name == "accuracy" else 1
        for of_member, of_average, name, color, marker, offset in looks:
            values = [scale * m[of_member][figure_name] for m in members if of_member in m]
            style = {"marker": marker, "linestyle": "", "markersize": 7, "color": color}
            style |= {"markeredgecolor": INK, "markeredgewidth": 0.8}
            if len(values) < len(members):  # val may be a part of what was left out of the folds
                continue
            axes.plot(values, np.arange(last) + offset, label=name, **style)
            if metrics.get(of_average) is not None:
                value = scale * metrics[of_average][figure_name]
                low, high = (scale * v for v in metrics[of_average][f"{figure_name}_ci95"])
                bars = [[max(0, value - low)], [max(0, high - value)]]
                bar = {**style, "markersize": 9, "ecolor": INK, "elinewidth": 1.4, "capsize": 4}
                axes.errorbar([value], [last + offset], xerr=bars, **bar)
        axes.axhspan(last - 0.5, last + 0.5, color=PALE, zorder=0)
        _tidy(axes, label, "")
        axes.set_ylim(last + 0.5, -0.5)
    panels[0].set_yticks(range(len(rows)), rows, fontsize=NORMAL)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=NORMAL
    )
    _save(figure, path)


def _without_common_end(names: Sequence[str]) -> list[str]:
    """Names without the parts, set off by underscores, that all of them end with."""
    parts = [name.split("_") for name in names]
    while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    return ["_".join(part) for part in parts]


def draw_finding_aucs(
    splits: Mapping[str, Mapping[str, Any]], path: Path | str, *, title: str
) -> None:
    """Draw the AUC of every finding with its 95 % interval, and the mean, one marker per split.

    Args:
        splits: name to the figures of `metrics.evaluate_findings`; one or two of them.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.

    Raises:
        OSError: ``path`` cannot be written.
    """
    names = list(next(iter(splits.values()))["auc_per_finding"])
    figure = _titled_figure(title, body_height=6.4)
    axes = figure.subplots()
    looks = ((BLUE, "s"), (ORANGE, "o"))
    height = 0.3
    for place, ((split, figures), (color, marker)) in enumerate(
        zip(splits.items(), looks, strict=False)
    ):
        shift = height * (place - (len(splits) - 1) / 2)
        values = {**figures["auc_per_finding"], "mean": figures["auc"]}
        intervals = {**figures["auc_ci95_per_finding"], "mean": figures["auc_ci95"]}
        for row, name in enumerate((*names, "mean")):
            style = {"color": color, "marker": marker, "markersize": 6.5, "markeredgecolor": INK}
            if values[name] is None:
                axes.text(0.5, row + shift, " one class only", fontsize=SMALL, va="center")
                continue
            axes.plot(intervals[name], [row + shift] * 2, color=color, linewidth=2.2)
            axes.plot(values[name], row + shift, **style)
        label = f"{split}: mean {figures['auc']:.3f}"
        axes.plot([], [], label=label, linewidth=2.2, **style)
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
    axes.axhline(len(names) - 0.5, color=INK, linewidth=0.8)
    counts = [figures["positives_per_finding"] for figures in splits.values()]
    labels = [f"{name} ({' / '.join(str(count[name]) for count in counts)})" for name in names]
    axes.set_yticks(range(len(names) + 1), [*labels, "mean"])
    axes.set_ylim(len(names) + 0.6, -0.6)
    _tidy(axes, "AUC with 95 % interval (dotted: chance)", "finding (images that have it)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=SMALL + 0.5, frameon=False)
    _save(figure, path)


def draw_augmentation(
    originals: np.ndarray, warped: np.ndarray, path: Path | str, *, title: str, credit: str
) -> None:
    """Draw each image beside random warps of it.

    Args:
        originals: (N, H, W) uint8, one row of the picture each.
        warped: (N, K, H, W) in 0..1, K warps of each.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        credit: source of the images, printed at the bottom; may be empty.

    Raises:
        OSError: ``path`` cannot be written.
    """
    columns = warped.shape[1] + 1
    figure = _titled_figure(title, body_height=WIDTH / columns * len(originals) + 0.6)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.04)
    for row, panels in enumerate(figure.subplots(len(originals), columns, squeeze=False)):
        tiles = [originals[row] / 255, *warped[row]]
        for column, (axes, tile) in enumerate(zip(panels, tiles, strict=True)):
            axes.imshow(_reduced(tile), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=INK if column == 0 else PALE, linewidth=2)
            if row == 0:
                heading = "original" if column == 0 else f"warp {column}"
                axes.set_title(heading, fontsize=SMALL, color=INK, pad=4)
    figure.supxlabel(_wrapped(figure, credit, SMALL), fontsize=SMALL, color=INK)
    _save(figure, path)


def draw_gradcam(
    images: np.ndarray,
    maps: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    indices: np.ndarray,
    path: Path | str,
    *,
    threshold: float,
    title: str,
    notes: Sequence[str],
    seed: int = 0,
) -> None:
    """Draw random images beside their Grad-CAM: two rows per class, right and wrong predictions.

    Args:
        images: (N, S, S) uint8.
        maps: (N, S, S), at least 0; each is drawn as a share of its own maximum.
        labels: (N,) class indices, 0 or 1.
        probabilities: (N,) probability of class 1.
        indices: (N,) number of each image in its data file.
        path: PNG to write; its folder must exist.
        threshold: class 1 is predicted when its probability is at least this.
        title: wrapped to the width of the picture.
        notes: lines printed at the bottom; empty ones are left out.
        seed: chooses the images.

    Raises:
        OSError: ``path`` cannot be written.
    """
    predicted = probabilities >= threshold
    cells = ((0, True), (0, False), (1, True), (1, False))
    groups = [
        np.flatnonzero((labels == label) & ((predicted == labels) == right))
        for label, right in cells
    ]
    filled = [len(group) > 0 for group in groups]
    figure = _titled_figure(title, body_height=2.9 + 1.55 * sum(filled))
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0, hspace=0)
    ratios = [1, 1, 0.12] * GRADCAM_PAIRS
    heights = [height for shown in filled for height in (0.2, 1 if shown else 0.02)]
    grid = figure.add_gridspec(
        9, len(ratios) - 1, height_ratios=[*heights, 0.12], width_ratios=ratios[:-1]
    )
    rng = np.random.default_rng(seed)
    for row, ((label, right), group) in enumerate(zip(cells, groups, strict=True)):
        chosen = np.sort(rng.permutation(group)[:GRADCAM_PAIRS])
        mark, color = ("✓ right", GREEN) if right else ("✗ WRONG", VERMILLION)
        called = CLASS_NAMES[label if right else 1 - label]
        count = f"{len(group)} of {int((labels == label).sum())}"
        text = f"true: {CLASS_NAMES[label]}, predicted: {called} {mark} ({count})"
        heading = figure.add_subplot(grid[2 * row, :])
        heading.text(0, 0, text, fontsize=NORMAL, color=color, weight="bold")
        heading.set_axis_off()
        for pair in range(GRADCAM_PAIRS):
            left = figure.add_subplot(grid[2 * row + 1, 3 * pair])
            overlay = figure.add_subplot(grid[2 * row + 1, 3 * pair + 1])
            if pair >= len(chosen):
                left.set_axis_off()
                overlay.set_axis_off()
                continue
            number = chosen[pair]
            _show_xray(left, images[number])
            _show_overlay(overlay, images[number], maps[number])
            left.set_xlabel(f"index {indices[number]}", fontsize=SMALL, color=INK)
            overlay.set_xlabel(f"p = {probabilities[number]:.2f}", fontsize=SMALL, color=INK)
    _gradcam_bar(figure.add_subplot(grid[-1, :]))
    lines = (
        f"p is the probability of {CLASS_NAMES[1]}, predicted from {threshold:.3g} on. "
        "The map explains the predicted class.",
        *notes,
    )
    text = "\n".join(_wrapped(figure, line, SMALL) for line in lines if line)
    figure.supxlabel(text, fontsize=SMALL, color=INK, parse_math=False)
    _save(figure, path)


def draw_overlay(
    image: np.ndarray,
    seen: np.ndarray,
    map_: np.ndarray,
    path: Path | str,
    *,
    title: str,
    notes: Sequence[str],
) -> None:
    """Draw one X-ray, what the network sees of it, and its Grad-CAM over it.

    Args:
        image: (H, H) uint8.
        seen: (S, S) uint8, the same reduced to the network's source size.
        map_: (S, S), at least 0.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        notes: lines printed at the bottom; empty ones are left out.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = _titled_figure(title, body_height=4.0)
    grid = figure.add_gridspec(2, 3, height_ratios=[1, 0.05])
    panels = [figure.add_subplot(grid[0, column]) for column in range(3)]
    for axes, picture, heading in (
        (panels[0], image, "image"),
        (panels[1], seen, f"as the network sees it: {len(seen)} x {len(seen)} px"),
        (panels[2], image, "Grad-CAM"),
    ):
        _show_xray(axes, picture)
        axes.set_title(heading, fontsize=NORMAL, color=INK)
    _show_overlay(panels[2], image, map_)
    _gradcam_bar(figure.add_subplot(grid[1, :]))
    text = "\n".join(_wrapped(figure, line, SMALL) for line in notes if line)
    figure.supxlabel(text, fontsize=SMALL, color=INK, parse_math=False)
    _save(figure, path)


def _show_xray(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])


def _show_overlay(axes: Axes, image: np.ndarray, map_: np.ndarray) -> None:
    """The map over the image, more opaque where it is larger, with a line at half its maximum."""
    _show_xray(axes, image)
    if not map_.max() > 0:
        return
    share = map_ / map_.max()
    height, width = image.shape
    place = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5)}
    axes.imshow(share, cmap=GRADCAM_COLORS, vmin=0, vmax=1, alpha=0.7 * share, **place)
    if share.min() < 0.5:
        centres = [
            (np.arange(n) + 0.5) * side / n - 0.5
            for n, side in zip(share.shape, image.shape, strict=True)
        ]
        for color, linewidth in (
            (INK, 2.6),
            ("white", 1.2),
        ):  # seen on bright and dark, and in grey
            line = {"colors": color, "linewidths": linewidth}
            axes.contour(centres[1], centres[0], share, [0.5], **line)


def _gradcam_bar(axes: Axes) -> None:
    colors = ScalarMappable(Normalize(0, 1), GRADCAM_COLORS)
    axes.figure.colorbar(colors, cax=axes, orientation="horizontal")
    axes.tick_params(labelsize=SMALL)
    label = "Grad-CAM, share of each image's own maximum; white line: one half"
    axes.set_xlabel(label, fontsize=SMALL, color=INK)


def roc_points(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates, (0, 0) first, one point per distinct probability.

    Args:
        labels: (N,) of 0 and 1, with both classes.
        probabilities: (N,) probability of class 1.
    """
    order = np.argsort(-probabilities, kind="stable")
    positive = labels[order] == 1
    last_of_tie = np.append(np.diff(probabilities[order]) != 0, True)
    true_positives = np.append(0, np.cumsum(positive)[last_of_tie])
    false_positives = np.append(0, np.cumsum(~positive)[last_of_tie])
    return false_positives / false_positives[-1], true_positives / true_positives[-1]


def _titled_figure(title: str, body_height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure whose height, in inches, leaves room for the wrapped title."""
    figure = Figure(figsize=(width, body_height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    fontsize, weight, color = 11.5, "normal", INK
    if PHANTOM_MARK in title:
        fontsize, weight, color = 12.5, "bold", VERMILLION
    text = _wrapped(figure, title, fontsize, weight)
    style = {"fontsize": fontsize, "weight": weight, "color": color, "linespacing": 1.3}
    heading = figure.suptitle(text, parse_math=False, **style)
    figure.set_figheight(body_height + heading.get_window_extent().height / DPI)
    return figure


def _wrapped(figure: Figure, text: str, fontsize: float, weight: str = "normal") -> str:
    """Break lines so that the drawn text fits the figure, in as few and as even lines as it can."""
    room = 0.95 * figure.get_figwidth() * DPI
    probe = figure.text(0, 0, "", fontsize=fontsize, weight=weight, parse_math=False)
    lines = []
    for line in text.replace(" · ", "\u00a0· ").splitlines():  # no line starts with the dot
        best = None
        for characters in range(min(len(line), 150), 0, -1):
            pieces = textwrap.wrap(line, characters)
            if best is not None and len(pieces) > len(best):
                break
            probe.set_text("\n".join(pieces))
            if best is not None or probe.get_window_extent().width <= room:
                best = pieces
        lines += best or [""]
    probe.remove()
    return "\n".join(lines).replace("\u00a0", " ")


def _tidy(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, fontsize=NORMAL)
    axes.set_ylabel(ylabel, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL + 0.5)
    axes.grid(color=PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path | str) -> None:
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    # 256 colours halve the file; Pillow writes no date or version, so the bytes are reproducible
    picture = Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    atomic_write(Path(path), png.getvalue())


def _series(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    values = [np.nan if entry.get(key) is None else entry[key] for entry in history]
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _reduced(image: np.ndarray) -> np.ndarray:
    step = math.ceil(max(image.shape) / MAX_SIDE)
    height, width = (side // step for side in image.shape)
    blocks = image[: height * step, : width * step].reshape(height, step, width, step)
    return blocks.mean(axis=(1, 3))


def _number(value: float | None, form: str) -> str:
    return format(value, form) if value is not None and math.isfinite(value) else "n/a"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "n/a"


def _augmentation(options: argparse.Namespace) -> None:
    import torch

    import datareader
    from augment import augment
    from train_improved import REPORT as recipe

    data = datareader.load(options.data)
    rows = np.random.default_rng(options.seed).choice(len(data.train), size=4, replace=False)
    originals = data.train.images[rows]
    generator = torch.Generator().manual_seed(options.seed)
    x = torch.from_numpy(originals)[:, None].float() / 255
    warps = [augment(x, recipe, generator)[:, 0].numpy() for _ in range(6)]
    title = (
        f"Augmentation of {recipe.name}: rotation +-{recipe.rotate:g} degrees, shift "
        f"+-{recipe.translate:.0%}, zoom +-{recipe.scale:.0%}, flip {recipe.flip:.0%}"
        f"\n{data.source}"
    )
    credit = "" if data.phantom else NIH_CREDIT
    check_writable(options.out.parent, "--out")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw_augmentation(originals, np.stack(warps, 1), options.out, title=title, credit=credit)
    print(options.out)
    show([options.out])


def _readme(options: argparse.Namespace) -> None:
    import report

    print(report.write_report(options.results_dir, options.lang))


def _pair(options: argparse.Namespace) -> None:
    import report

    print(report.describe_pair(options.results_dir, *options.runs))


def _mistakes(options: argparse.Namespace) -> None:
    import datareader
    import report

    data = datareader.load(options.data, options.root, options.source_size)
    pages = report.write_mistakes(data, options.results_dir, options.run)
    print(*pages, sep="\n")
    show(page.with_suffix(".png") for page in pages)


def _names(options: argparse.Namespace) -> None:
    import datareader
    import report

    check_writable(options.results_dir, "--results-dir")
    data = datareader.load(options.data, options.root, options.source_size)
    print(report.write_names(data, options.results_dir))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; status 2 and one line on stderr for wrong input, 1 for a full disk."""
    from flags import add_data, add_folder

    description = __doc__.split("Every figure")[0]
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(description=description, formatter_class=raw, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=OneLineParser)

    def command(name: str, work: Callable[[argparse.Namespace], None], help: str) -> Any:
        added = commands.add_parser(name, help=help, allow_abbrev=False)
        added.set_defaults(work=work)
        if work is not _augmentation:
            add_folder(added, "--results-dir", "results")
        return added

    readme = command("readme", _readme, "all runs on one page (what happens without a command)")
    readme.add_argument("--lang", choices=("en", "id"), default="en", help="(default: en)")
    pair = command("pair", _pair, "two runs compared on the test images")
    pair.add_argument("runs", nargs=2, metavar="RUN", help="folder in the results")
    mistakes = command("mistakes", _mistakes, "pages of the errors and of the uncertain cases")
    mistakes.add_argument("--run", metavar="NAME", help="(default: every run on these images)")
    add_data(mistakes)
    add_data(command("names", _names, "list of the two-class images' names"))
    augmentation = command("augmentation", _augmentation, "what the random warps do")
    augmentation.add_argument("--data", default="auto", help="as in train.py (default: auto)")
    augmentation.add_argument("--seed", type=int, default=0, help="(default: 0)")
    augmentation.add_argument(
        "--out",
        type=Path,
        default=Path("results/augmentation.png"),
        metavar="FILE.png",
        help="(default: results/augmentation.png)",
    )
    argv = command_line() if argv is None else list(argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv.insert(0, "readme")
    try:
        options = parser.parse_args(argv)
        options.work(options)
    except (InputError, OSError) as error:
        leave(2 if isinstance(error, InputError) else 1, f"error: {error}")


if __name__ == "__main__":
    main()
