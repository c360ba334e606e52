"""What the first page says of its data and below its table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from chestlab.evaluation.out_of_fold import AVERAGE_KIND, NETWORK_KIND
from chestlab.reporting.fresh_results import FreshFolds
from chestlab.reporting.front_rows import Row, study_page
from chestlab.reporting.page import Wording, escaped, link
from chestlab.reporting.stored_runs import StoredRun, networks_of, start_of

SUBSET = re.compile(r"chestmnist_nih_subset_\d+\.npz")  # files of `studies.nih_subset`


def data_note(wording: Wording, page_dir: Path, run: StoredRun) -> str:
    """What a run's images are, where they are the subset that `studies.nih_subset` makes."""
    if not SUBSET.fullmatch(run.source):
        return ""
    about, address = page_dir.parent / "docs" / "studies.md", ""
    if about.exists():
        page = f"{link(page_dir, about)}#the-data-behind-the-results"
        address = wording.say("front_data_link", page=page)
    counts = run.metrics["data"]["counts"].values()
    n = wording.number(sum(sum(of_class.values()) for of_class in counts), ",")
    return wording.say("front_data", source=run.source, n=n, link=address)


def other_sizes(wording: Wording, page_dir: Path, studies: Sequence[FreshFolds]) -> list[str]:
    """What studies of the same X-rays on the same fresh folds have found in another size."""
    lines = []
    for study in studies:
        figures = []
        for kind in (NETWORK_KIND, AVERAGE_KIND):
            name = study.highest(kind)
            if name is not None:
                auc, accuracy = (study.oof.estimate(name, of) for of in ("auc", "accuracy"))
                of_sizes = study.configurations[name].get("of_sizes")
                figures.append(
                    wording.say(
                        "other_size_row",
                        name=escaped(name),
                        besides=wording.say("of_sizes") if of_sizes else "",
                        auc=wording.with_interval(auc.value, (auc.low, auc.high)),
                        accuracy=wording.percent_with_interval(
                            accuracy.value, (accuracy.low, accuracy.high)
                        ),
                    )
                )
        if figures:
            page = study_page(wording, page_dir, study.folder)
            source = escaped(study.summary["data"]["source"])
            rows = wording.listed(figures)
            lines.append(wording.say("other_size", source=source, page=page, rows=rows))
    return lines


def table_notes(wording: Wording, rows: Sequence[Row], bold: bool, warned: bool) -> list[str]:
    """What a reader of the table has to know of single rows.

    Args:
        wording: language of the page.
        rows: of the table.
        bold: some figure of it is bold.
        warned: some row is marked because something about it is suspect.
    """
    say = wording.say
    notes = [say("bold" if bold else "nothing_bold")]
    if warned:
        notes.append(say("warned"))
    notes += _start_notes(wording, rows)
    notes += [
        say("average_note", label=row.label, n=networks)
        for row in rows
        if row.kind == "average" and row.fresh and row.run
        if (networks := networks_of(row.run.metrics))
    ]
    return notes + size_notes(wording, rows)


def size_notes(wording: Wording, rows: Sequence[Row]) -> list[str]:
    """What the size in some labels means."""
    sizes = {
        row.run.metrics["data"].get("size")
        for row in rows
        if row.kind == "network" and row.run and row.label.endswith(" px")
    }
    return [wording.say("size_note", size=size) for size in sorted(sizes)]


def _start_notes(wording: Wording, rows: Sequence[Row]) -> list[str]:
    """Which networks start from ImageNet's or other weights, and which should but do not."""
    keys = ("random_start_note", "imagenet_start_note", "own_start_note")
    labels: dict[str, list[str]] = {key: [] for key in keys}
    for row in rows:
        if row.without_imagenet:
            labels["random_start_note"].append(row.label)
        elif row.start.get("source") == "imagenet":
            labels["imagenet_start_note"].append(row.label)
        elif start_of(row.metrics or row.like):
            labels["own_start_note"].append(row.label)
    return [wording.say(key, labels="; ".join(of)) for key, of in labels.items() if of]
