"""Reading a study's results again: its JSON file and ``oof.csv``, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.folds import FOLDS_SEED
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files.errors import InputError
from chestlab.files.reading import read_json, shown

LARGEST_SEED = 2**31 - 1

RESTORE = "take the files of the study from a copy, or run the study again"


def read_results(folder: Path, name: str, entries: str) -> tuple[dict[str, Any], OutOfFold]:
    """What `study.Study.write` has written.

    Args:
        folder: of the results.
        name: of the JSON file.
        entries: key of the mapping in there that has an entry for each column of logits.

    Raises:
        InputError: a file is missing or damaged, or they are not of the same study.
    """
    summary = read_summary(folder, name, entries)
    try:
        oof = OutOfFold.read(folder / "oof.csv")
    except InputError as error:
        raise InputError(f"{error}: {RESTORE}") from None
    wrong = _unlike_names(set(summary[entries]), set(oof.logits)) or _unlike_folds(summary, oof)
    if wrong:
        raise InputError(
            f"'{folder}': oof.csv and {name}.json are not of the same study: {wrong}: {RESTORE}"
        )
    oof.describe(summary[entries])
    return summary, oof


def read_summary(folder: Path, name: str, entries: str) -> dict[str, Any]:
    """What ``<name>.json`` holds, with all that `study.Study.about` tells.

    Args:
        folder: of the results.
        name: of the JSON file.
        entries: key of the mapping in there that has an entry with a ``kind`` for each network.

    Raises:
        InputError: the file is missing or damaged, or the folder is of another study.
    """
    path = folder / f"{name}.json"
    if not folder.is_dir():
        raise InputError(f"'{folder}' is no folder of results: {path.name} is missing")
    if not path.exists():
        others = ", ".join(sorted(other.name for other in folder.glob("*.json")))
        of_another = f": it is of another study, with {others}" if others else ""
        raise InputError(f"'{folder}': {path.name} is missing{of_another}")
    try:
        summary = read_json(path)
        wrong = _wrong_value(summary, entries)
        if wrong:
            raise InputError(f"'{path}': {wrong}")
    except InputError as error:
        raise InputError(f"{error}: {RESTORE}") from None
    return summary


def _wrong_value(summary: Mapping[str, Any], entries: str) -> str:
    """What is wrong in a summary, in words; empty where nothing is."""
    data = summary.get("data")
    if not isinstance(data, dict):
        return "'data' is missing or no object"
    if wrong := [key for key in ("source", "sha256") if not isinstance(data.get(key), str)]:
        return f"'{wrong[0]}' in 'data' is missing or no text"
    counts = [_count(data, split, label) for split in ("train", "val") for label in CLASS_NAMES]
    if None in counts:
        return "'counts' in 'data' lacks the number of images of a class of train or val"
    seed = summary.get("first_seed", FOLDS_SEED)
    whole = {"folds": (2, summary.get("folds")), "repeats": (1, summary.get("repeats"))}
    whole["first_seed"] = 0, seed
    for key, (least, value) in whole.items():
        if type(value) is not int or not least <= value <= LARGEST_SEED:
            given = "missing" if value is None else f"'{shown(value)}'"
            return f"'{key}' is {given}; wanted is an integer from {least} up"
    kinds = summary.get(entries)
    if not isinstance(kinds, dict):
        return f"'{entries}' is missing or no object"
    for name, entry in kinds.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
            return f"'{shown(name)}' in '{entries}' has no 'kind'"
    return ""


def _count(data: Mapping[str, Any], split: str, label: str) -> int | None:
    """How many images of a class a summary tells; None where it does not."""
    counts = data.get("counts")
    of_split = counts.get(split) if isinstance(counts, dict) else None
    count = of_split.get(label) if isinstance(of_split, dict) else None
    return count if type(count) is int else None


def _unlike_names(told: set[str], stored: set[str]) -> str:
    """The first name that one of the files lacks, in words; empty where there is none."""
    if told == stored:
        return ""
    first = min(told ^ stored)
    return f"'{shown(first)}' is in {'the latter' if first in told else 'the former'} alone"


def _unlike_folds(summary: Mapping[str, Any], oof: OutOfFold) -> str:
    """What a summary tells otherwise than the logits' images and folds; empty: nothing.

    The folds are not made again from their seeds: scikit-learn's differ between its versions.
    """
    if wrong := unlike_images(summary, oof):
        return wrong
    folds, repeats = summary["folds"], summary["repeats"]
    if len(oof.folds) != repeats:
        return f"oof.csv has {len(oof.folds)} repeats, and 'repeats' is {repeats}"
    if set(np.unique(oof.folds)) != set(range(folds)):
        return f"oof.csv has not the folds 1 to {folds}, as 'folds' tells"
    return ""


def unlike_images(summary: Mapping[str, Any], oof: OutOfFold) -> str:
    """Where a summary tells another number of images than there are logits of; empty: nowhere."""
    for split in ("train", "val"):
        for label, name in enumerate(CLASS_NAMES):
            told = _count(summary["data"], split, name)
            there = int(((oof.origin == split) & (oof.labels == label)).sum())
            if told != there:
                return f"there are logits of {there} images of {name} in {split}, of {told} told"
    return ""
