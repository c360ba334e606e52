"""The baselines: same protocol as the networks, patients kept together, nothing fitted on test."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from conftest import run_in_process, without_times

from chestlab.data import phantom, sources
from chestlab.data.splits import nih_patients
from chestlab.evaluation import baselines
from chestlab.evaluation.looks import read_looks
from chestlab.evaluation.metrics import choose_threshold, evaluate_probabilities, roc_auc
from chestlab.files.errors import InputError
from studies import baselines as study

FILES = {
    "metrics.json",
    "val_probabilities.csv",
    "test_probabilities.csv",
    "oof_probabilities.csv",
}

PICTURES = {"confusion_matrix.png", "roc_curve.png", "calibration.png"}


@pytest.fixture(scope="module")
def results(tmp_path_factory, phantom_npz):
    """What the command leaves, on a small phantom."""
    folder = tmp_path_factory.mktemp("baselines")
    ended = run_in_process(
        "-m studies.baselines", "--data", phantom_npz, "--name", "small", cwd=folder
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.rstrip().endswith(phantom.PHANTOM_MARK)
    return folder / "results" / "studies"


def read(results, key):
    return json.loads((results / f"small_{key}" / "metrics.json").read_text())


def probabilities(folder, split):
    with (folder / f"{split}_probabilities.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels, values = ([float(row[key]) for row in rows] for key in ("label", "probability"))
    return np.array(labels), np.array(values), rows


def test_every_baseline_leaves_a_run(results):
    names = {f"small_{baseline.key}" for baseline in baselines.BASELINES}
    assert {path.name for path in results.iterdir() if path.is_dir()} == names
    looks = read_looks(results.parent / "phantom" / "test_looks.csv")
    assert [(look.run, look.kind) for look in looks] == [
        (f"small_{baseline.key}", "baseline") for baseline in baselines.BASELINES
    ]
    for name in names:
        expected = FILES if name == "small_majority" else FILES | PICTURES  # a constant: no curve
        assert {path.name for path in (results / name).iterdir()} == expected


@pytest.mark.parametrize("baseline", baselines.BASELINES, ids=lambda baseline: baseline.key)
def test_figures_are_those_of_the_tables_at_the_threshold_of_val(results, baseline):
    metrics = read(results, baseline.key)
    folder = results / f"small_{baseline.key}"
    labels, values, _ = probabilities(folder, "val")
    assert metrics["threshold"] == choose_threshold(labels, values)
    for split in ("val", "test"):
        labels, values, _ = probabilities(folder, split)
        assert ((values > 0) & (values < 1)).all()
        expected = evaluate_probabilities(labels, values, metrics["threshold"])
        assert metrics[split] == expected
    labels, values, _ = probabilities(folder, "oof")
    out_of_fold = metrics["oof"]["accuracy"]  # at a threshold that was not chosen on these images
    assert metrics["oof_threshold"] == 0.5
    assert out_of_fold == pytest.approx(np.mean((values >= 0.5) == (labels == 1)))
    assert metrics["yardstick"] is True and metrics["parameters"] >= 1
    assert metrics["chosen_strength"] in (baseline.grid or (None,))


def test_majority_class_is_the_share_of_the_larger_class(results):
    metrics = read(results, "majority")
    counts = metrics["data"]["counts"]
    for split in ("val", "test"):
        positive = counts[split]["pneumothorax"]
        assert metrics[split]["accuracy"] == positive / sum(counts[split].values())
        assert metrics[split]["auc"] is None  # one output for all images has no order
    _, values, _ = probabilities(results / "small_majority", "test")
    assert set(values) == {counts["train"]["pneumothorax"] / sum(counts["train"].values())}


@pytest.mark.parametrize("key", ["logistic_pixels", "hog_linear_svm", "hog_rbf_svm"])
def test_cross_validation_judges_every_image_of_train_and_val_once(results, key, phantom_npz):
    data = sources.load(str(phantom_npz))
    _, _, rows = probabilities(results / f"small_{key}", "oof")
    seen = sorted((row["split"], int(row["index"]), int(row["label"])) for row in rows)
    expected = [
        (split, *image)
        for split in ("train", "val")
        for part in [getattr(data, split)]
        for image in zip(part.index.tolist(), part.labels.tolist(), strict=True)
    ]
    assert seen == sorted(expected)


def test_second_start_gives_the_same_and_replaces_the_first(results, phantom_npz, tmp_path):
    baseline = baselines.BASELINES[2]
    data = sources.load(str(phantom_npz))
    again = study.measure(baseline, data, f"small_{baseline.key}", tmp_path, True)
    assert without_times(again) == without_times(read(results, baseline.key))
    for split in ("val", "test", "oof"):
        table = f"{split}_probabilities.csv"
        first = (results / f"small_{baseline.key}" / table).read_bytes()
        assert (tmp_path / table).read_bytes() == first


def test_test_images_are_left_alone_when_asked(phantom_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "BASELINES", baselines.BASELINES[:1])
    results = tmp_path / "results"
    command = ["--data", str(phantom_npz), "--results-dir", str(results), "--name", "small"]
    study.main(command)
    study.main([*command, "--no-test"])
    assert len(read_looks(results / "phantom" / "test_looks.csv")) == 1
    (folder,) = (results / "studies").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["test"] is None
    assert not (folder / "test_probabilities.csv").exists()


def test_test_labels_change_nothing_but_the_test_figures(phantom_npz, tmp_path):
    data = sources.load(str(phantom_npz))
    test = dataclasses.replace(data.test, labels=1 - data.test.labels)
    swapped = dataclasses.replace(data, test=test)
    baseline = baselines.BASELINES[3]
    one, other = (
        without_times(study.measure(baseline, each, "one", tmp_path, True))
        for each in (data, swapped)
    )
    assert one["test"]["confusion"] != other["test"]["confusion"]
    for metrics in (one, other):
        del metrics["test"], metrics["data"]
    assert one == other


def test_folds_never_tear_a_patient_apart(phantom_npz):
    split = sources.load(str(phantom_npz)).train
    names = np.array([f"{i // 3:08d}_{i % 3:03d}.png" for i in range(len(split))])
    split = dataclasses.replace(split, names=names, patients=nih_patients(names))
    folds = baselines.inner_folds(split)
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(len(split)))
    for rest, held_out in folds:
        assert not set(split.patients[rest]) & set(split.patients[held_out])


def test_too_few_patients_are_told(phantom_npz):
    split = sources.load(str(phantom_npz)).train
    names = np.array([f"{label:08d}_{i:03d}.png" for i, label in enumerate(split.labels)])
    with pytest.raises(InputError, match="too few patients"):
        baselines.inner_folds(dataclasses.replace(split, names=names, patients=nih_patients(names)))


@pytest.mark.parametrize("side", [28, 64, 128, 224])
def test_features_have_one_length_for_every_size(side):
    images = np.random.default_rng(0).integers(0, 256, (2, side, side)).astype(np.uint8)
    assert baselines.hog_features(images).shape == (2, 1296)
    values = baselines.pixels(images)
    assert values.min() >= 0 and values.max() <= 1 and 28**2 <= values.shape[1] < 56**2
    np.testing.assert_allclose(values[0].mean(), images[0].mean() / 255, atol=0.02)


@pytest.mark.parametrize(
    "arguments",
    [["--data", "no.npz"], ["--name", "a/b"], ["--source-size", "30"], ["--nonsense"]],
)
def test_wrong_input_is_one_line_and_writes_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        study.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_hog_and_svm_find_what_is_in_the_real_x_rays(real_npz):
    data = sources.load(str(real_npz))
    positive = data.test.labels.mean()
    assert round(float(positive), 3) == 0.626
    baseline = baselines.BASELINES[3]
    classifier, _ = baselines.fit(baseline, baseline.features(data.train.images), data.train)
    auc = roc_auc(data.val.labels, baselines.predict(baseline, classifier, data.val.images))
    assert auc > 0.75
