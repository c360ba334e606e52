"""Calibration out of fold, thresholds of resamples, the surest images, and figures of subgroups."""

import numpy as np
import pytest

from chestlab.evaluation import reliability, subgroups
from chestlab.evaluation.bootstrap import bootstrap_weights
from chestlab.evaluation.metrics import (
    calibration,
    choose_threshold,
    fit_temperature,
    mean_loss,
    roc_auc,
    sigmoid,
)

RNG = np.random.default_rng(5)
N = 120
LABELS = RNG.integers(0, 2, N)
LOGITS = (2.0 * LABELS - 1) + RNG.normal(size=N) * 2
WEIGHTS = bootstrap_weights(N, np.arange(N) // 3, 20)


def repeated(values, weights):
    """A resample as images: each as often as it counts."""
    return np.repeat(values, weights)


def test_nested_values_come_from_the_other_folds_of_the_repeat_alone():
    labels = np.array([0, 1, 0, 1, 1, 1])
    logits = np.array([[1.0, 2, 3, 4, 5, 6], [7.0, 8, 9, 10, 11, 12]])
    folds = np.array([[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]])
    found = reliability.nested_values(labels, logits, folds, lambda y, z: z.sum() + 100 * y.sum())
    first = [18 + 300, 14 + 300, 10 + 200]
    assert found.tolist() == [
        [first[0], first[0], first[1], first[1], first[2], first[2]],
        [30 + 300, 27 + 100, 30 + 300, 27 + 100, 30 + 300, 27 + 100],
    ]


def test_thresholds_and_temperatures_of_resamples_are_those_of_the_repeated_images():
    thresholds = reliability.resampled_thresholds(LABELS, LOGITS, WEIGHTS)
    temperatures = reliability.resampled_temperatures(LABELS, LOGITS, WEIGHTS)
    for row, threshold, temperature in zip(WEIGHTS, thresholds, temperatures, strict=True):
        labels, logits = repeated(LABELS, row), repeated(LOGITS, row)
        assert threshold == choose_threshold(labels, sigmoid(logits))
        assert temperature == pytest.approx(fit_temperature(labels, logits), rel=0.02)


def test_the_interval_of_a_threshold_is_that_of_the_resampled_patients(monkeypatch):
    monkeypatch.setattr(reliability, "BOOTSTRAP_RESAMPLES", 300)
    p, patients = sigmoid(LOGITS), np.arange(N) // 3
    for groups in (None, patients):
        weights = bootstrap_weights(N, groups, 300)
        naive = [choose_threshold(repeated(LABELS, w), repeated(p, w)) for w in weights]
        expected = np.percentile(naive, [2.5, 97.5])
        assert reliability.threshold_interval(LABELS, p, groups) == pytest.approx(expected)
        assert expected[0] < choose_threshold(LABELS, p) < expected[1]


def test_the_threshold_of_separated_classes_does_not_move():
    labels, p = np.repeat([0, 1], 30), np.repeat([0.605, 0.655], 30)
    assert choose_threshold(labels, p) == 0.61
    assert reliability.threshold_interval(labels, p, np.arange(60) // 2) == [0.61, 0.61]
    two_images = reliability.threshold_interval(labels[[0, -1]], p[[0, -1]])
    assert two_images == [0.5, 0.61]  # of class 1 alone all are right, of class 0 those from 0.61


def test_the_temperature_of_a_fold_is_fitted_to_the_other_folds(monkeypatch):
    monkeypatch.setattr(reliability, "BOOTSTRAP_RESAMPLES", 200)
    rng = np.random.default_rng(2)
    folds, labels = np.repeat([0, 1], 200), np.tile([0, 1], 200)
    logits = (2 * labels - 1) + rng.normal(size=400) * np.sqrt(2)  # right for equal variances of 2
    logits[folds == 0] *= 4  # the first network is four times too sure
    figures = reliability.calibration_out_of_fold(labels, logits, folds, np.arange(400) // 2)
    own = [fit_temperature(labels[folds == k], logits[folds == k]) for k in (0, 1)]
    assert own[0] > 3 * own[1]
    assert figures["temperature_without_fold"] == [own[1], own[0]]
    scaled = logits / np.where(folds == 0, own[1], own[0])
    assert figures["before"]["loss"] == pytest.approx(mean_loss(labels, logits))
    assert figures["after"]["loss"] == pytest.approx(mean_loss(labels, scaled))
    not_nested = mean_loss(labels, logits / figures["temperature"])
    assert figures["temperature"] == fit_temperature(labels, logits)
    assert not_nested < figures["after"]["loss"] - 0.02  # chosen on the judged images, optimistic
    for stage, values in (("before", logits), ("after", scaled)):
        p, found = sigmoid(values), figures[stage]
        assert found["brier"] == pytest.approx(np.mean((p - labels) ** 2))
        assert found["ece"] == calibration(labels, p)["error"]
        assert found["ece_by_chance"] == reliability.chance_calibration_error(p)
    change = figures["change"]
    assert change["loss"] == pytest.approx(figures["after"]["loss"] - figures["before"]["loss"])
    assert change["ece"] == pytest.approx(figures["after"]["ece"] - figures["before"]["ece"])
    weights = bootstrap_weights(400, np.arange(400) // 2, 200)
    losses = np.logaddexp(0, scaled) - labels * scaled - np.logaddexp(0, logits) + labels * logits
    expected = np.percentile([repeated(losses, w).mean() for w in weights], [2.5, 97.5])
    assert change["loss_ci95"] == pytest.approx(expected)
    temperatures = [fit_temperature(repeated(labels, w), repeated(logits, w)) for w in weights]
    expected = np.percentile(temperatures, [2.5, 97.5])
    assert figures["temperature_ci95"] == pytest.approx(expected, rel=0.025)


def test_calibration_errors_of_resamples_are_those_of_the_repeated_images():
    p = sigmoid(LOGITS)
    errors = reliability.calibration_errors(LABELS, p, WEIGHTS)
    expected = [calibration(repeated(LABELS, w), repeated(p, w))["error"] for w in WEIGHTS]
    assert errors == pytest.approx(expected)


def test_right_probabilities_have_an_error_by_chance_that_falls_with_the_images():
    few = reliability.chance_calibration_error(np.full(25, 0.5))
    many = reliability.chance_calibration_error(np.full(2500, 0.5))
    # of a binomial share: sqrt(p (1 - p) / n) times the mean of |normal|, sqrt(2 / pi)
    assert few == pytest.approx(np.sqrt(0.25 / 25 * 2 / np.pi), rel=0.05)
    assert many == pytest.approx(few / 10, rel=0.1)


def test_shares_by_bin_are_those_of_the_repeated_predictions():
    p = np.stack([sigmoid(LOGITS), sigmoid(0.5 * LOGITS)])
    share, mean, counts = reliability.shares_by_bin(LABELS, p, WEIGHTS[:1])
    images = repeated(np.arange(N), WEIGHTS[0])
    bins = calibration(np.tile(LABELS[images], 2), p[:, images].ravel())["bins"]
    for row in bins:
        place = round(10 * row["low"])
        assert share[0, place] == pytest.approx(row["share"])
        assert mean[0, place] == pytest.approx(row["probability"])
    assert counts.sum() == 2 * N


def test_the_surest_images_are_kept_and_one_at_the_border_counts_in_part():
    correct = np.array([True, False, True, True])
    confidence = np.array([4.0, 1.0, 3.0, 2.0])
    weights = np.array([[1, 1, 1, 1], [0, 2, 1, 1]])
    kept = reliability.kept_accuracies(correct, confidence, weights, (0.0, 0.25, 0.375, 0.5))
    assert kept[0] == pytest.approx([3 / 4, 1, 1, 1])
    assert kept[1] == pytest.approx([1 / 2, 2 / 3, 2 / 2.5, 1])


def test_the_auc_counts_pairs_of_a_stratum_alone():
    labels = np.array([1, 0, 1, 0, 0])
    scores = np.array([1.0, 0.0, 11.0, 12.0, 11.0])  # the second stratum is on another scale
    strata = np.array([0, 0, 1, 1, 1])
    weights = np.array([[1, 1, 1, 1, 1], [1, 1, 2, 1, 0], [1, 0, 1, 0, 0]])
    found = subgroups.pair_auc(labels, scores, strata, weights)
    assert found[:2] == pytest.approx([(1 + 0 + 0.5) / 3, 1 / 3])
    assert np.isnan(found[2])
    together = subgroups.pair_auc(LABELS, LOGITS, np.zeros(N), WEIGHTS)
    assert together[0] == pytest.approx(
        roc_auc(repeated(LABELS, WEIGHTS[0]), repeated(LOGITS, WEIGHTS[0]))
    )


def test_rank_correlation_is_that_within_the_classes():
    from scipy.stats import spearmanr

    values = 10 * LABELS + RNG.normal(size=N)  # tells the class, and nothing within it
    ones = np.ones((1, N))
    found = subgroups.rank_correlation_within_classes(LABELS, values, LOGITS, ones)[0]
    inside = np.flatnonzero(LABELS == 0), np.flatnonzero(LABELS == 1)
    each = [spearmanr(values[rows], LOGITS[rows]).statistic for rows in inside]
    assert found == pytest.approx(np.mean(each))
    assert abs(found) < 0.3 < spearmanr(values, LOGITS).statistic
    constant = subgroups.rank_correlation_within_classes(LABELS, np.ones(N), LOGITS, ones)
    assert np.isnan(constant[0])


def test_mistakes_of_few_patients_are_told_from_mistakes_at_random():
    patients = np.repeat(np.arange(40), 3)
    labels = np.tile([0, 1, 1], 40)
    concentrated = subgroups.concentration(patients < 4, labels, patients)
    assert concentrated["with_mistakes"] == concentrated["top"] == 4
    assert concentrated["top_mistakes"] == 12
    assert concentrated["worst"][0] == ["0", 3, 3]
    assert concentrated["p"] < 0.001
    spread = subgroups.concentration(labels == 0, labels, patients)
    assert spread["with_mistakes"] == spread["expected_with_mistakes"] == 40
    assert spread["p"] == 1
