"""The figures of `studies.mistakes`, computed from out-of-fold logits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from chestlab.evaluation import bootstrap, reliability, subgroups
from chestlab.evaluation.bootstrap import (
    percentile_interval,
    percentile_p,
    weighted_auc,
    weighted_mean,
)
from chestlab.evaluation.metrics import choose_threshold, fit_temperature, sigmoid
from chestlab.evaluation.out_of_fold import NESTED_ACCURACY, OutOfFold
from chestlab.evaluation.verdicts import (
    ALPHA,
    UNKNOWN,
    Estimate,
    Noise,
    estimate,
    holm,
    noise_of_values,
    p_value,
)
from studies.mistakes_groups import Property
from studies.study import interval_columns

LEFT_OUT = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # shares of the images, the least sure ones

CALIBRATION = ("loss", "brier")  # measures of it with intervals: log loss, Brier score

FEWEST = 5  # images of each class for an AUC of a subgroup

Row = dict[str, Any]


class Figures:
    """Scores of configurations on all images and on shared bootstrap samples of patients.

    Args:
        oof: out-of-fold logits of K configurations, N images, R repeats.

    Attributes:
        weights: (1 + B, N) float64: every image once, then the resamples.
    """

    def __init__(self, oof: OutOfFold) -> None:
        self.oof, images = oof, len(oof.labels)
        drawn = bootstrap.bootstrap_weights(images, oof.patients, bootstrap.BOOTSTRAP_RESAMPLES)
        self.weights = np.concatenate([np.ones((1, images)), drawn])
        units = np.arange(images) if oof.patients is None else oof.patients
        self.units = len(np.unique(units))

    def pooled(self, scores: Mapping[str, np.ndarray], least: float = 0) -> dict[str, Estimate]:
        """Estimates from scores (1 + B, R) by configuration, as those of `OutOfFold.estimate`.

        The noise of training is pooled as there.
        """

        def noise(name: str) -> Noise:
            pool = self.oof.pool(name in self.oof.classical, name)
            values = [scores[other][0] for other in pool if other in scores]
            return noise_of_values(np.stack(values)) if values else UNKNOWN

        return {
            name: estimate(of[0], of[1:], self.units, noise(name), least)
            for name, of in scores.items()
        }

    def _own_noise(self, scores: np.ndarray, measure: str) -> Estimate:
        """An estimate from scores (1 + B, R) with the noise of this configuration alone.

        The log loss of an overconfident network varies far more between repeats than that of
        others, so that a variance pooled over networks would be that of the worst.
        """
        least = -math.inf if measure.endswith("_change") else 0
        return estimate(scores[0], scores[1:], self.units, None, least, math.inf)

    def calibration(self) -> list[Row]:
        """A row per configuration: log loss, Brier and calibration error, and what changes them.

        The verdict is that on the log loss, which the temperature is fitted to; p is corrected for
        the number of configurations.
        """
        labels = self.oof.labels
        rows, scores = {}, {}
        for name, logits in self.oof.logits.items():
            temperatures = self._nested(logits, fit_temperature)
            scaled = logits / temperatures
            before, after = self._calibration_scores(logits), self._calibration_scores(scaled)
            for measure in CALIBRATION:
                scores.setdefault(measure, {})[name] = before[measure]
                scores.setdefault(f"{measure}_after", {})[name] = after[measure]
                change = after[measure] - before[measure]
                scores.setdefault(f"{measure}_change", {})[name] = change
            resampled = [
                reliability.resampled_temperatures(labels, values, self.weights[1:])
                for values in logits
            ]
            low, high = percentile_interval(np.concatenate(resampled))
            rows[name] = {"configuration": name, "temperature": float(np.median(temperatures))}
            rows[name] |= {"temperature_low": low, "temperature_high": high}
            rows[name] |= self._calibration_errors("", sigmoid(logits))
            rows[name] |= self._calibration_errors("_after", sigmoid(scaled))
        of_measures = {
            measure: {name: self._own_noise(of_name, measure) for name, of_name in found.items()}
            for measure, found in scores.items()
        }
        p_values = [p_value(of_measures["loss_change"][name], 0) for name in rows]
        for (name, row), p, p_holm in zip(rows.items(), p_values, holm(p_values), strict=True):
            for measure, found in of_measures.items():
                row |= interval_columns(measure, found[name])
            better = row["loss_change"] < 0
            decided = ("helps" if better else "hurts") if p_holm <= ALPHA else "undecided"
            row |= {"p": p, "p_holm": p_holm, "verdict": decided}
        return list(rows.values())

    def _nested(
        self, values: np.ndarray, fit: Callable[[np.ndarray, np.ndarray], float]
    ) -> np.ndarray:
        """(R, N) what ``fit`` finds in the values (R, N) of the other folds of the repeat."""
        return reliability.nested_values(self.oof.labels, values, self.oof.folds, fit)

    def _calibration_scores(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        """(1 + B, R) by measure."""
        labels, probabilities = self.oof.labels, sigmoid(logits)
        losses = np.logaddexp(0, logits) - labels * logits
        return {
            "loss": self._over_repeats(losses),
            "brier": self._over_repeats((probabilities - labels) ** 2),
        }

    def _calibration_errors(self, when: str, probabilities: np.ndarray) -> dict[str, float]:
        """Means over the repeats of probabilities (R, N), with what chance makes of right ones.

        Without an interval: resampling adds noise to every bin, so that the error is larger in
        nearly all resamples.
        """
        labels, once = self.oof.labels, self.weights[:1]
        found = {
            "ece": [reliability.calibration_errors(labels, p, once)[0] for p in probabilities],
            "ece_by_chance": [reliability.chance_calibration_error(p) for p in probabilities],
        }
        return {f"{key}{when}": float(np.mean(values)) for key, values in found.items()}

    def _over_repeats(self, values: np.ndarray) -> np.ndarray:
        """(1 + B, R) means of values (R, N)."""
        return np.stack([weighted_mean(of_repeat, self.weights) for of_repeat in values], 1)

    def reliability(self, name: str) -> list[Row]:
        """A row per bin of the probability, before and after the temperature."""
        logits = self.oof.logits[name]
        rows = []
        for after, scaled in (
            (False, logits),
            (True, logits / self._nested(logits, fit_temperature)),
        ):
            share, mean, counts = reliability.shares_by_bin(
                self.oof.labels, sigmoid(scaled), self.weights
            )
            for number in np.flatnonzero(counts):
                row = {"after": after, "bin": int(number), "n": int(counts[number])}
                row |= {"probability": mean[0, number]}
                rows.append(row | _interval_of("share", share[:, number]))
        return rows

    def thresholds(self, runs: Mapping[str, Mapping[str, Any]]) -> list[Row]:
        """A row per configuration: the threshold out of fold and on val alone, with accuracies.

        Args:
            runs: ``run``, ``threshold`` and ``images`` of val of finished runs, by configuration.
        """
        oof = self.oof
        right = oof.labels == 1
        on_val = oof.origin == "val"
        gains = {}
        for name in oof.logits:
            at_half, nested = (oof.score(name, m) for m in ("accuracy", NESTED_ACCURACY))
            gains[name] = np.concatenate([(nested[0] - at_half[0])[None], nested[1] - at_half[1]])
        rows, of_gain = [], self.pooled(gains, least=-1)
        for name, logits in oof.logits.items():
            row: Row = {"configuration": name}
            row["threshold"] = float(np.median(self._nested(sigmoid(logits), choose_threshold)))
            for key, inside in (("threshold", on_val | ~on_val), ("val_threshold", on_val)):
                resampled = [
                    reliability.resampled_thresholds(
                        oof.labels[inside], values[inside], self.weights[1:, inside]
                    )
                    for values in (logits if inside.any() else ())
                ]
                if resampled:
                    low, high = percentile_interval(np.concatenate(resampled))
                    row |= {f"{key}_low": low, f"{key}_high": high}
            for measure in ("accuracy", NESTED_ACCURACY):
                row |= interval_columns(measure, oof.estimate(name, measure))
            row |= interval_columns("nested_gain", of_gain[name])
            if name in runs:
                row |= {f"run_{key}": value for key, value in runs[name].items() if key != "run"}
                called = sigmoid(logits) >= runs[name]["threshold"]
                row |= {"run": runs[name]["run"], "run_accuracy": float((called == right).mean())}
            rows.append(row)
        return rows

    def selective(self) -> list[Row]:
        """A row per configuration: accuracy at 0.5 without the least sure images."""
        labels = self.oof.labels == 1
        scores: dict[str, np.ndarray] = {}
        for name, logits in self.oof.logits.items():
            of_repeats = [
                reliability.kept_accuracies(
                    (values >= 0) == labels, np.abs(values), self.weights, LEFT_OUT
                )
                for values in logits
            ]
            scores[name] = np.stack(of_repeats, 1)  # (1 + B, R, L)
        rows: dict[str, Row] = {name: {"configuration": name} for name in scores}
        for place, share in enumerate(LEFT_OUT):
            found = self.pooled({name: of_name[..., place] for name, of_name in scores.items()})
            for name, of_name in found.items():
                rows[name] |= interval_columns(f"without_{round(100 * share)}", of_name)
        return list(rows.values())

    def shared(self, name: str, mistakes: np.ndarray, also: np.ndarray) -> Row:
        """How often another configuration is wrong where a network is wrong, and where not."""
        row: Row = {"configuration": name, "both": int((mistakes & also).sum())}
        for key, inside in (("where_wrong", mistakes), ("where_right", ~mistakes)):
            row |= _interval_of(key, subgroups.accuracy_within(also, inside, self.weights))
        return row


def _interval_of(name: str, drawn: np.ndarray) -> Row:
    """The first of (1 + B,) values and the ends of the others' interval, NaN where all are NaN."""
    ends = percentile_interval(drawn[1:]) if np.isfinite(drawn[1:]).any() else [math.nan] * 2
    return {name: drawn[0], f"{name}_low": ends[0], f"{name}_high": ends[1]}


