"""The tables and pictures of a comparison of the 34-layer family; the page is of `family_page`.

Everything is computed from finished runs and their checkpoints; no run is changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data.splits import FINDINGS, FindingsData, TwoClassData
from chestlab.evaluation.tasks import GOAL
from chestlab.files.atomic import atomic_write, write_csv
from chestlab.files.run_files import RunFiles
from chestlab.reporting import family_plots
from chestlab.reporting.family_comparison import Comparison, Member
from chestlab.reporting.family_page import FILE, Rows, picture_title, write_pages
from chestlab.reporting.family_tables import (
    network_rows,
    reduction_rows,
    verdict_rows,
)
from chestlab.reporting.page import Wording
from chestlab.training.diagnostics import (
    GRADIENT_BATCHES,
    SILENT_SLOPE,
    gradient_norms,
    silent_units,
)
from chestlab.training.recipe import Recipe


def write_report(
    folder: Path,
    members: Mapping[str, Member],
    files: Mapping[str, Sequence[RunFiles]],
    data: TwoClassData | FindingsData,
    device: torch.device,
    recipes: Mapping[str, Recipe],
) -> None:
    """Write every picture and table of a comparison, and the page in both languages last.

    Args:
        folder: it must exist.
        members: the networks by name.
        files: of finished runs, by the network's name, in the order of the same seeds.
        data: what they were trained on.
        device: for what is computed from checkpoints.
        recipes: of the family by name, to say what the runs did otherwise.
    """
    comparison = Comparison(members, files, data, device)
    comparison.write_runs(folder)
    _write_rows(folder / "table.csv", network_rows(comparison))
    verdicts = verdict_rows(comparison)
    _write_rows(folder / "verdicts.csv", verdicts)
    _write_rows(folder / "se_ablation.csv", reduction_rows(comparison))
    about = _about(comparison, recipes[comparison.first["recipe_name"]])
    if {"plain34", "resnet34"} <= set(comparison.runs):
        about |= _gradients(comparison)
    if {"resnet34", "mishresnet34"} & set(comparison.runs):
        about["silent"] = _silent_units(comparison, about, folder / "silent_units.png")
    overlay = {
        comparison.titles[name]: runs
        for name, runs in comparison.runs.items()
        if "reduction" not in members[name].flags
    }
    if overlay:
        family_plots.draw_side_by_side(
            overlay, folder / "validation_curves.png", decided_note(verdicts)
        )
    atomic_write(folder / FILE, json.dumps(about, indent=1) + "\n")
    write_pages(folder)


def _about(comparison: Comparison, named: Recipe) -> dict[str, Any]:
    """What ``family.json`` holds of the runs; `_gradients` and silent units are added to it."""
    first, recipe = comparison.first, comparison.recipe
    about = {
        "findings": comparison.findings,
        "source": comparison.data.source,
        "counts": {split: first[split]["n"] for split in ("train", "val", "test")},
        "recipe": {
            "name": first["recipe_name"],
            "changes": recipe_changes(recipe, named),
            "epochs": recipe.epochs,
            "image_size": recipe.image_size,
        },
        "seeds": comparison.seeds,
        **{key: first[key] for key in ("device", "amp", "torch", "bootstrap_unit")},
        "warnings": [
            [comparison.titles[name], run["seed"], text]
            for name, runs in comparison.runs.items()
            for run in runs
            for text in run.get("warnings", ())
        ],
    }
    if comparison.findings:
        for split in ("val", "test"):
            classes = np.ptp(getattr(comparison.data, split).labels, axis=0)
            names = [name for name, known in zip(FINDINGS, classes, strict=True) if not known]
            about.setdefault("left_out", {})[split] = names
            if constant := comparison.constant_outputs(split):
                about.setdefault("constant_outputs", {})[split] = constant
    elif not comparison.data.phantom:
        about["reached"] = [
            [comparison.titles[name], run["seed"]]
            for name, runs in comparison.runs.items()
            for run in runs
            if run["val"]["accuracy"] >= GOAL
        ]
    return about


def _write_rows(path: Path, rows: Rows) -> None:
    path.unlink(missing_ok=True)  # of an earlier comparison
    if rows:
        write_csv(path, tuple(rows[0]), [tuple(row.values()) for row in rows])


def decided_note(rows: Rows) -> str:
    """Which hypotheses on differences are decided after Holm's correction, in English.

    Args:
        rows: of ``verdicts.csv``.
    """
    tested = [row for row in rows if not row["note"]]
    if not tested:
        return "No hypothesis on a difference could be tested."
    measures = {measure: Wording("en").say(measure) for measure in ("accuracy", "auc")}
    decided = [
        f"{row['hypothesis']} ({row['images']} {measures[row['measure']]}): {row['verdict_holm']}"
        for row in tested
        if row["verdict_holm"] != "undecided"
    ]
    found = "; ".join(decided) or "no difference is shown"
    return f"Hypotheses on differences, after Holm's correction for {len(tested)}: {found}."


def _gradients(comparison: Comparison) -> dict[str, Any]:
    """The gradient at every depth of Plain-34 and ResNet-34, and the first over the last."""
    images, labels = comparison.data.train.to(comparison.device)
    norms = {
        moment: {
            comparison.titles[name]: [
                gradient_norms(
                    comparison.network(name, k, moment), images, labels, comparison.recipe
                )
                for k in range(len(comparison.seeds))
            ]
            for name in ("plain34", "resnet34")
        }
        for moment in ("start", "best")
    }
    return {
        "gradient_images": min(
            GRADIENT_BATCHES * comparison.recipe.batch_size, len(comparison.data.train)
        ),
        "gradient_ratios": {
            moment: {name: family_plots.first_over_last(seeds) for name, seeds in networks.items()}
            for moment, networks in norms.items()
        },
        "gradients": norms,
    }


def _silent_units(comparison: Comparison, about: Mapping[str, Any], path: Path) -> dict[str, float]:
    """Draw the silent units of ResNet-34 and Mish-ResNet-34 where there are any; their shares."""
    images, _ = comparison.data.val.to(comparison.device)
    shares = {
        comparison.titles[name]: [
            silent_units(comparison.network(name, k, "best"), images, comparison.recipe)
            for k in range(len(comparison.seeds))
        ]
        for name in ("resnet34", "mishresnet34")
        if name in comparison.runs
    }
    means = {
        name: float(np.mean([list(layers.values()) for layers in seeds]))
        for name, seeds in shares.items()
    }
    if any(means.values()):
        meaning = Wording("en").say("silent_meaning", slope=f"{SILENT_SLOPE:g}")
        family_plots.draw_silent_units(
            shares,
            path,
            title=picture_title(about, "Silent units, best epoch", "val"),
            caption=f"{meaning} {family_plots.RANGE}",
        )
    else:
        path.unlink(missing_ok=True)  # of an earlier comparison
    return means


def recipe_changes(recipe: Recipe, named: Recipe) -> dict[str, Any]:
    """What a run does otherwise than the recipe it names, besides what the page says anyway."""
    on_the_page = ("name", "seed", "epochs", "image_size", "monitor")
    return {
        key: value
        for key, value in asdict(recipe).items()
        if key not in on_the_page and value != getattr(named, key)
    }
