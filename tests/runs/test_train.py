"""Whole runs of experiment 1: every artefact opened, every figure recomputed."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import TINY, run_in_process, run_script, without_times
from PIL import Image

from chestlab.evaluation.metrics import choose_threshold
from chestlab.evaluation.reliability import threshold_interval
from model import EfficientChestNet

PICTURES = ("training_curves", "val_predictions", "confusion_matrix", "roc_curve", "calibration")
CSV_FILES = ("history", "val_probabilities", "test_probabilities")


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, phantom_npz):
    """A run of train.py over three epochs on the small phantom: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    arguments = "--data", phantom_npz, "--recipe", "report", "--epochs", 3, "--name", "one"
    statistics = "--batch-norm", "estimated"  # running ones of six steps give constant outputs
    result = run_script("train.py", *arguments, *statistics, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_the_run_leaves_exactly_the_promised_files(finished):
    folder, _ = finished
    names = {path.name for path in (folder / "results" / "one").iterdir()}
    assert names == {
        "metrics.json",
        *(f"{name}.png" for name in PICTURES),
        *(f"{name}.csv" for name in CSV_FILES),
        "README.md",
        "README.id.md",
        "report",
    }
    extras = {path.name for path in (folder / "results/one/report").iterdir()}
    assert extras == {"environment.json", "training_batch.png"}
    checkpoints = {path.name for path in (folder / "trained_models").iterdir()}
    assert checkpoints - {"one.lock"} == {"one_best.pth", "one_last.pth"}


def test_metrics_json_has_the_promised_keys_and_types(finished, phantom_npz):
    metrics = json.loads((finished[0] / "results/one/metrics.json").read_text())
    assert metrics["name"] == "one"
    assert metrics["model"] == "EfficientChestNet"
    assert metrics["parameters"] == 1_279_377
    assert set(metrics["data"]) >= {"source", "size", "sha256", "counts"}
    assert metrics["data"]["counts"]["train"].keys() == {"cardiomegaly", "pneumothorax"}
    assert sum(metrics["data"]["counts"]["train"].values()) == 64
    assert metrics["recipe"]["epochs"] == 3
    assert metrics["seed"] == 42
    assert metrics["device"] in ("cpu", "cuda", "mps")
    assert metrics["torch"] == torch.__version__
    assert metrics["epochs_run"] == 3
    assert 1 <= metrics["best_epoch"] <= 3
    assert metrics["tta"] == "none"
    assert metrics["seconds"] > 0
    assert metrics["images_per_second"] > 0
    assert metrics["bootstrap_unit"] == "image"  # the phantom has no names
    best = finished[0] / "trained_models/one_best.pth"
    assert metrics["costs"]["checkpoint_bytes"] == best.stat().st_size
    assert metrics["costs"]["stage1_seconds"] == 0
    assert 0 < metrics["costs"]["stage2_seconds"] < metrics["seconds"]
    assert metrics["costs"].keys() >= {
        "input_size",
        "multiply_accumulates",
        "inference_batch1",
        "inference_batch64",
        "peak_memory_bytes",
    }
    for split, n in (("train", 64), ("val", 24), ("test", 24)):
        figures = metrics[split]
        assert figures["n"] == n
        assert set(figures) == {
            "n",
            "loss",
            "accuracy",
            "accuracy_ci95",
            "accuracy_ci95_error",
            "gain_over_constant_ci95",
            "auc",
            "auc_ci95",
            "auc_ci95_error",
            "sensitivity",
            "specificity",
            "balanced_accuracy",
            "f1",
            "brier",
            "overconfidence",
            "overconfidence_ci95",
            "confusion",
        }
        assert figures["accuracy_ci95"][0] <= figures["accuracy"] <= figures["accuracy_ci95"][1]
        assert sum(map(sum, figures["confusion"])) == n


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_figure_can_be_recomputed_from_the_probabilities(finished, phantom_npz, split):
    folder = finished[0] / "results/one"
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = read_csv(folder / f"{split}_probabilities.csv")
    assert list(rows[0]) == ["index", "label", "probability"]
    labels = np.array([int(row["label"]) for row in rows])
    probabilities = np.array([float(row["probability"]) for row in rows])
    index = np.array([int(row["index"]) for row in rows])
    with np.load(phantom_npz) as source:
        flags = source[f"{split}_labels"][index]
    assert (flags.sum(1) == 1).all()
    assert (flags[:, 7] == labels).all()
    assert (flags[:, 1] == 1 - labels).all()
    called = probabilities >= metrics["threshold"]
    assert metrics[split]["accuracy"] == np.mean(called == labels)
    assert metrics[split]["brier"] == pytest.approx(np.mean((probabilities - labels) ** 2))
    assert metrics[split]["confusion"][1][1] == (called & (labels == 1)).sum()
    if split == "val":
        assert metrics["threshold"] == choose_threshold(labels, probabilities)
        assert metrics["threshold_ci95"] == threshold_interval(labels, probabilities)


def test_the_threshold_is_shown_with_its_interval_at_the_end_and_on_the_page(finished):
    folder, result = finished
    metrics = json.loads((folder / "results/one/metrics.json").read_text())
    low, high = metrics["threshold_ci95"]
    shown = f"{metrics['threshold']:.2f} ({low:.2f} to {high:.2f})"
    assert f"threshold {shown} chosen on val" in result.stdout
    page = (folder / "results/one/README.md").read_text()
    assert f"its probability is at least {shown}." in page
    assert "When the images are resampled, the threshold" in page


def test_history_agrees_with_metrics_and_the_best_epoch_is_the_first_best(finished):
    folder = finished[0] / "results/one"
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = read_csv(folder / "history.csv")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    accuracies = [float(row["val_accuracy"]) for row in rows]
    assert metrics["best_epoch"] == 1 + accuracies.index(max(accuracies))
    best = rows[metrics["best_epoch"] - 1]
    assert metrics["val"]["loss"] == pytest.approx(float(best["val_loss"]))
    assert metrics["val"]["auc"] == pytest.approx(float(best["val_auc"]))


def test_the_best_checkpoint_reproduces_the_test_probabilities(finished, phantom_npz):
    """Loaded safely, and with the preprocessing written out here by hand."""
    folder = finished[0]
    checkpoint = torch.load(folder / "trained_models/one_best.pth", weights_only=True)
    model = EfficientChestNet().eval()
    model.load_state_dict(checkpoint["weights"])
    rows = read_csv(folder / "results/one/test_probabilities.csv")
    with np.load(phantom_npz) as source:
        images = source["test_images"][[int(row["index"]) for row in rows]]
    x = (torch.from_numpy(images)[:, None] / 255 - 0.5) / 0.5
    with torch.inference_mode():
        probabilities = torch.sigmoid(model(x)).numpy()
    stored = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(stored, probabilities, atol=1e-5)


@pytest.mark.parametrize("picture", PICTURES)
def test_pictures_open_are_readable_in_size_and_small_on_disk(finished, picture):
    path = finished[0] / "results/one" / f"{picture}.png"
    assert path.stat().st_size < 300_000
    with Image.open(path) as image:
        image.load()
        assert image.width >= 800
        assert image.height >= 400


def test_the_summary_says_where_everything_is_and_both_figures(finished):
    _, result = finished
    metrics = json.loads((finished[0] / "results/one/metrics.json").read_text())
    for words in (
        "val, as selected",
        "test, held out",
        "results/one",
        "one_best.pth",
        f"{metrics['test']['accuracy']:.1%}",
        f"{metrics['val']['auc']:.3f}",
    ):
        assert words in result.stdout, words
    assert "goal" not in result.stdout  # phantoms reach none
    assert result.stdout.count("epoch ") >= 3  # a line per epoch in a log file


def test_a_phantom_file_is_marked_in_metrics_and_in_the_last_line(finished):
    folder, result = finished
    metrics = json.loads((folder / "results/one/metrics.json").read_text())
    assert "PHANTOM DATA, not ChestMNIST" in metrics["data"]["source"]
    assert result.stdout.strip().splitlines()[-1] == "PHANTOM DATA, not ChestMNIST"


def test_a_rerun_with_the_same_seed_repeats_every_figure(tmp_path, phantom_npz):
    for name in ("a", "b"):
        result = run_script(
            TINY, "--data", phantom_npz, "--epochs", 2, "--name", name, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
    a, b = (tmp_path / "results" / name for name in "ab")
    for name in ("val_probabilities.csv", "test_probabilities.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    assert without_times(read_csv(a / "history.csv")) == without_times(read_csv(b / "history.csv"))
    first, second = (json.loads((x / "metrics.json").read_text()) for x in (a, b))
    first["name"] = second["name"] = ""
    assert without_times(first) == without_times(second)


def test_no_test_leaves_the_test_images_alone(tmp_path, phantom_npz, no_pictures):
    result = run_in_process(TINY, "--data", phantom_npz, "--epochs", 1, "--no-test", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "results/tiny_small_epochs1"  # the file's stem is in the default name
    assert not (folder / "test_probabilities.csv").exists()
    assert json.loads((folder / "metrics.json").read_text())["test"] is None


def test_phantom_results_lie_apart_from_real_ones(tmp_path, no_pictures):
    result = run_in_process(TINY, "--data", "phantom", "--epochs", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "results/phantom/tiny_epochs1/metrics.json").exists()
    assert (tmp_path / "trained_models/phantom/tiny_epochs1_best.pth").exists()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["phantom"]
    assert result.stdout.strip().splitlines()[-1] == "PHANTOM DATA, not ChestMNIST"


def test_training_from_a_file_imports_neither_medmnist_nor_the_downloader(tmp_path, phantom_npz):
    """And the heavy libraries come in only once the first epoch is through."""
    check = (
        "import runpy, sys\n"
        "from chestlab.training.trainer import Trainer\n"
        "run_epoch = Trainer.run_epoch\n"
        "def spy(self):\n"
        "    if not self.history:\n"
        "        heavy = {'sklearn', 'matplotlib', 'torchvision', 'pandas'}\n"
        "        print('early', sorted(heavy & set(sys.modules)))\n"
        "    return run_epoch(self)\n"
        "Trainer.run_epoch = spy\n"
        f"sys.argv = ['tiny', '--data', {str(phantom_npz)!r}, '--epochs', '1']\n"
        f"runpy.run_path({str(TINY)!r}, run_name='__main__')\n"
        "loaders = {'medmnist', 'pooch', 'chestlab.data.download'}\n"
        "print('late', sorted(loaders & set(sys.modules)))\n"
    )
    script = tmp_path / "check.py"
    script.write_text(check)
    result = run_script(script, cwd=tmp_path, PYTHONPATH=str(TINY.parent.parent))
    assert "early []" in result.stdout, result.stdout + result.stderr
    assert "late []" in result.stdout


@pytest.mark.parametrize(
    "backend",
    ["nonsense", pytest.param("module://gui_that_is_not_there", marks=pytest.mark.slow)],
)
def test_no_backend_of_matplotlib_is_needed_to_draw(tmp_path, phantom_npz, backend):
    flags = "--data", phantom_npz, "--epochs", 1, "--name", "one"
    result = run_script(TINY, *flags, cwd=tmp_path, MPLBACKEND=backend)
    assert result.returncode == 0, result.stderr
    drawn = {path.stem for path in (tmp_path / "results/one").glob("*.png")}
    assert drawn == set(PICTURES)
    ignored = "NOTE: MPLBACKEND 'nonsense' is no backend of matplotlib: ignored"
    assert (ignored in result.stderr) == (backend == "nonsense")


@pytest.mark.parametrize("backend", ["TkAgg", "module://somewhere"])
def test_a_backend_that_matplotlib_knows_stays_for_other_figures(tmp_path, backend):
    (tmp_path / "check.py").write_text(
        "import os, chestlab.reporting.style, matplotlib\n"
        "print(os.environ['MPLBACKEND'], dict.__getitem__(matplotlib.rcParams, 'backend'))\n"
    )
    result = run_script(tmp_path / "check.py", cwd=tmp_path, MPLBACKEND=backend)
    assert result.stdout.split() == [backend, backend], result.stderr


def test_real_x_rays_train_and_intervals_resample_patients(tmp_path, real_npz, no_pictures):
    result = run_in_process(TINY, "--data", real_npz, "--epochs", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "results/tiny_chestmnist_nih_subset_28_epochs2"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["data"]["source"] == "chestmnist_nih_subset_28.npz"
    assert metrics["data"]["counts"] == {
        "train": {"cardiomegaly": 149, "pneumothorax": 291},
        "val": {"cardiomegaly": 18, "pneumothorax": 40},
        "test": {"cardiomegaly": 40, "pneumothorax": 67},
    }
    assert metrics["bootstrap_unit"] == "patient"
    assert "PHANTOM" not in result.stdout


@pytest.mark.slow
def test_experiment_1_passes_0_90_auc_on_the_phantom_within_a_few_epochs(tmp_path):
    flags = "--data", "phantom", "--recipe", "report", "--epochs", 6
    result = run_script("train.py", *flags, cwd=tmp_path, timeout=3000)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "results/phantom/efficientchestnet/metrics.json").read_text())
    assert metrics["test"]["auc"] > 0.90
