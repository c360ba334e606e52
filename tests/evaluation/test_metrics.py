"""Figures against scikit-learn, against hand-worked cases, and against a naive bootstrap."""

import numpy as np
import pytest
from sklearn import metrics as reference

from chestlab.evaluation import bootstrap
from chestlab.evaluation.bootstrap import BOOTSTRAP_SEED, bootstrap_weights, weighted_auc
from chestlab.evaluation.metrics import (
    THRESHOLDS,
    bin_of,
    bootstrap_intervals,
    calibration,
    choose_threshold,
    evaluate,
    evaluate_probabilities,
    mcnemar,
    overconfidence,
    paired_difference,
    roc_auc,
    roc_points,
    sigmoid,
)


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    logits = np.round(rng.normal(size=200) + labels, 1)  # rounded, so that there are ties
    return labels, logits


def test_sigmoid_is_exact_and_never_overflows():
    with np.errstate(all="raise", under="ignore"):
        values = sigmoid(np.array([0.0, 800.0, -800.0, 1.0]))
    assert values.tolist() == [0.5, 1.0, 0.0, 1 / (1 + np.exp(-1))]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.66])
def test_evaluate_agrees_with_scikit_learn(predictions, threshold):
    labels, logits = predictions
    probabilities = sigmoid(logits)
    called = (probabilities >= threshold).astype(int)
    figures = evaluate(labels, logits, threshold)
    expected = {
        "n": 200,
        "loss": reference.log_loss(labels, probabilities),
        "accuracy": reference.accuracy_score(labels, called),
        "auc": reference.roc_auc_score(labels, probabilities),
        "sensitivity": reference.recall_score(labels, called),
        "specificity": reference.recall_score(labels, called, pos_label=0),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, called),
        "f1": reference.f1_score(labels, called),
        "brier": reference.brier_score_loss(labels, probabilities),
    }
    for key, value in expected.items():
        assert figures[key] == pytest.approx(value), key
    assert figures["confusion"] == reference.confusion_matrix(labels, called).tolist()


def test_hand_worked_case():
    figures = evaluate(np.array([0, 0, 1, 1, 1]), np.array([-2.0, 1.0, -1.0, 2.0, 3.0]), 0.5)
    assert figures["confusion"] == [[1, 1], [1, 2]]
    assert figures["accuracy"] == 3 / 5
    assert figures["sensitivity"] == 2 / 3
    assert figures["specificity"] == 1 / 2
    assert figures["auc"] == pytest.approx(5 / 6)  # of six pairs only (-1, 1) is the wrong way


@pytest.mark.parametrize("levels", [2, 9, 100_000])
def test_area_under_the_curve_is_that_of_scikit_learn_with_and_without_ties(levels):
    rng = np.random.default_rng(levels)
    for n in (2, 58, 2306):
        labels = np.arange(n) % 3 > 0 if n > 2 else np.array([0, 1])
        scores = rng.integers(0, levels, n) / levels - 0.5 + 0.1 * labels
        expected = reference.roc_auc_score(labels, scores)
        assert roc_auc(labels, scores) == pytest.approx(expected, abs=1e-12)
        curve = reference.roc_curve(labels, scores, drop_intermediate=False)
        for points, of_reference in zip(roc_points(labels, scores), curve[:2], strict=True):
            np.testing.assert_array_equal(points, of_reference)


def test_probability_equal_to_the_threshold_is_positive():
    assert evaluate(np.array([0, 1]), np.array([0.0, 0.0]), 0.5)["confusion"] == [[0, 1], [0, 1]]


def test_threshold_maximises_accuracy():
    labels = np.array([0, 0, 0, 1, 1])
    probabilities = np.array([0.1, 0.55, 0.615, 0.62, 0.9])
    assert choose_threshold(labels, probabilities) == 0.62


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.1, 0.9], 0.5),  # every threshold is right
        ([0.535, 0.9], 0.54),  # the nearest above
        ([0.1, 0.455], 0.45),  # the nearest below
        ([0.455, 0.545], 0.5),
    ],
)
def test_a_tie_goes_to_the_threshold_nearest_one_half(probabilities, expected):
    assert choose_threshold(np.array([0, 1]), np.array(probabilities)) == expected


