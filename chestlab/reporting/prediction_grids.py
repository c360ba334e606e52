"""Grids of X-rays with what a network predicts for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.alarms import alarms, logits_of
from chestlab.evaluation.predictions import with_threshold
from chestlab.reporting.numbers import percent
from chestlab.reporting.style import (
    GREEN,
    INK,
    NORMAL,
    PALE,
    SMALL,
    VERMILLION,
    WIDTH,
    finish,
    reduced,
    set_padding,
    titled_figure,
)

GRID_COLUMNS, GRID_IMAGES = 5, 20


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
    """Draw up to 20 random images with true and predicted class, and why: probability, threshold.

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
    correct = (probabilities >= threshold) == (labels == 1)
    right = int(correct[chosen].sum())
    heading = (
        f"{shown} random images of {len(images):,}: {right} right, {shown - right} wrong "
        f"(of all: {percent(int(correct.sum()), len(images))} right)"
    )
    same = said_once(probabilities[chosen], threshold, probabilities)
    rows = math.ceil(shown / GRID_COLUMNS)
    text = "\n".join([heading, title, *same])
    figure = titled_figure(text, body_height=(2.35 if same else 2.52) * rows)
    set_padding(figure, hspace=0.06)
    grid = figure.subplots(rows, GRID_COLUMNS, squeeze=False).ravel()
    for axes, row in zip(grid, chosen, strict=False):
        case = int(labels[row]), float(probabilities[row]), int(indices[row])
        _draw_case(axes, images[row], *case, threshold, with_p=not same)
    for axes in grid[shown:]:
        axes.set_axis_off()
    finish(figure, path, notes=[explain_p(threshold), credit])


def p_text(probability: float, threshold: float) -> str:
    """What stands below an image, for example ``p = 0.42 ≥ 0.38``."""
    return "p = {} {} {}".format(*with_threshold(probability, threshold))


def said_once(shown: np.ndarray, threshold: float, of_split: np.ndarray | None = None) -> list[str]:
    """Lines of the title that replace the probabilities below images where all are the same.

    Args:
        shown: (K,) probabilities of the images of a picture.
        threshold: class 1 is predicted when its probability is at least this.
        of_split: (N,) those of a network for the whole split, for the alarm.

    Returns:
        the probability and the alarm; empty where the probabilities differ.
    """
    texts = {p_text(float(probability), threshold) for probability in shown}
    if len(shown) < 2 or len(texts) > 1:
        return []
    alarm = [] if of_split is None else alarms({"this split": logits_of(of_split)})
    return [f"Every image shown has {texts.pop()}.", *(f"WARNING: {text}." for text in alarm)]


def explain_p(threshold: float) -> str:
    """What `p_text` means, for the bottom of a picture."""
    shown = max(f"{threshold:.2f}", f"{threshold:.3g}", key=len)
    return (
        f"p is the probability of {CLASS_NAMES[1]}, which is predicted where p is at least the "
        f"threshold, {shown}; else {CLASS_NAMES[0]}."
    )


def _draw_case(
    axes: Axes,
    image: np.ndarray,
    label: int,
    probability: float,
    index: int,
    threshold: float,
    with_p: bool = True,
) -> None:
    """One image (H, W), framed by whether its prediction is right."""
    predicted = int(probability >= threshold)
    correct = predicted == label
    mark, color, dashes = "✓ right", GREEN, "-"
    if not correct:
        mark, color, dashes = "✗ WRONG", VERMILLION, (0, (1.6, 0.8))
    axes.imshow(reduced(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=color, linewidth=4, linestyle=dashes, capstyle="butt")
    axes.set_title(mark, fontsize=NORMAL, color=color, weight="bold", pad=5)
    lines = [f"true: {CLASS_NAMES[int(label)]}", f"pred: {CLASS_NAMES[predicted]}"]
    lines += [p_text(probability, threshold)] if with_p else []
    text = "\n".join([*lines, f"index {index}"])
    axes.set_xlabel(text, fontsize=SMALL, color=INK, labelpad=5)


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
    shown = np.array([case[2] for cases in groups.values() for case in cases])
    same = said_once(shown, threshold)
    text = "\n".join([title, *same])
    figure = titled_figure(text, body_height=(2.65 if same else 2.85) * len(groups))
    set_padding(figure, hspace=0.03)
    bands = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for band, (heading, cases) in zip(bands, groups.items(), strict=True):
        band.suptitle(heading, fontsize=NORMAL + 1, weight="bold", color=INK)
        tiles = band.subplots(1, GRID_COLUMNS)
        for axes, case in zip(tiles, cases, strict=False):
            _draw_case(axes, *case, threshold, with_p=not same)
        for axes in tiles[len(cases) :]:
            axes.set_axis_off()
    finish(figure, path, notes=notes)


def draw_augmentation(
    originals: np.ndarray, warped: np.ndarray, path: Path | str, *, title: str, credit: str
) -> None:
    """Draw each image beside random warps of it.

    Args:
        originals: (N, H, W) in 0..1, one row of the picture each.
        warped: (N, K, H, W) in 0..1, K warps of each.
        path: PNG to write; its folder must exist.
        title: wrapped to the width of the picture.
        credit: source of the images, printed at the bottom; may be empty.

    Raises:
        OSError: ``path`` cannot be written.
    """
    columns = warped.shape[1] + 1
    figure = titled_figure(title, body_height=WIDTH / columns * len(originals) + 0.3)
    set_padding(figure, w_pad=0.02, h_pad=0.04)
    for row, panels in enumerate(figure.subplots(len(originals), columns, squeeze=False)):
        tiles = [originals[row], *warped[row]]
        for column, (axes, tile) in enumerate(zip(panels, tiles, strict=True)):
            axes.imshow(reduced(tile), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=INK if column == 0 else PALE, linewidth=2)
            if row == 0:
                heading = "original" if column == 0 else f"warp {column}"
                axes.set_title(heading, fontsize=SMALL, color=INK, pad=4)
    finish(figure, path, notes=[credit])


def show_xray(axes: Axes, image: np.ndarray) -> None:
    """One image (H, W) uint8 without ticks."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
