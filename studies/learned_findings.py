"""What networks learned of the 14 findings before the two classes: record, table, picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.data.splits import FINDINGS, OFFICIAL_IMAGES
from chestlab.reporting.page import NOTHING, Wording
from chestlab.training.weights import PretrainedWeights
from studies.study import write_table

MEAN = "mean"  # in place of a finding

MEAN_WORDS = {"en": "mean", "id": "rerata"}

FEWEST = 5  # images with a finding, from which on its AUC has an interval

# AUC on the official test set of 28-px images, ResNet-18: Yang et al., MedMNIST v2, table 3
# (https://doi.org/10.1038/s41597-022-01721-8).
MEDMNIST = 0.768

# AUC on the authors' own test split of images of 224 px, DenseNet-121 from ImageNet, about 78,000
# training images: Rajpurkar et al., CheXNet, table 2 (https://arxiv.org/abs/1711.05225).
CHEXNET = {
    "atelectasis": 0.8094,
    "cardiomegaly": 0.9248,
    "effusion": 0.8638,
    "infiltration": 0.7345,
    "mass": 0.8676,
    "nodule": 0.7802,
    "pneumonia": 0.7680,
    "pneumothorax": 0.8887,
    "consolidation": 0.7901,
    "edema": 0.8878,
    "emphysema": 0.9371,
    "fibrosis": 0.8047,
    "pleural thickening": 0.8062,
    "hernia": 0.9164,
}

# Records of the files, by the row that is named after them.
Starts = Mapping[str, Mapping[str, Any]]


def record_of(start: PretrainedWeights, learned: str) -> dict[str, Any]:
    """What the results keep of a checkpoint of `pretrain`.

    Args:
        start: the weights.
        learned: a name for what the network learned.

    Returns:
        Their origin, images and epochs, the recipe's main values, and of a network that learned the
        findings how well it tells them apart after every epoch, and at the end (``val``).
    """
    state = start.state or {}
    record = {**start.record, "learned": learned}
    record |= {"images": state["data"]["images"], "epochs": state["epoch"]}
    record["recipe"] = {key: state["recipe"][key] for key in ("batch_size", "lr", "schedule")}
    if state.get("val"):
        history = [{key: row[key] for key in ("epoch", "val_auc")} for row in state["history"]]
        record |= {"history": history, "val": state["val"]}
    return record


def learned_in(
    configurations: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Each file that rows start from, by the first of these; its ``rows`` and its record.

    Args:
        configurations: what the results say of the rows; ``start`` is of `record_of`, or not.
        names: the rows in their order.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        start = configurations[name].get("start") or {}
        if "learned" in start:
            found.setdefault(start["sha256"], {**start, "rows": []})["rows"].append(name)
    return {start["rows"][0]: start for start in found.values()}


def findings_table(starts: Starts) -> list[dict[str, Any]]:
    """A row per finding, and one for their mean, with the AUC on validation images.

    Of files whose objective are the findings; the columns are named as in ``starts``.
    """
    told = {name: start["val"] for name, start in starts.items() if start.get("val")}
    if not told:
        return []
    counts = [figures["positives_per_finding"] for figures in told.values()]
    published = {**CHEXNET, MEAN: sum(CHEXNET.values()) / len(CHEXNET)}
    rows = []
    for finding in (*FINDINGS, MEAN):
        of_files = {count.get(finding, "") for count in counts}
        row: dict[str, Any] = {"finding": finding, "positive": of_files.pop()}
        if of_files:  # files of other validation images
            row["positive"] = ""
        for name, figures in told.items():
            few = finding != MEAN and figures["positives_per_finding"][finding] < FEWEST
            row |= _with_ends(name, figures, finding, few)
        rows.append(row | {"chexnet": published[finding]})
    return rows


def _with_ends(
    name: str, figures: Mapping[str, Any], finding: str, few: bool
) -> dict[str, float | None]:
    """A file's AUC of a finding with the ends of its interval, in columns named after the file.

    Of few images there is none: resamples of the same two say nothing of others.
    """
    if finding == MEAN:
        auc, ends = figures["auc"], figures["auc_ci95"]
    else:
        auc = figures["auc_per_finding"][finding]
        ends = figures["auc_ci95_per_finding"][finding]
    low, high = (None, None) if few or not ends else ends
    return {name: auc, f"{name}_low": low, f"{name}_high": high}


def write_findings(folder: Path, summary: Mapping[str, Any], starts: Starts) -> Sequence[Mapping]:
    """Write ``findings.csv`` and ``findings.png`` if a file learned findings; the table's rows."""
    findings = findings_table(starts)
    if findings:
        write_table(folder / "findings.csv", findings)
        _draw_findings(summary, starts, findings, folder / "findings.png")
    return findings


