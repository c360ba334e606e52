"""Distillation: what students learn, whom no network of a fold knows, and the pages."""

import csv
import dataclasses
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from comparisons import named_npz, tiny_networks  # noqa: F401 (fixtures)

from chestlab.data.folds import FRESH_FOLDS_SEED
from chestlab.data.splits import FINDINGS
from chestlab.evaluation import out_of_fold
from chestlab.evaluation.metrics import roc_auc
from chestlab.files.progress import StopSignals
from chestlab.training.inference import predict
from studies import distill, with_other_images
from studies.fold_networks import FoldNetwork
from studies.frozen_recipes import Frozen
from studies.stored_results import read_results

TEACHERS = ("first", "second")
TAUGHT = ["distilled", "distilled_longer", "distilled_lite0", "distilled_fast"]
ROWS = ["first", "second", "third", "teachers", "three_teachers", *TAUGHT]


@pytest.fixture
def flags(tiny_networks, named_npz, tmp_path, monkeypatch):  # noqa: F811
    """Flags of a study of two tiny teachers, of which the first is the student's network."""
    monkeypatch.chdir(tmp_path)
    frozen = (
        Frozen("first", "resnet34", "report"),
        Frozen("second", "plain34", "report", {"normalize": "per-image"}),
        Frozen("third", "resnet34", "report", {"lr": 0.01}),
    )
    monkeypatch.setattr(distill, "FROZEN", frozen)
    three = ("first", "second", "third")
    monkeypatch.setattr(distill, "TEACHERS", {"teachers": TEACHERS, "three_teachers": three})
    monkeypatch.setattr(distill, "STUDENT", "first")
    alone = {"efficientchestnet": "first", distill.TRANSFERRED: "second", distill.FAST: "third"}
    students = {
        name: dataclasses.replace(of, alone=alone[of.alone])
        for name, of in distill.STUDENTS.items()
    }
    monkeypatch.setattr(distill, "STUDENTS", students)
    monkeypatch.setattr(distill, "ALONE", three)
    monkeypatch.setattr(distill, "ROWS", (*three, *students))
    pairs = (("teachers", "first"), ("distilled", "first"), ("teachers", "distilled_longer"))
    monkeypatch.setattr(distill, "COMPARISONS", pairs)
    of_fresh = (("distilled_fast", "third"), ("three_teachers", "distilled_fast"))
    monkeypatch.setattr(distill, "FRESH_COMPARISONS", of_fresh)
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)
    return [
        "--data",
        str(named_npz),
        "--folds",
        "3",
        "--repeats",
        "2",
        "--device",
        "cpu",
        "--name",
        "a",
    ]


@pytest.fixture
def command(flags, tmp_path):
    """Run the study; where its results are."""

    def run(*more):
        distill.main([*flags, *more])
        return tmp_path / "results" / "studies" / "a"

    return run


def test_rows_figures_and_pages_come_from_the_logits(command):
    folder = command()
    summary, oof = read_results(folder, "distill", "configurations")
    assert list(summary["configurations"]) == ROWS
    mean = (oof.logits["first"] + oof.logits["second"]) / 2
    assert np.allclose(oof.logits["teachers"], mean, rtol=5.1e-4, atol=0)
    with (folder / "table.csv").open() as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    for name in ROWS:
        folds = [
            roc_auc(oof.labels[rows_], oof.logits[name][repeat, rows_])
            for repeat in range(2)
            for rows_ in (np.flatnonzero(oof.folds[repeat] == k) for k in range(3))
        ]
        assert float(rows[name]["auc"]) == pytest.approx(np.mean(folds), abs=1e-6)
    mean = sum(oof.logits[name] for name in ("first", "second", "third")) / 3
    assert np.allclose(oof.logits["three_teachers"], mean, rtol=5.1e-4, atol=1e-3)
    seen = {name: float(rows[name]["images_seen"]) for name in TAUGHT}
    assert seen["distilled_longer"] == 2.5 * seen["distilled"]  # epochs
    assert seen["distilled_lite0"] == seen["distilled"]
    assert rows["distilled_lite0"]["changes"] == "normalize per-image, epochs 2"
    for page, start in (("README.md", "Written by"), ("README.id.md", "Ditulis oleh")):
        text = (folder / page).read_text()
        assert f"{start} `python -m studies.distill`" in text and "distill.png" in text
        assert all(f"| `{name}` |" in text for name in ROWS)


