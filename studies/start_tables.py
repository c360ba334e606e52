"""Tables and picture of studies that compare changes of one training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.evaluation.out_of_fold import MEASURES, OutOfFold
from chestlab.reporting.page import NOTHING, Wording
from studies.fresh_folds_page import comparison_cells, comparison_table
from studies.study import interval_cell, interval_columns, is_fresh, write_readmes, write_table


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

    folds = "fresh folds" if is_fresh(summary) else "choice folds"
    draw_estimates(
        rows,
        path,
        title=f"{heading}\n{summary['data']['source']} · train + val n = {len(oof.labels)}, "
        f"{summary['repeats']} x {summary['folds']} {folds}",
        caption=f"Means of single networks{but}. Bars: 95 % intervals over patients"
        f"{' and repeats' if summary['repeats'] > 1 else ''}. Accuracy at a probability of 0.5.",
    )


def write_page(
    folder: Path,
    results: str,
    read: tuple[Mapping[str, Any], OutOfFold],
    heading: str,
    wanted: Sequence[str],
    comparisons: Sequence[tuple[str, str]],
    own: Callable[[Wording], Mapping[str, Any]],
    but: str = "",
) -> None:
    """Write tables, a picture and the page in two languages.

    Args:
        folder, results: of the study, and the name of its JSON file.
        read: what `read_results` has read there.
        heading, but: as those of `draw`.
        wanted: the names of all rows that the study may have.
        comparisons: pairs of rows, the first of which is claimed to have the higher AUC.
        own: what the page tells besides rows and comparisons.
    """
    summary, oof = read
    rows = table(summary, oof, list(summary["configurations"]))
    compared = comparison_table(oof, comparisons)
    write_table(folder / "table.csv", rows)
    if compared:
        write_table(folder / "comparisons.csv", compared)
    draw(rows, folder / f"{results}.png", heading, summary, oof, but)

    def values(wording: Wording) -> dict[str, Any]:
        return {
            "missing": [name for name in wanted if name not in oof.logits],
            "rows": [cells(wording, row) for row in rows],
            "compared": [comparison_cells(wording, row) for row in compared],
            "comparisons": len(compared),
            "fixed": len(comparisons),
            "number": wording.number,
            **in_words(wording, rows, compared, summary["repeats"]),
            **own(wording),
        }

    write_readmes(folder, results, summary, oof, values)


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
        compared: of `fresh_folds_page.comparison_table`.
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
