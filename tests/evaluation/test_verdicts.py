"""Intervals over seeds and patients hold what they say, and verdicts follow from them."""

import dataclasses
import math
from itertools import combinations

import numpy as np
import pytest

from chestlab.evaluation import verdicts
from chestlab.evaluation.bootstrap import bootstrap_weights
from chestlab.evaluation.metrics import roc_auc, sigmoid

PATIENTS = 60
WEIGHTS = bootstrap_weights(PATIENTS, None, 200)
HELPS = (0, math.inf)


def study(rng, effects, repeats, patient_sd=0.1, seed_sd=0.02):
    """`Scores` of a base and of one configuration for each of ``effects``, crossed as in a study.

    Patients differ in how hard they are for all configurations and for each; so do repeats.
    """
    shape = 1 + len(effects), repeats, PATIENTS
    figures = np.array([0.0, *effects])[:, None, None] + rng.normal(0, 0.3, PATIENTS)
    figures = figures + patient_sd * rng.normal(size=(shape[0], 1, PATIENTS))
    figures = figures + seed_sd * (
        rng.normal(size=(1, repeats, 1)) + rng.normal(size=(*shape[:2], 1))
    )
    figures += 0.05 * rng.normal(size=shape)
    return [(of.mean(1), WEIGHTS @ of.T / PATIENTS, PATIENTS) for of in figures]


def gains_of(scores):
    """Every configuration's gain over the base, with the pooled noise."""
    noise = verdicts.noise_of_differences([values for values, _, _ in scores])
    return [verdicts.gain(other, scores[0], noise) for other in scores[1:]]


def decided(scores):
    gains = gains_of(scores)
    return verdicts.verdicts(gains, [HELPS] * len(gains))


def test_where_nothing_differs_few_are_decided_and_hardly_a_study_after_holm():
    rng = np.random.default_rng(5)
    rows = [decided(study(rng, [0.0] * 8, repeats=2)) for _ in range(300)]
    raw = [row.raw != "undecided" for of_study in rows for row in of_study]
    assert 0.02 < np.mean(raw) < 0.06  # not by being blind either
    assert np.mean([any(row.raw != "undecided" for row in of_study) for of_study in rows]) > 0.12
    for wrong in (("supported",), ("supported", "refuted")):
        families = np.mean([any(row.holm in wrong for row in of_study) for of_study in rows])
        assert families < 0.07  # 0.05, and two standard errors of 300 studies


def test_the_smallest_detectable_difference_is_found_in_about_80_percent():
    rng = np.random.default_rng(6)
    least = np.mean([gains_of(study(rng, [0.0] * 6, repeats=2))[0].detectable for _ in range(30)])
    found = [decided(study(rng, [least, *[0.0] * 5], repeats=2))[0].raw for _ in range(200)]
    assert 0.72 < found.count("supported") / 200 < 0.92


def test_pooling_finds_what_two_repeats_each_cannot():
    rng = np.random.default_rng(7)
    pooled = alone = 0
    for _ in range(60):
        scores = study(rng, [0.1, *[0.0] * 7], repeats=2, patient_sd=0.05, seed_sd=0.03)
        pooled += gains_of(scores)[0].low > 0
        alone += verdicts.gain(scores[1], scores[0]).low > 0
    assert pooled > 45 and alone < 30


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(8)
    held = []
    for _ in range(150):
        scores = study(rng, [0.05] * 3, repeats=3, seed_sd=0.03)
        held += [gain.low <= 0.05 <= gain.high for gain in gains_of(scores)]
    assert 0.92 <= np.mean(held) <= 1


@pytest.mark.parametrize("effect", [0.0, 0.8, -0.8])
def test_with_one_repeat_everything_is_undecided(effect):
    scores = study(np.random.default_rng(9), [effect, effect], repeats=1)
    for gain, verdict in zip(gains_of(scores), decided(scores), strict=True):
        assert verdict.raw == verdict.holm == "undecided"
        assert math.isnan(verdict.p) and math.isnan(verdict.p_holm)
        assert math.isnan(gain.detectable)
        assert gain.low < gain.value < gain.high  # of the patients


def test_pooled_noise_is_the_mean_over_all_pairs_and_over_all_configurations():
    values = np.random.default_rng(10).normal(size=(5, 3))
    pairs = [np.var(values[a] - values[b], ddof=1) for a, b in combinations(range(5), 2)]
    noise = verdicts.noise_of_differences(values)
    assert noise.variance == pytest.approx(np.mean(pairs)) and noise.freedom == 4 * 2
    own = verdicts.noise_of_values(values)
    assert own.variance == pytest.approx(np.mean(np.var(values, axis=1, ddof=1)))
    assert 2 <= own.freedom <= 5 * 2
    alike = verdicts.noise_of_values(np.tile(values[0], (5, 1)))  # only the repeats differ
    assert alike.variance == pytest.approx(np.var(values[0], ddof=1))
    assert alike.freedom == pytest.approx(2)
    assert verdicts.noise_of_differences(values[:, :1]) == verdicts.UNKNOWN


def test_holms_correction_of_a_case_worked_by_hand():
    adjusted = verdicts.holm([0.01, 0.04, math.nan, 0.03])
    assert adjusted[:2] == pytest.approx([0.03, 0.06])  # 3 x 0.01; no less than 2 x 0.03
    assert math.isnan(adjusted[2]) and adjusted[3] == pytest.approx(0.06)
    assert verdicts.holm([0.6, 0.5]) == [1, 1]


