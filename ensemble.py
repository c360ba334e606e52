"""Several networks of one recipe, their probabilities averaged: over seeds, or over folds.

    python train_improved.py --members 5
    python train_improved.py --folds 5 --folds-over train

Every member is a run of its own below the ensemble's folder, with all its artefacts; members that
are finished are not trained again.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import datareader
from experiment import (
    Run,
    make_folder,
    places,
    print_scores,
    read_metrics,
    write_probabilities,
)
from flags import check_name, run_name
from folds import join, make_folds
from metrics import choose_threshold, evaluate_probabilities, paired_difference
from storage import InputError, RunFiles, atomic_write, check_writable, run_lock
from tasks import SPLIT_TITLES

SEEDS = (42, 123, 456, 789, 1011)  # of the course reports, then one after the other
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


def seeds(k: int) -> list[int]:
    """The first ``k`` seeds."""
    return [*SEEDS, *range(SEEDS[-1] + 1, SEEDS[-1] + 1 + k)][:k]


@dataclass(frozen=True)
class Member:
    """A finished run and its probabilities by split, in the order of the images."""

    metrics: dict[str, Any]
    probabilities: dict[str, np.ndarray]


class Ensemble:
    """Train what is missing, average, report.

    Args:
        make_run: called with options, data and folder, makes an `experiment.Run`.
        options: of `flags.parse`, with ``members`` or ``folds``.

    Raises:
        InputError: as `experiment.Run`, or the folds cannot be made. Nothing has been written.
    """

    def __init__(self, make_run: Callable[..., Run], options: argparse.Namespace) -> None:
        self.options = options
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.models_dir, "--models-dir")
        self.data = datareader.load(
            options.data, options.root, options.source_size, related=options.recipe.related
        )
        name = options.name or run_name(options.recipe, options.data, self.data.size)
        name += "_members" if options.members else f"_folds{options.folds}"
        name += "_trainval" if options.folds_over == "train+val" else ""
        check_name(name)
        self.files = RunFiles(*places(options, self.data), name)
        self.runs = [make_run(*member, name) for member in self._members()]

    def _members(self) -> list[tuple[argparse.Namespace, datareader.TwoClassData]]:
        """Options and data of each."""
        if self.options.members:
            each = [(f"seed{seed}", seed, self.data) for seed in seeds(self.options.members)]
        else:
            parts = make_folds(self.data, self.options.folds, self.options.folds_over)
            seed = self.options.recipe.seed
            each = [(f"fold{number}", seed, part) for number, part in enumerate(parts, 1)]
        members = []
        for name, seed, data in each:
            own = copy.copy(self.options)
            own.name, own.recipe = name, dataclasses.replace(own.recipe, seed=seed)
            members.append((own, data))
        return members

    def go(self) -> None:
        """Train the members that are not finished, then write what they are together."""
        folder = self.files.models_dir / self.files.name
        make_folder(folder)
        with run_lock(folder / "ensemble.lock", self.files.name):
            for number, run in enumerate(self.runs, 1):
                print(f"{self.files.name}: {run.name}, {number} of {len(self.runs)}", flush=True)
                if run.is_finished() and not self.options.overwrite:
                    run.options.resume = True  # says so, or evaluates test where that is left
                run.go()
            self._report()

    def _report(self) -> None:
        """Average, evaluate, draw; `metrics.json` is written last."""
        members = [self._read(run) for run in self.runs]
        splits, probabilities = self._together(members)
        basis = "oof" if self.options.folds else "val"
        threshold = choose_threshold(splits[basis].labels, probabilities[basis])
        figures = {
            name: evaluate_probabilities(
                split.labels, probabilities[name], threshold, split.patients
            )
            for name, split in splits.items()
        }
        for name, split in splits.items():
            path = self.files.folder / f"{name}_probabilities.csv"
            write_probabilities(path, split, probabilities[name])
        judge = "val" if "val" in self._averaged else "held_out"
        best = max(members, key=lambda m: [m.metrics[judge][key] for key in ("accuracy", "auc")])
        gain = {
            name: paired_difference(
                splits[name].labels,
                probabilities[name],
                best.probabilities[name],
                (threshold, best.metrics["threshold"]),
                splits[name].patients,
            )
            for name in self._averaged
        }
        kind = f"{len(members)} seeds"
        if self.options.folds:
            kind = f"{len(members)} folds over {self.options.folds_over}"
        first = members[0].metrics
        metrics = {
            "name": self.files.name,
            "model": first["model"],
            "kind": kind,
            "parameters": sum(member.metrics["parameters"] for member in members),
            **{key: first[key] for key in SHARED if key in first},
            "data": {
                **{key: first["data"][key] for key in ("source", "size", "sha256", "phantom")},
                "counts": self.data.counts(),
            },
            "recipe_changes": self.options.recipe_changes,
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
        self._draw(splits, probabilities, metrics)
        atomic_write(self.files.folder / "README.md", _page(metrics))
        atomic_write(self.files.metrics, json.dumps(metrics, indent=2) + "\n")
        print(f"\n{self.files.name}, the average of {kind}, threshold {threshold:.2f}")
        print_scores(metrics)
        print(f"results: {self.files.folder}", flush=True)
        if self.data.phantom:
            print(datareader.PHANTOM_MARK, flush=True)

    @property
    def _averaged(self) -> list[str]:
        """Splits that every member has predicted; of folds over train+val only test is left."""
        names = ["val"] if self.options.folds_over == "train" else []
        return names if self.options.no_test else [*names, "test"]

    def _together(
        self, members: Sequence[Member]
    ) -> tuple[dict[str, datareader.Split], dict[str, np.ndarray]]:
        """The images the ensemble is judged on and its probabilities of them, by split.

        ``oof``: each image by the one network that has not seen it. Over ``train+val`` the val
        images are a part of these.
        """
        splits = {name: getattr(self.data, name) for name in self._averaged}
        probabilities = {
            name: np.mean([member.probabilities[name] for member in members], axis=0)
            for name in self._averaged
        }
        if self.options.folds:
            parts = [run.data.held_out or run.data.val for run in self.runs]
            splits["oof"] = join(parts)
            probabilities["oof"] = np.concatenate([m.probabilities["held_out"] for m in members])
        if "val" not in splits:
            of_val = splits["oof"].origin == "val"
            val = {"val": splits["oof"].take(of_val)}
            splits, probabilities = (
                val | splits,
                {"val": probabilities["oof"][of_val]} | probabilities,
            )
        return splits, probabilities

    def _read(self, run: Run) -> Member:
        """A finished member's figures, and its probabilities from the tables it has written."""
        parts = {name: getattr(run.data, name) for name in ("val", "test", "held_out")}
        if self.options.no_test:
            parts["test"] = None
        probabilities = {
            name: _read_probabilities(run.final.folder / f"{name}_probabilities.csv", split)
            for name, split in parts.items()
            if split is not None
        }
        metrics = read_metrics(run.final.metrics)
        if self.options.folds and run.data.held_out is None:  # the fold has taken val's place
            for values in (metrics, probabilities):
                values["held_out"] = values.pop("val")
        return Member(metrics, probabilities)

    def _draw(
        self,
        splits: Mapping[str, datareader.Split],
        probabilities: Mapping[str, np.ndarray],
        metrics: Mapping[str, Any],
    ) -> None:
        import visualize

        names = {"oof": "out of fold"}
        counts = ", ".join(f"{names.get(k, k)} n = {len(split)}" for k, split in splits.items())
        title = (
            f"{metrics['name']}\n{metrics['model']}, average of {metrics['kind']}\n"
            f"{self.data.source} · {counts}"
        )
        if note := metrics.get("starting_weights", {}).get("note"):
            title += f"\n{note}"
        drawn = ["oof", "test"] if "oof" in splits else ["val", "test"]
        drawn = [name for name in drawn if name in splits]
        folder = self.files.folder
        visualize.draw_evaluation(
            folder,
            {
                SPLIT_TITLES[name]: (
                    splits[name].labels,
                    probabilities[name],
                    metrics[name],
                )
                for name in drawn
            },
            title=title,
            threshold=metrics["threshold"],
        )
        visualize.draw_members(metrics, folder / "members.png", title=title)


