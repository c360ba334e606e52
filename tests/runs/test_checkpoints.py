"""Short epochs are not all written, and none is lost: what waits is written when training ends."""

import csv
import dataclasses
import json
import math
import signal
from types import SimpleNamespace

import pytest
import torch
from conftest import without_times
from tiny_train import RECIPE, TinyNet, with_fault

from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.runs import checkpoints
from chestlab.runs import run as run_module

EPOCHS, BATCHES = 6, 4  # 64 images in batches of 16
LAST = dataclasses.replace(RECIPE, epochs=EPOCHS, monitor="last", ema=0.9)


def epochs_in(state):
    return len(state["trainer"]["history"])


@pytest.fixture
def start(tmp_path, phantom_npz, monkeypatch, no_pictures):
    """Start a training within this process; returns the epochs whose states were written."""
    monkeypatch.chdir(tmp_path)
    written = []

    def save(path, state):
        if path.name == "one_last.pth":
            written.append(epochs_in(state))
        save_checkpoint(path, state)

    monkeypatch.setattr(checkpoints, "save_checkpoint", save)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over several threads may differ in their last bit

    def start(*flags, recipe=LAST, build=TinyNet):
        written.clear()
        common = ("--data", str(phantom_npz), "--device", "cpu", "--name", "one")
        run_module.run(build, {"report": recipe}, [*common, *flags])
        return list(written)

    yield start
    torch.set_num_threads(threads)


def results(folder):
    """What two runs that are the same have in common: figures, history, weights, state."""
    of_run = folder / "results" / "one"
    with (of_run / "history.csv").open(newline="") as file:
        history = without_times(list(csv.DictReader(file)))
    state = load_checkpoint(folder / "trained_models/one_last.pth")
    best = load_checkpoint(folder / "trained_models/one_best.pth")
    metrics = without_times(json.loads((of_run / "metrics.json").read_text()))
    return (
        metrics,
        history,
        best["weights"],
        best["epoch"],
        state["trainer"]["model"],
        epochs_in(state),
    )


@pytest.mark.parametrize(
    ("between", "wanted"), [(0.0, [1, 2, 3, 4, 5, 6]), (math.inf, [1, EPOCHS])]
)
def test_the_first_and_the_last_epoch_are_written_and_others_after_a_while(
    between, wanted, start, monkeypatch
):
    monkeypatch.setattr(checkpoints, "BETWEEN", between)
    assert start() == wanted


def test_the_pause_is_counted_from_one_writing_to_the_next(start, monkeypatch):
    monkeypatch.setattr(checkpoints, "BETWEEN", 2.5)
    seconds = iter(range(1000))
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    # asked at 0 and written at 1; asked at 2, 3 and 4, which is late enough, and written at 5;
    # asked at 6; the last one is written without asking
    assert start() == [1, 4, EPOCHS]


def test_an_epoch_that_validation_chooses_is_written(start, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "BETWEEN", math.inf)
    recipe = dataclasses.replace(LAST, monitor="val_accuracy", epochs=12)
    epochs = start(recipe=recipe)
    with (tmp_path / "results/one/history.csv").open(newline="") as file:
        right = [float(row["val_accuracy"]) for row in csv.DictReader(file)]
    chosen = [n + 1 for n, share in enumerate(right) if share > max(right[:n], default=-1)]
    assert len(chosen) < 12  # of 24 images: an accuracy comes again and again
    assert epochs == sorted({*chosen, 12})


@pytest.mark.parametrize(
    ("kind", "monitor"), [("error", "last"), ("signal", "last"), ("signal", "val_auc")]
)
def test_what_waits_is_written_however_the_training_ends(
    kind, monitor, start, monkeypatch, tmp_path
):
    monkeypatch.setattr(checkpoints, "BETWEEN", math.inf)
    recipe = dataclasses.replace(LAST, monitor=monitor)
    whole = tmp_path / "whole"
    whole.mkdir()
    monkeypatch.chdir(whole)
    start(recipe=recipe)
    monkeypatch.chdir(tmp_path)

    def fault():
        if kind == "signal":
            signal.raise_signal(signal.SIGINT)
        else:
            raise ZeroDivisionError

    expected = SystemExit if kind == "signal" else ZeroDivisionError
    with pytest.raises(expected):
        start(recipe=recipe, build=with_fault(fault, at=3 * BATCHES + 2))
    state = load_checkpoint(tmp_path / "trained_models/one_last.pth")
    best = load_checkpoint(tmp_path / "trained_models/one_best.pth")
    assert epochs_in(state) == 3
    assert state["trainer"]["best_epoch"] == best["epoch"]
    assert best["epoch"] == 3 or monitor != "last"
    assert len((tmp_path / "results/one/history.csv").read_text().splitlines()) == 1 + 3
    epochs = start("--resume", recipe=recipe)
    assert (epochs[0], epochs[-1]) == (4, EPOCHS)
    for ours, theirs in zip(results(tmp_path), results(whole), strict=True):
        if isinstance(ours, dict) and "layers.0.weight" in ours:
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        else:
            assert ours == theirs
