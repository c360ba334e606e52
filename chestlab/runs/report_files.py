"""The lab report at the end of a run, and what it needs besides the run's results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from chestlab.data.splits import Data
from chestlab.files.atomic import atomic_write
from chestlab.reporting.lab_recipe import recipe_values
from chestlab.reporting.lab_report import ENVIRONMENT, EXTRAS, PAGES, note_failure, report_on
from chestlab.reporting.stored_runs import StoredRun
from chestlab.runs.environment import environment
from chestlab.runs.experiment import Experiment
from chestlab.training.recipe import Recipe


def draw_batch(folder: Path, data: Data, recipe: Recipe, title: str) -> None:
    """Draw ``report/training_batch.png`` in a run's folder.

    Args:
        folder: of the run.
        data: that it was trained on.
        recipe: that it was trained with.
        title: of the picture.

    Raises:
        OSError: it cannot be written.
    """
    from chestlab.reporting.batch_plots import draw_training_batch  # by way of matplotlib

    path = _inside(folder / EXTRAS / "training_batch.png")
    credit, train = data.credit, data.train
    draw_training_batch(train.images, train.labels, recipe, path, title=title, credit=credit)


def draw_stored_batch(run: StoredRun, data: Data) -> None:
    """As `draw_batch`, for a stored run that was trained on these data; none for a baseline."""
    recipe = recipe_values(run.metrics)
    if recipe is None:
        return
    known = {field.name for field in dataclasses.fields(Recipe)}
    kept = Recipe(**{key: value for key, value in recipe.items() if key in known})
    title = f"{run.name} · {run.metrics['model']}\n{data.source} · train n = {len(data.train)}"
    draw_batch(run.folder, data, kept, title)


def store_environment(folder: Path, device: torch.device) -> None:
    """Write ``report/environment.json`` in a run's folder; a failure is one line on stderr."""
    with note_failure(folder):
        text = json.dumps(environment(device), indent=2) + "\n"
        atomic_write(_inside(folder / ENVIRONMENT), text)


def _inside(path: Path) -> Path:
    """The path, whose folder exists now."""
    path.parent.mkdir(exist_ok=True)
    return path


def is_member(experiment: Experiment) -> bool:
    """Whether the run is a part of an ensemble or of a study, whose page shows it."""
    return experiment.final.results_dir != experiment.looks_dir


def write_report(experiment: Experiment, missing: bool = False) -> None:
    """Write the lab report of a finished run, unless it is a member; see `lab_report.report_on`.

    Args:
        experiment: finished, its files in their final place.
        missing: only if a page is not there, as where the run was cut off before it.
    """
    folder = experiment.final.folder
    if is_member(experiment) or not experiment.processes.first:
        return
    if missing and all((folder / page).exists() for page in PAGES.values()):
        return
    if not (folder / ENVIRONMENT).exists():
        store_environment(folder, experiment.device)
    report_on(folder, experiment.looks_dir)
