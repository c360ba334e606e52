"""The comparison of the 34-layer family: resumable, its tables those of its runs."""

import bz2
import csv
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from small_runs import SMALL, read_metrics, stop_at_epoch
from torch import nn

from chestlab.data.phantom import make_phantom
from chestlab.data.splits import FINDINGS, Split
from chestlab.evaluation.looks import read_looks
from chestlab.evaluation.metrics import roc_auc
from chestlab.evaluation.packed_logits import write_packed_findings
from chestlab.evaluation.predictions import read_members
from chestlab.reporting import family_comparison, family_report
from chestlab.reporting.family_report import Member
from chestlab.runs.family import RECIPES

MEMBERS = ("plain34", "resnet34", "seresnet34", "mishresnet34", "seresnet34_r4")


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_packed(path):
    return list(csv.DictReader(bz2.decompress(path.read_bytes()).decode().splitlines()))


def area_of_test(path, run):
    """Mean AUC over the findings that have both classes, from a packed table."""
    rows = read_packed(path)
    rows = [row for row in rows if row["split"] == "test"]
    labels = np.array([[int(digit) for digit in row["labels"]] for row in rows])
    logits = np.array([[float(row[f"{run} {finding}"]) for finding in FINDINGS] for row in rows])
    both = np.flatnonzero(labels.min(0) != labels.max(0))
    return np.mean([roc_auc(labels[:, k], logits[:, k]) for k in both])


def with_chance(figures):
    """Mean AUC over the findings that have both classes; that of a constant output is 0.5."""
    areas = figures["auc_per_finding"]
    both = [k for k, n in figures["positives_per_finding"].items() if 0 < n < figures["n"]]
    return np.mean([0.5 if areas[finding] is None else areas[finding] for finding in both])


def test_logits_of_findings_are_packed_to_a_thousandth(tmp_path):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, (50, len(FINDINGS))).astype(np.uint8)
    patients = np.array([f"p{k}" for k in range(50)])
    split = Split(np.zeros((50, 8, 8), np.uint8), labels, np.arange(50) * 3, patients=patients)
    logits = {name: rng.normal(size=labels.shape) for name in ("a_seed1", "a_seed2")}
    path = tmp_path / "logits.csv.bz2"
    write_packed_findings(path, [("val", split, logits), ("test", split, logits)])
    rows = read_packed(path)
    assert [row["split"] for row in rows] == ["val"] * 50 + ["test"] * 50
    assert rows[51]["index"] == "3" and rows[51]["patient"] == "p1"
    assert rows[51]["labels"] == "".join(map(str, labels[1]))
    for name, values in logits.items():
        stored = [[float(row[f"{name} {finding}"]) for finding in FINDINGS] for row in rows[50:]]
        assert np.all((values - stored >= 0) & (values - stored < 0.001 + 1e-9))
    expected = np.mean([roc_auc(labels[:, k], logits["a_seed2"][:, k]) for k in range(14)])
    assert area_of_test(path, "a_seed2") == pytest.approx(expected, abs=0.003)


def test_the_committed_figures_of_findings_are_those_of_the_packed_logits():
    (folder,) = (ROOT / "results" / "studies").glob("resnet34_family_findings_*")
    runs = read_table(folder / "runs.csv")
    assert len(runs) == 10
    for row in runs:
        path = folder / f"logits_{row['run'].rpartition('_seed')[0]}.csv.bz2"
        assert area_of_test(path, row["run"]) == pytest.approx(float(row["test_auc"]), abs=1e-4)


