"""Training on degraded images against training on images as they are, under made-up shifts."""

import json

import numpy as np
import pytest
from comparisons import tiny_networks  # noqa: F401 (a fixture)
from sklearn.metrics import roc_auc_score

from chestlab.data.folds import FOLDS_SEED
from chestlab.data.shifts import SHIFTS
from chestlab.evaluation import out_of_fold
from chestlab.evaluation.packed_logits import read_packed
from studies import robustness, robustness_page
from studies.frozen_recipes import Frozen
from studies.robustness_page import ALIKE, OTHERS
from studies.shifts_page import NONE

FEW = ("bilinear_14", "noise", "darker", "inverted")


@pytest.fixture
def command(tiny_networks, phantom_npz, tmp_path, monkeypatch):  # noqa: F811
    """Run the study of one tiny network and a few shifts; where its results are."""
    monkeypatch.chdir(tmp_path)
    networks = (
        Frozen("tiny", "resnet34", "report", {"flip": 0.25}),
        Frozen("tiny_degraded", "resnet34", "report", {"flip": 0.25, "degrade": 0.5}),
    )
    monkeypatch.setattr(robustness, "NETWORKS", networks)
    monkeypatch.setattr(robustness, "SHIFTS", {name: SHIFTS[name] for name in FEW})
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)

    def run(*flags):
        flags = ["--folds", "2", "--repeats", "2", "--device", "cpu", "--name", "a", *flags]
        robustness.main(["--data", str(phantom_npz), *flags])
        return tmp_path / "results" / "studies" / "a"

    return run


def test_figures_recompute_from_the_packed_logits(command, trainings):
    folder = command()
    assert len(trainings) == 8
    summary = json.loads((folder / "robustness.json").read_text())
    assert summary["first_seed"] == FOLDS_SEED and list(summary["shifts"]) == list(FEW)
    assert summary["networks"]["tiny_degraded"]["recipe_changes"] == {"flip": 0.25, "degrade": 0.5}
    logits = read_packed(folder / "logits.csv.bz2")
    with_it, without = logits["tiny_degraded"], logits["tiny"]
    assert not np.array_equal(with_it.logits[NONE], without.logits[NONE])

    def auc(oof, names):
        areas = [
            roc_auc_score(oof.labels[folds == k], values[folds == k])
            for name in names
            for values, folds in zip(oof.logits[name], oof.folds, strict=True)
            for k in (0, 1)
        ]
        return np.mean(areas)

    rows = {row["name"]: row for row in robustness_page.gains(summary, with_it, without)}
    assert list(rows) == [NONE, ALIKE, OTHERS, *FEW]
    for name, shifts in ((NONE, [NONE]), (ALIKE, FEW[:2]), (OTHERS, FEW[2:]), (FEW[0], FEW[:1])):
        assert rows[name]["auc_with"] == pytest.approx(auc(with_it, shifts))
        assert rows[name]["auc_without"] == pytest.approx(auc(without, shifts))
        gain = auc(with_it, shifts) - auc(without, shifts)
        assert rows[name]["auc_gain"] == pytest.approx(gain)
        assert rows[name]["auc_gain_low"] <= gain <= rows[name]["auc_gain_high"]


def test_one_network_alone_is_told_and_the_other_is_added_without_training_the_first_again(
    command, trainings
):
    folder = command("--only", "tiny")
    assert len(trainings) == 4 and not (folder / "robustness.png").exists()
    assert "**Not run both ways yet:** `tiny` stands alone." in (folder / "README.md").read_text()
    before = read_packed(folder / "logits.csv.bz2")["tiny"].logits
    command()
    assert len(trainings) == 8
    after = read_packed(folder / "logits.csv.bz2")
    assert list(after) == ["tiny", "tiny_degraded"]
    assert all(np.array_equal(after["tiny"].logits[name], before[name]) for name in before)
    text = (folder / "README.md").read_text()
    assert (
        "With `--degrade 0.5` the AUC of `tiny` changes by" in text and "Not run both" not in text
    )
    looks = folder.parent.parent / "phantom" / "test_looks.csv"
    assert not looks.exists()  # choice folds are no looks


def test_processes_with_different_networks_add_to_the_same_results(command, monkeypatch):
    predict, others = robustness.Robustness.predict, [("--only", "tiny_degraded")]

    def another_process_first(self, *arguments):
        if others:
            command(*others.pop())
        return predict(self, *arguments)

    monkeypatch.setattr(robustness.Robustness, "predict", another_process_first)
    folder = command("--only", "tiny")
    assert list(read_packed(folder / "logits.csv.bz2")) == ["tiny", "tiny_degraded"]
    assert "With `--degrade 0.5` the AUC of `tiny` changes by" in (folder / "README.md").read_text()


def test_redrawing_changes_nothing(command):
    folder = command()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit):
        robustness.main(["--redraw", str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for page, text in (
        ("README.md", "mean of 2 shifts that"),
        ("README.id.md", "rerata 2 pergese"),
    ):
        assert text in before[page].decode()
