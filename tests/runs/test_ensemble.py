"""Ensembles: folds that keep patients together, nothing trained twice, no leak, honest averages."""

from __future__ import annotations

import csv
import dataclasses
import gc
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score
from tiny_stages import RECIPE as STAGES
from tiny_stages import TinyStages
from tiny_train import TinyNet

from chestlab.data import provenance, sources
from chestlab.data.folds import join, make_folds
from chestlab.data.splits import Split, TwoClassData, nih_patients
from chestlab.evaluation.looks import read_looks
from chestlab.evaluation.metrics import choose_threshold, fit_temperature, paired_difference
from chestlab.evaluation.predictions import read_members
from chestlab.evaluation.reliability import threshold_interval
from chestlab.files import progress
from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError
from chestlab.reporting import comparison_plots, curves, evaluation_plots, prediction_grids
from chestlab.reporting.look_tables import networks_of
from chestlab.runs import run as run_module
from chestlab.runs.ensemble import SEEDS, seeds
from chestlab.training.averages import mean_of_logits
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from studies import blend

FAST = Recipe(name="tiny", epochs=2, batch_size=16, lr=1e-2, patience=50)


def draw_nothing(patch: pytest.MonkeyPatch, but: str = "") -> None:
    """Let every module of pictures draw none."""
    for module in (comparison_plots, curves, evaluation_plots, prediction_grids):
        for name in dir(module):
            if name.startswith("draw_") and name != but:
                patch.setattr(module, name, lambda *args, **kwargs: None)


@pytest.fixture(autouse=True)
def only_the_ensembles_own_picture(monkeypatch):
    """Drawing takes longer than training here; the others have tests of their own."""
    draw_nothing(monkeypatch, but="draw_members")


@pytest.fixture(scope="module")
def named_npz(tmp_path_factory, phantom_npz) -> Path:
    """The small phantom with file names, one to four images a patient."""
    with np.load(phantom_npz) as source:
        arrays = dict(source)
    rng = np.random.default_rng(0)
    for number, split in enumerate(("train", "val", "test")):
        labels = arrays[f"{split}_labels"]
        patients = np.cumsum(rng.integers(0, 4, len(labels)) == 0) + 1000 * number
        names = [f"{p:08d}_{i:03d}.png" for i, p in enumerate(patients)]
        arrays[f"{split}_names"] = np.array(names)
    path = tmp_path_factory.mktemp("named") / "named.npz"
    np.savez(path, **arrays)
    return path


def split_of(labels: list[int], patients: list[int] | None = None, first: int = 0) -> Split:
    n = len(labels)
    names = None
    if patients is not None:
        names = np.array([f"{p:08d}_{i:03d}.png" for i, p in enumerate(patients)])
    images = np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 16, 16), np.uint8)
    return Split(
        images,
        np.array(labels, np.uint8),
        np.arange(first, first + n),
        names,
        patients=None if names is None else nih_patients(names),
    )


