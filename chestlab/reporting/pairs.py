"""Two runs compared on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.evaluation.bootstrap import BOOTSTRAP_RESAMPLES
from chestlab.evaluation.metrics import mcnemar, paired_difference
from chestlab.files.errors import InputError
from chestlab.reporting.page import Wording, escaped, markdown_table
from chestlab.reporting.stored_runs import StoredRun, find_run, read_patients, read_runs

NEAR_ZERO = " ~"  # behind an interval with an end that another seed could put beyond 0

ALL_PAIRS = 6  # with more runs than this, each is compared with two references only


def difference(
    first: StoredRun, second: StoredRun, patients: np.ndarray | None, split: str = "test"
) -> dict[str, Any]:
    """`metrics.paired_difference` of two runs, first minus second.

    Raises:
        InputError: they were not evaluated on the same images.
    """
    one, other = first.predictions[split], second.predictions[split]
    if not one.same_images(other):
        raise InputError(f"'{first.name}' and '{second.name}' were evaluated on different images")
    thresholds = first.metrics["threshold"], second.metrics["threshold"]
    scores = one.probabilities, other.probabilities
    return paired_difference(one.labels, *scores, thresholds, patients)


def clearly_above(gain: Mapping[str, Any], measure: str) -> bool:
    """Whether the interval of `difference` lies above 0, whatever the bootstrap's seed.

    That is, by more than twice the Monte-Carlo error of its ends. An undefined AUC is not.
    """
    if gain[measure] is None:
        return False
    return gain[f"{measure}_ci95"][0] > 2 * gain[f"{measure}_ci95_error"]


def _near_zero(gain: Mapping[str, Any], measure: str) -> str:
    """`NEAR_ZERO` where an end of the interval is within twice its Monte-Carlo error of 0."""
    ends, error = gain[f"{measure}_ci95"], gain[f"{measure}_ci95_error"]
    near = bool(ends and error) and min(map(abs, ends)) <= 2 * error
    return NEAR_ZERO if near else ""


def pairs_section(
    wording: Wording,
    group: Sequence[StoredRun],
    tested: Sequence[StoredRun],
    patients: np.ndarray | None,
) -> dict[str, Any]:
    """The table of pairs on the test images, as the page's template wants it.

    Args:
        wording: language of the page.
        group: all runs on the source, in the order of the page, which numbers them.
        tested: those of them that were evaluated on test.
        patients: (N,) of the test images, or None where they are unknown.
    """
    references: list[StoredRun] = []
    if len(tested) <= ALL_PAIRS:
        pairs = list(combinations(tested, 2))
    else:
        baselines = [run for run in tested if run.kind == "baseline"]
        references = [tested[0], *(run for run in baselines[:1] if run is not tested[0])]
        others = [run for run in tested if run not in references]
        pairs = [*combinations(references, 2), *((a, b) for b in references for a in others)]
    rows, errors = [], []
    for first, second in pairs:
        gain = difference(first, second, patients)
        errors.append([gain[f"{measure}_ci95_error"] or 0.0 for measure in ("accuracy", "auc")])
        names = (f"{group.index(run) + 1} {escaped(run.shown_name)}" for run in (first, second))
        rows.append([*names, *_pair_cells(wording, first, second, gain)])
    heads = ["first", "second", "accuracy_gain", "auc_gain", "only_first", "only_second", "mcnemar"]
    return {
        "references": ", ".join(run.short_name for run in references),
        "table": markdown_table([wording.say(f"head_{head}") for head in heads], rows, left=2),
        "count": len(rows),
        "unit": wording.say("image" if patients is None else "patient"),
        "resamples": wording.number(BOOTSTRAP_RESAMPLES, ","),
        "accuracy_error": wording.number(100 * max(of[0] for of in errors), ".2f"),
        "auc_error": wording.number(max(of[1] for of in errors), ".4f"),
    }


def _pair_cells(
    wording: Wording, first: StoredRun, second: StoredRun, gain: Mapping[str, Any]
) -> list[str]:
    """The figures of a row; ``gain`` is of `difference`."""
    test = mcnemar(first.correct("test"), second.correct("test"))
    points = wording.number(100 * gain["accuracy"], "+.1f")
    area = wording.with_interval(gain["auc"], gain["auc_ci95"], "+.3f")
    return [
        f"{points} {wording.interval(gain['accuracy_ci95'], '+.1f', 100)}"
        + _near_zero(gain, "accuracy"),
        area.rstrip() + _near_zero(gain, "auc"),
        str(test["only_first"]),
        str(test["only_second"]),
        wording.number(test["p"], ".2g" if test["p"] >= 1e-4 else ".0e"),
    ]


def _meaning_of_marks(text: str) -> str:
    """What `NEAR_ZERO` says, on a line of its own; empty where the text has none."""
    said = "~: another seed of the bootstrap could put an end of the interval beyond zero"
    return f"\n{said}" if NEAR_ZERO in text else ""


def describe_pair(results_dir: Path, first: str, second: str) -> str:
    """The comparison of two runs on the test images, as lines of text.

    Raises:
        InputError: one of them is missing, was not tested, or is of other data.
    """
    runs = read_runs(results_dir)
    one, other = (find_run(runs, name) for name in (first, second))
    for run in (one, other):
        if "test" not in run.predictions:
            raise InputError(f"'{run.name}' was not evaluated on the test images")
    if one.data_key != other.data_key:
        raise InputError(f"'{one.name}' and '{other.name}' are of different data")
    patients = read_patients(results_dir, one, "test")
    cells = _pair_cells(Wording("en"), one, other, difference(one, other, patients))
    accuracy, auc, only_first, only_second, p = cells
    unit = "images" if patients is None else "patients"
    return (
        f"test, {one.name} minus {other.name} (95 % intervals resample {unit})\n"
        f"accuracy {accuracy} points, AUC {auc}\n"
        f"only the first right {only_first}, only the second right {only_second}, "
        f"McNemar's exact p {p} (takes images for independent)"
        f"{_meaning_of_marks(accuracy + auc)}"
        + "".join(
            f"\nWARNING: {run.name}: {text}"
            for run in (one, other)
            for text in run.metrics["warnings"]
        )
    )
