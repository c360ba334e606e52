"""Confusion matrix, ROC curve, calibration and the AUC of each finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.metrics import calibration
from chestlab.reporting.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LARGE,
    NORMAL,
    ORANGE,
    SMALL,
    VERMILLION,
    WIDTH,
    number,
    percent,
    save_figure,
    tidy,
    titled_figure,
)


def draw_evaluation(
    folder: Path,
    splits: Mapping[str, tuple[np.ndarray, np.ndarray, Mapping[str, Any]]],
    *,
    title: str,
    threshold: float,
) -> None:
    """Draw confusion matrices, ROC curves and calibration of one or two sets of probabilities.

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
    figure = titled_figure(title, body_height=5.6, width=WIDTH if len(confusions) > 1 else 6)
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
            share = percent(int(counts[row, column]), int(totals[row]))
            axes.text(column, row, f"{counts[row, column]}", fontsize=LARGE, **style)
            axes.text(column, row + 0.2, f"{share} of row", fontsize=NORMAL, **style)
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
            f"accuracy {percent(tn + tp, totals.sum())}  ({tn + tp}/{totals.sum()})\n"
            f"sensitivity {percent(tp, totals[1])}  ({tp}/{totals[1]} {CLASS_NAMES[1]})\n"
            f"specificity {percent(tn, totals[0])}  ({tn}/{totals[0]} {CLASS_NAMES[0]})"
        )
        axes.set_xlabel(summary, fontsize=NORMAL, linespacing=1.35)
    save_figure(figure, path)


def draw_roc_curve(
    curves: Mapping[str, Mapping[str, Any]], path: Path | str, *, title: str, threshold: float
) -> None:
    """Draw one or two ROC curves with the operating points at 0.5 and at ``threshold``.

    Args:
        curves: name to ``labels`` (N,) of 0 and 1, ``probabilities`` (N,) of class 1, ``auc`` or
            None, and ``auc_ci95`` as (low, high) or None. A set with one class only gets no curve.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        threshold: class 1 is predicted when its probability is at least this.

    Raises:
        OSError: ``path`` cannot be written.
    """
    from sklearn.metrics import roc_curve  # takes half a second, which training is spared

    figure = titled_figure(title, body_height=4.9)
    axes = figure.subplots()
    handles = []
    looks = ((BLUE, "-"), (ORANGE, (0, (4, 1.5))))
    for (name, curve), (color, line) in zip(curves.items(), looks, strict=False):
        labels, probabilities = np.asarray(curve["labels"]), np.asarray(curve["probabilities"])
        style = {"color": color, "linestyle": line, "linewidth": 2.4}
        if len(np.unique(labels)) < 2:
            handles.append(Line2D([], [], label=f"{name}\nno curve: only one class", **style))
            continue
        auc = "undefined" if curve["auc"] is None else number(curve["auc"], ".3f")
        label = f"{name}\nAUC {auc}"
        if curve.get("auc_ci95") is not None:
            label += " (95 % CI {:.3f} to {:.3f})".format(*curve["auc_ci95"])
        label += _draw_operating_points(axes, labels, probabilities, threshold, color)
        rates = roc_curve(labels, probabilities, drop_intermediate=False)[:2]
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
    tidy(axes, "false positive rate (1 - specificity)", f"sensitivity for {CLASS_NAMES[1]}")
    beside = {"loc": "upper left", "bbox_to_anchor": (1.03, 1), "borderaxespad": 0}
    style = {"fontsize": SMALL + 0.5, "frameon": False, "labelspacing": 1.1, "handlelength": 3}
    axes.legend(handles=handles, **beside, **style)
    save_figure(figure, path)


def _draw_operating_points(
    axes: Axes, labels: np.ndarray, probabilities: np.ndarray, threshold: float, color: str
) -> str:
    """Mark 0.5 (circle) and ``threshold`` (diamond); lines of the legend on both."""
    text = ""
    # a hollow circle around the filled diamond: both stay visible where they coincide
    for cut, marker, size, face in ((0.5, "o", 150, "none"), (threshold, "D", 45, color)):
        false_positive_rate = np.mean(probabilities[labels == 0] >= cut)
        sensitivity = np.mean(probabilities[labels == 1] >= cut)
        point = {"marker": marker, "s": size, "facecolor": face, "linewidth": 1.6}
        point["edgecolor"] = INK if marker == "D" else color
        axes.scatter(false_positive_rate, sensitivity, clip_on=False, zorder=4, **point)
        if marker == "o" or cut != 0.5:
            text += f"\nat {cut:.3g}: sens. {100 * sensitivity:.1f} %, "
            text += f"spec. {100 * (1 - false_positive_rate):.1f} %"
    return text


