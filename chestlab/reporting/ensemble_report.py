"""The results folder of an average of networks: figures, tables, pictures and lab report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data import phantom
from chestlab.data.splits import Split, TwoClassData
from chestlab.evaluation.alarms import alarms, logits_of
from chestlab.evaluation.looks import (
    NETWORKS_BETWEEN,
    Look,
    evaluate_test,
    image_set,
    looks_dir,
    predictions_key,
)
from chestlab.evaluation.metrics import choose_threshold, evaluate_probabilities, paired_difference
from chestlab.evaluation.predictions import MEMBERS, write_members, write_probabilities
from chestlab.evaluation.reliability import calibration_out_of_fold, threshold_interval
from chestlab.evaluation.tasks import SPLIT_TITLES, print_scores, threshold_in_words
from chestlab.files.atomic import atomic_write
from chestlab.files.run_files import results_dir_of
from chestlab.reporting.lab_report import report_on
from chestlab.reporting.look_tables import networks_of, recipe_text
from chestlab.reporting.stored_runs import member_warning
from chestlab.training.network_names import network_name
from chestlab.training.recipe import recipe_hash

SHARED = (
    "model_arguments",
    "starting_weights",
    "recipe",
    "recipe_name",
    "recipe_published",
    "architecture",
    "device",
    "amp",
    "torch",
    "tta",
    "bootstrap_unit",
)

COLUMNS = {"val": "val", "held_out": "its held-out fold", "test": "test"}  # of a member's figures

MEASURES = ("accuracy", "auc")

Averages = Mapping[str, tuple[Split, np.ndarray]]


@dataclass(frozen=True)
class Member:
    """A finished run and its probabilities by split, in the order of the images.

    Figures and probabilities of images that it was cross-validated on are called ``held_out``.
    """

    metrics: dict[str, Any]
    probabilities: dict[str, np.ndarray]


def write_average(
    folder: Path,
    data: TwoClassData,
    members: Sequence[Member],
    averages: Averages,
    averaged: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    """Evaluate an average, draw it, write its tables and `metrics.json`, then its lab report.

    Args:
        folder: of the results, which exists; its name is the average's.
        data: what the images are of.
        members: what was averaged.
        averages: images and the average's probabilities (N,) of them, by split: ``val``, and as
            far as there are any ``test`` and ``oof``, each image by networks that have not seen it.
        averaged: splits that every member has predicted.
        about: ``model``, ``kind`` and what else `metrics.json` says of all members at once.
    """
    metrics = {
        "name": folder.name,
        **about,
        "parameters": sum(member.metrics["parameters"] for member in members),
        "data": {
            **{key: getattr(data, key) for key in ("source", "size", "sha256", "phantom")},
            "counts": data.counts(),
            **({"classes": list(data.classes)} if data.classes else {}),
        },
        **_evaluate(folder, data, members, averages, averaged, about),
        **_calibration(members, averages),
    }
    metrics["warnings"] = _warnings(data, members, averages, metrics["threshold"])
    for name, (split, probabilities) in averages.items():
        write_probabilities(folder / f"{name}_probabilities.csv", split, probabilities)
    if not about.get("blend"):  # whose members are runs with tables of their own
        write_members(folder / MEMBERS, _predicted(members, averages, averaged))
    _draw(folder, averages, metrics)
    atomic_write(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    print(f"\n{folder.name}, the average of {about['kind']}, {threshold_in_words(metrics)}")
    print_scores(metrics)
    report_on(folder, results_dir_of(folder))
    print(f"results: {folder}", flush=True)
    if data.phantom:
        print(phantom.PHANTOM_MARK, flush=True)


def _predicted(
    members: Sequence[Member], averages: Averages, averaged: Sequence[str]
) -> Iterator[tuple[str, Split, dict[str, np.ndarray]]]:
    """What each member has predicted, as `write_members` takes it."""
    for name in averaged:
        of_all = {member.metrics["name"]: member.probabilities[name] for member in members}
        yield name, averages[name][0], of_all
    start = 0
    for member in members:  # in whose order the images out of fold are
        if (held_out := member.probabilities.get("held_out")) is not None:
            rows = np.arange(start, start + len(held_out))
            yield "train", averages["oof"][0].take(rows), {member.metrics["name"]: held_out}
            start += len(held_out)


def _evaluate(
    folder: Path,
    data: TwoClassData,
    members: Sequence[Member],
    averages: Averages,
    averaged: Sequence[str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """What `metrics.json` says of the average's figures and of its members."""
    basis = "oof" if "oof" in averages else "val"
    split, probabilities = averages[basis]
    threshold = choose_threshold(split.labels, probabilities)
    interval = threshold_interval(split.labels, probabilities, split.patients)
    figures = {}
    for name, (split, probabilities) in averages.items():
        known = split.labels, probabilities, threshold, split.patients
        evaluate = partial(evaluate_probabilities, *known)
        if name == "test":
            look = _look(folder, data, members, probabilities, about)
            table = looks_dir(results_dir_of(folder), data.phantom)
            figures[name] = evaluate_test(table, look, evaluate)
        else:
            figures[name] = evaluate()
    best_by = "val" if "val" in averaged else "held_out"
    best = max(
        members,
        key=lambda m: [
            -math.inf if m.metrics[best_by][measure] is None else m.metrics[best_by][measure]
            for measure in MEASURES
        ],
    )
    return {
        "threshold": threshold,
        "threshold_ci95": interval,
        "threshold_chosen_on": "out-of-fold" if basis == "oof" else basis,
        "seconds": sum(member.metrics["seconds"] for member in members),
        "train": None,
        "test": None,
        **figures,
        "members": [_summary(member.metrics) for member in members],
        "mean_and_sd": _mean_and_sd([member.metrics for member in members]),
        "best_member": {
            "name": best.metrics["name"],
            "chosen_on": f"accuracy, then AUC, on {COLUMNS[best_by]}",
            "gain_of_the_average": {
                name: _gain(*averages[name], threshold, best, name)
                for name in averaged
                if best.metrics.get(name) is not None  # a member may have no test figures
            },
        },
        "costs": _costs([member.metrics["costs"] for member in members]),
    }


