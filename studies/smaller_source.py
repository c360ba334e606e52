"""The same rows of a study from a file with smaller images of the same X-rays, paired by image."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chestlab.evaluation.out_of_fold import NETWORK_KIND, OutOfFold
from chestlab.files.errors import InputError
from chestlab.reporting.page import Wording
from studies.stored_results import read_results
from studies.study import interval_cell, interval_columns

SAME = ("kind", "model", "recipe", "start", "share", "device")  # of an entry in both studies


def gains_over_smaller_sources(
    folder: Path, name: str, summary: Mapping[str, Any], oof: OutOfFold
) -> list[dict[str, Any]]:
    """What each network gains over itself on a file of smaller images, in other results beside.

    Args:
        folder: of the study's results; others of the study lie beside it.
        name: of the study and of its JSON file.
        summary: what that file holds.
        oof: the study's logits.

    Returns:
        A row per network that was trained by one recipe from one start on both files, on the same
        folds of the same X-rays, and per network and the smaller file's row with the name of its
        ``model``: ``configuration``, ``over``, ``size`` and ``smaller_size`` (px), AUC and accuracy
        on either file and their gains, each with its interval.
    """
    rows = []
    for other, smaller in smaller_sources(folder, name, summary["data"]["size"], oof):
        rows += _rows(summary, oof, other, smaller)
    return rows


def smaller_sources(
    folder: Path, name: str, size: int, oof: OutOfFold
) -> Iterator[tuple[Mapping[str, Any], OutOfFold]]:
    """Results of the same study from files with smaller images of the same X-rays.

    Args:
        folder: of the study's results; the others lie beside it.
        name: of the study and of its JSON file.
        size: of the study's own images, px.
        oof: images and folds that theirs must equal.

    Yields:
        What their JSON file holds, and their logits; of damaged ones nothing, and a line on stderr.
    """
    for path in sorted(folder.parent.glob(f"*/{name}.json")):
        if path.parent == folder:
            continue
        try:
            other, smaller = read_results(path.parent, name, "configurations")
        except InputError as error:
            print(f"NOTE: '{path.parent}' is left out: {error}", file=sys.stderr)
            continue
        if other["data"].get("size", size) < size and oof.is_of_same_images(smaller):
            yield other, smaller


def smaller_cells(wording: Wording, row: Mapping[str, Any]) -> list[str]:
    """A row of `gains_over_smaller_sources` as a page shows it."""
    other = f"{row['smaller_size']}"
    if row["over"] != row["configuration"]:
        other += f", `{row['over']}`"
    sizes = f"{row['size']}", other
    forms = {"auc": ".3f", "smaller_auc": ".3f", "auc_gain": "+.3f", "accuracy_gain": "+.3f"}
    figures = (interval_cell(wording, row, name, form) for name, form in forms.items())
    return [f"`{row['configuration']}`", *sizes, *figures]


def _rows(
    summary: Mapping[str, Any], oof: OutOfFold, other: Mapping[str, Any], smaller: OutOfFold
) -> list[dict[str, Any]]:
    size, smaller_size = summary["data"]["size"], other["data"]["size"]
    entries, others = summary["configurations"], other["configurations"]
    networks = [name for name, entry in entries.items() if entry["kind"] == NETWORK_KIND]
    both = [
        (name, name)
        for name in networks
        if name in others and all(entries[name].get(key) == others[name].get(key) for key in SAME)
    ]
    recipes = {name: entries[name]["model"] for name in networks}
    both += [(name, of) for name, of in recipes.items() if of in others and of != name]
    apart = {over: f"{over}, {smaller_size} px" for _, over in both}
    of_images = oof.origin, oof.index, oof.labels, oof.patients, oof.folds
    logits = {name: oof.logits[name] for name, _ in both}
    logits |= {apart[over]: smaller.logits[over] for _, over in both}
    joined = OutOfFold(*of_images, logits)
    rows = []
    for name, over in both:
        row: dict[str, Any] = {"configuration": name, "over": over}
        row |= {"size": size, "smaller_size": smaller_size}
        for measure in ("auc", "accuracy"):
            row |= interval_columns(measure, joined.estimate(name, measure))
            row |= interval_columns(f"smaller_{measure}", joined.estimate(apart[over], measure))
            row |= interval_columns(f"{measure}_gain", joined.gain(name, apart[over], measure))
        rows.append(row)
    return rows