def test_of_two_thresholds_equally_near_one_half_the_lower_is_taken():
    labels = np.array([1, 0])
    probabilities = np.array([0.495, 0.505])  # 0.49 and 0.51 get one right, 0.50 none
    assert choose_threshold(labels, probabilities) == 0.49


def test_thresholds_are_0_30_to_0_70_in_hundredths():
    assert len(THRESHOLDS) == 41
    assert THRESHOLDS[0] == 0.30
    assert THRESHOLDS[20] == 0.5
    assert THRESHOLDS[-1] == 0.70


def test_auc_without_both_classes_or_with_nan_is_nan():
    assert np.isnan(roc_auc(np.array([1, 1]), np.array([0.1, 0.2])))
    assert np.isnan(roc_auc(np.array([0, 1]), np.array([0.1, np.nan])))


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_equal_those_of_a_naive_bootstrap(predictions, grouped):
    """Every resample rebuilt image by image and given to scikit-learn."""
    labels, logits = predictions
    groups = np.random.default_rng(1).integers(0, 60, len(labels)) if grouped else None
    correct = (logits >= 0) == (labels == 1)
    resamples = 50
    others = {"logit": logits}
    fast = bootstrap_intervals(correct, labels, logits, groups, resamples, others)

    units = np.arange(len(labels)) if groups is None else groups
    unique = np.unique(units)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    accuracies, aucs, gains, means = [], [], ([], []), []
    for drawn in rng.integers(0, len(unique), (resamples, len(unique))):
        rows = np.concatenate([np.flatnonzero(units == unit) for unit in unique[drawn]])
        accuracies.append(correct[rows].mean())
        means.append(logits[rows].mean())
        aucs.append(reference.roc_auc_score(labels[rows], logits[rows]))
        for answer in (0, 1):
            gains[answer].append(correct[rows].mean() - (labels[rows] == answer).mean())
    for answer in (0, 1):
        wanted = np.percentile(gains[answer], [2.5, 97.5])
        assert fast["over_constant"][answer] == pytest.approx(wanted)
    assert fast["accuracy"] == pytest.approx(np.percentile(accuracies, [2.5, 97.5]))
    assert fast["auc"] == pytest.approx(np.percentile(aucs, [2.5, 97.5]))
    assert fast["logit"] == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_overconfidence_is_how_much_surer_than_right():
    labels, probabilities = np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.1, 0.8])
    too_sure = overconfidence(labels, probabilities)
    assert too_sure == pytest.approx([-0.1, 0.6, -0.1, 0.8])
    figures = evaluate_probabilities(labels, probabilities, 0.3)  # not the threshold of 0.5
    assert figures["overconfidence"] == pytest.approx(0.3)
    low, high = figures["overconfidence_ci95"]
    assert low == pytest.approx(-0.1) and 0.6 < high < 0.8


def test_patients_with_many_images_widen_the_interval():
    """Twenty copies of each patient's image are no more evidence than one."""
    rng = np.random.default_rng(2)
    labels = np.repeat(rng.integers(0, 2, 30), 20)
    scores = np.repeat(rng.normal(size=30), 20) + labels
    patients = np.repeat(np.arange(30), 20)
    correct = (scores > 0.5) == labels
    width = {
        name: np.diff(bootstrap_intervals(correct, labels, scores, groups)["accuracy"])[0]
        for name, groups in (("images", None), ("patients", patients))
    }
    assert width["patients"] > 3 * width["images"]


def test_paired_difference_sees_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 400)
    hard = rng.normal(size=400) * 2  # what makes an image hard for both
    second = sigmoid(2 * labels - 1 + hard)
    first = sigmoid(2.6 * labels - 1.3 + hard)
    result = paired_difference(labels, first, second, (0.5, 0.5))
    assert result["auc"] == pytest.approx(roc_auc(labels, first) - roc_auc(labels, second))
    assert 0 < result["auc_ci95"][0] < result["auc"] < result["auc_ci95"][1]
    separate = [
        bootstrap_intervals((p >= 0.5) == labels, labels, p)["auc"] for p in (first, second)
    ]
    assert separate[0][0] < separate[1][1]


