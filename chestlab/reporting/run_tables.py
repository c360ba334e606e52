"""The tables of `results/README.md`: all runs and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.evaluation.looks import Look
from chestlab.evaluation.metrics import effective_patients
from chestlab.evaluation.tasks import GOAL
from chestlab.files.progress import duration
from chestlab.reporting.lab_warnings import warning_in
from chestlab.reporting.look_tables import look_count, recipe_text
from chestlab.reporting.messages import MESSAGES
from chestlab.reporting.page import NOTHING, Wording, escaped, link, markdown_table, unbroken
from chestlab.reporting.pairs import clearly_above, difference
from chestlab.reporting.stored_runs import StoredRun, kind_of_average, read_patients
from chestlab.training.network_names import network_name

Best = tuple[StoredRun, list[StoredRun]]


def best_on_test(tested: Sequence[StoredRun], key: str, patients: np.ndarray | None) -> Best:
    """The run with the highest test figure, and the runs that it is not clearly better than.

    Args:
        tested: runs, one at least, that were evaluated on the same test images. Where the figure
            of some is undefined, they are left out.
        key: ``accuracy`` or ``auc``.
        patients: (N,) of the test images, or None where they are unknown.
    """
    known = [run for run in tested if run.metrics["test"][key] is not None] or tested[:1]
    best = max(known, key=lambda run: run.metrics["test"][key] or 0)
    others = [run for run in known if run is not best]
    return best, [run for run in others if not clearly_above(difference(best, run, patients), key)]


def run_table(
    wording: Wording,
    results_dir: Path,
    group: Sequence[StoredRun],
    best: Mapping[str, Best],
    looks: Sequence[Look],
) -> str:
    """A row of figures for every run on one source.

    Args:
        wording: language of the page.
        results_dir: where the page lies.
        group: the runs, in the order of the page.
        best: of `best_on_test`, by figure; a clear winner is printed bold.
        looks: at the test images of this source, by whatever network.
    """
    several = sum("test" in run.predictions for run in group) > 1
    rows = []
    for number, run in enumerate(group, 1):
        val = run.metrics["val"]
        name = f"[{escaped(run.shown_name)}]({link(results_dir, run.folder)}/)"
        accuracy = wording.percent(val["accuracy"])
        winner_of = {
            key
            for key, (winner, unclear) in best.items()
            if several and run is winner and not unclear
        }
        rows.append(
            [
                str(number),
                f"{name}<br>{escaped(' · '.join(_about(wording, run)))}",
                unbroken(wording.above_interval(accuracy, val.get("accuracy_ci95"), ".1f", 100)),
                NOTHING
                if run.metrics["data"].get("phantom")
                else wording.say("yes" if val["accuracy"] >= GOAL else "no"),
                wording.number(val["auc"]),
                *_test_cells(wording, run.metrics["test"], winner_of if several else set()),
                wording.number(look_count(run, looks), "d"),
            ]
        )
    heads = ["run", "val_accuracy", "goal", "val_auc", "test_accuracy", "test_auc", "looks"]
    return markdown_table(["#", *(wording.say(f"head_{head}") for head in heads)], rows, left=2)


def _about(wording: Wording, run: StoredRun) -> list[str]:
    """What a run is, in a few words each: model, recipe, seed, weights it started from."""
    metrics = run.metrics
    about: list[str | None] = [model_name(wording, run)]
    if run.kind == "ensemble":
        kind = kind_of_average(metrics)
        about.append(wording.say(f"average_of_{kind}", n=len(metrics["members"])))
        about.append(recipe_text(metrics))
    elif run.kind == "network":
        about += [recipe_text(metrics), wording.say("seed", seed=metrics.get("seed"))]
    if run.kind != "baseline":
        note = (metrics.get("starting_weights") or {}).get("note")
        about.append(note and wording.translated(note, "random_start"))
    return [part for part in about if part]


def _test_cells(wording: Wording, test: Mapping[str, Any] | None, winner_of: set[str]) -> list[str]:
    if test is None:
        return [NOTHING, NOTHING]
    cells = []
    for key, form, factor in (("accuracy", ".1f", 100), ("auc", ".3f", 1)):
        text = wording.percent(test[key]) if key == "accuracy" else wording.number(test[key])
        text = f"**{text}**" if key in winner_of else text
        cell = wording.above_interval(text, test.get(f"{key}_ci95"), form, factor)
        cells.append(unbroken(cell))
    return cells


def model_name(wording: Wording, run: StoredRun) -> str:
    """The `network_name`, or what a baseline is called in the page's language."""
    key = f"baseline_{(run.metrics.get('recipe') or {}).get('name')}"
    if run.kind == "baseline" and key in MESSAGES:
        return wording.say(key)
    return network_name(run.metrics)


