"""Runs whose figures are a fault say so; sound ones do not."""

import json
import warnings

import numpy as np
import pytest
import torch
from conftest import ROOT
from tiny_train import RECIPE
from torch import nn

from chestlab.evaluation.alarms import alarms, is_constant, logits_of
from chestlab.evaluation.metrics import (
    defined_auc,
    evaluate,
    evaluate_findings,
    evaluate_probabilities,
    paired_difference,
    sigmoid,
)
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.reporting.stored_runs import read_runs
from chestlab.runs.run import run

LABELS = np.tile([0, 0, 1], 40)

LOGITS = np.linspace(-3, 3, 120)


def history(*losses, accuracy=0.7):
    return [{"train_loss": loss, "train_accuracy": accuracy} for loss in losses]


def test_a_sound_run_is_silent():
    predicted = {"val": LOGITS >= 0, "test": LOGITS >= 0}
    logits = {"val": LOGITS, "test": LOGITS}
    assert alarms(logits, predicted, history(0.7, 0.6, 0.5, 0.4), 4, 0.68, 440) == []
    assert alarms(logits) == []


@pytest.mark.parametrize("spread", [0.0, 3e-8, 0.04, 0.18])
def test_outputs_that_hardly_differ(spread):
    (sentence,) = alarms({"val": LOGITS, "test": 0.4 + spread * LOGITS / 6}, history=history(0.5))
    assert "nearly constant" in sentence and "--batch-norm estimated" in sentence
    assert f"span {0.9 * spread:.2g} on test" in sentence and "on val" not in sentence
    assert "while training, accuracy reached 70.0%" in sentence


def test_one_outlier_does_not_hide_constant_outputs():
    logits = np.full(120, 0.4)
    logits[5] = 9
    assert len(alarms({"val": logits})) == 1


def test_of_several_findings_one_that_differs_is_enough():
    constant = np.full((120, 14), -3.0)
    assert len(alarms({"val": constant})) == 1
    constant[:, 3] = LOGITS
    assert alarms({"val": constant}) == []


def test_one_class_for_every_image():
    predicted = {"val": LOGITS > 9, "test": LOGITS > 9}
    (sentence,) = alarms({"val": LOGITS, "test": LOGITS}, predicted)
    assert "val (120) and test (120) is predicted as cardiomegaly" in sentence
    (sentence,) = alarms({}, {"val": LOGITS >= 0, "test": LOGITS > -9})
    assert "every image of test (120) is predicted as pneumothorax" in sentence


@pytest.mark.parametrize(
    ("while_training", "evaluated", "images", "alarming"),
    [
        (0.993, 0.661, 440, True),
        (0.934, 0.875, 440, False),
        (0.66, 0.75, 440, False),
        (0.75, 0.60, 24, False),
        (0.75, 0.60, 4400, True),
    ],
)
def test_training_images_in_evaluation(while_training, evaluated, images, alarming):
    rows = history(0.7, 0.5) + history(0.3, accuracy=while_training)
    sentences = alarms(
        {}, history=rows, best_epoch=3, train_accuracy=evaluated, train_images=images
    )
    assert len(sentences) == alarming
    for sentence in sentences:
        assert f"{evaluated:.1%}" in sentence and f"{while_training:.1%}" in sentence
        assert "epoch 3" in sentence and "--batch-norm estimated" in sentence


def test_of_few_epochs_more_are_the_first_remedy():
    constant = {"val": np.full(60, 0.4)}
    for epochs, few in ((2, True), (9, True), (10, False)):
        falling = history(*np.linspace(0.7, 0.3, epochs), accuracy=0.9)
        given = constant, {"val": np.ones(60, bool)}, falling, epochs, 0.6, 440
        first = f": try more epochs (only {epochs} were trained), --batch-norm estimated, or other"
        assert [first in sentence for sentence in alarms(*given)] == 3 * [few]


def test_without_batch_norm_no_statistics_are_advised():
    constant = {"val": np.full(60, 0.4)}
    given = constant, {"val": np.ones(60, bool)}, history(0.7, 0.5, accuracy=0.9), 2, 0.6, 440
    with_layers, without = alarms(*given), alarms(*given, batch_norm=False)
    assert len(with_layers) == len(without) == 3
    assert all("--batch-norm" in sentence for sentence in with_layers)
    for sentence in without:
        assert "batch" not in sentence and "--lr, --ema and --epochs" in sentence


