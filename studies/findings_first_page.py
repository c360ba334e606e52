"""Tables, pictures and pages of `studies.findings_first`, made of what it has stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.data.splits import FINDINGS, OFFICIAL_IMAGES
from chestlab.evaluation.out_of_fold import NETWORK_KIND
from chestlab.reporting.page import NOTHING, Wording
from studies.fresh_folds import comparison_cells, comparison_table
from studies.start_tables import cells, draw, in_words, table
from studies.stored_results import read_results
from studies.study import write_readmes, write_table

SHORT = "_short"  # after the name of a row with fewer epochs at a lower rate

MEAN = "mean"  # in place of a finding

MEAN_WORDS = {"en": "mean", "id": "rerata"}

FEWEST = 5  # images with a finding, from which on its AUC has an interval

PROBE = "_probe"  # after the name of a row of logistic regression on features

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


def starts_in(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The record of each file that rows start from, by ``<network>_<objective>``."""
    found = {}
    for about in summary["configurations"].values():
        if about.get("start") and about["kind"] == NETWORK_KIND:
            found.setdefault(f"{about['model']}_{about['start']['learned']}", about["start"])
    return found


def comparisons(starts: Starts) -> list[tuple[str, str]]:
    """Pairs of rows, of which the first is claimed to have the higher AUC; fixed before training.

    With what was learned first against without, by the whole recipe and by the short one; and
    fine-tuned against features alone.
    """
    pairs = []
    for name in starts:
        network = name.rpartition("_")[0]
        pairs += [(name, network), (name + SHORT, network), (name, name + PROBE)]
    return pairs


def findings_table(starts: Starts) -> list[dict[str, Any]]:
    """A row per finding, and one for their mean, with the AUC on validation images.

    Of files whose objective are the findings; the columns are named after `starts_in`.
    """
    told = {name: start["val"] for name, start in starts.items() if start.get("val")}
    if not told:
        return []
    positives = next(iter(told.values()))["positives_per_finding"]
    published = {**CHEXNET, MEAN: sum(CHEXNET.values()) / len(CHEXNET)}
    rows = []
    for finding in (*FINDINGS, MEAN):
        row: dict[str, Any] = {"finding": finding, "positive": positives.get(finding, "")}
        for name, figures in told.items():
            few = finding != MEAN and positives[finding] < FEWEST
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


def write_page(folder: Path) -> None:
    """Write tables, pictures and the page in two languages.

    Raises:
        InputError: ``oof.csv`` or ``findings_first.json`` is missing or damaged.
    """
    summary, oof = read_results(folder, "findings_first", "configurations")
    rows, starts = table(summary, oof, list(summary["configurations"])), starts_in(summary)
    compared, findings = comparison_table(oof, comparisons(starts)), findings_table(starts)
    write_table(folder / "table.csv", rows)
    if compared:
        write_table(folder / "comparisons.csv", compared)
    heading = "From random numbers and from the 14 findings"
    draw(rows, folder / "findings_first.png", heading, summary, oof)
    if findings:
        write_table(folder / "findings.csv", findings)
        _draw_findings(summary, starts, findings, folder / "findings.png")

    wanted = [row for pair in comparisons(starts) for row in pair]
    missing = [name for name in dict.fromkeys(wanted) if name not in oof.logits]

    def values(wording: Wording) -> dict[str, Any]:
        return {
            "starts": starts,
            "missing": missing,
            "fewest": FEWEST,
            "official": wording.number(OFFICIAL_IMAGES["train"], ",d"),
            "short": SHORT,
            "probe": PROBE,
            "rows": [cells(wording, row) for row in rows],
            "compared": [comparison_cells(wording, row) for row in compared],
            "comparisons": len(compared),
            "fixed": len(comparisons(starts)),
            "columns": [f"`{name}`" for name in starts if findings and name in findings[0]],
            "findings": [_finding_cells(wording, starts, row) for row in findings],
            "last": {name: _last_epochs(wording, start) for name, start in starts.items()},
            "medmnist": wording.number(MEDMNIST),
            "number": wording.number,
            **in_words(wording, rows, compared, summary["repeats"]),
        }

    write_readmes(folder, "findings_first", summary, oof, values)


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
    return {
        "auc": wording.number(history[-1]["val_auc"]),
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
    title += f"\n{summary['data']['source']} · patients of the two-class images left out"
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
