"""X-rays with their Grad-CAM, the map of what a prediction depends on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from chestlab.data.splits import CLASS_NAMES
from chestlab.reporting.prediction_grids import explain_p, p_text, said_once, show_xray
from chestlab.reporting.style import (
    GREEN,
    INK,
    NORMAL,
    SMALL,
    VERMILLION,
    finish,
    set_padding,
    titled_figure,
)

GRADCAM_PAIRS, GRADCAM_COLORS = 3, "inferno"


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
    same = said_once(probabilities, threshold, probabilities)
    text = "\n".join([title, *same])
    figure = titled_figure(text, body_height=1.5 + 1.6 * sum(filled))
    set_padding(figure, w_pad=0.05, h_pad=0.05, wspace=0, hspace=0)
    ratios = [1, 1, 0.12] * GRADCAM_PAIRS
    heights = [height for shown in filled for height in (0.2, 1 if shown else 0.02)]
    grid = figure.add_gridspec(
        9, len(ratios) - 1, height_ratios=[*heights, 0.12], width_ratios=ratios[:-1]
    )
    rng = np.random.default_rng(seed)
    for row, ((label, right), group) in enumerate(zip(cells, groups, strict=True)):
        heading = figure.add_subplot(grid[2 * row, :])
        _write_heading(heading, label, right, len(group), int((labels == label).sum()))
        chosen = np.sort(rng.permutation(group)[:GRADCAM_PAIRS])
        for pair, number in enumerate(chosen):
            left, overlay = (
                figure.add_subplot(grid[2 * row + 1, 3 * pair + side]) for side in (0, 1)
            )
            show_xray(left, images[number])
            _show_overlay(overlay, images[number], maps[number])
            left.set_xlabel(f"index {indices[number]}", fontsize=SMALL, color=INK)
            p = "" if same else p_text(float(probabilities[number]), threshold)
            overlay.set_xlabel(p, fontsize=SMALL, color=INK)
    _gradcam_bar(figure.add_subplot(grid[-1, :]))
    line = f"{explain_p(threshold)} The map explains the predicted class."
    finish(figure, path, notes=[line, *notes], all_colors=True)


def _write_heading(axes: Axes, label: int, right: bool, count: int, of_class: int) -> None:
    """What the row below shows: true and predicted class, and how many images of the class."""
    mark, color = ("✓ right", GREEN) if right else ("✗ WRONG", VERMILLION)
    predicted = CLASS_NAMES[label if right else 1 - label]
    text = f"true: {CLASS_NAMES[label]}, predicted: {predicted} {mark} ({count} of {of_class})"
    axes.text(0, 0, text, fontsize=NORMAL, color=color, weight="bold")
    axes.set_axis_off()


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
    figure = titled_figure(title, body_height=4.0)
    grid = figure.add_gridspec(2, 3, height_ratios=[1, 0.05])
    panels = [figure.add_subplot(grid[0, column]) for column in range(3)]
    for axes, picture, heading in (
        (panels[0], image, "image"),
        (panels[1], seen, f"as the network sees it: {len(seen)} x {len(seen)} px"),
        (panels[2], image, "Grad-CAM"),
    ):
        show_xray(axes, picture)
        axes.set_title(heading, fontsize=NORMAL, color=INK)
    _show_overlay(panels[2], image, map_)
    _gradcam_bar(figure.add_subplot(grid[1, :]))
    finish(figure, path, notes=notes, all_colors=True)


def _show_overlay(axes: Axes, image: np.ndarray, map_: np.ndarray) -> None:
    """The map over the image, more opaque where it is larger, with a line at half its maximum."""
    show_xray(axes, image)
    if not map_.max() > 0:
        return
    share = map_ / map_.max()
    height, width = image.shape
    place: dict[str, Any] = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5)}
    axes.imshow(share, cmap=GRADCAM_COLORS, vmin=0, vmax=1, alpha=0.7 * share, **place)
    if share.min() < 0.5:
        centres = [
            (np.arange(n) + 0.5) * side / n - 0.5
            for n, side in zip(share.shape, image.shape, strict=True)
        ]
        # a white line on a dark one is visible on bright and dark ground, and in grey print
        for color, linewidth in ((INK, 2.6), ("white", 1.2)):
            line = {"colors": color, "linewidths": linewidth}
            axes.contour(centres[1], centres[0], share, [0.5], **line)


def _gradcam_bar(axes: Axes) -> None:
    colors = ScalarMappable(Normalize(0, 1), GRADCAM_COLORS)
    axes.figure.colorbar(colors, cax=axes, orientation="horizontal")
    axes.tick_params(labelsize=SMALL)
    label = "Grad-CAM, share of each image's own maximum; white line: one half"
    axes.set_xlabel(label, fontsize=SMALL, color=INK)