def test_a_loss_that_does_not_fall():
    (sentence,) = alarms({}, history=history(0.693, 0.691, 0.694, 0.690))
    assert "0.693" in sentence and "0.69 " in sentence and "--find-lr" in sentence
    assert alarms({}, history=history(0.693, 0.691)) == []  # two epochs tell nothing
    assert alarms({}, history=history(0.362, 0.33, 0.29)) == []


@pytest.mark.parametrize("level", [0.4, -25.0])
def test_an_order_of_float_noise_is_no_order(level):
    noise = level + np.random.default_rng(0).normal(0, 1e-8, 120)
    assert is_constant(noise) and is_constant(logits_of(sigmoid(noise)))
    assert not is_constant(level + LOGITS / 100)
    for figures in (
        evaluate(LABELS, noise, 0.5),
        evaluate_probabilities(LABELS, sigmoid(noise), 0.5),
        paired_difference(LABELS, sigmoid(noise), sigmoid(LOGITS), (0.5, 0.5)),
        paired_difference(LABELS, sigmoid(LOGITS), sigmoid(noise), (0.5, 0.5)),
    ):
        assert [figures[key] for key in ("auc", "auc_ci95", "auc_ci95_error")] == [None] * 3
        assert len(figures["accuracy_ci95"]) == 2
    assert defined_auc(LABELS, noise) is None
    assert defined_auc(LABELS, LOGITS) == evaluate(LABELS, LOGITS, 0.5)["auc"]


def test_saturated_outputs_have_an_order():
    assert not is_constant(logits_of(sigmoid(np.array([21.0, 22.0, 25.0]))))
    assert not is_constant(logits_of(np.array([0.0, 1.0])))


def test_findings_without_an_order():
    labels, logits = np.stack([LABELS, LABELS], 1), np.stack([LOGITS, np.full(120, -2.0)], 1)
    figures = evaluate_findings(labels, logits, ("a", "b"), resamples=50)
    assert figures["auc_per_finding"] == {"a": figures["auc"], "b": None}
    assert defined_auc(labels, logits) == figures["auc"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = evaluate_findings(labels, 0 * logits, ("a", "b"), resamples=50)
    assert figures["auc"] is None and figures["auc_ci95"] is None
    assert defined_auc(labels, 0 * logits) is None


def test_each_network_of_a_cross_validation_is_looked_at_alone():
    """Together the logits of two constant networks differ by more than those of one."""
    folds = np.tile([0, 1], 60)[None]
    logits = {"sound": LOGITS[None], "lagging": 2.0 * folds, "majority": 2.0 * folds}
    index, patients = np.arange(120), None
    oof = OutOfFold(np.full(120, "train"), index, LABELS, patients, folds, logits, {"majority"})
    constant, one_class = oof.alarms()
    assert constant.startswith("`lagging`: outputs are nearly constant")
    assert "0 on fold 1 of repeat 1 and 0 on fold 2 of repeat 1" in constant
    assert "fold 2 of repeat 1 (60) is predicted as pneumothorax" in one_class


class Constant(nn.Module):
    """Knows nothing but the share of the classes."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.bias.expand(len(x))


def test_a_constant_network_says_so_everywhere(tmp_path, phantom_npz, capsys, no_pictures):
    flags = ["--data", phantom_npz, "--device", "cpu", "--lr", 1e-5, "--folds", 2]
    flags += ["--results-dir", tmp_path / "results", "--models-dir", tmp_path / "models"]
    run(Constant, {"report": RECIPE}, [*map(str, flags), "--name", "constant"])
    printed = capsys.readouterr().out
    assert "AUC undefined" in printed
    starts = ("outputs are nearly constant", "every image of val", "the training loss is flat")
    assert all(f"WARNING: {start}" in printed for start in starts)
    paths = list((tmp_path / "results").rglob("metrics.json"))
    assert len(paths) == 3
    for path in paths:
        metrics = json.loads(path.read_text())
        figures = [metrics[split] for split in ("val", "oof", "test") if metrics.get(split)]
        assert all((of["auc"], of["auc_ci95"]) == (None, None) for of in figures)
        assert any("nearly constant" in text for text in metrics["warnings"])
    ensemble = next(path.parent for path in paths if (path.parent / "fold1").exists())
    page = (ensemble / "README.md").read_text()
    assert "**Warning:** outputs are nearly constant" in page
    assert "**Warning:** member fold2: the training loss is flat" in page
    assert "undefined" in page and "0.500 (" not in page


def test_committed_runs():
    """The network of lagging statistics alarms, all that were published as sound do not."""
    alarming = {run.name for run in read_runs(ROOT / "results") if run.metrics["warnings"]}
    assert {name.split("_")[0] for name in alarming} <= {"mobilenetv3"}
