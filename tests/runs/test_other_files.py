"""Runs on npz files of another form: the figures of the plain file, and its images found again."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import without_times
from tiny_train import RECIPE, TinyNet

import explain
from chestlab.data.sources import load
from chestlab.files.errors import InputError
from chestlab.runs.finished_runs import load_training_data
from chestlab.runs.flags import parse
from chestlab.runs.run import run

CLASSES = "cardiomegaly,pneumothorax"


def plain_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 40), ("val", 20), ("test", 20)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = np.eye(14, dtype=np.uint8)[np.resize([1, 7, 7], n)]
    return arrays


def one_label(column: int):
    """The labels and images of another form; the label is that of ``column``."""
    return {
        "labels": lambda v: v[:, column].astype(np.float64),
        "images": lambda v: (v / 255).astype(np.float32)[:, None],
    }


FILES = {  # a file's name, its changes, the flags
    "plain": ("plain.npz", {}, []),
    "capitals": ("UPPER.NPZ", {}, []),
    "other": ("other.npz", one_label(7), ["--classes", CLASSES]),
    "turned": ("turned.npz", one_label(1), ["--classes", "pneumothorax, Cardiomegaly"]),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with each of `FILES`, and a run on it whose stderr is in ``<case>.txt``."""
    folder = tmp_path_factory.mktemp("other_files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("chestlab.runs.results.draw_pictures", lambda *arguments: None)
        for case, (name, changes, flags) in FILES.items():
            arrays = {
                key: changes.get(key.split("_")[1], lambda v: v)(value)
                for key, value in plain_arrays().items()
            }
            with Path(name).open("wb") as file:  # np.savez adds .npz to another suffix
                np.savez(file, **arrays)
            arguments = ["--data", name, "--epochs", "1", "--device", "cpu", *flags]
            printed = io.StringIO()
            with contextlib.redirect_stderr(printed):
                run(TinyNet, {"report": RECIPE}, arguments)
            Path(f"{case}.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def results(finished, tmp_path, monkeypatch) -> dict[str, tuple[Path, str]]:
    """The results' folder and the stderr of a run on each of `FILES`; the current folder's."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return {
        case: (Path("results", f"tiny_{Path(name).stem}_epochs1"), Path(f"{case}.txt").read_text())
        for case, (name, _, _) in FILES.items()
    }


def test_a_converted_file_trains_to_the_figures_of_the_plain_one(results):
    plain, _ = results["plain"]
    expected = json.loads((plain / "metrics.json").read_text())
    for case, (folder, printed) in results.items():
        for name in ("val_probabilities.csv", "test_probabilities.csv"):
            assert (folder / name).read_bytes() == (plain / name).read_bytes(), case
        metrics = json.loads((folder / "metrics.json").read_text())
        for key in ("train", "val", "test", "threshold", "best_epoch"):
            assert without_times(metrics[key]) == without_times(expected[key]), (case, key)
        assert printed.count("NOTE: ") == (case in ("other", "turned")), printed
        names = FILES[case][2][1:]
        classes = [name.strip().lower() for name in names[0].split(",")] if names else None
        assert metrics["data"].get("classes") == classes


def test_the_images_of_such_a_run_are_found_again_without_a_flag(results):
    expected = load("plain.npz")
    for case, (folder, _) in results.items():
        state = torch.load(f"trained_models/{folder.name}_best.pth", weights_only=True)
        data = load_training_data(state["data"], state["data_location"])
        assert np.array_equal(data.test.labels, expected.test.labels), case
        assert np.array_equal(data.test.images, expected.test.images), case
        assert data.sha256 == state["data"]["sha256"]
    Path("other.npz").rename("moved.npz")
    checkpoint = Path("trained_models/tiny_other_epochs1_best.pth")
    state = torch.load(checkpoint, weights_only=True)
    trained = SimpleNamespace(data_location=state["data_location"], size=28)
    moved = explain.load_data(trained, "moved.npz", None, checkpoint)
    assert np.array_equal(moved.test.labels, expected.test.labels)


def test_a_run_is_not_resumed_or_replaced_with_the_classes_the_other_way(results, capsys):
    flags = ["--data", "other.npz", "--epochs", "1", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        run(TinyNet, {"report": RECIPE}, [*flags, "--classes", "pneumothorax,cardiomegaly"])
    assert end.value.code == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["pneumothorax", "cardiomegaly,mass", "1,0", "", "a,b,c"])
def test_other_classes_are_no_flag_value(value):
    with pytest.raises(InputError, match=r"--classes: '.*': allowed are cardiomegaly,pneumothorax"):
        parse({"report": RECIPE}, ["--data", "a.npz", f"--classes={value}"])