def _time(wording: Wording, seconds: float | None, device: str | None) -> str:
    if seconds is None:
        return NOTHING
    text = f"{wording.number(seconds, '.1f')} s" if seconds < 60 else duration(seconds)
    return f"{text} ({device})" if device else text


def patient_lines(wording: Wording, results_dir: Path, run: StoredRun) -> list[str]:
    """A sentence for val and for test on how many patients their images are of, where known."""
    lines = []
    for split in run.shown_splits:
        patients = read_patients(results_dir, run, split)
        if patients is None:
            continue
        counts = np.unique(patients, return_counts=True)[1]
        numbers = {
            "n": len(patients),
            "patients": len(counts),
            "effective": effective_patients(patients),
            "most": counts.max(),
        }
        values = {key: wording.number(value, ",.0f") for key, value in numbers.items()}
        lines.append(wording.say("patients_of", split=wording.say(split), **values))
    return lines


def warning_lines(wording: Wording, group: Sequence[StoredRun]) -> list[str]:
    """A list item for every warning of a run, with the run's number.

    A sentence that has no translation stays in English, as `metrics.json` has it.
    """
    items = []
    for number, run in enumerate(group, 1):
        name = wording.say("run_number", number=number, run=escaped(run.short_name))
        for text in run.metrics["warnings"]:
            items.append(f"{name}: {escaped(warning_in(wording.language, text))}.")
    return items


def member_lines(wording: Wording, group: Sequence[StoredRun]) -> list[str]:
    """For every ensemble, a sentence with the figures of its members alone on test."""
    lines = []
    for number, run in enumerate(group, 1):
        figures = (run.metrics.get("mean_and_sd") or {}).get("test")
        if run.kind != "ensemble" or not figures:
            continue
        accuracy, auc = figures["accuracy"], figures["auc"]
        values = {
            "run": f"{number} ({escaped(run.shown_name)})",
            "accuracy": f"{wording.percent(accuracy['mean'])} ± {wording.percent(accuracy['sd'])}",
            "auc": f"{wording.number(auc['mean'])} ± {wording.number(auc['sd'])}",
        }
        lines.append(wording.say("members_alone", **values))
    return lines


def cost_table(wording: Wording, group: Sequence[StoredRun]) -> str:
    """What each network costs; a dash where a run has not stored it.

    Speeds are left out: each run was timed on its own, under another load. Empty where no run has
    stored its time.
    """
    rows = []
    for run in group:
        metrics, costs = run.metrics, run.metrics.get("costs") or {}
        if metrics.get("seconds") is None:
            continue
        rows.append(
            [
                str(group.index(run) + 1),
                escaped(run.shown_name),
                wording.number(metrics.get("parameters"), ","),
                _in_millions(wording, costs.get("multiply_accumulates")),
                wording.percent(metrics["val"]["accuracy"]),
                wording.percent(metrics["test"]["accuracy"]) if metrics["test"] else NOTHING,
                _time(wording, metrics["seconds"], metrics.get("device")),
                _in_millions(wording, costs.get("peak_memory_bytes")),
                _in_millions(wording, costs.get("checkpoint_bytes")),
            ]
        )
    heads = ["run", "parameters", "arithmetic", "val_accuracy", "test_accuracy", "time"]
    heads += ["memory", "checkpoint"]
    heads = ["#", *(wording.say(f"head_{head}") for head in heads)]
    return markdown_table(heads, rows, left=2) if rows else ""


def _in_millions(wording: Wording, value: float | None) -> str:
    return wording.number(None if value is None else value / 1e6, ".3g")