def test_paired_difference_of_a_model_with_itself_is_nothing() -> None:
    rng = np.random.default_rng(6)
    labels, scores = rng.integers(0, 2, 50), rng.random(50)
    result = paired_difference(labels, scores, scores, (0.4, 0.4), rng.integers(0, 9, 50))
    assert (result["accuracy"], result["auc"]) == (0, 0)
    assert result["accuracy_ci95"] == result["auc_ci95"] == [0, 0]


def test_paired_difference_uses_each_ones_threshold() -> None:
    labels = np.array([0, 0, 1, 1] * 5)
    scores = np.array([0.1, 0.45, 0.55, 0.6] * 5)
    result = paired_difference(labels, scores, scores, (0.5, 0.58))
    assert result["accuracy"] == pytest.approx(0.25)
    assert result["auc"] == 0


def test_paired_difference_resamples_patients() -> None:
    labels = np.tile([0, 1], 100)
    second = np.full(200, 0.4)
    first = np.where(np.arange(200) < 40, labels, 0.4)  # better on one patient of five
    images = paired_difference(labels, first, second, (0.5, 0.5))
    patients = paired_difference(labels, first, second, (0.5, 0.5), np.arange(200) // 40)

    def width(result: dict) -> float:
        low, high = result["accuracy_ci95"]
        return high - low

    assert width(patients) > 2 * width(images)


def test_calibration_of_a_case_worked_by_hand():
    labels = np.array([0, 1, 1, 0, 1])
    probabilities = np.array([0.1, 0.15, 0.95, 1.0, 0.3])
    result = calibration(labels, probabilities)
    assert [(row["low"], row["n"]) for row in result["bins"]] == [(0.1, 2), (0.3, 1), (0.9, 2)]
    assert result["bins"][0]["share"] == 0.5
    # (2 |0.125 - 0.5| + 1 |0.3 - 1| + 2 |0.975 - 0.5|) / 5
    np.testing.assert_allclose(result["error"], (0.75 + 0.7 + 0.95) / 5)


def test_a_probability_on_an_edge_is_in_the_upper_bin_and_one_in_the_last():
    assert bin_of(np.array([0.0, 0.1, 0.2999, 0.3, 0.7, 1.0])).tolist() == [0, 1, 2, 3, 7, 9]
    edges = np.arange(11) / 10
    rows = calibration(np.tile([0, 1], 10), np.repeat((edges[:-1] + edges[1:]) / 2, 2))["bins"]
    assert [row["low"] for row in rows] == edges[:-1].tolist()
    assert [row["high"] for row in rows] == edges[1:].tolist()


def test_calibrated_probabilities_have_a_small_error():
    rng = np.random.default_rng(0)
    probabilities = rng.random(100_000)
    labels = rng.random(100_000) < probabilities
    assert calibration(labels, probabilities)["error"] < 0.01
    assert calibration(~labels, probabilities)["error"] > 0.4


@pytest.mark.parametrize(
    "only_first, only_second, p",
    [(0, 0, 1.0), (5, 0, 2 / 2**5), (3, 1, 0.625), (8, 8, 1.0)],  # sums of binomial coefficients
)
def test_mcnemar_is_exact(only_first, only_second, p):
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    result = mcnemar(first, second)
    assert (result["only_first"], result["only_second"]) == (only_first, only_second)
    np.testing.assert_allclose(result["p"], p)
    assert mcnemar(second, first)["p"] == result["p"]


def test_a_p_from_resamples_agrees_with_their_interval_and_is_never_zero():
    values = np.arange(1.0, 1000)  # 999 of them
    for null, p in ((0, 2 / 1000), (24, 50 / 1000), (27, 56 / 1000), (976, 50 / 1000), (500, 1)):
        assert bootstrap.percentile_p(values, null) == pytest.approx(p)
        low, high = bootstrap.percentile_interval(values)
        assert (bootstrap.percentile_p(values, null) <= 0.05) == (not low <= null <= high)
    assert bootstrap.percentile_p(np.append(values, np.nan), 0) == 2 / 1000
    assert np.isnan(bootstrap.percentile_p(np.array([np.nan]), 0))


def test_the_monte_carlo_error_is_how_much_another_seed_moves_an_interval(monkeypatch):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 120)
    scores = rng.normal(size=120) + labels
    correct = (scores > 0.5) == labels
    stored, ends = [], []
    for seed in range(60):
        monkeypatch.setattr(bootstrap, "BOOTSTRAP_SEED", seed)
        result = bootstrap_intervals(correct, labels, scores, resamples=400)
        stored.append(result["auc_error"])
        ends.append(result["auc"])
    spread = np.std(ends, axis=0, ddof=1).max()
    assert 0.7 < np.mean(stored) / spread < 1.4
    monkeypatch.setattr(bootstrap, "BOOTSTRAP_SEED", BOOTSTRAP_SEED)
    result = bootstrap_intervals(correct, labels, scores)  # the resamples of stored intervals
    assert result["auc_error"] < np.mean(stored) / 4
    assert result["auc_error"] < 0.03 * np.diff(result["auc"])[0]