class _Subgroup:
    """AUC and accuracy of one network's images in a subgroup.

    The noise of training is that of the same figure pooled over the networks trained separately.
    """

    def __init__(self, figures: Figures, best: str) -> None:
        self.figures, self.oof, self.best = figures, figures.oof, best
        self.networks = self.oof.separate(classical=False)

    def scores(
        self, measure: str, inside: np.ndarray, name: str, weights: np.ndarray
    ) -> np.ndarray:
        """(B, R) of a configuration on the images ``inside``."""
        labels, columns = self.oof.labels, []
        for logits, folds in zip(self.oof.logits[name], self.oof.folds, strict=True):
            if measure == "accuracy":
                correct = (logits >= 0) == (labels == 1)
                columns.append(subgroups.accuracy_within(correct, inside, weights))
            else:
                of_group = labels[inside], logits[inside], folds[inside], weights[:, inside]
                columns.append(subgroups.pair_auc(*of_group))
        return np.stack(columns, 1)

    def differences(
        self, measure: str, ends: Sequence[np.ndarray], name: str, weights: np.ndarray
    ) -> np.ndarray:
        """(B, R) of the images in the second of ``ends`` less those in the first."""
        low, high = (self.scores(measure, inside, name, weights) for inside in ends)
        return high - low

    def matched(self, number: np.ndarray, name: str, weights: np.ndarray) -> np.ndarray:
        """(B, R) AUC over pairs of the same group less AUC over all pairs, within folds."""
        columns = []
        for logits, folds in zip(self.oof.logits[name], self.oof.folds, strict=True):
            of_pairs = [
                subgroups.pair_auc(self.oof.labels, logits, strata, weights)
                for strata in (folds * (number.max() + 1) + number, folds)
            ]
            columns.append(of_pairs[0] - of_pairs[1])
        return np.stack(columns, 1)

    def estimate(self, score: Callable[[str, np.ndarray], np.ndarray], least: float) -> Estimate:
        """Of the network; ``score`` is called with a configuration and weights, returns (B, R)."""
        weights = self.figures.weights
        found = score(self.best, weights)
        points = [score(name, weights[:1])[0] for name in self.networks]
        noise = noise_of_values(np.stack(points))
        return estimate(found[0], found[1:], self.figures.units, noise, least)


