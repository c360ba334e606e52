"""The tables of the family's comparison: networks, hypotheses, and the reduction of SE.

Each function returns rows of plain values, which are written to CSV and shown on the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from chestlab.evaluation.verdicts import Estimate, holm, p_value, verdicts
from chestlab.reporting.family_comparison import Comparison

CATCH_UP_EPOCHS = 30  # the reports expect it after 30 to 50

CATCH_UP_MARGIN = 1.0  # points that Plain-34 may lack and still counts as caught up


@dataclass(frozen=True)
class Hypothesis:
    """A claim of the reports: ``member`` gains ``low`` to ``high`` points over ``over``.

    It is tested on the test images, or with ``last_epoch`` on the validation images after the last
    epoch.
    """

    text: str
    member: str
    over: str
    low: float
    high: float
    last_epoch: bool = False


HYPOTHESES = (
    Hypothesis("SE adds 1 to 3 points", "seresnet34", "resnet34", 1, 3),
    Hypothesis("Mish adds 0.5 to 2 points", "mishresnet34", "resnet34", 0.5, 2),
    Hypothesis("Modified is better than ResNet-34", "modifiedresnet34", "resnet34", 0, math.inf),
    Hypothesis(
        "Plain-34 catches up with ResNet-34 after 30 to 50 epochs",
        "plain34",
        "resnet34",
        -CATCH_UP_MARGIN,
        math.inf,
        last_epoch=True,
    ),
)


def network_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per network: means over seeds, and intervals of the test figures."""
    measure = comparison.measures[0]
    rows = []
    for name, runs in comparison.runs.items():
        train, val = (
            np.array([run[split][measure] for run in runs], float) for split in ("train", "val")
        )
        row = {
            "network": comparison.titles[name],
            "seeds": len(runs),
            "parameters": runs[0]["parameters"],
            f"train_{measure}": train.mean(),
            f"val_{measure}_as_selected": val.mean(),
            "gap": (train - val).mean(),
        }
        for test_measure in comparison.measures:
            of_test = comparison.estimate(name, "test", test_measure)
            row |= _with_ends(f"test_{test_measure}", of_test)
            values = [run["test"][test_measure] for run in runs]
            if comparison.findings:  # the runs' own means leave out constant outputs
                values = comparison.score(name, "test", test_measure)[0]
            row[f"test_{test_measure}_sd_over_seeds"] = _standard_deviation(values)
        costs = [run["costs"] for run in runs]
        row |= {
            "multiply_accumulates": costs[0]["multiply_accumulates"],
            "peak_memory_bytes": costs[0]["peak_memory_bytes"],
            "epochs": np.mean([run["epochs_run"] for run in runs]),
            "best_epoch": np.mean([run["best_epoch"] for run in runs]),
        }
        rows.append({k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()})
    return rows


def _standard_deviation(values: Sequence[float | None] | np.ndarray) -> float:
    return float(np.std(np.array(values, float), ddof=1)) if len(values) > 1 else math.nan


def _with_ends(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def verdict_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Every hypothesis whose two networks are there, by each measure, in points.

    Holm's correction is for the number of rows that these runs could decide.
    """
    rows, gains = [], []
    for claim in HYPOTHESES:
        if claim.member not in comparison.runs or claim.over not in comparison.runs:
            continue
        pair = comparison.runs[claim.member], comparison.runs[claim.over]
        lengths = {run["epochs_run"] for runs in pair for run in runs}
        note = _what_prevents_a_verdict(claim, lengths, len(comparison.seeds))
        for measure in comparison.measures:
            if claim.last_epoch and len(lengths) > 1:
                gain = comparison.unknown()
            else:
                split = "last" if claim.last_epoch else "test"
                gain = comparison.gain(claim.member, claim.over, split, measure)
            gains.append(_in_points(gain))
            rows.append(
                {
                    "hypothesis": claim.text,
                    "measure": measure,
                    "images": f"val after epoch {max(lengths)}" if claim.last_epoch else "test",
                    **asdict(gains[-1]),
                    "claimed_low": claim.low,
                    "claimed_high": claim.high,
                    "note": note,
                }
            )
    add_verdicts(rows, gains)
    return rows


def add_verdicts(rows: Sequence[dict[str, Any]], gains: Sequence[Estimate]) -> None:
    """Add p and verdict to rows with a claim and a note on what prevents a verdict on it."""
    undecided = {"verdict": "undecided", "p": math.nan, "verdict_holm": "undecided"}
    for row in rows:
        row |= {**undecided, "p_holm": math.nan}
    tested = [(row, gain) for row, gain in zip(rows, gains, strict=True) if not row["note"]]
    claims = [(row["claimed_low"], row["claimed_high"]) for row, _ in tested]
    for (row, _), decided in zip(
        tested, verdicts([gain for _, gain in tested], claims), strict=True
    ):
        row |= {"verdict": decided.raw, "p": decided.p}
        row |= {"verdict_holm": decided.holm, "p_holm": decided.p_holm}


def _what_prevents_a_verdict(claim: Hypothesis, lengths: set[int], seeds: int) -> str:
    """Why these runs cannot decide a hypothesis; empty if they can.

    Args:
        claim: the hypothesis.
        lengths: numbers of epochs of the runs of both networks.
        seeds: number of seeds.
    """
    if claim.last_epoch and len(lengths) > 1:
        return f"the runs stopped at different epochs ({min(lengths)} to {max(lengths)})"
    if claim.last_epoch and max(lengths) < CATCH_UP_EPOCHS:
        return f"run for {max(lengths)} epochs only"
    return "one seed" if seeds < 2 else ""


def _in_points(gain: Estimate) -> Estimate:
    scaled = ("value", "low", "high", "error", "detectable", "monte_carlo")
    return replace(gain, **{name: 100 * getattr(gain, name) for name in scaled})


def reduction_networks(comparison: Comparison) -> dict[str, int | None]:
    """The networks of the ablation of SE with their reductions: none first, then the largest.

    Empty with fewer than two networks with SE.
    """
    reductions: dict[str, int] = {
        name: runs[0]["model_arguments"]["reduction"]
        for name, runs in comparison.runs.items()
        if name.startswith("seresnet34")
    }
    if len(reductions) < 2:
        return {}
    without: dict[str, int | None] = {"resnet34": None} if "resnet34" in comparison.runs else {}
    return without | dict(sorted(reductions.items(), key=lambda item: -item[1]))


def reduction_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """AUC and gain over no SE, a row for each of `reduction_networks`, with p and p after Holm."""
    rows = []
    for name, reduction in reduction_networks(comparison).items():
        row = {
            "reduction": reduction or "no SE",
            "parameters": comparison.runs[name][0]["parameters"],
        }
        for split in ("val", "test"):
            row |= _with_ends(f"{split}_auc", comparison.estimate(name, split, "auc"))
        if "resnet34" in comparison.runs and reduction is not None:
            gain = comparison.gain(name, "resnet34", "test", "auc")
        else:
            gain = comparison.unknown()
        row |= _with_ends("gain_over_no_se", gain)
        row |= {"gain_over_no_se_detectable": gain.detectable}
        rows.append(row | {"gain_over_no_se_p": p_value(gain, 0)})
    for row, p_holm in zip(rows, holm([row["gain_over_no_se_p"] for row in rows]), strict=True):
        row["gain_over_no_se_p_holm"] = p_holm
    return rows
