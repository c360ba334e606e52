"""Confusion matrix, ROC curve, calibration and the AUC of each finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.metrics import CALIBRATION_BINS, calibration, roc_points
from chestlab.reporting.numbers import number, percent
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
    finish,
    tidy,
    titled_figure,
)

RIGHT: dict[str, Any] = {"facecolor": GREEN, "edgecolor": GREEN}

WRONG: dict[str, Any] = {"facecolor": "white", "edgecolor": VERMILLION, "hatch": "/////"}

THRESHOLD_LINE: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1.4}

DIAGONAL: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1.6}


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
        title: of what run on which data; each picture puts a heading with its figures before it.
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
        title: of what run on which data; a heading with the figures is put before it.

    Raises:
        OSError: ``path`` cannot be written.
    """
    name, confusion = list(confusions.items())[-1]
    right, n = int(np.trace(confusion)), int(np.sum(confusion))
    heading = f"Confusion matrix, {name}: {right} of {n:,} right, {percent(right, n)}"
    width = WIDTH if len(confusions) > 1 else 6
    figure = titled_figure(f"{heading}\n{title}", body_height=5.5, width=width)
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
        predicted = np.flatnonzero(counts.sum(axis=0))
        if len(predicted) == 1:
            summary += f"\nevery image is predicted as {CLASS_NAMES[predicted[0]]}"
        axes.set_xlabel(summary, fontsize=NORMAL, linespacing=1.35)
    finish(figure, path)


def draw_roc_curve(
    curves: Mapping[str, Mapping[str, Any]], path: Path | str, *, title: str, threshold: float
) -> None:
    """Draw one or two ROC curves with the operating points at 0.5 and at ``threshold``.

    Args:
        curves: name to ``labels`` (N,) of 0 and 1, ``probabilities`` (N,) of class 1, ``auc`` or
            None, and ``auc_ci95`` as (low, high) or None. A set with one class only gets no curve.
        path: PNG to write; its folder must exist.
        title: of what run on which data; a heading with the figures is put before it.
        threshold: class 1 is predicted when its probability is at least this.

    Raises:
        OSError: ``path`` cannot be written.
    """
    name, curve = list(curves.items())[-1]
    heading = f"ROC curve, {name}: AUC {_auc_text(curve, ' (95 % interval {:.3f} to {:.3f})')}"
    figure = titled_figure(f"{heading}\n{title}", body_height=4.5)
    axes = figure.subplots()
    handles = []
    looks = ((BLUE, "-"), (ORANGE, (0, (4, 1.5))))
    for (name, curve), (color, line) in zip(curves.items(), looks, strict=False):
        labels, probabilities = np.asarray(curve["labels"]), np.asarray(curve["probabilities"])
        style = {"color": color, "linestyle": line, "linewidth": 2.4}
        if len(np.unique(labels)) < 2:
            handles.append(Line2D([], [], label=f"{name}\nno curve: only one class", **style))
            continue
        label = f"{name}\nAUC {_auc_text(curve, ' (95 % CI {:.3f} to {:.3f})')}"
        label += _draw_operating_points(axes, labels, probabilities, threshold, color)
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
    tidy(axes, "false positive rate (1 - specificity)", f"sensitivity for {CLASS_NAMES[1]}")
    beside = {"loc": "upper left", "bbox_to_anchor": (1.03, 1), "borderaxespad": 0}
    style = {"fontsize": SMALL + 0.5, "frameon": False, "labelspacing": 1.1, "handlelength": 3}
    axes.legend(handles=handles, **beside, **style)
    finish(figure, path)


def _auc_text(curve: Mapping[str, Any], interval: str) -> str:
    """The area under a curve, with the interval in the form given where there is one."""
    auc = "undefined" if curve["auc"] is None else number(curve["auc"], ".3f")
    return auc + ("" if curve.get("auc_ci95") is None else interval.format(*curve["auc_ci95"]))


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
    """Draw one or two reliability diagrams with the number of images in every bin below them.

    Args:
        curves: name to ``labels`` (N,) of 0 and 1 and ``probabilities`` (N,) of class 1.
        path: PNG to write; its folder must exist.
        title: of what run on which data; a heading with the figures is put before it.
        threshold: class 1 is predicted when its probability is at least this.

    Raises:
        OSError: ``path`` cannot be written.
    """
    results = {
        name: calibration(curve["labels"], curve["probabilities"]) for name, curve in curves.items()
    }
    name, result = list(results.items())[-1]
    heading = f"Reliability diagram, {name}: expected calibration error {result['error']:.3f}"
    figure = titled_figure(f"{heading}\n{title}", body_height=5.4)
    grid = figure.subplots(
        2, len(curves), sharex=True, sharey="row", squeeze=False, height_ratios=(1.8, 1)
    )
    looks = ((BLUE, "s"), (ORANGE, "o"))
    for column, ((name, curve), (color, marker)) in enumerate(
        zip(curves.items(), looks, strict=False)
    ):
        axes, below = grid[:, column]
        _draw_reliability(axes, results[name]["bins"], color, marker)
        axes.set_title(
            f"{name}\nexpected calibration error {results[name]['error']:.3f}",
            fontsize=NORMAL,
            color=INK,
            pad=10,  # points lie on the upper edge
        )
        tidy(axes, "", "" if column else f"share of {CLASS_NAMES[1]}")
        labels, probabilities = (np.asarray(curve[key]) for key in ("labels", "probabilities"))
        _draw_histogram(below, labels, probabilities, threshold)
        tidy(below, f"predicted probability of {CLASS_NAMES[1]}", "" if column else "images")
    note = (
        "Points: images of a tenth of the range, at their mean probability. Bars: Wilson's 95 % "
        "intervals, which take the images for independent. Numbers: images in the tenth."
    )
    handles: list[Artist] = [
        Line2D([], [], label="perfect calibration", **DIAGONAL),
        Line2D([], [], label=f"threshold {threshold:.3g}", **THRESHOLD_LINE),
        Patch(label="right", **RIGHT),
        Patch(label="wrong", **WRONG),
    ]
    finish(figure, path, handles, [note], columns=4)


