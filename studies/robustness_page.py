"""Table, picture and pages of `studies.robustness`, made of what it has stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.evaluation import verdicts
from chestlab.evaluation.out_of_fold import MEASURES, OutOfFold
from chestlab.evaluation.verdicts import Scores
from chestlab.reporting.page import Wording
from studies.frozen_recipes import TRANSFERRED
from studies.shifts_page import NAMES, NONE, label, read_stored
from studies.study import ENGLISH, interval_cell, interval_columns, write_readmes

WANTED = (*NAMES, TRANSFERRED)

DEGRADED = "_degraded"  # after the name of a network that was trained with ``--degrade``

RESEMBLED = ("resample", "noise", "border")  # kinds of shifts that ``--degrade`` draws as well

ALIKE, OTHERS = "alike", "others"  # rows of a table: means over shifts

MEANS = {
    "en": {
        NONE: "pictures as they are",
        ALIKE: "mean of {count} shifts that the training resembles",
        OTHERS: "mean of the {count} others",
    },
    "id": {
        NONE: "gambar apa adanya",
        ALIKE: "rerata {count} pergeseran yang menyerupai pelatihan",
        OTHERS: "rerata {count} pergeseran lain",
    },
}

Row = Mapping[str, Any]


def pairs(networks: Iterable[str]) -> list[tuple[str, str]]:
    """The network trained on degraded images and the one on images as they are, where both are."""
    names = list(networks)
    return [(name + DEGRADED, name) for name in names if name + DEGRADED in names]


def groups(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Shifts by what they are averaged under."""
    alike = [name for name, of in summary["shifts"].items() if of["kind"] in RESEMBLED]
    others = [name for name in summary["shifts"] if name not in alike]
    return {key: names for key, names in ((ALIKE, alike), (OTHERS, others)) if names}


def gains(summary: Mapping[str, Any], first: OutOfFold, second: OutOfFold) -> list[dict[str, Any]]:
    """A row for images as they are, for each mean over shifts and for each shift.

    Args:
        first, second: of the two networks; the gain is that of the first over the second.
    """
    of_rows = {NONE: [NONE], **groups(summary), **{name: [name] for name in summary["shifts"]}}
    rows = []
    for name, shifts in of_rows.items():
        row: dict[str, Any] = {"name": name, "count": len(shifts)}
        for measure in MEASURES:
            with_it, without = (_mean_scores(of, shifts, measure) for of in (first, second))
            row[f"{measure}_with"] = float(with_it[0].mean())
            row[f"{measure}_without"] = float(without[0].mean())
            row |= interval_columns(f"{measure}_gain", verdicts.gain(with_it, without))
        rows.append(row)
    return rows


def _mean_scores(oof: OutOfFold, shifts: Sequence[str], measure: str) -> Scores:
    """What `OutOfFold.score` returns, averaged over shifts of the same images."""
    scores = [oof.score(name, measure) for name in shifts]
    values = np.mean([score[0] for score in scores], axis=0)
    resampled = np.mean([score[1] for score in scores], axis=0)
    return values, resampled, scores[0][2]


def write_page(folder: Path) -> None:
    """Write ``robustness.png`` and the page in two languages.

    Raises:
        InputError: the logits or ``robustness.json`` are missing or damaged, or not of one study.
    """
    summary, logits = read_stored(folder, "robustness")
    tables = {
        pair: gains(summary, logits[pair[0]], logits[pair[1]])
        for pair in pairs(summary["networks"])
    }
    if tables:
        _draw(summary, tables, folder / "robustness.png")
    first = next(iter(logits.values()))
    changes = {name: of["recipe_changes"] for name, of in summary["networks"].items()}
    images = OutOfFold(first.origin, first.index, first.labels, first.patients, first.folds, {})

    def values(wording: Wording) -> dict[str, Any]:
        def shown(rows: Sequence[Row]) -> list[list[str]]:
            return [_cells(wording, summary, row) for row in rows]

        return {
            "missing": [name for name in WANTED if name not in summary["networks"]],
            "pairs": [
                {
                    "with": pair[0],
                    "without": pair[1],
                    "changes": dict(changes[pair[0]].items() - changes[pair[1]].items()),
                    "gain": {row["name"]: _gain(wording, row) for row in rows},
                    "rows": shown(rows),
                }
                for pair, rows in tables.items()
            ],
            "alone": [n for n in summary["networks"] if not any(n in pair for pair in tables)],
            "shifts": len(summary["shifts"]),
        }

    write_readmes(folder, "robustness", summary, images, values)


def _gain(wording: Wording, row: Row) -> str:
    return interval_cell(wording, row, "auc_gain", "+.3f")


def _name(wording: Wording, summary: Mapping[str, Any], row: Row) -> str:
    texts = MEANS[wording.language]
    if row["name"] in texts:
        return texts[row["name"]].format(count=row["count"])
    return label(wording, summary, row["name"])


def _cells(wording: Wording, summary: Mapping[str, Any], row: Row) -> list[str]:
    cells = [_name(wording, summary, row)]
    for measure in MEASURES:
        cells += [wording.number(row[f"{measure}_{which}"]) for which in ("without", "with")]
        cells.append(interval_cell(wording, row, f"{measure}_gain", "+.3f"))
    return cells


def _draw(
    summary: Mapping[str, Any], tables: Mapping[tuple[str, str], Sequence[Row]], path: Path
) -> None:
    """Draw the gain of AUC in each row of the tables, a point for each pair of networks."""
    from matplotlib.lines import Line2D

    from chestlab.reporting.style import (
        BLUE,
        INK,
        PURPLE,
        SMALL,
        VERMILLION,
        finish,
        tidy,
        titled_figure,
    )

    rows = next(iter(tables.values()))
    (_, without), first = next(iter(tables.items()))
    gained = {row["name"]: f"{row['auc_gain']:+.3f}" for row in first}
    title = f"Training {without} on degraded images changes its AUC by {gained[NONE]}"
    title += f", by {gained[ALIKE]} under shifts like those" if ALIKE in gained else ""
    title += "" if summary["repeats"] > 1 else ": undecided with a single repeat"
    title += f"\n{summary['data']['source']} · train + val, choice folds"
    figure = titled_figure(title, body_height=0.9 + 0.34 * len(rows))
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
    handles = []
    for number, ((_, without), of_pair) in enumerate(tables.items()):
        color, marker = ((BLUE, "o"), (VERMILLION, "s"), (PURPLE, "^"))[number]
        handles.append(Line2D([], [], label=without, color=color, marker=marker, linestyle=""))
        aside = 0.24 * (number - (len(tables) - 1) / 2)
        for place, row in enumerate(of_pair):
            value, low, high = (row[f"auc_gain{end}"] for end in ("", "_low", "_high"))
            axes.errorbar(
                [value],
                [place + aside],
                xerr=[[value - low], [high - value]],
                color=color,
                marker=marker,
                markersize=5,
                elinewidth=1.2,
            )
    tidy(axes, "gain of AUC by --degrade   helps \N{RIGHTWARDS ARROW}", "")
    axes.set_yticks(
        range(len(rows)), [_name(ENGLISH, summary, row) for row in rows], fontsize=SMALL
    )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    means = [place for place, row in enumerate(rows) if row["name"] in MEANS["en"]]
    axes.axhline(max(means) + 0.5, color=INK, linewidth=0.6)
    repeats = " and repeats" if summary["repeats"] > 1 else ""
    finish(figure, path, handles, [f"Bars: 95 % intervals over patients{repeats}."])
