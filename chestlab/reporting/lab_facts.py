"""The numbers that the sentences of a lab report are about, from a run's stored files alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.splits import CLASS_NAMES, SPLITS
from chestlab.evaluation.metrics import (
    bootstrap_intervals,
    calibration,
    effective_patients,
    overconfidence,
)
from chestlab.evaluation.reliability import chance_calibration_error
from chestlab.evaluation.tasks import GOAL
from chestlab.files.run_files import results_dir_of
from chestlab.reporting.messages import MESSAGES
from chestlab.reporting.stored_runs import StoredRun, read_patients
from chestlab.training.network_names import network_name

WINDOW = 10  # last epochs, at most, over which the validation accuracy is followed

WINDOW_SHARE = 3  # they are one in so many epochs: the first ones still learn

CERTAIN = 0.9  # probability of the predicted class from which an answer counts as certain

History = Sequence[Mapping[str, float]]


class Term(str):
    """A word that pages write in their own language; the text is its key in the messages."""


@dataclass(frozen=True)
class Patients:
    """How many patients some images are of.

    Attributes:
        number: of patients.
        effective: see `metrics.effective_patients`.
        most: images of one of them.
    """

    number: int
    effective: float
    most: int


def patients_of(run: StoredRun, results_dir: Path, split: str) -> Patients | None:
    """The patients of a run's images of a split; None where they are unknown.

    Args:
        run: of today, which has stored their number, or of an older version.
        results_dir: has the lists of names, for an older run.
        split: that was evaluated.
    """
    figures = run.metrics[split]
    if "patients" in figures:
        names = ("patients", "effective_patients", "most_images_of_a_patient")
        return Patients(*(figures[name] for name in names))
    patients = read_patients(results_dir, run, split) if split in run.predictions else None
    if patients is None:
        return None
    counts = np.unique(patients, return_counts=True)[1]
    return Patients(len(counts), effective_patients(patients), int(counts.max()))


def facts_of(
    run: StoredRun, history: History, patients: Patients | None, looks: int | None
) -> dict[str, Any]:
    """Every fact that is known, by the name that `lab_rules` uses; one that is not is left out.

    Shares and accuracies are fractions in 0..1; facts that end in ``_points`` are in points.

    Args:
        run: finished.
        history: a row per epoch; empty for averages and baselines.
        patients: of the images of the `final_split`, None where they are unknown.
        looks: how often the run's network was evaluated on the test images, None: not counted.
    """
    metrics = run.metrics
    facts = {
        "model": _model(run),
        "warned": bool(metrics["warnings"]),
        "name": run.name,
        "source": run.source,
        "size": metrics["data"].get("size"),
        "phantom": run.phantom,
        "xrays_of_nih": "chestmnist" in run.source.lower() and not run.phantom,
        "goal": None if run.phantom else GOAL,  # says nothing about generated images
        "parameters": metrics.get("parameters"),
        "seed": metrics.get("seed"),
        "members": len(metrics.get("members", ())) or None,
        "unit": Term(f"unit_{metrics.get('bootstrap_unit', 'image')}"),
        "temperature": metrics.get("temperature"),
        "threshold": metrics.get("threshold"),
        "chosen_on": metrics.get("threshold_chosen_on", "val"),
        **_ends("threshold", metrics),
        **_single_network_facts(metrics.get("calibration_out_of_fold")),
        "epoch_chosen": (metrics.get("recipe") or {}).get("monitor", "last") != "last",
        "looks": looks,
        "patients": None if patients is None else patients.number,
        **_unit_facts(metrics, patients),
        **_data_facts(metrics),
        **_training_facts(metrics, history),
        **_evaluation_facts(run),
    }
    return {key: value for key, value in facts.items() if _is_known(value)}


def _unit_facts(metrics: Mapping[str, Any], patients: Patients | None) -> dict[str, float]:
    """How many patients or images are resampled, and the exact interval of as many right ones.

    Clopper and Pearson, https://doi.org/10.1093/biomet/26.4.404.
    """
    n = metrics[final_split(metrics)]["n"]
    if metrics.get("bootstrap_unit") == "patient":
        if patients is None:
            return {}
        n = patients.number
    return {"units": n, "exact_low": 0.025 ** (1 / n)}


def _model(run: StoredRun) -> str:
    """The `network_name`, or a baseline's name in the language of the page."""
    key = f"baseline_{(run.metrics.get('recipe') or {}).get('name')}"
    return Term(key) if run.kind == "baseline" and key in MESSAGES else network_name(run.metrics)


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def final_split(metrics: Mapping[str, Any]) -> str:
    """The split whose figures are the run's result: test, or what there is in its place."""
    return next((split for split in ("test", "oof") if metrics.get(split)), "val")