def _read_probabilities(path: Path, split: datareader.Split) -> np.ndarray:
    """Probabilities (N,) of exactly these images, from what a member has written.

    Raises:
        InputError: the table is of other images, or not there.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        same = [int(row["index"]) for row in rows] == split.index.tolist()
        values = np.array([float(row["probability"]) for row in rows])
    except (OSError, KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise InputError(
            f"'{path}' is missing, or not the table of this member: remove '{path.parent}', and "
            "it is trained anew"
        )
    return values


def _summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the ensemble says of one member."""
    keep = ("accuracy", "auc")
    parts = {
        part: {key: metrics[part][key] for key in keep}
        for part in ("val", "held_out", "test")
        if metrics.get(part) is not None
    }
    plain = ("name", "seed", "best_epoch", "epochs_run", "threshold", "seconds")
    return {**{key: metrics[key] for key in plain}, **parts}


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
    from report import markdown_table  # by way of matplotlib

    splits = [name for name in ("val", "held_out", "test") if name in metrics["mean_and_sd"]]
    head = ["member", *(f"{COLUMNS[s]} {f}" for s in splits for f in ("accuracy", "AUC"))]
    head += ["epoch kept", "threshold", "seconds"]
    rows = [
        [
            member["name"],
            *(f"{member[s][f]:.3f}" for s in splits for f in ("accuracy", "auc")),
            f"{member['best_epoch']} of {member['epochs_run']}",
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
    changes = ", ".join(f"`{key}` {value}" for key, value in metrics["recipe_changes"].items())
    return "\n".join(
        [
            f"# {metrics['model']}, average of {metrics['kind']}",
            "",
            f"Data: `{metrics['data']['source']}`. Recipe `{metrics['recipe_name']}`"
            f"{f' with {changes}' if changes else ''}, "
            f"{metrics['device']} in {metrics['amp']}, PyTorch {metrics['torch']}, "
            f"{metrics['seconds']:.0f} seconds in all. Probabilities are averaged; the threshold "
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
