"""The images that runs got wrong: a page and a picture per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.splits import CLASS_NAMES, Split, TwoClassData
from chestlab.evaluation.looks import (
    FILE_NAME,
    NETWORKS_BETWEEN,
    Look,
    image_set,
    looks_dir,
    predictions_key,
    record,
)
from chestlab.evaluation.predictions import with_threshold
from chestlab.evaluation.tasks import SPLIT_TITLES
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError
from chestlab.files.run_files import results_dir_of
from chestlab.reporting import prediction_grids
from chestlab.reporting.look_tables import networks_of, recipe_text
from chestlab.reporting.page import escaped, markdown_table, render
from chestlab.reporting.stored_runs import Predictions, StoredRun
from chestlab.training.network_names import network_name
from chestlab.training.recipe import recipe_hash

WARNING = "Look at the test images only after the recipe is final."

LISTED, SHOWN = 10, prediction_grids.GRID_COLUMNS  # images of a kind in the table, in the picture


def write_mistakes(data: TwoClassData, runs: Sequence[StoredRun]) -> list[Path]:
    """Write ``mistakes.md`` and ``mistakes.png`` of each run that was trained on these data.

    Args:
        data: the images.
        runs: of `stored_runs.read_runs`, or one of them.

    Raises:
        InputError: none of the runs is of these data.
    """
    fitting = [run for run in runs if run.metrics["data"]["sha256"] == data.sha256]
    if not fitting:
        which = f"run '{runs[0].name}' was not" if len(runs) == 1 else "none of the runs was"
        raise InputError(f"{which} made from '{data.source}'")
    return [_write_page(run, data) for run in fitting]


def _write_page(run: StoredRun, data: TwoClassData) -> Path:
    threshold = run.metrics["threshold"]
    groups: dict[str, list[tuple[np.ndarray, int, float, int]]] = {}
    sections = []
    if "test" in run.predictions:
        folder = looks_dir(results_dir_of(run.folder), data.phantom)
        folder.mkdir(exist_ok=True)
        record(folder / FILE_NAME, _look(run, data))
    for split in run.shown_splits:
        predictions, images = run.predictions[split], getattr(data, split)
        same_rows = np.array_equal(predictions.index, images.index)
        if not (same_rows and np.array_equal(predictions.labels, images.labels)):
            raise InputError(f"'{run.folder}' is not about the {split} images of '{data.source}'")
        title, correct = SPLIT_TITLES[split], run.correct(split)
        lists = []
        for kind, rows in _kinds(predictions, correct, threshold).items():
            groups[f"{title}: {kind}"] = [
                (
                    images.images[i],
                    int(predictions.labels[i]),
                    float(predictions.probabilities[i]),
                    int(predictions.index[i]),
                )
                for i in rows[:SHOWN]
            ]
            lists.append((kind.capitalize(), _table(predictions, correct, images, rows, threshold)))
        heading = f"{title.capitalize()}: {(~correct).sum()} of {len(correct)} wrong"
        sections.append({"heading": heading, "lists": lists})
    tested = "test" in run.predictions
    _draw(run, groups, data.credit)
    path = run.folder / "mistakes.md"
    text = render(
        "mistakes.md.j2",
        name=run.name,
        model=escaped(network_name(run.metrics)),
        source=escaped(run.source),
        positive=CLASS_NAMES[1],
        threshold=f"{threshold:.2f}",
        phantom=data.phantom,
        warning=WARNING if tested else "",
        alarms=[escaped(text) for text in run.metrics["warnings"]],
        shown=SHOWN,
        sections=sections,
    )
    atomic_write(path, text)
    return path


def _look(run: StoredRun, data: TwoClassData) -> Look:
    """The line that counts that the errors on test were shown, once however often they are."""
    return Look(
        run=run.name,
        kind="mistakes",
        network=NETWORKS_BETWEEN.join(networks_of(run.metrics)),
        recipe_name=recipe_text(run.metrics),
        recipe=recipe_hash(run.metrics.get("recipe") or {}),
        data=data.sha256,
        images=image_set(data, data.test),
        evaluation=predictions_key(run.predictions["test"].probabilities),
    )


def _kinds(
    predictions: Predictions, correct: np.ndarray, threshold: float
) -> dict[str, np.ndarray]:
    """Rows of the errors, the farthest from the threshold first, and of all, the nearest first."""
    wrong = np.flatnonzero(~correct)
    distance = np.abs(predictions.probabilities - threshold)
    return {
        "errors farthest from the threshold": wrong[np.argsort(-distance[wrong], kind="stable")],
        "images nearest to the threshold": np.argsort(distance, kind="stable"),
    }


def _table(
    predictions: Predictions,
    correct: np.ndarray,
    images: Split,
    rows: np.ndarray,
    threshold: float,
) -> str:
    """The first of ``rows`` as a table; empty where there is none."""
    heads = ["index", "true class", "predicted class", f"P({CLASS_NAMES[1]})"]
    heads += ["image"] if images.names is not None else []
    cells: list[list[Any]] = []
    for i in rows[:LISTED]:
        probability = float(predictions.probabilities[i])
        predicted = CLASS_NAMES[int(probability >= threshold)]
        cells.append(
            [
                str(predictions.index[i]),
                CLASS_NAMES[predictions.labels[i]],
                predicted + ("" if correct[i] else " (wrong)"),
                " ".join(with_threshold(probability, threshold, 3)),
                *([] if images.names is None else [escaped(str(images.names[i]))]),
            ]
        )
    return markdown_table(heads, cells, left=3) if cells else ""


def _draw(run: StoredRun, groups: dict[str, list], credit: str) -> None:
    threshold = run.metrics["threshold"]
    wrong = ", ".join(
        f"{int((~run.correct(split)).sum())} of {run.metrics[split]['n']:,} {split} images wrong"
        for split in run.shown_splits
    )
    prediction_grids.draw_mistakes(
        groups,
        run.folder / "mistakes.png",
        threshold=threshold,
        title=f"Mistakes: {wrong}\n{run.name} · {run.source} · threshold {threshold:.2f}",
        notes=[prediction_grids.explain_p(threshold)]
        + [WARNING] * ("test" in run.predictions)
        + [credit],
    )