def draw_calibration(
    curves: Mapping[str, Mapping[str, Any]], path: Path | str, *, title: str, threshold: float
) -> None:
    """Draw one or two calibration curves, and the probabilities of right and wrong predictions.

    Args:
        curves: name to ``labels`` (N,) of 0 and 1 and ``probabilities`` (N,) of class 1.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        threshold: class 1 is predicted when its probability is at least this.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = titled_figure(title, body_height=4.9)
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
        look = {"color": color, "linestyle": line, "marker": marker}
        handles.append(_draw_reliability(axes, labels, probabilities, name, look))
        histogram = figure.add_subplot(grid[row, 1])
        histogram.set_title(name, fontsize=NORMAL, weight="bold", color=INK)
        _draw_histogram(histogram, labels, probabilities, threshold)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    tidy(axes, f"mean predicted probability of {CLASS_NAMES[1]}", f"share of {CLASS_NAMES[1]}")
    axes.set_title("ten bins, larger points hold more images", fontsize=NORMAL, color=INK, pad=10)
    for line in axes.lines:
        line.set_in_layout(False)
    legend = {"loc": "outside lower center", "ncols": 1, "fontsize": SMALL + 0.5, "frameon": False}
    figure.legend(handles=handles, handlelength=3.5, **legend)
    save_figure(figure, path)


def _draw_reliability(
    axes: Axes, labels: np.ndarray, probabilities: np.ndarray, name: str, look: Mapping[str, Any]
) -> Line2D:
    """Draw a calibration curve and return its handle for the legend.

    Args:
        axes: of the curve.
        labels: (N,) of 0 and 1.
        probabilities: (N,) of class 1.
        name: of the curve.
        look: its ``color``, ``linestyle`` and ``marker``.
    """
    result = calibration(labels, probabilities)
    points = [(bin["probability"], bin["share"]) for bin in result["bins"]]
    line = {"color": look["color"], "linestyle": look["linestyle"], "linewidth": 1.6}
    axes.plot(*zip(*points, strict=True), clip_on=False, **line)
    sizes = [12 + 260 * bin["n"] / len(labels) for bin in result["bins"]]
    edge = {"edgecolor": INK, "linewidth": 0.9, "clip_on": False, "zorder": 3}
    marker = {"color": look["color"], "marker": look["marker"]}
    axes.scatter(*zip(*points, strict=True), s=sizes, **marker, **edge)
    label = f"{name}: expected calibration error {result['error']:.3f}"
    return Line2D([], [], label=label, linewidth=1.6, markersize=8, markeredgecolor=INK, **look)


def _draw_histogram(
    axes: Axes, labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> None:
    """Histogram of the probabilities, right and wrong predictions stacked, with the threshold."""
    correct = (probabilities >= threshold) == (labels == 1)
    edges = np.arange(21) / 20
    parts: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        f"right ({correct.sum()})": (probabilities[correct], {"color": GREEN}),
        f"wrong ({(~correct).sum()})": (
            probabilities[~correct],
            {"color": "white", "edgecolor": VERMILLION, "hatch": "/////"},
        ),
    }
    below = np.zeros(len(edges) - 1)
    for label, (values, look) in parts.items():
        counts = np.histogram(values, edges)[0]
        centers = (edges[:-1] + edges[1:]) / 2
        axes.bar(centers, counts, 0.04, bottom=below, label=label, linewidth=1, **look)
        below += counts
    mark = {"color": INK, "linestyle": "--", "linewidth": 1.4}
    axes.axvline(threshold, ymax=0.7, label=f"threshold {threshold:.3g}", **mark)
    axes.set(xlim=(0, 1), ylim=(0, 1.5 * max(below.max(), 1)))  # room for the legend above
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
    axes.legend(loc="upper left", fontsize=SMALL + 0.5, frameon=False, ncols=2)
    tidy(axes, f"predicted probability of {CLASS_NAMES[1]}", "images")


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
    figure = titled_figure(title, body_height=6.4)
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
                axes.text(0.5, row + shift, " undefined", fontsize=SMALL, va="center")
                continue
            axes.plot(intervals[name], [row + shift] * 2, color=color, linewidth=2.2)
            axes.plot(values[name], row + shift, **style)
        mean = "undefined" if figures["auc"] is None else f"{figures['auc']:.3f}"
        label = f"{split}: mean {mean}"
        axes.plot([], [], label=label, linewidth=2.2, **style)
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
    axes.axhline(len(names) - 0.5, color=INK, linewidth=0.8)
    counts = [figures["positives_per_finding"] for figures in splits.values()]
    labels = [f"{name} ({' / '.join(str(count[name]) for count in counts)})" for name in names]
    axes.set_yticks(range(len(names) + 1), [*labels, "mean"])
    axes.set_ylim(len(names) + 0.6, -0.6)
    tidy(axes, "AUC with 95 % interval (dotted: chance)", "finding (images that have it)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=SMALL + 0.5, frameon=False)
    save_figure(figure, path)