@pytest.mark.parametrize("averaged", [True, False])
def test_the_network_after_the_last_epoch_is_the_one_that_is_judged(monkeypatch, averaged):
    weights = {name: nn.Linear(2, 1).state_dict() for name in ("trained", "average")}
    trainer = {"model": weights["trained"]}
    trainer |= {"average": {"model": weights["average"]}} if averaged else {}
    monkeypatch.setattr(
        family_comparison, "load_checkpoint", lambda path, sealed: {"trainer": trainer}
    )
    comparison = object.__new__(family_comparison.Comparison)
    comparison.members = {"net": Member("Net", lambda: nn.Linear(2, 1), (), {})}
    comparison.runs = {"net": [{"seed": 1, "model_arguments": {}}]}
    comparison.files = {"net": [SimpleNamespace(last="last.pth")]}
    comparison.device = torch.device("cpu")
    found = comparison.network("net", 0, "last").state_dict()
    wanted = weights["average" if averaged else "trained"]
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["two-class", "findings"])
def test_a_comparison_that_was_interrupted_goes_on_and_ends_as_one_that_was_not(
    script, tmp_path, findings_npz, monkeypatch, task
):
    flags = ["--data", findings_npz, *SMALL, "--epochs", 1, "--task", task, "--seeds", 1, 2]
    members = MEMBERS if task == "two-class" else MEMBERS[:2]
    everything = [*flags, "--networks", *members, "--name", "whole"]
    with monkeypatch.context() as patch:
        stop_at_epoch(patch, 3)
        with pytest.raises(SystemExit) as end:
            script("-m studies.compare_family", *everything)
        assert end.value.code == 130
    assert not (tmp_path / "results/studies/whole/README.md").exists()
    with monkeypatch.context() as patch:
        epochs = stop_at_epoch(patch, None)
        script("-m studies.compare_family", *everything)
        assert len(epochs) == 2 * len(members) - 2  # two runs were through
        script("-m studies.compare_family", *everything)
        assert len(epochs) == 2 * len(members) - 2  # nothing is left to do

    folder = tmp_path / "results/studies/whole"
    for path in folder.rglob("*.png"):
        assert path.stat().st_size < 300_000
    for name in ("validation_curves", "gradients"):
        assert (folder / f"{name}.png").exists()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(SystemExit):
        script("-m studies.compare_family", "--redraw", folder)
    assert all((folder / name).read_bytes() == of for name, of in before.items())
    assert (folder / "se_ablation.png").exists() == (task == "two-class")
    text = (folder / "README.md").read_text()
    none_silent = "No unit of ResNet-34 or Mish-ResNet-34 is silent" in text  # said, not drawn
    assert (folder / "silent_units.png").exists() != none_silent
    assert ("](silent_units.png)" in text) != none_silent
    assert "all.npz" in text
    table = read_table(folder / "table.csv")
    assert [row["network"] for row in table][:2] == ["Plain-34", "ResNet-34"]
    for row, member in zip(table, members, strict=True):
        runs = [read_metrics(folder / "runs" / f"{member}_seed{seed}") for seed in (1, 2)]
        areas = [run["test"]["auc"] for run in runs]
        if None in areas:  # a network this small may give one output to all images
            assert math.isnan(float(row["test_auc"])) and "n/a (n/a to n/a)" in text
        else:
            if task == "findings":
                areas = [with_chance(run["test"]) for run in runs]
            area = np.mean(areas)
            assert float(row["test_auc"]) == pytest.approx(area)
            assert float(row["test_auc_low"]) <= area <= float(row["test_auc_high"])
        for run in runs:
            where = f"{row['network']}, seed {run['seed']}"
            assert all(f"**Warning:** {where}: {each}" in text for each in run["warnings"])
        assert f"{int(row['parameters']):,}" in text
    runs = read_table(folder / "runs.csv")
    names = [f"{member}_seed{seed}" for member in members for seed in (1, 2)]
    assert [row["run"] for row in runs] == names
    assert len(read_table(folder / "histories.csv")) == len(names)  # of one epoch each
    if task == "findings":
        recomputed = area_of_test(folder / f"logits_{members[1]}.csv.bz2", f"{members[1]}_seed2")
        assert recomputed == pytest.approx(float(runs[3]["test_auc"]), abs=0.005)
    if task == "two-class":
        origin, _, labels, predicted = read_members(folder / "member_probabilities.csv")
        test, row = origin == "test", runs[3]
        correct = (predicted[names[3]] >= float(row["threshold"])) == (labels == 1)
        assert correct[test].mean() == pytest.approx(float(row["test_accuracy"]))
    verdict_rows = read_table(folder / "verdicts.csv")
    files = [folder / "runs" / f"{member}_seed{seed}" for member in members[:2] for seed in (1, 2)]
    known = all(read_metrics(path)["val"]["auc"] is not None for path in files)
    for row in verdict_rows:
        assert row["verdict"] in ("supported", "refuted", "undecided")
        if row["hypothesis"].startswith("Plain"):
            assert (row["verdict"], row["note"]) == ("undecided", "run for 1 epochs only")
            assert math.isfinite(float(row["value"])) == (task == "two-class" or known)

    script("-m studies.compare_family", *flags, "--networks", *members[:2], "--name", "part")
    part = read_table(tmp_path / "results/studies/part/table.csv")
    for row, other in zip(table, part, strict=False):
        times = ("_ms", "seconds")
        for key in (key for key in row if not key.endswith(times)):
            assert row[key] == other[key], key


def test_a_comparison_of_phantoms_lies_with_the_phantoms(script, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "chestlab.data.phantom.make_phantom",
        lambda size, **counts: make_phantom(size, train=16, val=8, test=8),
    )
    flags = ("--data", "phantom", *SMALL, "--epochs", 1, "--seeds", 1, "--networks", "resnet34")
    script("-m studies.compare_family", *flags)
    (folder,) = (tmp_path / "results/phantom/studies").iterdir()
    text = (folder / "README.md").read_text()
    assert "PHANTOM DATA, not ChestMNIST" in text
    before = text, (folder / "README.id.md").read_text()
    assert "PHANTOM DATA, not ChestMNIST" in before[1] and "| jaringan |" in before[1]
    with pytest.raises(SystemExit):
        script("-m studies.compare_family", "--redraw", folder)
    assert (text, (folder / "README.id.md").read_text()) == before
    assert (folder / "runs/resnet34_seed1/metrics.json").exists()
    (look,) = read_looks(tmp_path / "results/phantom/test_looks.csv")
    assert look.run == f"{folder.name}/runs/resnet34_seed1" and look.network == "ResNet34"
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["phantom"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seeds", "-1"), "--seeds"),
        (("--seeds", "many"), "--seeds"),
        (("--seed", "1"), "--seed: a comparison"),
        (("--seed=1",), "--seed: a comparison"),
        (("--networks", "resnet50"), "--networks"),
        (("--no-test",), "--no-test"),
        (("--find-lr",), "--folds and --find-lr are not for a comparison"),
        (("--epochs", "0"), "--epochs"),
    ],
)
def test_a_wrong_flag_of_a_comparison_is_one_line_and_status_2(
    script, tmp_path, capsys, flags, words
):
    with pytest.raises(SystemExit) as end:
        script("-m studies.compare_family", *flags)
    assert end.value.code == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert words in message
    assert not list(tmp_path.iterdir())


def test_the_page_says_what_was_done_otherwise_than_the_recipe() -> None:
    named = RECIPES["cosine"]
    told = dataclasses.replace(named, name="x", seed=7, epochs=3, image_size=32)
    assert family_report.recipe_changes(told, named) == {}
    changed = dataclasses.replace(told, batch_size=128)
    assert family_report.recipe_changes(changed, named) == {"batch_size": 128}