def many(named: bool = True) -> TwoClassData:
    rng = np.random.default_rng(1)

    def part(n: int, start: int) -> Split:
        patients = (start + np.sort(rng.integers(0, n // 2, n))).tolist() if named else None
        return split_of(rng.integers(0, 2, n).tolist(), patients)

    return TwoClassData(part(120, 0), part(40, 500), part(40, 900), "made here", "0")


def call(build, recipes, tmp_path, *arguments, url=None) -> int:
    """Run a script's call in this process; its exit status."""
    folders = ("--results-dir", tmp_path / "results", "--models-dir", tmp_path / "models")
    try:
        run_module.run(build, {"report": recipes}, [*map(str, (*arguments, *folders))], url)
    except SystemExit as stop:
        return stop.code
    return 0


def table(path: Path) -> dict[str, np.ndarray]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return {
        key: np.array(values if key == "split" else [float(v) for v in values])
        for key, values in columns.items()
    }


@pytest.mark.parametrize("over", ["train", "train+val"])
def test_every_image_is_left_out_once_and_no_patient_is_torn_apart(over):
    data = many()
    parts = make_folds(data, 5, over)
    pool = [("train", i) for i in data.train.index]
    if over == "train+val":
        pool += [("val", i) for i in data.val.index]
    left_out = []
    for part in parts:
        outside = part.held_out or part.val
        origin = ["train"] * len(outside) if outside.origin is None else outside.origin
        left_out += zip(origin, outside.index, strict=True)
        assert not set(part.train.patients) & set(outside.patients)
        assert len(part.train) + len(outside) == len(pool)
        share = [s.labels.mean() for s in (part.train, outside)]
        assert abs(share[0] - share[1]) < 0.25  # whole patients cannot be dealt out evenly
        assert part.test is data.test
        if over == "train":
            assert part.val is data.val
    assert sorted(left_out) == sorted(pool)


def test_folds_are_the_same_for_every_network_and_name_themselves():
    first, second = make_folds(many(), 4, "train"), make_folds(many(), 4, "train")
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.held_out.index, b.held_out.index)
    assert [part.fold for part in first][:2] == ["fold 1 of 4 over train", "fold 2 of 4 over train"]


def test_without_names_folds_are_stratified_and_the_warning_says_what_is_missing(capsys):
    parts = make_folds(many(named=False), 4, "train")
    assert "patients" in capsys.readouterr().err
    counts = [int(part.held_out.labels.sum()) for part in parts]
    assert max(counts) - min(counts) <= 1


def test_more_folds_than_patients_of_a_class_are_refused():
    data = many()
    few = split_of([0] * 3 + [1] * 9, [1, 1, 2, *range(10, 19)])
    with pytest.raises(InputError, match=r"--folds 3: .* patients for 2 folds at most"):
        make_folds(TwoClassData(few, data.val, data.test, "made here", "0"), 3, "train")


def test_joined_splits_keep_rows_and_say_where_they_come_from():
    a, b = split_of([0, 1], [1, 2]), split_of([1], [3], first=7)
    joined = join((a, b), ("train", "val"))
    assert joined.index.tolist() == [0, 1, 7]
    assert joined.origin.tolist() == ["train", "train", "val"]
    assert joined.take(np.array([2])).names.tolist() == b.names.tolist()


def test_overlap_is_found_by_image_by_patient_and_by_row():
    seen = split_of([0, 1, 0], [1, 1, 2])
    known = provenance.record([("train", seen)])
    same_patient = dataclasses.replace(
        seen.take([0]), index=np.array([9]), names=np.array(["00000001_777.png"])
    )
    assert provenance.overlap(known, "val", same_patient, by_patient=False) == 0
    assert provenance.overlap(known, "val", same_patient, by_patient=True) == 1
    assert provenance.overlap(known, "val", seen, by_patient=False) == 3
    unnamed = split_of([0, 1], first=2)
    assert provenance.overlap(known, "train", unnamed, by_patient=True) == 1  # row 2
    assert provenance.overlap(known, "val", unnamed, by_patient=True) == 0


def test_what_was_seen_goes_on_from_network_to_network():
    first = provenance.record([("train", split_of([0, 1], [1, 2]))])
    second = provenance.record([("train", split_of([0, 1], [3, 4], first=5))])
    both = provenance.union(first, second)
    assert both["rows"] == {"train": [0, 1, 5, 6]}
    assert provenance.overlap(both, "train", split_of([0], [1]), by_patient=True) == 1


def test_what_was_seen_before_a_training_on_phantoms_is_not_forgotten():
    xrays = provenance.record([("train", split_of([0, 1]))])
    phantoms = provenance.record([("train", split_of([0] * 9))], phantom=True)
    both = provenance.union(xrays, phantoms)
    again = provenance.union(both, provenance.record([("train", split_of([0], first=7))]))
    for record in (both, again):
        for phantom, row in ((False, 1), (True, 5)):
            judged = {"phantom": phantom, "by_patient": False, "source": "x"}
            provenance.check_unseen([record], "train", split_of([0], first=100), **judged)
            with pytest.raises(InputError, match="has seen 1 of the 1"):
                provenance.check_unseen([record], "train", split_of([0], first=row), **judged)
    assert again["rows"] == {"train": [0, 1, 7]} and not again["phantom"]
    assert provenance.union(xrays, again)["rows"] == {"train": [0, 1, 7]}


def test_names_on_one_side_alone_are_told_once_where_no_row_meets(capsys):
    named, unnamed = split_of([0, 1], [1, 2]), split_of([0, 1])
    for known, images in ((named, unnamed), (unnamed, named)):
        record = provenance.record([("train", known)])
        capsys.readouterr()
        for split in ("val", "test"):
            source = f"{known.names is None}.pth"
            judged = {"phantom": False, "by_patient": True, "source": source}
            provenance.check_unseen([record], split, images, **judged)
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and source in told and "names" in told


def test_the_seeds_are_the_reports_and_then_go_on():
    assert seeds(3) == [42, 123, 456]
    assert seeds(7) == [*SEEDS, 1012, 1013]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--members", "1"], "from 2 up to"),
        (["--members", "x"], "from 2 up to"),
        (["--folds", "101"], "from 2 up to"),
        (["--members", "2", "--folds", "2"], "exclude each other"),
        (["--members", "2", "--seed", "3"], "leave out --seed"),
        (["--folds-over", "train"], "is for --folds"),
        (["--members-test"], "is for --members and --folds"),
        (["--members-test", "--folds", "2", "--no-test"], "exclude each other"),
        (["--folds", "2", "--folds-over", "test"], "invalid choice"),
        (["--folds", "60"], "folds at most"),
    ],
)
def test_wrong_ensembles_are_refused_in_one_line_and_nothing_is_written(
    arguments, said, tmp_path, named_npz, capsys
):
    assert call(TinyNet, FAST, tmp_path, "--data", named_npz, *arguments) == 2
    message = capsys.readouterr().err.strip()
    assert said in message
    assert len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_members_are_averaged_and_nothing_finished_is_trained_again(tmp_path, named_npz, capsys):
    command = TinyNet, FAST, tmp_path, "--data", named_npz, "--members-test", "--members"
    assert call(*command, 2) == 0
    folder, models = (tmp_path / part / "tiny_named_members" for part in ("results", "models"))
    metrics = json.loads((folder / "metrics.json").read_text())
    own = {name: table(folder / name / "val_probabilities.csv") for name in ("seed42", "seed123")}
    averaged = table(folder / "val_probabilities.csv")
    mean = np.mean([values["probability"] for values in own.values()], axis=0)
    np.testing.assert_allclose(averaged["probability"], mean, rtol=1e-12)
    assert metrics["threshold"] == choose_threshold(averaged["label"], mean)
    val_patients = sources.load(str(named_npz)).val.patients
    resampled = threshold_interval(averaged["label"], averaged["probability"], val_patients)
    assert metrics["threshold_ci95"] == resampled
    assert "calibration_out_of_fold" not in metrics
    of_image, _, _, predicted = read_members(folder / "member_probabilities.csv")
    for name, values in own.items():
        np.testing.assert_array_equal(predicted[name][of_image == "val"], values["probability"])
    test = table(folder / "test_probabilities.csv")
    assert metrics["test"]["auc"] == pytest.approx(
        roc_auc_score(test["label"], test["probability"])
    )
    said = (test["probability"] >= metrics["threshold"]) == test["label"]
    assert metrics["test"]["accuracy"] == pytest.approx(said.mean())
    assert metrics["bootstrap_unit"] == "patient"

    members = metrics["members"]
    assert [m["seed"] for m in members] == [42, 123]
    aucs = [m["test"]["auc"] for m in members]
    assert metrics["mean_and_sd"]["test"]["auc"] == {
        "mean": pytest.approx(np.mean(aucs)),
        "sd": pytest.approx(np.std(aucs, ddof=1)),
    }
    best = max(members, key=lambda m: (m["val"]["accuracy"], m["val"]["auc"]))
    assert metrics["best_member"]["name"] == best["name"]
    patients = sources.load(str(named_npz)).test.patients
    theirs = table(folder / best["name"] / "test_probabilities.csv")["probability"]
    assert metrics["best_member"]["gain_of_the_average"]["test"] == paired_difference(
        test["label"],
        test["probability"],
        theirs,
        (metrics["threshold"], best["threshold"]),
        patients,
    )
    assert metrics["parameters"] == 2 * 689
    assert best["name"] in (folder / "README.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in models.glob("*.pth")}
    capsys.readouterr()
    assert call(*command, 3) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert capsys.readouterr().out.count("is finished: nothing to do") == 2
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [m["seed"] for m in metrics["members"]] == [42, 123, 456]


def test_members_of_another_recipe_are_trained_anew_if_asked_for(tmp_path, named_npz, capsys):
    command = TinyNet, FAST, tmp_path, "--data", named_npz, "--members", 2, "--name", "same"
    assert call(*command) == 0
    assert call(*command, "--lr", 1e-3) == 2
    assert "recipe lr 0.01, and this one has 0.001" in capsys.readouterr().err

    def edited():  # the network's file
        network = TinyNet()
        network.layers[7].p = 0.3
        return network

    assert call(edited, *command[1:]) == 2
    assert "other layers" in capsys.readouterr().err
    assert call(*command, "--lr", 1e-3, "--overwrite") == 0
    metrics = json.loads((tmp_path / "results/same_members/metrics.json").read_text())
    assert metrics["recipe"]["lr"] == 1e-3
    one = json.loads((tmp_path / "results/same_members/seed42/metrics.json").read_text())
    assert one["recipe"]["lr"] == 1e-3
    assert one["recipe_changes"] == metrics["recipe_changes"] == {"lr": 1e-3}
    assert (
        "`lr` 0.001 (in the script: " in (tmp_path / "results/same_members/README.md").read_text()
    )


def test_an_interrupted_ensemble_goes_on_to_the_same_bits(tmp_path, named_npz, monkeypatch, capsys):
    arguments = "--data", named_npz, "--members", 2
    assert call(TinyNet, FAST, tmp_path / "whole", *arguments) == 0
    whole = Trainer.run_epoch
    calls = []

    def cut_off(trainer):
        calls.append(trainer)
        if len(calls) == 4:  # the second epoch of the second member
            raise progress.Interrupted(2)
        return whole(trainer)

    monkeypatch.setattr(Trainer, "run_epoch", cut_off)
    assert call(TinyNet, FAST, tmp_path / "cut", *arguments) == 130
    monkeypatch.undo()
    capsys.readouterr()
    assert call(TinyNet, FAST, tmp_path / "cut", *arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert call(TinyNet, FAST, tmp_path / "cut", *arguments, "--resume") == 0
    for name in ("val_probabilities.csv", "test_probabilities.csv"):
        one, two = (
            (tmp_path / kind / "results/tiny_named_members" / name).read_bytes()
            for kind in ("whole", "cut")
        )
        assert one == two


@pytest.mark.parametrize("over", ["train", "train+val"])
def test_folds_are_judged_out_of_fold(tmp_path, named_npz, over):
    command = TinyNet, FAST, tmp_path, "--data", named_npz, "--folds", 2, "--folds-over", over
    assert call(*command) == 0
    name = "tiny_named_folds2" + ("_trainval" if over == "train+val" else "")
    folder = tmp_path / "results" / name
    metrics = json.loads((folder / "metrics.json").read_text())
    oof = table(folder / "oof_probabilities.csv")
    data = sources.load(str(named_npz))
    assert len(oof["label"]) == len(data.train) + (len(data.val) if over == "train+val" else 0)
    part = "held_out" if over == "train" else "val"
    own = [table(folder / f"fold{k}" / f"{part}_probabilities.csv") for k in (1, 2)]
    parts = np.concatenate([values["probability"] for values in own])
    np.testing.assert_array_equal(oof["probability"], parts)
    of_image, _, _, predicted = read_members(folder / "member_probabilities.csv")
    left_out = np.isin(of_image, ["train"] if over == "train" else ["train", "val"])
    folds = [values[left_out & ~np.isnan(values)] for values in predicted.values()]
    outside = np.concatenate(folds)
    np.testing.assert_array_equal(outside, parts)
    assert metrics["threshold"] == choose_threshold(oof["label"], oof["probability"])
    assert metrics["oof"]["auc"] == pytest.approx(roc_auc_score(oof["label"], oof["probability"]))
    images = join([e.held_out or e.val for e in make_folds(data, 2, over)])
    resampled = threshold_interval(images.labels, oof["probability"], images.patients)
    assert metrics["threshold_ci95"] == resampled
    single = metrics["calibration_out_of_fold"]
    assert single["n"] == len(oof["label"])
    assert single["before"]["loss"] == pytest.approx(metrics["oof"]["loss"])
    other = [fit_temperature(of["label"], logit(of["probability"])) for of in reversed(own)]
    assert single["temperature_without_fold"] == pytest.approx(other, rel=1e-4)
    page = (folder / "README.md").read_text()
    assert f"divided by {single['temperature']:.2f} (" in page
    assert f"| log loss | {single['before']['loss']:.3f}<br>" in page
    assert metrics["val"]["n"] == len(data.val)
    assert "fold" not in metrics["data"]
    assert metrics["data"]["counts"] == data.counts()
    if over == "train+val":
        inside = oof["split"] == "val"
        val = table(folder / "val_probabilities.csv")
        np.testing.assert_array_equal(val["probability"], oof["probability"][inside])
        assert not metrics["best_member"]["gain_of_the_average"]  # members have no test figures
    else:
        both = [table(folder / f"fold{k}" / "val_probabilities.csv") for k in (1, 2)]
        mean = np.mean([values["probability"] for values in both], axis=0)
        val = table(folder / "val_probabilities.csv")
        np.testing.assert_allclose(val["probability"], mean, rtol=1e-12)


def test_the_calibration_of_single_networks_is_that_before_their_own_temperatures(
    tmp_path, named_npz
):
    arguments = "--folds", 2, "--folds-over", "train+val", "--temperature", "on", "--no-test"
    assert call(TinyNet, FAST, tmp_path, "--data", named_npz, *arguments, "--name", "own") == 0
    folder = tmp_path / "results/own_folds2_trainval"
    metrics = json.loads((folder / "metrics.json").read_text())
    fitted = [
        json.loads((folder / f"fold{k}/metrics.json").read_text())["temperature"] for k in (2, 1)
    ]  # to the fold itself, which is the other's "other fold"
    single = metrics["calibration_out_of_fold"]
    assert single["temperature_without_fold"] == pytest.approx(fitted, rel=1e-4)


def test_members_are_evaluated_on_test_only_if_asked_for_and_every_evaluation_counts_once(
    tmp_path, named_npz, monkeypatch
):
    command = TinyNet, FAST, tmp_path, "--data", named_npz, "--folds", 2
    folder = tmp_path / "results/tiny_named_folds2"

    def looks():
        written = read_looks(tmp_path / "results/phantom/test_looks.csv")
        return [(look.run, look.kind) for look in written]

    def figures():
        members = [json.loads((folder / f"fold{k}/metrics.json").read_text()) for k in (1, 2)]
        return [member["test"] is not None for member in members]

    average = (folder.name, "average")
    assert call(*command) == 0
    assert figures() == [False, False] and looks() == [average]
    assert "test" not in json.loads((folder / "metrics.json").read_text())["mean_and_sd"]
    monkeypatch.setattr(Trainer, "run_epoch", lambda trainer: pytest.fail("it was trained again"))
    before = (folder / "test_probabilities.csv").read_bytes()
    assert call(*command, "--resume") == 0
    assert looks() == [average]
    assert call(*command, "--members-test") == 0
    members = [(f"{folder.name}/fold{k}", "run") for k in (1, 2)]
    assert figures() == [True, True] and looks() == [average, *members]
    assert (folder / "test_probabilities.csv").read_bytes() == before
    assert call(*command) == 0
    assert looks() == [average, *members]


def test_no_test_leaves_the_test_images_alone(tmp_path, named_npz):
    command = TinyNet, FAST, tmp_path, "--data", named_npz, "--folds", 2
    assert call(*command, "--no-test") == 0
    folder = tmp_path / "results/tiny_named_folds2"
    assert json.loads((folder / "metrics.json").read_text())["test"] is None
    assert not list(folder.rglob("test_probabilities.csv"))
    assert not list(tmp_path.rglob("test_looks.csv"))
    assert call(*command) == 0  # finished but for the test images: nothing is trained again
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["n"] == 24


def stages(tmp_path, *arguments) -> int:
    return call(TinyStages, STAGES, tmp_path, *arguments, url="http://127.0.0.1:9/x-00000000.pth")


def test_folds_never_start_from_a_network_that_knows_the_images_left_out(
    tmp_path, named_npz, capsys
):
    once = "--data", named_npz, "--weights"
    assert stages(tmp_path / "first", *once, "none", "--epochs", 1, "--name", "first") == 0
    weights = tmp_path / "first/models/first_best.pth"
    seen = load_checkpoint(weights)["seen"]
    data = sources.load(str(named_npz))
    assert seen["trained"]["names"] == data.train.names.tolist()
    assert seen["chosen"]["rows"] == {"val": data.val.index.tolist()}
    capsys.readouterr()
    for over in ("train", "train+val"):
        again = tmp_path / "again"
        assert stages(again, *once, weights, "--folds", 2, "--folds-over", over) == 2
        message = capsys.readouterr().err
        assert "has seen" in message
        assert not again.exists()


def test_a_fold_may_start_from_its_own_earlier_network_and_passes_on_what_that_saw(
    tmp_path, named_npz
):
    data = sources.load(str(named_npz))
    part = make_folds(data, 2, "train")[0]
    known = provenance.record([("train", part.train)])
    judged = {
        "split": "held_out",
        "images": part.held_out,
        "phantom": False,
        "by_patient": True,
    }
    provenance.check_unseen([known], source="x", **judged)
    more = provenance.union(known, provenance.record([("train", part.held_out.take([0]))]))
    with pytest.raises(InputError, match="has seen"):
        provenance.check_unseen([more], source="x", **judged)


def test_of_a_source_without_names_a_fold_refuses_weights_that_know_its_rows():
    data = many(named=False)
    part = make_folds(data, 2, "train")[0]
    judged = {"images": part.held_out, "phantom": False, "by_patient": True, "source": "x"}
    for split in ("held_out", "held-out"):
        provenance.check_unseen([provenance.record([("train", part.train)])], split, **judged)
        with pytest.raises(InputError, match=rf"has seen {len(part.held_out)} of"):
            provenance.check_unseen([provenance.record([("train", data.train)])], split, **judged)


def test_weights_trained_on_val_or_test_are_refused_for_a_plain_run(tmp_path, named_npz, capsys):
    once = "--data", named_npz, "--weights"
    assert stages(tmp_path / "first", *once, "none", "--epochs", 1, "--name", "first") == 0
    path = tmp_path / "first/models/first_best.pth"
    state = load_checkpoint(path)
    assert stages(tmp_path / "fine", *once, path, "--epochs", 1) == 0
    data = sources.load(str(named_npz))
    for name in ("val", "test"):
        bad = tmp_path / f"{name}.pth"
        record = provenance.record([(name, getattr(data, name))], phantom=True)
        torch.save({**state, "seen": {"trained": record}}, bad)
        capsys.readouterr()
        assert stages(tmp_path / "bad", *once, bad, "--epochs", 1) == 2
        assert f"{name} images" in capsys.readouterr().err


def test_a_finished_members_network_leaves_the_memory(tmp_path, named_npz, monkeypatch):
    """Or an ensemble's optimiser states pile up on a small graphics card."""
    alive = []
    start = Trainer.__init__

    def remember(trainer, *arguments, **more):
        assert not any(one() for one in alive)
        start(trainer, *arguments, **more)
        alive.extend(map(weakref.ref, (trainer, trainer.model, trainer.optimizer)))

    monkeypatch.setattr(Trainer, "__init__", remember)
    gc.disable()  # it comes when it likes; a device's memory cannot wait for it
    try:
        assert call(TinyNet, FAST, tmp_path, "--data", named_npz, "--members", 3) == 0
    finally:
        gc.enable()
    assert len(alive) == 9
    assert not any(one() for one in alive)


@pytest.fixture(scope="module")
def fold_runs(tmp_path_factory, named_npz) -> Path:
    """Results of two cross-validated runs over train and val, of one over train, and of a run."""
    folder = tmp_path_factory.mktemp("folds")
    once = "--data", named_npz, "--epochs", 1
    folds = *once, "--folds", 2
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        for name, lr in (("a", 1e-2), ("b", 1e-3)):
            arguments = *folds, "--folds-over", "train+val", "--name", name, "--lr", lr
            assert call(TinyNet, FAST, folder, *arguments) == 0
        assert call(TinyNet, FAST, folder, *folds, "--name", "train") == 0
        assert call(TinyNet, FAST, folder, *once, "--name", "single") == 0
    return folder / "results"


A, B = "a_folds2_trainval", "b_folds2_trainval"


def blended(results, named_npz, *arguments) -> int:
    flags = ("--results-dir", results, "--data", named_npz)
    try:
        blend.main([*map(str, (*arguments, *flags))])
    except SystemExit as stop:
        return stop.code
    return 0


def test_finished_runs_are_averaged_image_by_image(fold_runs, named_npz):
    assert blended(fold_runs, named_npz, A, B, "--name", "both") == 0
    metrics = json.loads((fold_runs / "studies/both/metrics.json").read_text())
    data = sources.load(str(named_npz))
    for split in ("oof", "test", "val"):
        found = table(fold_runs / "studies/both" / f"{split}_probabilities.csv")
        place = {}
        for name in (A, B):
            part = table(fold_runs / name / f"{split}_probabilities.csv")
            homes = part.get("split", np.full(len(part["index"]), split))
            for home, index, p in zip(homes, part["index"], part["probability"], strict=True):
                place.setdefault((str(home), index), []).append(p)
        homes = found.get("split", np.full(len(found["index"]), split))
        pairs = [place[str(h), i] for h, i in zip(homes, found["index"], strict=True)]
        mean = [expit(np.mean(logit(pair))) for pair in pairs]
        assert all(len(values) == 2 for values in place.values())
        np.testing.assert_allclose(found["probability"], mean, rtol=1e-9)
        assert len(mean) == len(place) == metrics[split]["n"]
        auc = roc_auc_score(found["label"], found["probability"])
        assert metrics[split]["auc"] == pytest.approx(auc)
    assert metrics["oof"]["n"] == len(data.train) + len(data.val)
    assert metrics["threshold_chosen_on"] == "out-of-fold"
    assert metrics["bootstrap_unit"] == "patient"
    assert metrics["blend"] == [A, B]
    assert "calibration_out_of_fold" not in metrics  # its images have no single networks
    low, high = metrics["threshold_ci95"]
    assert 0.3 <= low <= high <= 0.7
    assert metrics["parameters"] == 4 * 689
    own = {name: json.loads((fold_runs / name / "metrics.json").read_text()) for name in (A, B)}
    best = max(own, key=lambda name: [own[name]["oof"][key] for key in ("accuracy", "auc")])
    assert metrics["best_member"]["name"] == best
    test = table(fold_runs / "studies/both/test_probabilities.csv")
    theirs = table(fold_runs / best / "test_probabilities.csv")
    order = np.argsort(theirs["index"])
    assert metrics["best_member"]["gain_of_the_average"]["test"] == paired_difference(
        test["label"],
        test["probability"],
        theirs["probability"][order],
        (metrics["threshold"], own[best]["threshold"]),
        sources.load(str(named_npz)).test.patients[np.argsort(data.test.index)],
    )
    page = (fold_runs / "studies/both/README.md").read_text()
    assert A in page and B in page


def test_a_blend_names_a_network_of_timm_and_counts_it(fold_runs, named_npz, tmp_path):
    results = shutil.copytree(fold_runs, tmp_path / "results")
    path = results / B / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics |= {"model": "TimmChest", "model_arguments": {"arch": "timm/resnet18"}}
    metrics["starting_weights"] = {"source": "imagenet"}
    path.write_text(json.dumps(metrics))
    assert blended(results, named_npz, A, B, "--name", "named") == 0
    metrics = json.loads((results / "studies/named/metrics.json").read_text())
    assert metrics["model"] == "TinyNet + timm/resnet18"
    assert networks_of(metrics) == ["TinyNet", "timm/resnet18"]
    looks = read_looks(results / "phantom/test_looks.csv")
    (look,) = (look for look in looks if look.kind == "blend" and look.run.endswith("named"))
    assert look.networks == {"TinyNet", "timm/resnet18"}
    page = (results / "studies/named/README.md").read_text()
    assert "2 start from random weights and 2 start from ImageNet's weights" in page


def test_a_blend_takes_no_run_of_a_name_among_the_phantoms(fold_runs, named_npz, tmp_path, capsys):
    results = shutil.copytree(fold_runs, tmp_path / "results")
    for place in ("phantom", "studies"):
        shutil.copytree(results / "train_folds2", results / place / A)
    shutil.copytree(results / A, results / "phantom/alone")
    assert blended(results, named_npz, A, B, "--name", "both") == 0
    assert blended(results, named_npz, "alone", B) == 2
    assert "there is no finished run 'alone'" in capsys.readouterr().err


def test_a_blend_replaces_itself_and_nothing_else(fold_runs, named_npz, capsys):
    assert blended(fold_runs, named_npz, A, B, "--name", "again") == 0
    before = (fold_runs / "studies/again/oof_probabilities.csv").read_bytes()
    assert blended(fold_runs, named_npz, B, A, "--name", "again") == 0
    assert (fold_runs / "studies/again/oof_probabilities.csv").read_bytes() == before
    capsys.readouterr()
    whole = (fold_runs / "single/metrics.json").read_bytes()
    assert blended(fold_runs, named_npz, A, B, "--name", "single") == 2
    assert "choose another name" in capsys.readouterr().err
    assert (fold_runs / "single/metrics.json").read_bytes() == whole


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([A], "two runs or more"),
        ([A, A], "two runs or more"),
        ([A, "other"], "no finished run 'other'"),
        ([A, "single"], "'single' is no cross-validated run"),
        ([A, "train_folds2"], "not evaluated on these very images (oof)"),
        (["train_folds2", A], "not evaluated on these very images (oof)"),
    ],
)
def test_runs_that_cannot_be_averaged_are_refused(runs, said, fold_runs, named_npz, capsys):
    assert blended(fold_runs, named_npz, *runs, "--name", "refused") == 2
    message = capsys.readouterr().err.strip()
    assert said in message
    assert len(message.splitlines()) == 1
    assert not (fold_runs / "studies/refused").exists()


def test_a_blend_of_other_images_or_of_blends_is_refused(
    fold_runs, named_npz, phantom_npz, tmp_path, capsys
):
    assert blended(fold_runs, named_npz, A, B, "--name", "first") == 0
    assert blended(fold_runs, named_npz, "first", A) == 2
    assert "an average of runs itself" in capsys.readouterr().err
    with np.load(named_npz) as source:
        arrays = dict(source)
    rows = np.arange(len(arrays["train_labels"]))[::-1]
    for key in ("images", "labels", "names"):
        arrays[f"train_{key}"] = arrays[f"train_{key}"][rows]
    np.savez(tmp_path / "turned.npz", **arrays)
    assert blended(fold_runs, tmp_path / "turned.npz", A, B) == 2
    assert "very images" in capsys.readouterr().err


def test_certain_networks_do_not_outweigh_all_others():
    certain = mean_of_logits([np.array([1.0, 0.0]), np.array([0.3, 0.5])])
    assert np.isfinite(certain).all()
    assert 0.99 < certain[0] < 1 and 0 < certain[1] < 0.01
    np.testing.assert_allclose(mean_of_logits([np.array([0.2])] * 3), [0.2])
