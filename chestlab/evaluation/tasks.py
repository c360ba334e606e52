"""The two tasks of a run: which of two classes, or which of the 14 findings.

A task knows the figures of a split; how a network is trained is the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chestlab.data.splits import FINDINGS, Split
from chestlab.evaluation.metrics import choose_threshold, evaluate, evaluate_findings
from chestlab.evaluation.reliability import threshold_interval

GOAL = 0.90  # validation accuracy the reports aim at

SPLIT_TITLES = {
    "val": "validation (as selected)",
    "test": "test (held out)",
    "fold": "fold left out (as selected)",
    "oof": "out of fold",
}


VIEWS = {  # by kind of test-time augmentation
    "none": "single pass",
    "flip": "image and mirror image averaged",
    "warps": "random warps averaged",
}


class TwoClassTask:
    """Cardiomegaly or pneumothorax: one logit, and a threshold chosen on the validation images."""

    measure = "accuracy"

    def decide(self, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
        """The values chosen on the validation images, besides the epoch."""
        return {"threshold": choose_threshold(labels, probabilities)}

    def decision_intervals(self, split: Split, probabilities: np.ndarray) -> dict[str, list[float]]:
        """How what `decide` chooses moves when the validation images are resampled by patient."""
        return {"threshold_ci95": threshold_interval(split.labels, probabilities, split.patients)}

    def evaluate(self, split: Split, logits: np.ndarray, threshold: float) -> dict[str, Any]:
        """The split's figures, as of `metrics.evaluate`."""
        return evaluate(split.labels, logits, threshold, split.patients)

    def way(self, metrics: Mapping[str, Any]) -> str:
        """How val and test were evaluated, in words."""
        return f"{VIEWS[metrics['tta']]}, {threshold_in_words(metrics)}"

    def line(self, figures: Mapping[str, Any]) -> str:
        """A split's figures in one line."""
        low, high = figures["accuracy_ci95"]
        return (
            f"accuracy {figures['accuracy']:.1%} ({low:.1%} to {high:.1%}), "
            f"AUC {_auc(figures)}, n = {figures['n']}"
        )

    def goal(self, figures: Mapping[str, Any]) -> str:
        """Whether validation reached the reports' goal."""
        return f"; {GOAL:.0%} goal {'reached' if figures['accuracy'] >= GOAL else 'not reached'}"


class FindingsTask:
    """All 14 findings of every image: as many logits, evaluated by their mean AUC; no threshold."""

    measure = "mean AUC"

    def decide(self, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
        """No value: an area under the curve needs no threshold."""
        return {}

    def decision_intervals(self, split: Split, probabilities: np.ndarray) -> dict[str, list[float]]:
        """No interval: nothing is chosen."""
        return {}

    def evaluate(self, split: Split, logits: np.ndarray) -> dict[str, Any]:
        """The split's figures, as of `metrics.evaluate_findings`."""
        return evaluate_findings(split.labels, logits, FINDINGS, split.patients)

    def way(self, metrics: Mapping[str, Any]) -> str:
        """How val and test were evaluated, in words."""
        return VIEWS[metrics["tta"]]

    def line(self, figures: Mapping[str, Any]) -> str:
        """A split's figures in one line."""
        missing = [name for name, auc in figures["auc_per_finding"].items() if auc is None]
        without = (
            f", without {', '.join(missing)} (one class or one output only)" if missing else ""
        )
        count = len(figures["auc_per_finding"]) - len(missing)
        return f"mean AUC of {count} findings {_auc(figures)}, n = {figures['n']}{without}"

    def goal(self, figures: Mapping[str, Any]) -> str:
        """Empty: the reports' goal is for two classes."""
        return ""


def threshold_in_words(metrics: Mapping[str, Any]) -> str:
    """The threshold of a `metrics.json` with its interval, and which images it was chosen on.

    An older version stored no interval, and a single run not what it always chooses on, val.
    """
    low, high = metrics.get("threshold_ci95") or (None, None)
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    out_of_fold = metrics.get("threshold_chosen_on") == "out-of-fold"
    where = "out of fold" if out_of_fold else "on val"
    return f"threshold {metrics['threshold']:.2f}{interval} chosen {where}"


def _auc(figures: Mapping[str, Any]) -> str:
    """The area with its interval, or that there is none."""
    if figures["auc"] is None:
        return "undefined (outputs differ by less than float noise)"
    low, high = figures["auc_ci95"]
    return f"{figures['auc']:.3f} ({low:.3f} to {high:.3f})"


def task_of(name: str) -> TwoClassTask | FindingsTask:
    """The task that ``--task`` names."""
    return FindingsTask() if name == "findings" else TwoClassTask()


def print_scores(metrics: Mapping[str, Any]) -> None:
    """Print val and test with their intervals, and the warnings, of a `metrics.json`.

    Of phantoms it is not said whether the goal was reached.
    """
    task = task_of("two-class" if "threshold" in metrics else "findings")
    goal = "" if metrics["data"]["phantom"] else task.goal(metrics["val"])
    print(f"val, as selected: {task.line(metrics['val'])}{goal}")
    if metrics["test"] is not None:
        print(f"test, held out:   {task.line(metrics['test'])}")
    print(f"95 % intervals resample {metrics['bootstrap_unit']}s")
    for warning in metrics.get("warnings", ()):  # an older version stored none
        print(f"WARNING: {warning}")