def test_what_is_stored_is_not_trained_again(command, monkeypatch):
    folder = command("--only", "second", "distilled")
    before = (folder / "oof.csv").read_bytes()
    assert list(json.loads((folder / "distill.json").read_text())["configurations"]) == [
        "second",
        "distilled",
    ]

    def fit(trainer, *arguments):
        raise AssertionError("something is trained")

    monkeypatch.setattr(with_other_images.Trainer, "fit", fit)
    command("--only", "second", "distilled")
    assert (folder / "oof.csv").read_bytes() == before
    command("--only", "first")  # its weights are there, and the average with it
    assert list(json.loads((folder / "distill.json").read_text())["configurations"]) == [
        "first",
        "second",
        "teachers",
        "distilled",
    ]
    (folder / "distill.json").unlink()
    command("--only", "second", "distilled")  # the folds are stored as well
    assert (folder / "oof.csv").read_bytes() == before
    with pytest.raises(AssertionError, match="something is trained"):
        command("--only", "distilled_longer")


def test_a_student_learns_of_teachers_and_labels_and_of_nobody_who_is_held_out(flags, named_npz):  # noqa: F811
    options = distill.parser().parse_args(flags)
    study = distill.Distill(options, StopSignals())
    with np.load(named_npz) as arrays:
        labels = arrays["train_labels"]
    classes = labels[:, [FINDINGS.index("cardiomegaly"), FINDINGS.index("pneumothorax")]]
    alone = (labels.sum(1) == 1) & (classes.sum(1) == 1)
    assert np.array_equal(study.others.index, np.flatnonzero(~alone))
    fold = study.splits.fold(1, 2, choosing=False)
    teachers = [FoldNetwork(study, of, 1, 2) for of in study.teachers.values()]
    images, targets = study.lesson(fold, teachers)
    n, times = len(fold.train), distill.TIMES
    others = study.others.take(~np.isin(study.others.patients, fold.held_out.patients))
    assert 0 < len(others) < len(study.others) and len(images) == times * n + len(others)
    assert torch.equal(
        images[: times * n : n, 0], torch.from_numpy(fold.train.images[:1]).expand(times, -1, -1)
    )
    assert torch.equal(images[times * n :, 0], torch.from_numpy(others.images))

    def of_teachers(split):
        x = torch.from_numpy(split.images)[:, None]
        logits = [predict(t.network(), x, t.recipe, tta=t.recipe.tta) for t in teachers]
        return 1 / (1 + np.exp(-np.mean(logits, 0)))

    told = of_teachers(fold.train)
    assert np.allclose(targets[times * n :], of_teachers(others), atol=1e-5)
    wanted = distill.SHARE * told + (1 - distill.SHARE) * fold.train.labels
    assert np.allclose(targets[: times * n].reshape(times, n), wanted, atol=1e-5)
    assert np.ptp(told) > 0 and not np.allclose(told, fold.train.labels, atol=0.1)


def test_teachers_of_another_recipe_teach_anew(command, monkeypatch):
    folder = command("--only", "distilled")
    _, before = read_results(folder, "distill", "configurations")
    other = {"normalize": "per-image", "lr": 0.05}
    frozen = (distill.FROZEN[0], Frozen("second", "plain34", "report", other), distill.FROZEN[2])
    monkeypatch.setattr(distill, "FROZEN", frozen)
    command("--only", "distilled")
    _, after = read_results(folder, "distill", "configurations")
    assert not np.allclose(before.logits["distilled"], after.logits["distilled"], atol=1e-3)


