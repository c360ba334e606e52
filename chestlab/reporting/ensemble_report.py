"""What an average of networks is worth: the figures, tables and pictures of any ensemble."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data import phantom
from chestlab.data.splits import Split, TwoClassData
from chestlab.evaluation.metrics import choose_threshold, evaluate_probabilities, paired_difference
from chestlab.evaluation.predictions import write_probabilities
from chestlab.evaluation.tasks import SPLIT_TITLES, print_scores
from chestlab.files.atomic import atomic_write
from chestlab.training.recipe import in_words

SHARED = (
    "model_arguments",
    "starting_weights",
    "recipe",
    "recipe_name",
    "device",
    "amp",
    "torch",
    "tta",
    "bootstrap_unit",
)

COLUMNS = {"val": "val", "held_out": "its held-out fold", "test": "test"}


@dataclass(frozen=True)
class Member:
    """A finished run and its probabilities by split, in the order of the images.

    Its figures of images that it was cross-validated on are called ``held_out``.
    """

    metrics: dict[str, Any]
    probabilities: dict[str, np.ndarray]


def write_average(
    folder: Path,
    data: TwoClassData,
    members: Sequence[Member],
    together: Mapping[str, tuple[Split, np.ndarray]],
    averaged: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    """Evaluate an average, draw it, write its tables and its page, and `metrics.json` last.

    Args:
        folder: of the results, which exists; its name is the average's.
        data: what the images are of.
        members: what was averaged.
        together: images and the average's probabilities of them, by split: ``val``, and as far as
            there are any ``test`` and ``oof``, each image by networks that have not seen it.
        averaged: splits that every member has predicted.
        about: ``model``, ``kind`` and what else `metrics.json` tells of all members at once.
    """
    basis = "oof" if "oof" in together else "val"
    split, probabilities = together[basis]
    threshold = choose_threshold(split.labels, probabilities)
    figures = {
        name: evaluate_probabilities(split.labels, probabilities, threshold, split.patients)
        for name, (split, probabilities) in together.items()
    }
    for name, (split, probabilities) in together.items():
        path = folder / f"{name}_probabilities.csv"
        write_probabilities(path, split, probabilities)
    judge = "val" if "val" in averaged else "held_out"
    best = max(members, key=lambda m: [m.metrics[judge][key] for key in ("accuracy", "auc")])
    gain = {
        name: paired_difference(
            split.labels,
            probabilities,
            best.probabilities[name],
            (threshold, best.metrics["threshold"]),
            split.patients,
        )
        for name in averaged
        for split, probabilities in [together[name]]
    }
    metrics = {
        "name": folder.name,
        **about,
        "parameters": sum(member.metrics["parameters"] for member in members),
        "data": {
            **{key: getattr(data, key) for key in ("source", "size", "sha256", "phantom")},
            "counts": data.counts(),
        },
        "threshold": threshold,
        "threshold_chosen_on": "out-of-fold" if basis == "oof" else basis,
        "seconds": sum(member.metrics["seconds"] for member in members),
        "train": None,
        "test": None,
        **figures,
        "members": [_summary(member.metrics) for member in members],
        "mean_and_sd": _mean_and_sd([member.metrics for member in members]),
        "best_member": {
            "name": best.metrics["name"],
            "chosen_on": f"accuracy, then AUC, on {COLUMNS[judge]}",
            "gain_of_the_average": gain,
        },
        "costs": _costs([member.metrics["costs"] for member in members]),
    }
    _draw(folder, together, metrics)
    atomic_write(folder / "README.md", _page(metrics))
    atomic_write(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    print(f"\n{folder.name}, the average of {about['kind']}, threshold {threshold:.2f}")
    print_scores(metrics)
    print(f"results: {folder}", flush=True)
    if data.phantom:
        print(phantom.PHANTOM_MARK, flush=True)


def _draw(
    folder: Path,
    together: Mapping[str, tuple[Split, np.ndarray]],
    metrics: Mapping[str, Any],
) -> None:
    from chestlab.reporting import comparison_plots, evaluation_plots

    names = {"oof": "out of fold"}
    counts = ", ".join(f"{names.get(k, k)} n = {metrics[k]['n']}" for k in together)
    title = (
        f"{metrics['name']}\n{metrics['model']}, average of {metrics['kind']}\n"
        f"{metrics['data']['source']} · {counts}"
    )
    if note := metrics.get("starting_weights", {}).get("note"):
        title += f"\n{note}"
    drawn = ["oof", "test"] if "oof" in together else ["val", "test"]
    evaluation_plots.draw_evaluation(
        folder,
        {
            SPLIT_TITLES[name]: (split.labels, probabilities, metrics[name])
            for name in drawn
            if name in together
            for split, probabilities in [together[name]]
        },
        title=title,
        threshold=metrics["threshold"],
    )
    comparison_plots.draw_members(metrics, folder / "members.png", title=title)


def _summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the ensemble says of one member."""
    keep = ("accuracy", "auc")
    parts = {
        part: {key: metrics[part][key] for key in keep}
        for part in ("val", "held_out", "test")
        if metrics.get(part) is not None
    }
    plain = ("name", "seed", "best_epoch", "epochs_run", "threshold", "seconds")
    return {**{key: metrics[key] for key in plain if key in metrics}, **parts}


