"""The table of cross-validated runs: AUC within the folds, and differences of it.

Tables of probabilities do not store the folds. They are made again from the labels and patients,
and are taken for those of a run only where they give the AUCs of its folds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.folds import fold_rows
from chestlab.data.splits import Split
from chestlab.evaluation.alarms import logits_of
from chestlab.evaluation.metrics import roc_auc
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.evaluation.verdicts import Estimate
from chestlab.files.errors import InputError
from chestlab.reporting.page import NOTHING, Wording, escaped, markdown_table
from chestlab.reporting.stored_runs import StoredRun, read_patients, start_source

SAME_AUC = 0.005  # stored AUCs are of logits, and equal probabilities may be of different ones


def cross_validation_table(wording: Wording, results_dir: Path, group: Sequence[StoredRun]) -> str:
    """The cross-validated runs against the best baseline and against the recipe ``report``.

    AUC is the mean over the folds of the AUC within a fold, as in `out_of_fold`. A column of
    differences is left out where no run has one; empty where no run was cross-validated.

    Args:
        wording: language of the page.
        results_dir: has the lists of names.
        group: runs on one source.
    """
    runs = [run for run in group if "oof" in run.predictions]
    if not runs:
        return ""
    within = out_of_fold(results_dir, runs)
    aucs = {name: oof.estimate(name, "auc") for name, oof in within.items()}
    means = {run.name: _mean_auc(run) for run in runs if run.name not in aucs}
    means |= {name: estimate.value for name, estimate in aucs.items()}
    runs.sort(key=lambda run: -means[run.name] if math.isfinite(means[run.name]) else 1)
    baselines = [run for run in runs if run.kind == "baseline" and run.name in aucs]
    rows, gains = [], []
    for run in runs:
        divided = sorted(set(run.predictions["oof"].origin.tolist()))
        rows.append(
            [
                f"{group.index(run) + 1} {escaped(run.shown_name)}",
                " + ".join(wording.say(split) for split in divided),
                wording.number(run.metrics["oof"]["n"], ","),
                _cell(wording, aucs[run.name], ".3f")
                if run.name in aucs
                else wording.number(means[run.name]),
            ]
        )
        references = baselines[:1], _with_report(run, runs)
        gains.append([_gain_cell(wording, within, run, others) for others in references])
    heads = [wording.say(f"head_{head}") for head in ("run", "divided", "images", "oof_auc")]
    name = baselines[0].short_name if baselines else ""
    names = wording.say("head_gain", reference=escaped(name)), wording.say("head_gain_report")
    for column, head in enumerate(names):
        if any(of_run[column] != NOTHING for of_run in gains):
            heads.append(head)
            for row, of_run in zip(rows, gains, strict=True):
                row.append(of_run[column])
    return markdown_table(heads, rows, left=2)


def out_of_fold(results_dir: Path, runs: Sequence[StoredRun]) -> dict[str, OutOfFold]:
    """By name of a run, it and all others of the same images and folds; without unknown folds.

    An average of averages stores no AUC of a fold; it is taken to be of the folds of the first
    other run of its images.

    Args:
        results_dir: has the lists of names.
        runs: cross-validated.
    """
    found: dict[str, OutOfFold] = {}
    pools: list[tuple[StoredRun, OutOfFold]] = []
    for run in sorted(runs, key=lambda run: bool(run.metrics.get("blend"))):
        predictions = run.predictions["oof"]
        pools_of_images = [
            oof for other, oof in pools if predictions.same_images(other.predictions["oof"])
        ]
        if run.metrics.get("blend"):
            oof = next(iter(pools_of_images), None)
        else:
            patients = read_patients(results_dir, run, "oof")
            folds = _folds(run, patients)
            if folds is None:
                continue
            same = (oof for oof in pools_of_images if np.array_equal(oof.folds[0], folds))
            if (oof := next(same, None)) is None:
                images = predictions.origin, predictions.index, predictions.labels
                oof = OutOfFold(*images, patients, folds[None], {})
                pools.append((run, oof))
        if oof is not None:
            logits = logits_of(predictions.probabilities)[None]
            oof.add(run.name, logits, run.kind == "baseline")
            found[run.name] = oof
    return found


def _folds(run: StoredRun, patients: np.ndarray | None) -> np.ndarray | None:
    """(N,) fold of each out-of-fold prediction; None where they are not those of the run."""
    stored, predictions = _fold_aucs(run.metrics), run.predictions["oof"]
    labels, numbers = predictions.labels, np.zeros(len(predictions.labels), np.int64)
    if len(stored) < 2 or None in stored:
        return None
    images = np.empty((len(labels), 0, 0), np.uint8)
    split = Split(images, labels, predictions.index, patients=patients)
    try:
        folds = [rows for _, rows in fold_rows(split, len(stored))]
    except InputError:
        return None
    for number, rows in enumerate(folds):
        numbers[rows] = number
    aucs = [roc_auc(labels[rows], predictions.probabilities[rows]) for rows in folds]
    same = np.allclose(np.array(aucs), np.array(stored, float), rtol=0, atol=SAME_AUC)
    return numbers if same else None


def _fold_aucs(metrics: Mapping[str, Any]) -> list[Any]:
    """The stored AUC of each fold, in their order, None where undefined; or an empty list.

    An average of averages has none: its members are of all folds.
    """
    if metrics.get("blend"):
        return []
    if validated := metrics.get("cross_validation"):
        return validated["fold_aucs"]
    return [member.get("held_out", {}).get("auc") for member in metrics.get("members", [])]


def _mean_auc(run: StoredRun) -> float:
    """The mean of the stored AUCs of the folds; NaN where one is missing."""
    stored = _fold_aucs(run.metrics)
    return float(np.mean(stored)) if stored and None not in stored else math.nan


def _with_report(run: StoredRun, runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs of the same network and start with the recipe ``report``, unchanged."""
    return [
        other
        for other in runs
        if _network_and_start(other) == _network_and_start(run)
        and other.metrics.get("recipe_name") == "report"
        and not other.metrics.get("recipe_changes")
    ]


def _network_and_start(run: StoredRun) -> tuple[Any, ...]:
    """Kind, class and arguments (as ``arch``) of a run's network, and what it started from."""
    arguments = run.metrics.get("model_arguments") or {}
    return run.kind, run.metrics["model"], arguments, start_source(run.metrics)


def _gain_cell(
    wording: Wording,
    within: Mapping[str, OutOfFold],
    run: StoredRun,
    references: Sequence[StoredRun],
) -> str:
    """AUC minus that of the first reference on the same images and folds."""
    oof = within.get(run.name)
    for other in references:
        if other is not run and oof is not None and within.get(other.name) is oof:
            return _cell(wording, oof.gain(run.name, other.name, "auc"), "+.3f")
    return NOTHING


def _cell(wording: Wording, figure: Estimate, form: str) -> str:
    return wording.with_interval(figure.value, (figure.low, figure.high), form)