def _data_facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    counts = metrics["data"]["counts"]
    if set(counts["train"]) != set(CLASS_NAMES):  # of the 14 findings, which may overlap
        return {f"{split}_n": (metrics.get(split) or {}).get("n") for split in SPLITS}
    majority = max(CLASS_NAMES, key=lambda name: counts["train"][name])
    minority = next(name for name in CLASS_NAMES if name != majority)
    totals = {split: sum(counts[split].values()) for split in SPLITS}
    shares = {split: counts[split][CLASS_NAMES[1]] / totals[split] for split in SPLITS}
    fewer = counts["train"][minority]
    return {
        **{f"{split}_n": n for split, n in totals.items()},
        **{f"{split}_positive_share": share for split, share in shares.items()},
        "shift_of_shares": max(shares.values()) - min(shares.values()),
        "majority": Term(majority),
        "minority": Term(minority),
        "majority_n": counts["train"][majority],
        "majority_share": counts["train"][majority] / totals["train"],
        "class_ratio": counts["train"][majority] / fewer if fewer else None,
    }


def _training_facts(metrics: Mapping[str, Any], history: History) -> dict[str, Any]:
    """What the history tells; nothing for runs without one, such as averages and baselines."""
    recipe, best = metrics.get("recipe") or {}, metrics.get("best_epoch")
    if not history or best is None or "monitor" not in recipe:
        return {}
    first, last, kept = history[0], history[-1], history[best - 1]
    stage1 = metrics.get("stage1_epochs_run", 0)
    planned = min(recipe["epochs"], recipe.get("stage2_epochs") or recipe["epochs"])
    return {
        "epochs_run": len(history),
        "planned_epochs": stage1 + planned,
        "stage1_epochs": stage1,
        "stage2_epochs": len(history) - stage1,
        "best_epoch": best,
        "patience": recipe["patience"],
        "monitor": Term(f"monitor_{recipe['monitor']}"),
        "first_train_loss": first["train_loss"],
        "kept_train_loss": kept["train_loss"],
        "last_train_loss": last["train_loss"],
        "first_val_loss": first["val_loss"],
        "kept_val_loss": kept["val_loss"],
        "last_val_loss": last["val_loss"],
        "kept_train_accuracy": kept["train_accuracy"],
        **_statistics(metrics.get("statistics")),
        **_lowest_loss(history),
        **_accuracy_of_epochs(history, metrics),
    }