def findings_values(
    wording: Wording, starts: Starts, findings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the section of the page is made of; ``findings`` of `findings_table`."""
    return {
        "columns": [f"`{name}`" for name in starts if findings and name in findings[0]],
        "findings": [_finding_cells(wording, starts, row) for row in findings],
        "last": {name: _last_epochs(wording, start) for name, start in starts.items()},
        "fewest": FEWEST,
        "medmnist": wording.number(MEDMNIST),
        "official": wording.number(OFFICIAL_IMAGES["train"], ",d"),
    }


def _finding_cells(wording: Wording, starts: Starts, row: Mapping[str, Any]) -> list[str]:
    name = MEAN_WORDS[wording.language] if row["finding"] == MEAN else row["finding"]
    cells_ = [name, wording.number(row["positive"], ",d") if row["positive"] else NOTHING]
    for name in starts:
        if name in row:
            ends = row[f"{name}_low"], row[f"{name}_high"]
            text = NOTHING if row[name] is None else wording.number(row[name])
            cells_.append(text if None in ends else wording.with_interval(row[name], ends))
    return [*cells_, wording.number(row["chexnet"])]


def _last_epochs(wording: Wording, start: Mapping[str, Any]) -> dict[str, Any] | None:
    """The findings' mean AUC at the end and at its highest, to see whether it stopped rising."""
    history = start.get("history") or []
    if not start.get("val") or not history:
        return None
    highest = max(history, key=lambda row: row["val_auc"])
    late = history[3 * len(history) // 4 - 1] if len(history) > 1 else history[0]
    return {
        "auc": wording.number(history[-1]["val_auc"]),
        "since": late["epoch"],
        "gain": wording.number(history[-1]["val_auc"] - late["val_auc"], "+.3f"),
        "highest": wording.number(highest["val_auc"]),
        "epoch": highest["epoch"],
        "images": start["val"]["n"],
    }


def _draw_findings(
    summary: Mapping[str, Any],
    starts: Starts,
    findings: Sequence[Mapping[str, Any]],
    path: Path,
) -> None:
    """Draw the findings' mean AUC over the epochs (left) and each one's AUC at the end (right)."""
    from matplotlib.lines import Line2D

    from chestlab.reporting.style import BLUE, INK, SMALL, VERMILLION, finish, tidy, titled_figure

    names = [name for name in starts if name in findings[0]]
    best = max((findings[-1][name] for name in names if findings[-1][name]), default=math.nan)
    images = starts[names[0]]["val"]["n"]
    title = f"Mean AUC of the findings: {best:.3f} on {images:,} validation images"
    title += f"\n{summary['data']['source']} · two-class images left out"
    figure = titled_figure(title, body_height=0.9 + 0.3 * len(findings))
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    handles = []
    for number, name in enumerate(names):
        color, marker = ((BLUE, "o"), (VERMILLION, "s"))[number % 2]
        handles.append(Line2D([], [], label=name, color=color, marker=marker))
        history = starts[name]["history"]
        epochs = [row["epoch"] for row in history]
        left.plot(epochs, [row["val_auc"] for row in history], color=color, marker=marker, ms=3)
        aside = 0.22 * (number - (len(names) - 1) / 2)
        for place, row in enumerate(findings):
            value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
            if value is not None:
                bars = None if low is None else [[value - low], [high - value]]
                look = {"color": color, "marker": marker, "markersize": 5, "elinewidth": 1.2}
                right.errorbar([value], [place + aside], xerr=bars, **look)
    published = {"color": INK, "marker": "|", "markersize": 11, "linestyle": "none"}
    handles.append(Line2D([], [], label="CheXNet, 224 px (published)", **published))
    right.plot([row["chexnet"] for row in findings], range(len(findings)), **published)
    tidy(left, "epoch of the pre-training", "mean AUC, validation")
    tidy(right, "AUC", "")
    right.set_yticks(range(len(findings)), [row["finding"] for row in findings], fontsize=SMALL)
    right.set_ylim(len(findings) - 0.4, -0.6)
    finish(figure, path, handles, ["Bars: 95 % intervals over patients."])