def _mean_and_sd(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the members, of each figure that all have."""
    return {
        split: {
            figure: {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}
            for figure in ("accuracy", "auc")
            for values in [[member[split][figure] for member in members]]
        }
        for split in ("val", "held_out", "test")
        if all(member.get(split) is not None for member in members)
    }


def _costs(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What asking all members takes, one after the other; memory of one at a time."""
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


def _page(metrics: Mapping[str, Any]) -> str:
    """The ensemble's own README.md."""
    from chestlab.reporting.page import markdown_table  # by way of matplotlib

    splits = [name for name in ("val", "held_out", "test") if name in metrics["mean_and_sd"]]
    head = ["member", *(f"{COLUMNS[s]} {f}" for s in splits for f in ("accuracy", "AUC"))]
    head += ["epoch kept", "threshold", "seconds"]
    rows = [
        [
            member["name"],
            *(f"{member[s][f]:.3f}" for s in splits for f in ("accuracy", "auc")),
            f"{member['best_epoch']} of {member['epochs_run']}" if "best_epoch" in member else "",
            f"{member['threshold']:.2f}",
            f"{member['seconds']:.0f}",
        ]
        for member in metrics["members"]
    ]
    for label, key in (("mean", "mean"), ("sd", "sd")):
        values = (metrics["mean_and_sd"][s][f][key] for s in splits for f in ("accuracy", "auc"))
        rows.append([f"**{label}**", *(f"{value:.3f}" for value in values), "", "", ""])
    together = []
    for name, title in (("val", "val"), ("oof", "out of fold"), ("test", "test, held out")):
        if metrics.get(name) is not None:
            figures = metrics[name]
            together.append(
                [
                    title,
                    str(figures["n"]),
                    *(f"{_with_interval(figures, f)}" for f in ("accuracy", "auc")),
                    f"{figures['sensitivity']:.3f}",
                    f"{figures['specificity']:.3f}",
                ]
            )
    best = metrics["best_member"]
    gains = [
        f"- {name}: accuracy {_signed(gain, 'accuracy')}, AUC {_signed(gain, 'auc')}"
        for name, gain in best["gain_of_the_average"].items()
    ]
    note = metrics.get("starting_weights", {}).get("note")
    averaged = metrics.get("averaged", "probabilities").capitalize()
    told = []
    if "recipe_name" in metrics:
        told.append(f"Recipe {in_words(metrics['recipe_name'], metrics['recipe_changes'])}")
    if "device" in metrics:
        told.append(" in ".join(metrics[key] for key in ("device", "amp") if key in metrics))
    if "torch" in metrics:
        told.append(f"PyTorch {metrics['torch']}")
    return "\n".join(
        [
            f"# {metrics['model']}, average of {metrics['kind']}",
            "",
            f"Data: `{metrics['data']['source']}`. {', '.join(told)}, "
            f"{metrics['seconds']:.0f} seconds in all. {averaged} are averaged; the threshold "
            f"{metrics['threshold']:.2f} was chosen on the {metrics['threshold_chosen_on']} "
            f"probabilities. Intervals: 95 %, resampling "
            f"{metrics['bootstrap_unit']}s.{f' {note.capitalize()}.' if note else ''}",
            "",
            markdown_table(
                ["the average on", "n", "accuracy", "AUC", "sensitivity", "specificity"], together
            ),
            "",
            markdown_table(head, rows),
            "",
            "![The members and their average](members.png)",
            "",
            f"What averaging gains over `{best['name']}`, the best single member by "
            f"{best['chosen_on']} (paired, with 95 % interval):",
            "",
            *gains,
            "",
        ]
    )


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    low, high = figures[f"{key}_ci95"]
    return f"{figures[key]:.3f} ({low:.3f} to {high:.3f})"


def _signed(gain: Mapping[str, Any], key: str) -> str:
    low, high = gain[f"{key}_ci95"]
    return f"{gain[key]:+.3f} ({low:+.3f} to {high:+.3f})"
