"""Which configurations the noise of training is pooled over."""

import numpy as np
import pytest

from chestlab.evaluation import out_of_fold
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.evaluation.verdicts import noise_of_differences, noise_of_values

IMAGES, REPEATS = 90, 3

ENTRIES = {
    "base": {"kind": "network"},
    "other": {"kind": "network", "recipe_changes": {"batch_norm": "estimated"}},
    "third": {"kind": "added", "changes": {"tta": "flip", "ema": 0.99}},
    "base_estimated": {"kind": "estimated"},
    "average": {"kind": "average"},
    "+ tta-flip": {"kind": "added", "changes": {"tta": "flip"}},
    "base_int8": {"kind": "network", "variant": "int8", "recipe_changes": {}},
    "hog": {"kind": "yardstick"},
}

TRAINED = ("base", "other", "third")


@pytest.fixture
def oof(monkeypatch):
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, IMAGES).astype(np.uint8)
    folds = np.stack([rng.permutation(IMAGES) % 3 for _ in range(REPEATS)])
    logits = {name: labels + rng.normal(size=(REPEATS, IMAGES)) for name in ENTRIES}
    logits["base_estimated"] = logits["+ tta-flip"] = logits["base_int8"] = logits["base"]
    index, patients = np.arange(IMAGES), np.array([f"p{k // 2}" for k in range(IMAGES)])
    oof = OutOfFold(np.full(IMAGES, "train"), index, labels, patients, folds, logits)
    oof.describe(ENTRIES)
    return oof


def test_rows_that_have_the_weights_of_another_row_are_told_by_their_entries(oof):
    assert oof.derived == {"base_estimated", "average", "+ tta-flip", "base_int8"}
    assert oof.classical == {"hog"}
    assert oof.up_to_date == {"other", "base_estimated"}
    assert oof.separate(classical=False) == list(TRAINED)
    assert oof.separate(classical=True) == ["hog"]


def test_a_training_counts_once_for_the_noise_however_many_rows_show_it(oof):
    values = np.stack([oof.score(name, "auc")[0] for name in TRAINED])
    for name in ("base", "average"):
        own, noise = oof.estimate(name, "auc"), noise_of_values(values)
        shown = oof.score(name, "auc")
        wanted = out_of_fold.estimate(*shown, noise)
        assert (own.low, own.high) == pytest.approx((wanted.low, wanted.high), nan_ok=False)
    gain = oof.gain("other", "base", "auc")
    noise = noise_of_differences(values)
    assert noise.freedom == (len(TRAINED) - 1) * (REPEATS - 1)
    pair = oof.score("other", "auc"), oof.score("base", "auc")
    assert gain.error == pytest.approx(out_of_fold.gain(*pair, noise).error)


def test_over_a_baseline_the_noise_is_that_of_the_trained_networks_differences(oof):
    gain = oof.gain("base", "hog", "accuracy")
    values = np.stack([oof.score(name, "accuracy")[0] for name in TRAINED])
    noise = noise_of_values(values - oof.score("hog", "accuracy")[0])
    pair = oof.score("base", "accuracy"), oof.score("hog", "accuracy")
    assert gain.error == pytest.approx(out_of_fold.gain(*pair, noise).error)


def test_a_network_that_failed_widens_the_intervals_of_its_own_row_alone(oof):
    figures = {name: oof.estimate(name, "auc") for name in oof.logits}
    gain = oof.gain("other", "base", "auc")
    failed = oof.logits["base"].copy()
    failed[0][oof.folds[0] == 1] = 0.25
    oof.add("failed", failed)
    assert oof.separate(classical=False) == list(TRAINED)
    for name, figure in figures.items():
        assert oof.estimate(name, "auc") == figure
    assert oof.gain("other", "base", "auc") == gain
    own = oof.estimate("failed", "auc")
    values = np.stack([oof.score(name, "auc")[0] for name in (*TRAINED, "failed")])
    wanted = out_of_fold.estimate(*oof.score("failed", "auc"), noise_of_values(values))
    assert own.error == pytest.approx(wanted.error)
    assert own.error > figures["base"].error
    pair, noise = (
        (oof.score("failed", "auc"), oof.score("base", "auc")),
        noise_of_differences(values),
    )
    assert oof.gain("failed", "base", "auc").error == pytest.approx(
        out_of_fold.gain(*pair, noise).error
    )


def test_where_all_failed_the_noise_is_still_known(oof):
    for name in TRAINED:
        oof.logits[name] = np.zeros((REPEATS, IMAGES), np.float32)
    assert oof.separate(classical=False) == list(TRAINED)
    assert oof.estimate("average", "auc").error > 0
