"""Tables and picture of studies that compare changes of one training on the choice folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.evaluation.out_of_fold import MEASURES, OutOfFold
from chestlab.reporting.page import NOTHING, Wording
from studies.study import interval_cell, interval_columns


def table(summary: Mapping[str, Any], oof: OutOfFold, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per configuration with its figures.

    Args:
        summary: what `StoredConfigurations` has stored.
        oof: its logits.
        names: of the rows, in their order.
    """
    rows = []
    for name in names:
        about = summary["configurations"][name]
        row = {"configuration": name, "kind": about["kind"], "model": about["model"]}
        start = about.get("start") or {}
        row["start"] = start.get("learned") or start.get("source", "")
        row["changes"] = ", ".join(f"{k} {v}" for k, v in about.get("changes", {}).items())
        row["images"] = about["images"]
        for measure in MEASURES:
            row |= interval_columns(measure, oof.estimate(name, measure))
        row["images_seen"] = about["images"] * (about.get("best_epoch") or 0) or ""
        rows.append(row | {"seconds": about["seconds"]})
    return rows


def cells(wording: Wording, row: Mapping[str, Any]) -> list[str]:
    """A row of `table` as the page shows it."""
    figures = [interval_cell(wording, row, measure) for measure in MEASURES]
    seen = wording.number(row["images_seen"], ",.0f") if row["images_seen"] else NOTHING
    changes = f"`{row['changes']}`" if row["changes"] else NOTHING
    images = wording.number(row["images"], ",.0f")
    return [
        f"`{row['configuration']}`",
        wording.baseline(row["model"]),
        row["start"] or NOTHING,
        changes,
        images,
        *figures,
        seen,
    ]


def draw(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    heading: str,
    summary: Mapping[str, Any],
    oof: OutOfFold,
    but: str = "",
) -> None:
    """Draw AUC and accuracy of the rows of `table`.

    ``heading`` says what is compared, ``but`` which rows are no single networks.
    """
    from chestlab.reporting.study_plots import draw_estimates

    draw_estimates(
        rows,
        path,
        title=f"{heading}\n{summary['data']['source']} · train + val n = {len(oof.labels)}, "
        f"{summary['repeats']} x {summary['folds']} choice folds",
        caption=f"Means of single networks{but}. Bars: 95 % intervals over patients"
        f"{' and repeats' if summary['repeats'] > 1 else ''}. Accuracy at a probability of 0.5.",
    )


def in_words(
    wording: Wording,
    rows: Sequence[Mapping[str, Any]],
    compared: Sequence[Mapping[str, Any]],
    repeats: int,
) -> dict[str, dict[Any, str]]:
    """What the page's answer is made of.

    Args:
        wording: of the page's language.
        rows: of `table`.
        compared: of `fresh_folds.comparison_table`.
        repeats: of the study.

    Returns:
        ``auc`` by configuration; ``gain`` of AUC, and how ``certain`` it is after Holm's
        correction, by the pair.
    """
    pairs = {(row["configuration"], row["over"]): row for row in compared}
    return {
        "auc": {row["configuration"]: interval_cell(wording, row, "auc") for row in rows},
        "gain": {
            pair: interval_cell(wording, row, "auc_gain", "+.3f") for pair, row in pairs.items()
        },
        "certain": {pair: certain(wording, row, repeats) for pair, row in pairs.items()},
    }


def certain(wording: Wording, row: Mapping[str, Any], repeats: int) -> str:
    """What is said of a gain's verdict after Holm's correction; ``row`` of `comparison_table`."""
    if repeats < 2:
        return wording.say("single_repeat")
    decided = row["verdict_holm"] != "undecided"
    return wording.say("beyond_chance" if decided else "maybe_chance")