def subgroup_tables(figures: Figures, best: str, known: Sequence[Property]) -> dict[str, Any]:
    """Figures of a network by groups of images, differences of groups, and possible shortcuts.

    Args:
        figures: of all configurations.
        best: the network.
        known: properties of the images.

    Returns:
        ``subgroups``, a row per group; ``comparisons``, a row per property and measure, the last
        group less the first; ``properties``, a row per property: what it tells of the class by
        itself, how it goes with the logit within a class, both with p, the AUC among equals, and
        whether it is a possible shortcut after Holm's correction for all properties.
    """
    of_network = _Subgroup(figures, best)
    groups = list(itertools.chain(*(_group_rows(of_network, p) for p in known)))
    comparisons = list(itertools.chain(*(_comparison_rows(of_network, p) for p in known)))
    for row, p_holm in zip(comparisons, holm([row["p"] for row in comparisons]), strict=True):
        row["p_holm"] = p_holm
        row["differs"] = bool(p_holm <= ALPHA)
    rows = [_property_row(of_network, p) for p in known if p.key != "class"]
    for row, p_holm in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": p_holm, "shortcut": bool(p_holm < ALPHA)}
    return {"subgroups": groups, "comparisons": comparisons, "properties": rows}


def _measures(labels: np.ndarray, groups: Iterable[np.ndarray]) -> list[str]:
    """Accuracy, and AUC where each group has enough images of both classes."""
    counts = [np.bincount(labels[inside], minlength=2).min() for inside in groups]
    return ["accuracy", "auc"] if min(counts) >= FEWEST else ["accuracy"]