def _calibration(members: Sequence[Member], averages: Averages) -> dict[str, Any]:
    """Of single networks on the fold that each has not seen; empty where there are no folds.

    A member's own temperature is undone: over train and val it was fitted to that very fold.
    """
    parts = [member.probabilities.get("held_out") for member in members]
    folds = [part for part in parts if part is not None]
    if len(folds) < len(members):
        return {}
    logits = [
        logits_of(part) * member.metrics.get("temperature", 1.0)
        for part, member in zip(folds, members, strict=True)
    ]
    images = averages["oof"][0]  # in the members' order
    numbers = np.repeat(np.arange(len(folds)), [len(part) for part in folds])
    figures = calibration_out_of_fold(
        images.labels, np.concatenate(logits), numbers, images.patients
    )
    return {"calibration_out_of_fold": figures}


def _warnings(
    data: TwoClassData, members: Sequence[Member], averages: Averages, threshold: float
) -> list[str]:
    """What is wrong with the data, and suspect about the average or one of its members."""
    return [
        *data.warnings,
        *alarms(
            {name: logits_of(values) for name, (_, values) in averages.items()},
            {name: values >= threshold for name, (_, values) in averages.items()},
        ),
        *(
            member_warning(member.metrics["name"], text)
            for member in members
            for text in member.metrics.get("warnings", ())
            if text not in data.warnings
        ),
    ]


def _look(
    folder: Path,
    data: TwoClassData,
    members: Sequence[Member],
    probabilities: np.ndarray,
    about: Mapping[str, Any],
) -> Look:
    """The line that counts the evaluation of an average on test; its members have their own."""
    networks = dict.fromkeys(name for m in members for name in networks_of(m.metrics))
    names = dict.fromkeys(recipe_text(member.metrics) for member in members)
    return Look(
        run=folder.name,
        kind="blend" if about.get("blend") else "average",
        network=NETWORKS_BETWEEN.join(networks),
        recipe_name=NETWORKS_BETWEEN.join(names),
        recipe=recipe_hash(about["recipe"]) if "recipe" in about else "",
        data=data.sha256,
        images=image_set(data, data.test),
        evaluation=predictions_key(probabilities),
    )


def _gain(
    split: Split, probabilities: np.ndarray, threshold: float, best: Member, name: str
) -> dict[str, Any]:
    """The average minus the best member, paired, on the images of one split."""
    thresholds = threshold, best.metrics["threshold"]
    scores = probabilities, best.probabilities[name]
    return paired_difference(split.labels, *scores, thresholds, split.patients)


def _draw(folder: Path, averages: Averages, metrics: Mapping[str, Any]) -> None:
    from chestlab.reporting import comparison_plots, evaluation_plots  # by way of matplotlib

    names = {"oof": "out of fold"}
    counts = ", ".join(f"{names.get(k, k)} n = {metrics[k]['n']}" for k in averages)
    title = (
        f"{metrics['name']}\n{metrics['model']}, average of {metrics['kind']}\n"
        f"{metrics['data']['source']} · {counts}"
    )
    if note := metrics.get("starting_weights", {}).get("note"):
        title += f"\n{note}"
    shown = ["oof", "test"] if "oof" in averages else ["val", "test"]
    evaluation_plots.draw_evaluation(
        folder,
        {
            SPLIT_TITLES[name]: (split.labels, probabilities, metrics[name])
            for name in shown
            if name in averages
            for split, probabilities in [averages[name]]
        },
        title=title,
        threshold=metrics["threshold"],
    )
    comparison_plots.draw_members(metrics, folder / "members.png", title=title)


def _summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a member's figures that the ensemble's `metrics.json` repeats."""
    figures = {
        split: {measure: metrics[split][measure] for measure in MEASURES}
        for split in COLUMNS
        if metrics.get(split) is not None
    }
    keys = ("name", "seed", "best_epoch", "epochs_run", "threshold", "threshold_ci95", "seconds")
    of_average = {}
    if "members" in metrics:
        of_average = {"model": network_name(metrics), "networks": len(metrics["members"])}
        if "starting_weights" in metrics:
            of_average["starting_weights"] = metrics["starting_weights"]
    return {**{key: metrics[key] for key in keys if key in metrics}, **of_average, **figures}


def _mean_and_sd(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the members, of each figure that all of them have.

    None where a member's area under the curve is undefined.
    """
    return {
        split: {
            measure: dict.fromkeys(("mean", "sd"))
            if None in values
            else {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}
            for measure in MEASURES
            for values in [[member[split][measure] for member in members]]
        }
        for split in COLUMNS
        if all(member.get(split) is not None for member in members)
    }


def _costs(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Costs of running all members one after the other; memory is the largest of one member."""
    summed = ("multiply_accumulates", "checkpoint_bytes", "stage1_seconds", "stage2_seconds")
    peaks = [cost["peak_memory_bytes"] for cost in costs]
    return {
        "input_size": costs[0]["input_size"],
        **{key: sum(cost[key] for cost in costs) for key in summed},
        **{
            batch: None
            if any(cost[batch] is None for cost in costs)
            else {key: sum(cost[batch][key] for cost in costs) for key in costs[0][batch]}
            for batch in ("inference_batch1", "inference_batch64")
        },
        "peak_memory_bytes": None if None in peaks else max(peaks),
    }
