"""Two runs compared on the same images."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.evaluation.metrics import mcnemar, paired_difference
from chestlab.files.errors import InputError
from chestlab.reporting.page import Page, escaped
from chestlab.reporting.stored_runs import StoredRun, read_patients, read_runs

ALL_PAIRS = 6  # runs of which every pair is listed; of more, each against two references


def two_lines(text: str, page: Page, ends: Sequence[float] | None, form: str, factor: float) -> str:
    return f"{text}<br>{page.interval(ends, form, factor)}" if ends else text


def difference(
    first: StoredRun, second: StoredRun, patients: np.ndarray | None, split: str = "test"
) -> dict[str, Any]:
    """`metrics.paired_difference` of two runs on the same images."""
    one, other = first.predictions[split], second.predictions[split]
    if not one.same_images(other):
        raise InputError(f"'{first.name}' and '{second.name}' were not judged on the same images")
    thresholds = first.metrics["threshold"], second.metrics["threshold"]
    scores = one.probabilities, other.probabilities
    return paired_difference(one.labels, *scores, thresholds, patients)


def add_pairs(
    page: Page,
    group: Sequence[StoredRun],
    tested: Sequence[StoredRun],
    patients: np.ndarray | None,
) -> None:
    if len(tested) <= ALL_PAIRS:
        pairs = list(combinations(tested, 2))
    else:
        baselines = [run for run in tested if run.kind == "yardstick"]
        references = [tested[0], *(run for run in baselines[:1] if run is not tested[0])]
        others = [run for run in tested if run not in references]
        pairs = [*combinations(references, 2), *((a, b) for b in references for a in others)]
        page.add(page.say("some_pairs", references=", ".join(r.short_name for r in references)))
    rows = []
    for first, second in pairs:
        names = (f"{group.index(run) + 1} {escaped(run.short_name)}" for run in (first, second))
        rows.append([*names, *_pair_cells(page, first, second, patients)])
    heads = ["first", "second", "accuracy_gain", "auc_gain", "only_first", "only_second", "mcnemar"]
    page.table([page.say(f"head_{head}") for head in heads], rows)
    if len(tested) > ALL_PAIRS:
        summary = html.escape(page.say("pairs_summary", n=len(rows)))
        page.blocks[-1] = (
            f"<details><summary>{summary}</summary>\n\n{page.blocks[-1]}\n\n</details>"
        )
    unit = page.say("image" if patients is None else "patient")
    page.add(page.say("below_pairs", unit=unit))


def _pair_cells(
    page: Page, first: StoredRun, second: StoredRun, patients: np.ndarray | None
) -> list[str]:
    gain = difference(first, second, patients)
    test = mcnemar(first.correct("test"), second.correct("test"))
    points = page.number(100 * gain["accuracy"], "+.1f")
    return [
        f"{points} {page.interval(gain['accuracy_ci95'], '+.1f', 100)}",
        f"{page.number(gain['auc'], '+.3f')} {page.interval(gain['auc_ci95'], '+.3f')}",
        str(test["only_first"]),
        str(test["only_second"]),
        page.number(test["p"], ".2g" if test["p"] >= 1e-4 else ".0e"),
    ]


def describe_pair(results_dir: Path, first: str, second: str) -> str:
    """The comparison of two runs on the test images, as lines of text.

    Raises:
        InputError: one of them is not there, was not tested, or on other images.
    """
    runs = {run.name: run for run in read_runs(results_dir)}
    for name in (first, second):
        if name not in runs:
            raise InputError(f"there is no finished run '{name}'; there are {', '.join(runs)}")
        if "test" not in runs[name].predictions:
            raise InputError(f"'{name}' was not evaluated on the test images")
    one, other = runs[first], runs[second]
    if one.metrics["data"]["sha256"] != other.metrics["data"]["sha256"]:
        raise InputError(f"'{first}' and '{second}' are of different data")
    patients = read_patients(results_dir, one, "test")
    page = Page("en")
    accuracy, auc, only_first, only_second, p = _pair_cells(page, one, other, patients)
    unit = "images" if patients is None else "patients"
    return (
        f"test, {first} minus {second} (95 % intervals resample {unit})\n"
        f"accuracy {accuracy} points, AUC {auc}\n"
        f"only the first right {only_first}, only the second right {only_second}, "
        f"McNemar's exact p {p} (takes images for independent)"
    )