def _draw_reliability(
    axes: Axes, bins: Sequence[Mapping[str, Any]], color: str, marker: str
) -> None:
    """Draw the share of class 1 in every bin with its interval.

    Args:
        axes: of the diagram.
        bins: of `metrics.calibration`.
        color, marker: of the points.
    """
    axes.plot([0, 1], [0, 1], zorder=1, **DIAGONAL)
    x, y = ([of_bin[key] for of_bin in bins] for key in ("probability", "share"))
    ends = np.array([share_interval(of_bin["share"], of_bin["n"]) for of_bin in bins]).T
    bars = np.maximum(0, [y - ends[0], ends[1] - y])
    style = {"color": color, "marker": marker, "markersize": 8, "markeredgecolor": INK}
    drawn = axes.errorbar(x, y, yerr=bars, linestyle="", elinewidth=1.8, capsize=3.5, **style)
    for artist in drawn.get_children():
        artist.set_clip_on(False)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``n`` independent images (JASA 22:209, 1927)."""
    z = 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float(middle - half), float(middle + half)


def _draw_histogram(
    axes: Axes, labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> None:
    """Images by probability in the bins of the diagram, right and wrong stacked, with numbers."""
    correct = (probabilities >= threshold) == (labels == 1)
    edges = np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS
    centres, width = (edges[:-1] + edges[1:]) / 2, 0.8 / CALIBRATION_BINS
    total = np.zeros(CALIBRATION_BINS, dtype=int)
    for shown, look in ((correct, RIGHT), (~correct, WRONG)):
        counts = np.histogram(probabilities[shown], edges)[0]
        # a bar of no height would still draw its edge
        axes.bar(
            centres[counts > 0],
            counts[counts > 0],
            width,
            bottom=total[counts > 0],
            linewidth=1,
            **look,
        )
        total += counts
    for x, count in zip(centres, total, strict=True):
        if count:
            place = {
                "xytext": (0, 1),
                "textcoords": "offset points",
                "ha": "center",
                "va": "bottom",
            }
            around = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # of the threshold
            axes.annotate(str(count), (x, count), fontsize=SMALL, color=INK, bbox=around, **place)
    axes.axvline(threshold, zorder=1, **THRESHOLD_LINE)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.25 * max(total.max(), 1)))  # room for the numbers
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
    right = int(correct.sum())
    axes.set_title(f"{right} right, {len(correct) - right} wrong", fontsize=NORMAL, color=INK)


def draw_finding_aucs(
    splits: Mapping[str, Mapping[str, Any]], path: Path | str, *, title: str
) -> None:
    """Draw the AUC of every finding with its 95 % interval, and the mean, one marker per split.

    Args:
        splits: name to the figures of `metrics.evaluate_findings`; one or two of them.
        path: PNG to write; its folder must exist.
        title: of what run on which data; a heading with the figures is put before it.

    Raises:
        OSError: ``path`` cannot be written.
    """
    names = list(next(iter(splits.values()))["auc_per_finding"])
    split, figures = list(splits.items())[-1]
    mean = "undefined" if figures["auc"] is None else f"{figures['auc']:.3f}"
    figure = titled_figure(f"AUC of each finding, {split}: mean {mean}\n{title}", 6)
    axes = figure.subplots()
    looks = ((BLUE, "s"), (ORANGE, "o"))
    handles = []
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
        handles.append(Line2D([], [], label=label, linewidth=2.2, **style))
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
    axes.axhline(len(names) - 0.5, color=INK, linewidth=0.8)
    counts = [figures["positives_per_finding"] for figures in splits.values()]
    labels = [f"{name} ({' / '.join(str(count[name]) for count in counts)})" for name in names]
    axes.set_yticks(range(len(names) + 1), [*labels, "mean"])
    axes.set_ylim(len(names) + 0.6, -0.6)
    tidy(axes, "AUC with 95 % interval (dotted: chance)", "finding (images that have it)")
    finish(figure, path, handles, columns=2)
