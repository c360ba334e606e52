"""All 14 findings: read with every label, evaluated, trained on and resumed."""

import csv

import numpy as np
import pytest
import torch
from small_runs import SMALL, findings_arrays, read_metrics, stop_at_epoch

from chestlab.data import sources, splits
from chestlab.data.phantom import make_phantom
from chestlab.evaluation.metrics import evaluate_findings, roc_auc
from chestlab.files.errors import InputError
from chestlab.training.inference import load_model
from networks import network_class


def test_the_findings_are_medmnists_in_its_order():
    medmnist = pytest.importorskip("medmnist")
    labels = medmnist.INFO["chestmnist"]["label"]
    for number, name in enumerate(splits.FINDINGS):
        assert name.split()[0] == labels[str(number)].split("_")[0]


def test_findings_are_read_with_every_image_label_and_name(findings_npz):
    data = sources.load(str(findings_npz), findings=True)
    with np.load(findings_npz) as source:
        for split in splits.SPLITS:
            part = getattr(data, split)
            for key in ("images", "labels", "names"):
                assert np.array_equal(getattr(part, key), source[f"{split}_{key}"])
            assert part.index.tolist() == list(range(len(part)))
            assert list(data.counts()[split].values()) == source[f"{split}_labels"].sum(0).tolist()
    images, labels = data.val.to(torch.device("cpu"))
    assert (images.shape, images.dtype) == ((40, 1, 28, 28), torch.uint8)
    assert (labels.shape, labels.dtype) == ((40, 14), torch.float32)
    assert data.val.patients[3] == "00001001"
    assert list(findings_npz.parent.iterdir()) == [findings_npz]  # no second copy of it all
    two = sources.load(str(findings_npz))
    assert isinstance(two, splits.TwoClassData)
    assert len(two.train) < len(data.train)
    again = sources.load(str(findings_npz), findings=True)  # past the cache of the two classes
    assert np.array_equal(again.test.labels, data.test.labels)
    assert again.sha256 == two.sha256


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a["val_labels"].fill(0), "no finding that some images have"),
        (lambda a: a["val_labels"].__setitem__((5, 3), 2), "allowed are 0 and 1"),
        (lambda a: a.__setitem__("test_labels", a["test_labels"][:, :13]), "wanted is 0 and 1 in"),
    ],
)
def test_findings_that_cannot_be_learned_are_refused(tmp_path, change, words):
    arrays = findings_arrays(np.random.default_rng(2), (9, 9, 9))
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=words):
        sources.load(str(tmp_path / "bad.npz"), findings=True)


def test_phantoms_have_findings_too(monkeypatch):
    source = make_phantom(train=100, val=20, test=20)
    monkeypatch.setattr("chestlab.data.phantom.make_phantom", lambda size, **counts: source)
    data = sources.load("phantom", findings=True)
    assert data.phantom
    assert data.train.labels.sum(1).max() > 1
    assert np.array_equal(data.val.labels, source["val_labels"])


def test_figures_of_findings_leave_out_what_all_images_agree_on():
    from sklearn.metrics import log_loss, roc_auc_score

    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, (200, 3))
    labels[:, 1] = 0
    logits = rng.normal(size=(200, 3)) + labels
    found = evaluate_findings(labels, logits, ("a", "b", "c"), np.arange(200) // 5)
    areas = {"a": roc_auc_score(labels[:, 0], logits[:, 0]), "b": None}
    areas["c"] = roc_auc_score(labels[:, 2], logits[:, 2])
    assert found["auc_per_finding"] == pytest.approx(areas)
    assert found["auc"] == pytest.approx((areas["a"] + areas["c"]) / 2)
    assert found["auc_ci95_per_finding"]["b"] is None
    assert found["positives_per_finding"]["b"] == 0
    for area, (low, high) in (
        (found["auc"], found["auc_ci95"]),
        (areas["a"], found["auc_ci95_per_finding"]["a"]),
    ):
        assert low < area < high
    alone = np.diff(found["auc_ci95_per_finding"]["a"])
    assert np.diff(found["auc_ci95"]) < alone  # a mean of two is known better than one
    probabilities = 1 / (1 + np.exp(-logits))
    losses = [log_loss(labels[:, k], probabilities[:, k], labels=[0, 1]) for k in range(3)]
    assert found["loss"] == pytest.approx(np.mean(losses))


def test_a_run_on_all_findings_leaves_figures_that_can_be_recomputed(
    script, tmp_path, findings_npz
):
    script("resnet_se.py", "--data", findings_npz, *SMALL, "--task", "findings", "--name", "se")
    folder = tmp_path / "results/se"
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json",
        "history.csv",
        "val_probabilities.csv",
        "test_probabilities.csv",
        "training_curves.png",
        "finding_aucs.png",
        "README.md",
        "README.id.md",
        "report",
    }
    assert "| hernia | " in (folder / "README.md").read_text()
    metrics = read_metrics(folder)
    assert metrics["model_arguments"]["outputs"] == 14
    assert metrics["recipe"]["monitor"] == "val_auc"
    assert metrics["bootstrap_unit"] == "patient"
    assert "threshold" not in metrics
    assert metrics["data"]["counts"]["train"]["hernia"] == 1
    for split in ("val", "test"):
        with (folder / f"{split}_probabilities.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["index", "labels", *splits.FINDINGS]
        labels = np.array([[int(digit) for digit in row[1]] for row in rows])
        with np.load(findings_npz) as source:
            assert np.array_equal(labels, source[f"{split}_labels"])
        probabilities = np.array([row[2:] for row in rows], float)
        assert metrics[split]["auc"] == pytest.approx(roc_auc(labels, probabilities), abs=1e-12)
        assert metrics[split]["auc_per_finding"]["hernia"] is None
        assert metrics[split]["n"] == len(rows)
    with (folder / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    best = history[metrics["best_epoch"] - 1]
    assert metrics["val"]["auc"] == pytest.approx(float(best["val_auc"]))
    assert 0 <= float(best["train_accuracy"]) <= 1
    checkpoint = tmp_path / "trained_models/se_best.pth"
    with pytest.raises(InputError, match="--task findings"):
        load_model(checkpoint, network_class)


def test_a_run_on_all_findings_that_was_interrupted_ends_as_one_that_was_not(
    script, tmp_path, findings_npz, monkeypatch
):
    flags = ("--data", findings_npz, *SMALL, "--task", "findings", "--name", "se")
    script("resnet_modified.py", *flags, "--name", "whole")
    with monkeypatch.context() as patch:
        stop_at_epoch(patch, 2)
        with pytest.raises(SystemExit) as end:
            script("resnet_modified.py", *flags, "--name", "halves")
        assert end.value.code == 130
    script("resnet_modified.py", *flags, "--name", "halves", "--resume")
    whole, halves = (tmp_path / "results" / name for name in ("whole", "halves"))
    name = "test_probabilities.csv"
    assert (whole / name).read_bytes() == (halves / name).read_bytes()
    with pytest.raises(SystemExit) as end:  # another task is another run
        script("resnet_modified.py", *flags[:-4], "--name", "halves", "--resume")
    assert end.value.code == 2
