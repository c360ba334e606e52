"""Intervals over seeds and patients hold what they say, and verdicts follow from them."""

import dataclasses
import math

import numpy as np
import pytest

from chestlab.evaluation import verdicts
from chestlab.evaluation.metrics import roc_auc


def crossed_runs(rng, gain, seeds=3, patients=60, images=3, patient_sd=0.1, seed_sd=0.03):
    """Runs of two networks whose true accuracies differ by ``gain``, and the patients.

    Patients differ in how hard they are for both networks and for their difference; so do seeds.
    """
    groups = np.repeat(np.arange(patients), images)
    labels = rng.integers(0, 2, len(groups)).astype(np.uint8)
    ease = 0.7 + patient_sd * rng.standard_normal(patients)[groups]
    other = patient_sd * rng.standard_normal(patients)[groups]
    networks = []
    for better, tilt in ((gain / 2, other / 2), (-gain / 2, -other / 2)):
        of_network = []
        for _ in range(seeds):
            right = rng.random(len(groups)) < ease + tilt + better + seed_sd * rng.normal()
            probabilities = np.where(right, labels, 1 - labels).astype(float)
            of_network.append(verdicts.Scored(labels, probabilities, 0.5))
        networks.append(of_network)
    return *networks, groups


def test_intervals_over_seeds_and_patients_hold_the_truth_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(verdicts, "BOOTSTRAP_RESAMPLES", 200)
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        first, second, groups = crossed_runs(rng, gain=0.05)
        found = verdicts.difference(first, second, "accuracy", groups)
        held += found.low <= 0.05 <= found.high
    assert 0.91 <= held / 200 <= 1  # three seeds: a plain bootstrap of both holds it in fewer


def test_the_smallest_difference_to_be_seen_is_seen_in_about_80_percent(monkeypatch):
    monkeypatch.setattr(verdicts, "BOOTSTRAP_RESAMPLES", 200)
    rng = np.random.default_rng(6)
    # many seeds, so that the errors are known well
    arguments = {"seeds": 8, "patients": 80, "seed_sd": 0.02}
    least = np.mean(
        [
            verdicts.difference(*runs[:2], "accuracy", runs[2]).detectable
            for runs in (crossed_runs(rng, 0.0, **arguments) for _ in range(20))
        ]
    )
    seen = 0
    for _ in range(100):
        first, second, groups = crossed_runs(rng, least, **arguments)
        seen += verdicts.difference(first, second, "accuracy", groups).low > 0
    assert 0.65 <= seen / 100 <= 0.95


def test_a_difference_is_that_of_the_figures_and_pairing_narrows_it():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 300).astype(np.uint8)
    scores = rng.normal(size=300) + labels
    first = [verdicts.Scored(labels, scores + 0.1 * rng.normal(size=300)) for _ in range(3)]
    second = [verdicts.Scored(labels, scores + 0.1 * rng.normal(size=300)) for _ in range(3)]
    found = verdicts.difference(first, second, "auc", None)
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
        verdicts.difference(first, [other], "auc", None)


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
    ("low", "high", "claim", "seeds", "said"),
    [
        (0.5, 2.5, (1, 3), 3, "supported"),
        (0.1, 1.5, (1, 3), 3, "supported"),
        (0.1, 0.9, (1, 3), 3, "refuted"),  # a gain, but less than claimed
        (3.5, 5.0, (1, 3), 3, "refuted"),  # more than claimed
        (-4.0, 0.5, (1, 3), 3, "refuted"),
        (-1.0, 2.0, (1, 3), 3, "undecided"),
        (-9.0, 9.0, (1, 3), 3, "undecided"),
        (0.5, 2.5, (1, 3), 1, "undecided"),
        (0.2, 9.0, (0, math.inf), 3, "supported"),
        (-0.2, 9.0, (0, math.inf), 3, "undecided"),
        (-5.0, -0.1, (0, math.inf), 3, "refuted"),
        (-0.9, 2.0, (-1, math.inf), 3, "supported"),
        (-1.1, 2.0, (-1, math.inf), 3, "undecided"),
        (-9.0, -1.1, (-1, math.inf), 3, "refuted"),
        (math.nan, math.nan, (1, 3), 3, "undecided"),
    ],
)
def test_a_verdict_follows_from_interval_and_claim(low, high, claim, seeds, said):
    found = verdicts.Estimate((low + high) / 2, low, high, 1.0, 2.8, seeds)
    assert verdicts.verdict(found, *claim) == said
