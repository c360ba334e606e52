"""Shorter trainings against the recipe: rows, work, verdicts, pages."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from comparisons import trained  # noqa: F401 (a fixture)
from sklearn.metrics import roc_auc_score
from torch.utils.flop_counter import FlopCounterMode

from chestlab.evaluation import out_of_fold
from chestlab.evaluation.out_of_fold import OutOfFold
from model import EfficientChestNet
from networks import network
from studies import time_to_accuracy
from studies.frozen_recipes import Frozen
from studies.stored_results import read_results
from studies.time_to_accuracy import CHANGES, MARGIN, ROWS, gains, way_of

ONE = "efficientchestnet"

TRIED = (
    Frozen(ONE, ONE, "best"),
    Frozen("fewer", ONE, "best", {"epochs": 1}),
    Frozen("smaller", ONE, "best", {"image_size": 14, "flip": 0.0}),
    Frozen("still", ONE, "best", {"rotate": 0.0}),
    Frozen("grown_progressive", ONE, "best"),
    Frozen("other_strides_2122", ONE, "best", arguments={"strides": "2122"}),
)


def arithmetic(side, strides=(2, 1, 1, 2)):
    """Operations of experiment 1's network for one image, by PyTorch's counter."""
    with FlopCounterMode(display=False) as counter:
        EfficientChestNet(strides).eval()(torch.zeros(1, 1, side, side))
    return counter.get_total_flops()


@pytest.fixture
def folder(phantom_npz, tmp_path, monkeypatch, trained):  # noqa: F811
    """The results of a few rows, whose logits are made up."""
    del trained
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time_to_accuracy, "ROWS", TRIED)
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)
    flags = ["--folds", "3", "--device", "cpu", "--name", "a"]
    time_to_accuracy.main(["--data", str(phantom_npz), *flags])
    return tmp_path / "results" / "studies" / "a"


def test_work_gain_and_verdict_recompute(folder):
    with (folder / "table.csv").open(newline="") as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    assert list(rows) == [row.name for row in TRIED] and rows[ONE]["work"] == ""
    assert float(rows["fewer"]["work"]) == 1  # the made-up training says 2 epochs of any recipe
    assert float(rows["smaller"]["work"]) == pytest.approx(arithmetic(14) / arithmetic(28), 1e-4)
    assert float(rows["other_strides_2122"]["work"]) == pytest.approx(
        arithmetic(28, (2, 1, 2, 2)) / arithmetic(28), 1e-4
    )
    assert rows["other_strides_2122"]["changes"] == "strides 2122"
    grown = 0.5 * arithmetic(14) + 0.25 * arithmetic(20) + 0.25 * arithmetic(28)
    assert float(rows["grown_progressive"]["work"]) == pytest.approx(grown / arithmetic(28), 1e-4)
    assert rows["grown_progressive"]["changes"] == "image_size x 0.5, x 0.7, x 1"
    oof = OutOfFold.read(folder / "oof.csv")

    def auc(name):
        pairs = zip(oof.logits[name], oof.folds, strict=True)
        inside = [(values, folds == fold) for values, folds in pairs for fold in range(3)]
        return np.mean([roc_auc_score(oof.labels[of], values[of]) for values, of in inside])

    for name in ("fewer", "smaller", "still"):
        row = rows[name]
        assert float(row["auc_gain"]) == pytest.approx(auc(name) - auc(ONE))
        outside = not float(row["auc_gain_low"]) <= -MARGIN <= float(row["auc_gain_high"])
        assert outside == (float(row["p"]) < 0.05)
    ordered = sorted((rows[row.name] for row in TRIED[1:]), key=lambda row: float(row["p"]))
    for place, row in enumerate(ordered):
        largest = max(float(of["p"]) * (5 - k) for k, of in enumerate(ordered[: place + 1]))
        assert float(row["p_holm"]) == pytest.approx(min(1, largest))
        side = "as_good" if float(row["auc_gain"]) > -MARGIN else "worse"
        assert row["verdict"] == (side if float(row["p_holm"]) < 0.05 else "undecided")
    assert float(rows["smaller"]["auc_gain"]) < 0
    assert float(rows["fewer"]["auc_gain"]) == 0  # the very same logits


def test_a_single_repeat_decides_nothing(folder, monkeypatch):
    summary, oof = read_results(folder, "time_to_accuracy", "configurations")
    of_one = {name: logits[:1] for name, logits in oof.logits.items()}
    images = oof.origin, oof.index, oof.labels, oof.patients
    single = OutOfFold(*images, oof.folds[:1], of_one)
    single.describe(summary["configurations"])
    monkeypatch.setattr(time_to_accuracy, "MARGIN", 0.9)  # which several repeats tell from any gain
    for repeats, found, verdict in ((len(oof.folds), oof, "as_good"), (1, single, "undecided")):
        verdicts = {row.get("verdict") for row in gains({**summary, "repeats": repeats}, found)}
        assert verdicts == {None, verdict}
    monkeypatch.setattr(time_to_accuracy, "MARGIN", -0.9)
    assert {row.get("verdict") for row in gains(summary, oof)} == {None, "worse"}


def test_both_pages_have_every_row_and_redrawing_changes_nothing(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("README.md", "README.id.md"):
        for row in TRIED:
            assert f"| `{row.name}` |" in before[name].decode()
    assert "`fewer` +0.000" in before["README.md"].decode().split("Data:")[0]
    with pytest.raises(SystemExit):
        time_to_accuracy.main(["--redraw", str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_every_change_but_one_is_less_work_than_the_recipe():
    for name, changes in CHANGES.items():
        recipe = network(name).recipes["best"]
        for change in changes.values():
            assert all(getattr(recipe, key) != value for key, value in change.items())
    for row in ROWS:
        recipe = network(row.network).recipes["best"]
        sides = way_of(row.name).sides(row.changes.get("image_size", 28))
        pixels = sum(share * side**2 for side, share in sides.items())
        work = row.changes.get("epochs", recipe.epochs) * pixels / (recipe.epochs * 28**2)
        if strides := row.arguments.get("strides"):
            work *= arithmetic(28, strides) / arithmetic(28)
        assert (work < 0.6) == (row.name != row.network)  # related images come on top
    assert len({row.name for row in ROWS}) == len(ROWS)


def read_gain(folder, name):
    """The gain of AUC over the recipe, as a page shows it."""
    with (folder / "table.csv").open(newline="") as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    return f"{float(rows[name]['auc_gain']):+.3f}"


def test_results_of_an_earlier_version_are_refused_in_a_line(folder, capsys):
    path = folder / "time_to_accuracy.json"
    path.write_text(path.read_text().replace('"multiply_accumulates"', '"pixels"'))
    with pytest.raises(SystemExit, match="2"):
        time_to_accuracy.main(["--redraw", str(folder)])
    assert "is of an earlier version: run the study again" in capsys.readouterr().err


def test_rows_are_compared_with_themselves_on_a_file_of_smaller_images(folder):
    smaller = shutil.copytree(folder, folder.with_name("smaller"))
    summary = json.loads((folder / "time_to_accuracy.json").read_text())
    summary["data"]["size"] = 14
    (smaller / "time_to_accuracy.json").write_text(json.dumps(summary))
    time_to_accuracy.write_page(folder)
    for page in ("README.md", "README.id.md"):
        text = (folder / page).read_text()
        assert re.search(r"\| `other_strides_2122` \| 28 \| 14 \|.*[+]0[.,]000 ", text)
        gain = read_gain(folder, "other_strides_2122").replace(".", "," if "id" in page else ".")
        over = rf"\| `other_strides_2122` \| 28 \| 14, `{ONE}` \|.*{re.escape(gain)} \("
        assert re.search(over, text) and re.search(rf"`other_strides_2122` .*: .*{gain[1:]} ", text)
    time_to_accuracy.write_page(smaller)
    assert "| 28 | 14 |" not in (smaller / "README.md").read_text()


def test_strides_2122_are_what_the_fast_script_trains():
    fast, slow = network(f"{ONE}_fast"), network(ONE)
    (row,) = (row for row in ROWS if row.name == f"{ONE}_strides_2122")
    assert fast.build is slow.build and fast.arguments == row.arguments
    assert dataclasses.replace(fast.recipe, name=slow.recipe.name) == slow.recipe
