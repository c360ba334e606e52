"""The figures of one run, by its task: two classes, or the 14 findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.splits import Split
from chestlab.reporting import evaluation_plots, prediction_grids


def draw_results(
    folder: Path,
    splits: Mapping[str, Split],
    probabilities: Mapping[str, np.ndarray],
    figures: Mapping[str, Mapping[str, Any]],
    titles: Mapping[str, str],
    title: Callable[..., str],
    credit: str,
    threshold: float | None = None,
) -> None:
    """Draw what a run predicts: of two classes a grid of images, confusion matrices, ROC curves
    and calibration; of the 14 findings the AUC of each.

    Args:
        folder: of the figures.
        splits: images by name of their split.
        probabilities: (N,) or (N, 14) by split.
        figures: of `metrics.evaluate` or `metrics.evaluate_findings`, by split.
        titles: what figures call each split.
        title: makes the first lines of a figure from the names of its splits.
        credit: of the images.
        threshold: probability from which pneumothorax is predicted; None of the 14 findings.
    """
    if threshold is None:
        evaluation_plots.draw_finding_aucs(
            {titles[name]: figures[name] for name in splits},
            folder / "finding_aucs.png",
            title=title(*splits),
        )
        return
    val = splits["val"]
    prediction_grids.draw_predictions(
        val.images,
        val.labels,
        probabilities["val"],
        val.index,
        folder / "val_predictions.png",
        threshold=threshold,
        title=title("val"),
        credit=credit,
    )
    evaluation_plots.draw_evaluation(
        folder,
        {
            titles[name]: (split.labels, probabilities[name], figures[name])
            for name, split in splits.items()
        },
        title=title(*splits),
        threshold=threshold,
    )