def test_another_evaluation_of_teachers_or_student_is_measured_anew(command, monkeypatch):
    folder = command("--only", "first", "distilled")
    for changed in (0, 1):
        frozen = list(distill.FROZEN)
        frozen[changed] = dataclasses.replace(
            frozen[changed], changes={**frozen[changed].changes, "tta": "flip"}
        )
        _, before = read_results(folder, "distill", "configurations")
        monkeypatch.setattr(distill, "FROZEN", tuple(frozen))
        command("--only", "first", "distilled")
        _, after = read_results(folder, "distill", "configurations")
        assert not np.allclose(before.logits["distilled"], after.logits["distilled"], atol=1e-4)
        same = np.allclose(before.logits["first"], after.logits["first"], atol=1e-4)
        assert same == (changed == 1)


def test_the_usual_repeats_of_the_fresh_folds_are_theirs(flags, monkeypatch):
    asked = []

    class Asked(distill.Distill):
        def run(self):
            asked.append((self.splits.repeats, self.splits.first_seed, self.folder.name))

    monkeypatch.setattr(distill, "Distill", Asked)
    data = flags[:2]
    for more in ([], ["--fresh"], ["--fresh", "--repeats", "2"]):
        distill.main([*data, *more])
    assert [row[:2] for row in asked] == [(2, 42), (3, FRESH_FOLDS_SEED), (2, FRESH_FOLDS_SEED)]
    names = [row[2] for row in asked]
    assert names[1] == names[0].replace("distill_", "distill_fresh_")
    assert names[2] == f"{names[1]}_repeats2"


def test_of_two_processes_one_trains_a_teacher(flags, monkeypatch):
    study = distill.Distill(distill.parser().parse_args(flags), StopSignals())
    of_fold = FoldNetwork(study, study.teachers["second"], 0, 1)
    fit, trained = FoldNetwork._train, []

    def slow(self, *arguments):
        trained.append(1)
        time.sleep(0.5)
        return fit(self, *arguments)

    monkeypatch.setattr(FoldNetwork, "_train", slow)
    with ThreadPoolExecutor(2) as pool:
        networks = list(pool.map(lambda _: of_fold.network().state_dict(), range(2)))
    assert len(trained) == 1 and of_fold.seconds > 0
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())


def test_a_source_without_other_images_or_patients_can_be_learned_of(flags, phantom_npz):
    flags[1] = str(phantom_npz)
    study = distill.Distill(distill.parser().parse_args(flags), StopSignals())
    fold = study.splits.fold(0, 0, choosing=False)
    teachers = [FoldNetwork(study, of, 0, 0) for of in study.teachers.values()]
    images, _ = study.lesson(fold, teachers)
    assert study.others.patients is None and len(study.others) == 6  # 64 of 70 have one class
    assert len(images) == distill.TIMES * len(fold.train) + 6
    study.others = study.others.take(np.arange(0))
    images, targets = study.lesson(fold, teachers)
    assert len(images) == len(targets) == distill.TIMES * len(fold.train)


def test_the_fresh_folds_evaluate_what_is_frozen_and_count_it(command, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command("--fresh", "--only", "distilled")
    assert (
        "--fresh: --only may name first, second, third, distilled_fast" in capsys.readouterr().err
    )
    folder = command("--fresh")
    summary, _ = read_results(folder, "distill", "configurations")
    assert summary["first_seed"] == FRESH_FOLDS_SEED
    assert set(ROWS) - set(summary["configurations"]) == set(TAUGHT) - {"distilled_fast"}
    with (tmp_path / "results" / "phantom" / "test_looks.csv").open() as file:
        looks = [row for row in csv.DictReader(file) if row["kind"] == "fresh folds"]
    runs = [f"a/{name}" for name in ("first", "second", "third", "distilled_fast")]
    assert [look["run"] for look in looks] == runs
    assert looks[-1]["recipe_name"] == "report, lr 0.01, epochs 8, taught by three_teachers"
    text = (folder / "README.md").read_text()
    assert "(AUC on the fresh folds" in text and "choice folds (seed" not in text
    assert "Not run yet" not in text
    assert re.search("one network of `third` has .*: a gain of [+-]0", text)
    with pytest.raises(SystemExit, match="2"):
        command()
    assert "is of other images or folds" in capsys.readouterr().err
