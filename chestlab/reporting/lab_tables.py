"""The tables of a lab report. Each function returns Markdown, empty where there is nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from chestlab.data.splits import CLASS_NAMES, SPLITS
from chestlab.files.progress import duration
from chestlab.reporting.lab_facts import History, Term, final_split
from chestlab.reporting.lab_recipe import ROWS, recipe_values
from chestlab.reporting.lab_wording import LabWording
from chestlab.reporting.page import NOTHING, escaped, markdown_table
from chestlab.reporting.stored_runs import StoredRun

ERRORS = 5  # wrong predictions that are listed

MEGABYTE = 1e6


def _table(wording: LabWording, heads: Sequence[str], rows: list[list[str]], left: int = 1) -> str:
    return markdown_table([wording.say(head) for head in heads], rows, left) if rows else ""


def count_table(wording: LabWording, metrics: Mapping[str, Any]) -> str:
    """Images by split and class, with the share of pneumothorax; or by split and finding."""
    counts = metrics["data"]["counts"]
    if set(counts["train"]) != set(CLASS_NAMES):
        rows = [
            [finding, *(wording.number(counts[split][finding], ",") for split in SPLITS)]
            for finding in counts["train"]
        ]
        return _table(wording, ["head_finding", *SPLITS], rows)
    rows = []
    for split, of_class in counts.items():
        total = sum(of_class.values())
        numbers = [*of_class.values(), total]
        share = wording.percent(of_class[CLASS_NAMES[1]] / total) if total else NOTHING
        rows.append(
            [wording.say(f"split_{split}"), *(wording.number(n, ",") for n in numbers), share]
        )
    return _table(wording, ["split", *CLASS_NAMES, "together", "head_share"], rows)


def block_table(wording: LabWording, blocks: Sequence[Mapping[str, Any]]) -> str:
    """The blocks of `architecture.describe_blocks` and their sums."""
    rows = [
        [
            f"`{block['name']}`" if block["name"] else wording.say("other_parameters"),
            escaped(block["content"]),
            " x ".join(map(str, block["output"])),
            wording.number(block["parameters"], ","),
            _millions(wording, block["multiply_accumulates"]),
        ]
        for block in blocks
    ]
    sums = [sum(block[key] for block in blocks) for key in ("parameters", "multiply_accumulates")]
    total = f"**{wording.number(sums[0], ',')}**", f"**{_millions(wording, sums[1])}**"
    rows.append([wording.say("total"), "", "", *total])
    heads = ["block", "content", "output", "block_parameters", "arithmetic"]
    return _table(wording, [f"head_{head}" for head in heads], rows, left=3) if blocks else ""


def _millions(wording: LabWording, number: float) -> str:
    return wording.number(number / 1e6, ",.2f")


def recipe_table(wording: LabWording, metrics: Mapping[str, Any]) -> str:
    """What the recipe does, then numeric precision and seed."""
    values = recipe_values(metrics)
    if values is None:
        return ""
    known = values | {"monitor": Term(f"monitor_{values['monitor']}")}
    rows = []
    for row in ROWS:
        parts = [
            wording.texts((entry.en, entry.id), known)
            for entry in row.entries
            if entry.holds(values)
        ]
        if parts:
            rows.append([(row.en, row.id)[wording.column], ", ".join(parts)])
    if "amp" in metrics:
        precision = "float32" if metrics["amp"] == "fp32" else metrics["amp"]
        rows.append([wording.say("row_precision"), precision])
    if "seed" in metrics:
        rows.append([wording.say("row_seed"), str(metrics["seed"])])
    return _table(wording, ["head_matter", "head_value"], rows, left=2)


def figure_table(wording: LabWording, metrics: Mapping[str, Any]) -> str:
    """A row of figures per split that was evaluated."""
    two_classes = "threshold" in metrics
    rows = []
    for split in ("train", "val", "oof", "test"):
        figures = metrics.get(split)
        if not figures or (two_classes and "accuracy" not in figures):
            continue
        name = wording.say(f"split_{split}")
        name = f"**{name}**" if split == final_split(metrics) else name
        row = [name, wording.number(figures["n"], ",")]
        if two_classes:
            accuracy = wording.percent(figures["accuracy"])
            row.append(wording.above_interval(accuracy, figures.get("accuracy_ci95"), ".1f", 100))
        auc = wording.number(figures.get("auc"))
        row.append(wording.above_interval(auc, figures.get("auc_ci95"), ".3f"))
        if two_classes:
            measures = ("sensitivity", "specificity", "balanced_accuracy", "f1", "brier")
            row += [wording.number(figures.get(measure)) for measure in measures]
        rows.append(row)
    heads = ["split", "head_images", "head_auc"]
    if two_classes:
        heads.insert(2, "head_accuracy")
        heads += [f"head_{h}" for h in ("sensitivity", "specificity", "balanced", "f1", "brier")]
    return _table(wording, heads, rows)


def class_table(wording: LabWording, metrics: Mapping[str, Any]) -> str:
    """Recall, precision and F1 of each class on the final split."""
    if "threshold" not in metrics:
        return ""
    confusion = np.array(metrics[final_split(metrics)]["confusion"])
    rows = []
    for number, name in enumerate(CLASS_NAMES):
        correct = int(confusion[number, number])
        images, predicted = int(confusion[number].sum()), int(confusion[:, number].sum())
        both = images + predicted
        rows.append(
            [
                wording.say(name),
                wording.number(images, ","),
                _share(wording, correct, images),
                wording.number(predicted, ","),
                _share(wording, correct, predicted),
                wording.number(2 * correct / both if both else None),
            ]
        )
    heads = ["class", "images", "recall", "predicted", "precision", "f1"]
    return _table(wording, [f"head_{head}" for head in heads], rows)


def _share(wording: LabWording, part: int, whole: int) -> str:
    """A part of a whole as a number and in percent."""
    if not whole:
        return NOTHING
    return f"{wording.number(part, ',')} ({wording.percent(part / whole)})"


def finding_table(wording: LabWording, metrics: Mapping[str, Any]) -> str:
    """The AUC of each of the 14 findings on the final split; empty for two classes."""
    if "threshold" in metrics:
        return ""
    figures = metrics[final_split(metrics)]
    rows = [
        [
            finding,
            wording.number(figures["positives_per_finding"][finding], ","),
            wording.with_interval(auc, figures["auc_ci95_per_finding"][finding]),
        ]
        for finding, auc in figures["auc_per_finding"].items()
    ]
    return _table(wording, ["head_finding", "head_images", "head_auc"], rows)


def error_table(wording: LabWording, run: StoredRun) -> str:
    """Validation images that are predicted wrong, the most probable prediction first.

    Test images are left out: to see which of them are wrong is a look at test.
    """
    if "threshold" not in run.metrics:
        return ""
    predictions, correct = run.predictions["val"], run.correct("val")
    p, threshold = predictions.probabilities, run.metrics["threshold"]
    of_predicted = np.where(p >= threshold, p, 1 - p)
    wrong = np.flatnonzero(~correct)
    rows = []
    for i in wrong[np.argsort(-of_predicted[wrong], kind="stable")][:ERRORS]:
        answer = CLASS_NAMES[int(p[i] >= threshold)]
        true = CLASS_NAMES[int(predictions.labels[i])]
        rows.append(
            [
                str(predictions.index[i]),
                wording.say(true),
                wording.say(answer),
                wording.number(float(of_predicted[i])),
            ]
        )
    return _table(wording, ["head_index", "head_true", "head_answer", "head_probability"], rows, 3)


def single_network_table(wording: LabWording, metrics: Mapping[str, Any]) -> str:
    """Calibration of the networks of an average of folds, without and with a temperature."""
    stages = metrics.get("calibration_out_of_fold")
    if not stages:
        return ""
    forms = {"before": ".3f", "after": ".3f", "change": "+.3f"}
    rows = []
    for measure in ("loss", "brier", "ece", "ece_by_chance"):
        row = [wording.say(f"measure_{measure}")]
        for stage, form in forms.items():
            figures = stages[stage]
            number = wording.number(figures.get(measure), form)
            row.append(wording.above_interval(number, figures.get(f"{measure}_ci95"), form))
        rows.append(row)
    return _table(wording, [f"head_{head}" for head in ("measure", *forms)], rows)


def member_table(wording: LabWording, metrics: Mapping[str, Any]) -> str:
    """Every member of an average alone, then mean and standard deviation."""
    if "members" not in metrics:
        return ""
    splits = [split for split in ("val", "held_out", "test") if split in metrics["mean_and_sd"]]
    measures = [(split, measure) for split in splits for measure in ("accuracy", "auc")]
    rows = [
        [
            escaped(member["name"]),
            *(wording.number(member[split][measure]) for split, measure in measures),
            wording.say("of", part=member["best_epoch"], whole=member["epochs_run"])
            if "best_epoch" in member
            else NOTHING,
            wording.above_interval(
                wording.number(member.get("threshold"), ".2f"), member.get("threshold_ci95"), ".2f"
            ),
            _time(wording, member["seconds"]),
        ]
        for member in metrics["members"]
    ]
    for key in ("mean", "sd"):
        spread = metrics["mean_and_sd"]
        numbers = [wording.number(spread[split][measure][key]) for split, measure in measures]
        rows.append([wording.say(key), *numbers, "", "", ""])
    columns = [
        f"{wording.say(f'split_{shown_split(metrics, split)}')}: {wording.say(f'head_{measure}')}"
        for split, measure in measures
    ]
    ends = [wording.say(f"head_{head}") for head in ("epoch", "threshold", "time")]
    return markdown_table([wording.say("head_member"), *columns, *ends], rows, 1)


def shown_split(metrics: Mapping[str, Any], split: str) -> str:
    """What a split of members is called: averages of folds have been evaluated on all folds."""
    return "oof" if split == "held_out" and metrics.get("blend") else split


def _time(wording: LabWording, seconds: float) -> str:
    """Under a minute in seconds, else as minutes:seconds."""
    return f"{wording.number(seconds, '.1f')} s" if seconds < 60 else duration(seconds)


def cost_table(wording: LabWording, metrics: Mapping[str, Any], history: History) -> str:
    """What training and prediction take, as far as it is stored."""
    costs = metrics.get("costs") or {}
    cells: dict[str, str | None] = {
        "training": _time(wording, metrics["seconds"]) if "seconds" in metrics else None,
        "epoch": _time(wording, median(row["seconds"] for row in history)) if history else None,
        "rate": _number(wording, metrics.get("images_per_second"), ",.0f"),
        "alone": _milliseconds(wording, costs.get("inference_batch1")),
        "batch": _milliseconds(wording, costs.get("inference_batch64")),
        "memory": _megabytes(wording, costs.get("peak_memory_bytes")),
        "checkpoint": _megabytes(wording, costs.get("checkpoint_bytes")),
    }
    if arithmetic := costs.get("multiply_accumulates"):
        cells["arithmetic"] = wording.say("millions", number=_millions(wording, arithmetic))
    rows = [[wording.say(f"cost_{key}"), text] for key, text in cells.items() if text is not None]
    return _table(wording, ["head_matter", "head_value"], rows)


def _number(wording: LabWording, value: float | None, form: str) -> str | None:
    return None if value is None else wording.number(value, form)


def _milliseconds(wording: LabWording, times: Mapping[str, float] | None) -> str | None:
    """The median with quartiles."""
    if not times:
        return None
    median_ms, low, high = (times[f"{key}_ms"] for key in ("median", "low", "high"))
    return wording.with_interval(median_ms, (low, high), ".3g")


def _megabytes(wording: LabWording, size: float | None) -> str | None:
    return None if size is None else f"{wording.number(size / MEGABYTE, ',.1f')} MB"


def environment_table(
    wording: LabWording, metrics: Mapping[str, Any], environment: Mapping[str, Any]
) -> str:
    """What the run was made with.

    Args:
        wording: language of the page.
        metrics: of the run.
        environment: of ``report/environment.json``; empty for runs of an older version.
    """
    packages = {"torch": metrics.get("torch"), "scikit-learn": metrics.get("scikit_learn")}
    packages = {name: version for name, version in packages.items() if version}
    packages = environment.get("packages", packages)
    python = {"python": environment["python"]} if "python" in environment else {}
    commit = environment.get("commit")
    if commit and commit.endswith("-dirty"):
        commit = wording.say("dirty", commit=commit.removesuffix("-dirty"))
    device = [environment.get("device_name"), metrics.get("device")]
    cells = {
        "finished": (environment.get("finished") or "").replace("T", " ").partition("+")[0],
        "device": " · ".join(escaped(part) for part in device if part),
        "threads": str(environment.get("threads", "")),
        "system": escaped(environment.get("system", "")),
        "packages": ", ".join(f"{name} {version}" for name, version in (python | packages).items()),
        "commit": commit or "",
        "checksum": f"`{metrics['data']['sha256'][:16]}`",
    }
    rows = [[wording.say(f"row_{key}"), text] for key, text in cells.items() if text]
    return _table(wording, ["head_matter", "head_value"], rows, left=2)
