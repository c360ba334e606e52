"""The images that runs got wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chestlab.data.splits import CLASS_NAMES, NIH_CREDIT, TwoClassData
from chestlab.evaluation.tasks import SPLIT_TITLES
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError
from chestlab.reporting import prediction_grids
from chestlab.reporting.overview import WARNING, _shown
from chestlab.reporting.page import Page, escaped, markdown_table
from chestlab.reporting.stored_runs import StoredRun, read_runs

LISTED, SHOWN = (
    10,
    prediction_grids.GRID_COLUMNS,
)  # mistakes of a kind in the table and in the picture


def write_mistakes(data: TwoClassData, results_dir: Path, name: str | None = None) -> list[Path]:
    """Write ``mistakes.md`` and ``mistakes.png`` of a run, or of every run on these data.

    Raises:
        InputError: there is no such run, or it is of other data.
    """
    runs = [run for run in read_runs(results_dir) if name in (None, run.name)]
    if not runs:
        raise InputError(f"--run '{name}': there is no such finished run in '{results_dir}'")
    fitting = [run for run in runs if run.metrics["data"]["sha256"] == data.sha256]
    if not fitting:
        which = "no run in" if name is None else f"run '{name}' in"
        raise InputError(f"{which} '{results_dir}' was made from '{data.source}'")
    return [_write_mistakes(run, data) for run in fitting]


def _write_mistakes(run: StoredRun, data: TwoClassData) -> Path:
    threshold = run.metrics["threshold"]
    groups: dict[str, list[tuple[np.ndarray, int, float, int]]] = {}
    sections = []
    for split in _shown(run):
        predictions, part = run.predictions[split], getattr(data, split)
        index, labels = predictions.index, predictions.labels
        probabilities = predictions.probabilities
        if not (np.array_equal(index, part.index) and np.array_equal(labels, part.labels)):
            raise InputError(f"'{run.folder}' is not about the {split} images of '{data.source}'")
        correct = run.correct(split)
        predicted = probabilities >= threshold
        confidence = np.where(predicted, probabilities, 1 - probabilities)
        doubt = np.abs(probabilities - threshold)
        wrong = np.flatnonzero(~correct)
        kinds = {
            "most confident errors": wrong[np.argsort(-confidence[wrong], kind="stable")],
            "most uncertain": np.argsort(doubt, kind="stable"),
        }
        of = SPLIT_TITLES[split]
        sections.append(f"## {of.capitalize()}: {len(wrong)} of {len(correct)} wrong")
        for kind, rows in kinds.items():
            groups[f"{of}: {kind}"] = [
                (part.images[i], int(labels[i]), float(probabilities[i]), int(index[i]))
                for i in rows[:SHOWN]
            ]
            heads = ["index", "true class", "predicted class", "probability", "confidence"]
            heads += ["image"] if part.names is not None else []
            cells = [
                [
                    str(index[i]),
                    CLASS_NAMES[labels[i]],
                    CLASS_NAMES[int(predicted[i])] + ("" if correct[i] else " (wrong)"),
                    f"{probabilities[i]:.3f}",
                    f"{100 * confidence[i]:.1f} %",
                    *([] if part.names is None else [escaped(str(part.names[i]))]),
                ]
                for i in rows[:LISTED]
            ]
            sections.append(f"### {kind.capitalize()}")
            sections.append(
                markdown_table(heads, cells, 3) if cells else "None: every one is right."
            )
    page = Page("en")
    page.add(f"# Mistakes of {run.name}")
    page.add(f"{escaped(run.metrics['model'])} on {escaped(run.source)}.")
    page.add(
        "**How to read this.** *Index* is the row in the split of the source file, as in "
        f"`*_probabilities.csv`. *Probability* is that of {CLASS_NAMES[1]}, which is predicted "
        f"from {threshold:.2f} on; *confidence* is the probability of the predicted class. *Most "
        "confident errors* are the wrong predictions of which the model was surest: ask whether "
        "something in the picture explains them (a rotated or cropped patient, tubes and wires, "
        "both findings looking alike at this size), or whether the label may be wrong. *Most "
        "uncertain* are the predictions nearest to the threshold, right or wrong: there a small "
        "change of the model changes the answer."
    )
    if not data.phantom:
        page.add(
            "The labels were mined from the text of radiology reports (Wang et al., CVPR 2017), "
            "and some of them are wrong."
        )
    if "test" in run.predictions:
        page.add(f"**{WARNING}** Whatever is changed because of them makes test a second val.")
    page.add(f"![The first {SHOWN} of each list](mistakes.png)")
    for section in sections:
        page.add(section)
    n = ", ".join(f"{split} n = {run.metrics[split]['n']}" for split in _shown(run))
    prediction_grids.draw_mistakes(
        groups,
        run.folder / "mistakes.png",
        threshold=threshold,
        title=f"Mistakes of {run.name}\n{run.source} · {n} · threshold {threshold:.2f}",
        notes=[WARNING] * ("test" in run.predictions) + [NIH_CREDIT] * (not data.phantom),
    )
    path = run.folder / "mistakes.md"
    atomic_write(path, page.text())
    return path