def _statistics(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """The validation AUC with running and with estimated batch-norm statistics, where stored."""
    if not figures:
        return {}
    running, estimated = (figures["val"][kind]["auc"] for kind in ("running", "estimated"))
    if running is None or estimated is None:
        return {}
    return {
        "running_auc": running,
        "estimated_auc": estimated,
        "estimated_minus_running": estimated - running,
    }


def _lowest_loss(history: History) -> dict[str, Any]:
    losses = [row["val_loss"] for row in history]
    if not all(map(math.isfinite, losses)):
        return {}
    lowest = int(np.argmin(losses))
    return {
        "lowest_val_loss": losses[lowest],
        "lowest_val_loss_epoch": lowest + 1,
        "train_loss_at_lowest": history[lowest]["train_loss"],
        "val_loss_rise": (losses[-1] - losses[lowest]) / losses[lowest] if losses[lowest] else None,
    }


def _accuracy_of_epochs(history: History, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """How the validation accuracy went; of the 14 findings it says nothing."""
    accuracies = [row["val_accuracy"] for row in history]
    if "threshold" not in metrics or not all(map(math.isfinite, accuracies)):
        return {}
    window, n = _window(len(history)), metrics["val"]["n"]
    last = accuracies[-window:]
    low, high = min(last), max(last)
    reached = [epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= GOAL]
    return {
        "window": window,
        "window_low": low,
        "window_high": high,
        "window_images": round((high - low) * n),
        "one_image_points": 100 / n,
        "highest_val_accuracy": max(accuracies),
        "highest_val_accuracy_epoch": accuracies.index(max(accuracies)) + 1,
        "epochs_at_goal": len(reached),
        "first_epoch_at_goal": reached[0] if reached else None,
    }


def _window(epochs: int) -> int:
    """The last epochs that tell whether the validation accuracy settled; one at least."""
    return max(1, min(WINDOW, epochs // WINDOW_SHARE))


def _evaluation_facts(run: StoredRun) -> dict[str, Any]:
    metrics = run.metrics
    final = final_split(metrics)
    figures = metrics[final]
    facts = {
        "final": Term(f"split_{final}"),
        "n": figures["n"],
        "auc": figures["auc"],
        **_interval("auc", figures),
        "tested": metrics.get("test") is not None,
    }
    if "threshold" not in metrics:
        known = [value for value in figures["auc_per_finding"].values() if value is not None]
        return facts | {"findings_n": len(known)}
    train, val = metrics.get("train"), metrics["val"]
    (tn, fp), (fn, tp) = figures["confusion"]
    always = metrics["data"]["counts"]["train"]
    majority = max((0, 1), key=lambda k: always[CLASS_NAMES[k]])
    intervals = _intervals(run, final)
    facts |= {
        "accuracy": figures["accuracy"],
        **_interval("accuracy", figures),
        "constant_accuracy": ((tn + fp, fn + tp)[majority]) / figures["n"],
        **_lead_over_constant(run, final, majority, intervals),
        "val_accuracy": val["accuracy"],
        "sensitivity": figures["sensitivity"],
        "specificity": figures["specificity"],
        "true_positives": tp,
        "positives": tp + fn,
        "true_negatives": tn,
        "negatives": tn + fp,
        **_calibration_facts(run, final, intervals),
        **_error_facts(run),
    }
    if final == "test":
        difference = 100 * (val["accuracy"] - figures["accuracy"])
        facts |= {"val_minus_final_points": difference, "val_below_points": -difference}
        facts |= _out_of_fold_facts(metrics)
    if train is not None and "accuracy" in train and run.kind == "network":
        facts |= _fit_facts(train, val, metrics)
    return facts | _gain_facts(metrics)


def _intervals(run: StoredRun, final: str) -> dict[str, Any]:
    """``gain_over_constant_ci95`` and ``overconfidence_ci95`` of a split.

    What an earlier version has not stored is resampled here, by patient where a list of names tells
    them.
    """
    figures = run.metrics[final]
    keys = {"gain_over_constant_ci95": "over_constant", "overconfidence_ci95": "overconfidence"}
    stored = {key: figures[key] for key in keys if key in figures}
    if len(stored) == len(keys):
        return stored
    predictions = run.predictions[final]
    labels, p = predictions.labels, predictions.probabilities
    patients = read_patients(results_dir_of(run.folder), run, final)
    others = {"overconfidence": overconfidence(labels, p)}
    found = bootstrap_intervals(run.correct(final), labels, p, patients, others=others)
    return {key: found[name] for key, name in keys.items()} | stored


def _lead_over_constant(
    run: StoredRun, final: str, constant: int, intervals: Mapping[str, Any]
) -> dict[str, float]:
    """Accuracy less that of always answering ``constant``, in points, with its interval.

    Paired by image; ``intervals`` as of `_intervals`.
    """
    low, high = intervals["gain_over_constant_ci95"][constant]
    lead = run.correct(final).mean() - (run.predictions[final].labels == constant).mean()
    return {"lead_points": 100 * lead, "lead_low": 100 * low, "lead_high": 100 * high}


def _out_of_fold_facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures out of fold, beside those of test."""
    figures = metrics.get("oof")
    if not figures or figures["auc"] is None:
        return {}
    return {
        "oof_n": figures["n"],
        "oof_accuracy": figures["accuracy"],
        "oof_threshold": metrics.get("oof_threshold"),
        "oof_auc": figures["auc"],
        "oof_auc_low": figures["auc_ci95"][0],
        "oof_auc_high": figures["auc_ci95"][1],
    }


def _ends(measure: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """Ends of a figure's interval; nothing where none is stored."""
    if not figures.get(f"{measure}_ci95"):
        return {}
    low, high = figures[f"{measure}_ci95"]
    return {f"{measure}_low": low, f"{measure}_high": high}


def _interval(measure: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """Ends and width, in points, of a figure's interval."""
    if not (ends := _ends(measure, figures)):
        return {}
    width = 100 * (ends[f"{measure}_high"] - ends[f"{measure}_low"])
    return {**ends, f"{measure}_width_points": width}


def _single_network_facts(figures: Mapping[str, Any] | None) -> dict[str, float]:
    """The temperature of single networks, out of fold; nothing for runs without folds."""
    if not figures:
        return {}
    low, high = figures["temperature_ci95"]
    return {
        "single_temperature": figures["temperature"],
        "single_low": low,
        "single_high": high,
    }


def _fit_facts(
    train: Mapping[str, Any], val: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Training against validation images, both at the run's threshold.

    Two standard errors of the difference: half the widths of both intervals, which resample
    patients where they are known, added as the errors of independent figures.
    """
    intervals = [ends for part in (train, val) if (ends := part.get("accuracy_ci95"))]
    counts = metrics["data"]["counts"]["train"]
    return {
        "train_accuracy": train["accuracy"],
        "constant_train_accuracy": max(counts.values()) / sum(counts.values()),
        "gap_points": 100 * (train["accuracy"] - val["accuracy"]),
        "gap_margin_points": 50 * math.hypot(*(high - low for low, high in intervals)),
    }


def _calibration_facts(run: StoredRun, final: str, intervals: Mapping[str, Any]) -> dict[str, Any]:
    """How certain the predictions are, against how often they are right, at a threshold of 0.5.

    With the interval of the difference; ``intervals`` as of `_intervals`.
    """
    predictions = run.predictions[final]
    p, labels = predictions.probabilities, predictions.labels
    too_sure = 100 * float(overconfidence(labels, p).mean())
    low, high = (100 * end for end in intervals["overconfidence_ci95"])
    return {
        "calibration_error": calibration(labels, p)["error"],
        "error_by_chance": chance_calibration_error(p),
        "confidence": float(np.maximum(p, 1 - p).mean()),
        "accuracy_at_half": float(((p >= 0.5) == (labels == 1)).mean()),
        "overconfidence_points": too_sure,
        "overconfidence_low": low,
        "overconfidence_high": high,
        "underconfidence_points": -too_sure,
        "underconfidence_low": -high,
        "underconfidence_high": -low,
    }


def _error_facts(run: StoredRun) -> dict[str, Any]:
    """Errors on the validation images, and how many of them the network was certain of."""
    predictions, correct = run.predictions["val"], run.correct("val")
    p, threshold = predictions.probabilities, run.metrics["threshold"]
    of_predicted = np.where(p >= threshold, p, 1 - p)
    return {
        "val_images": len(p),
        "val_wrong": int((~correct).sum()),
        "val_certain_wrong": int((~correct & (of_predicted >= CERTAIN)).sum()),
        "certain": CERTAIN,
    }


def _gain_facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What an average gains in AUC over its best member, and how far its members scatter."""
    if "best_member" not in metrics:
        return {}
    best = metrics["best_member"]
    facts: dict[str, Any] = {"best_member": best["name"]}
    split = next((s for s in ("test", "val") if s in best["gain_of_the_average"]), None)
    if split is not None:
        gain = best["gain_of_the_average"][split]
        facts |= {"gain_split": Term(f"split_{split}"), "gain_auc": gain["auc"]}
        if gain["auc_ci95"]:
            facts |= dict(zip(("gain_auc_low", "gain_auc_high"), gain["auc_ci95"], strict=True))
    spread = metrics["mean_and_sd"]
    split = next((s for s in ("test", "held_out", "val") if s in spread), None)
    if split is not None:
        facts |= {
            "member_split": Term(f"split_{split}"),
            "member_auc_mean": spread[split]["auc"]["mean"],
            "member_auc_sd": spread[split]["auc"]["sd"],
        }
    return facts