def _group_rows(of_network: _Subgroup, known: Property) -> list[Row]:
    oof, rows = of_network.oof, []
    for name, inside in known.groups.items():
        row: Row = {"property": known.key, "group": name, "images": int(inside.sum())}
        row["share"] = float(oof.labels[inside].mean())
        row["from"], row["to"] = known.values[inside].min(), known.values[inside].max()
        if oof.patients is not None:
            row["patients"] = len(np.unique(oof.patients[inside]))
        for measure in _measures(oof.labels, [inside]):
            score = partial(of_network.scores, measure, inside)
            row |= interval_columns(measure, of_network.estimate(score, 0))
        rows.append(row)
    return rows


def _comparison_rows(of_network: _Subgroup, known: Property) -> list[Row]:
    first, last = (list(known.groups)[place] for place in (0, -1))
    ends = known.groups[first], known.groups[last]
    rows = []
    for measure in _measures(of_network.oof.labels, ends):
        gain = of_network.estimate(partial(of_network.differences, measure, ends), -1)
        row: Row = {"property": known.key, "group": last, "less": first, "measure": measure}
        row |= interval_columns("difference", gain)
        rows.append(row | {"detectable": gain.detectable, "p": p_value(gain, 0)})
    return rows


def _property_row(of_network: _Subgroup, known: Property) -> Row:
    """What a property tells of the class and of the logit, with p of a possible shortcut.

    A shortcut tells the class by itself and goes with the logit in the same direction. Because both
    must hold, p is the larger of the two (intersection-union test: Berger, Technometrics 24, 1982,
    295-300), and 1 where the directions differ.
    """
    oof, weights = of_network.oof, of_network.figures.weights
    seen = np.isfinite(known.values)
    labels, values, counted = oof.labels[seen], known.values[seen], weights[:, seen]
    logits = oof.logits[of_network.best].mean(0)[seen]
    row: Row = {"property": known.key}
    alone = weighted_auc(labels, values, counted)
    link = subgroups.rank_correlation_within_classes(labels, values, logits, counted)
    row |= _interval_of("alone_auc", alone) | _interval_of("link", link)
    number = np.zeros(len(oof.labels), int)  # 0: in no group
    for place, inside in enumerate(known.groups.values(), 1):
        number[inside] = place
    gain = of_network.estimate(partial(of_network.matched, number), -1)
    row |= interval_columns("matched", gain)
    row |= {"alone_p": percentile_p(alone[1:], 0.5), "link_p": percentile_p(link[1:], 0)}
    p = float(np.maximum(row["alone_p"], row["link_p"]))  # NaN where either is
    return row | {"p": 1.0 if (alone[0] - 0.5) * link[0] < 0 else p}