def test_resamples_do_not_hang_on_how_many_are_drawn_at_once(monkeypatch):
    labels, groups = np.arange(90) % 2, np.arange(90) // 3
    scores = np.random.default_rng(8).normal(size=90)
    whole = paired_difference(labels, scores, -scores, (0.5, 0.5), groups, 200)
    monkeypatch.setattr(bootstrap, "_LARGEST_BLOCK", 7 * 90)
    assert paired_difference(labels, scores, -scores, (0.5, 0.5), groups, 200) == whole


def test_areas_of_many_images_are_those_of_few(monkeypatch):
    rng = np.random.default_rng(9)
    labels, scores = rng.integers(0, 2, 200), np.round(rng.normal(size=200), 1)
    weights = bootstrap_weights(200, np.arange(200) // 3, 50)
    compared = weighted_auc(labels, scores, weights)
    monkeypatch.setattr(bootstrap, "_MOST_PAIRS", 0)
    assert np.array_equal(weighted_auc(labels, scores, weights), compared)


def test_weighted_areas_are_scikit_learns_ties_included():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 80)
    scores = rng.integers(0, 12, 80) / 12
    weights = bootstrap_weights(80, np.arange(80) // 4, 40)
    assert weights.sum(1).tolist() == [80] * 40
    expected = [reference.roc_auc_score(labels, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auc(labels, scores, weights), expected)
    assert np.isnan(weighted_auc(np.ones(80), scores, weights)).all()


def test_intervals_of_few_patients_hold_the_truth_as_often_as_is_documented():
    """docs/results.md: about 90 % with the test images' number of patients, not 95 %."""
    rng = np.random.default_rng(0)

    def draw(patients):
        """Labels, logits and patients: a patient's images share class and part of the error."""
        images = rng.choice([1, 2, 3, 4, 6], patients, p=[0.62, 0.17, 0.1, 0.06, 0.05])
        rows = np.repeat(np.arange(patients), images)
        labels = (rng.random(patients) < 0.63).astype(int)[rows]
        shared, own = rng.normal(0, 0.6, patients)[rows], rng.normal(0, 0.8, len(rows))
        return labels, (2 * labels - 1) + shared + own, rows

    labels, logits, _ = draw(40_000)
    truth = {"accuracy": ((logits >= 0) == labels).mean(), "auc": roc_auc(labels, logits)}
    held = dict.fromkeys(truth, 0)
    for _ in range(400):
        labels, logits, rows = draw(59)
        found = bootstrap_intervals((logits >= 0) == labels, labels, logits, rows, resamples=400)
        for measure, value in truth.items():
            held[measure] += found[measure][0] <= value <= found[measure][1]
    for measure, count in held.items():
        assert 0.86 < count / 400 < 0.94, (measure, count)