def test_monte_carlo_error_is_how_much_other_resamples_move_an_end():
    rng = np.random.default_rng(11)
    figures, noise = rng.normal(0.05, 0.3, (PATIENTS, 2)), verdicts.Noise(5e-4, 20)
    found = []
    for _ in range(200):
        weights = rng.multinomial(PATIENTS, np.full(PATIENTS, 1 / PATIENTS), size=200)
        scores = figures.mean(0), weights @ figures / PATIENTS, PATIENTS
        found.append(verdicts.estimate(*scores, noise, least=-1))
    stored = np.mean([one.monte_carlo for one in found])
    assert 0.8 < stored / np.std([one.low for one in found], ddof=1) < 1.25


def test_a_difference_is_that_of_the_figures_and_pairing_narrows_it():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 300).astype(np.uint8)
    scores = rng.normal(size=300) + labels
    first = [verdicts.Scored(labels, scores + 0.1 * rng.normal(size=300)) for _ in range(3)]
    second = [verdicts.Scored(labels, scores + 0.1 * rng.normal(size=300)) for _ in range(3)]
    found = verdicts.gain(*(verdicts.score(runs, "auc", None) for runs in (first, second)))
    areas = [
        np.mean([roc_auc(run.labels, run.probabilities) for run in runs])
        for runs in (first, second)
    ]
    assert found.value == pytest.approx(areas[0] - areas[1])
    own = verdicts.estimate(*verdicts.score(first, "auc", None))
    assert own.value == pytest.approx(areas[0])
    assert found.error < own.error / 2
    with pytest.raises(ValueError, match="same images"):
        other = dataclasses.replace(second[0], labels=1 - labels)
        verdicts.score([*first, other], "auc", None)


def test_a_constant_output_counts_as_chance_and_gains_nothing():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, (80, 4))
    labels[:, 3] = 1
    logits = (4, 2, 0.5, 1) * labels + rng.normal(0, 1, (80, 4))
    constant = logits.copy()
    constant[:, 2] = 0.5 + 1e-9 * rng.normal(size=80)  # an order of rounding errors
    whole, given_up = (verdicts.Scored(labels, sigmoid(values)) for values in (logits, constant))
    assert verdicts.constant_findings(whole).tolist() == [False] * 4
    assert verdicts.constant_findings(given_up).tolist() == [False, False, True, False]
    values, resampled, _ = verdicts.score([whole, given_up], "auc", None)
    areas = [roc_auc(labels[:, k], logits[:, k]) for k in range(3)]
    assert values == pytest.approx([np.mean(areas), np.mean([*areas[:2], 0.5])], abs=1e-9)
    assert np.isfinite(resampled).all() and values[0] > values[1]
    flat = verdicts.Scored(labels, np.full((80, 4), 0.5))
    assert np.isnan(verdicts.score([flat], "auc", None)[0]).all()


def test_more_seeds_and_their_agreement_narrow_the_interval():
    resampled = np.random.default_rng(8).normal(0.05, 0.01, (500, 1))
    apart = verdicts.estimate([0.0, 0.05, 0.1], resampled, 50, least=-1)
    close = verdicts.estimate([0.049, 0.05, 0.051], resampled, 50, least=-1)
    many = verdicts.estimate([0.0, 0.05, 0.1] * 4, resampled, 50, least=-1)
    width = {
        name: one.high - one.low
        for name, one in locals().items()
        if name in ("apart", "close", "many")
    }
    assert width["close"] < width["many"] < width["apart"]
    assert apart.low < 0 < close.low
    # two degrees of freedom, nearly: the seeds make most of the error
    assert apart.high - apart.value > 3.5 * apart.error
    assert close.detectable == pytest.approx(2.86 * close.error, rel=0.02)


@pytest.mark.parametrize(
    ("low", "high", "claim", "seeds", "expected"),
    [
        (0.5, 3.5, (1, 3), 3, "supported"),
        (0.3, 4.5, (0.5, 2), 3, "outside"),  # a gain of 2.4, more than claimed
        (0.1, 1.5, (1, 3), 3, "outside"),  # a gain of 0.8, less than claimed
        (0.1, 0.9, (1, 3), 3, "refuted"),  # surely less than claimed
        (3.5, 5.0, (1, 3), 3, "refuted"),  # surely more
        (-4.0, 0.5, (1, 3), 3, "refuted"),
        (-1.0, 2.0, (1, 3), 3, "undecided"),
        (-9.0, 9.0, (1, 3), 3, "undecided"),
        (-1.0, 9.0, (1, 3), 3, "undecided"),
        (0.5, 3.5, (1, 3), 1, "undecided"),
        (0.2, 9.0, (0, math.inf), 3, "supported"),
        (-0.2, 9.0, (0, math.inf), 3, "undecided"),
        (-5.0, -0.1, (0, math.inf), 3, "refuted"),
        (-0.9, 2.0, (-1, math.inf), 3, "supported"),
        (-1.1, 2.0, (-1, math.inf), 3, "undecided"),
        (-9.0, -1.1, (-1, math.inf), 3, "refuted"),
        (math.nan, math.nan, (1, 3), 3, "undecided"),
    ],
)
def test_a_verdict_follows_from_interval_and_claim(low, high, claim, seeds, expected):
    error = (high - low) / 2 / 1.959964
    gain = verdicts.Estimate((low + high) / 2, low, high, error, math.inf, 2.8, 0.0, seeds)
    (alone,) = verdicts.verdicts([gain], [claim])
    assert alone.raw == alone.holm == expected
    # among many, only what is far from the limit stays decided
    many = verdicts.verdicts([gain] * 20, [claim] * 20)
    assert {verdict.raw for verdict in many} == {expected}
    assert {verdict.holm for verdict in many} <= {expected, "outside", "undecided"}
