"""Several processes on one store: every fold by one of them, a killed one's by another."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from tiny_train import TinyNet

from chestlab.data import sources
from chestlab.data.folds import CrossValidationSplits
from chestlab.evaluation.baselines import BASELINES
from chestlab.files import claims
from chestlab.files.progress import StopSignals
from chestlab.runs import crossval, shared_folds
from chestlab.runs.crossval import Configuration, Store, cross_validate, cross_validate_baseline
from chestlab.training.recipe import Recipe

CPU = torch.device("cpu")
TINY = Configuration("tiny", TinyNet, Recipe("tiny", epochs=1, monitor="last", seed=7))
FOLDS, REPEATS = 3, 2


def noted(log, pause=0.0, stuck_at=0):
    """Stands in for the training of a fold: notes it in ``log``, and stays in one of them for ever.

    The logits tell the fold: they are the place of each image.
    """
    count = []

    def train_fold(configuration, splits, fold, device, on_step):
        count.append(1)
        with log.open("a") as file:
            file.write(f"{configuration.recipe.seed} {fold.rows[0]}\n")
        while len(count) == stuck_at:
            time.sleep(0.05)
        time.sleep(pause)
        logits = (fold.rows + configuration.recipe.seed).tolist()
        about = {"seconds": pause, "epochs": 1, "best_epoch": 1, "images": len(fold.train)}
        return {"logits": dict.fromkeys(crossval.VIEWS, logits), **about}

    return train_fold


def splits_of(npz):
    return CrossValidationSplits(sources.load(str(npz)), FOLDS, REPEATS)


def every_fold(splits):
    """What a log has where every fold was trained once."""
    rows = [splits.fold(r, n, choosing=False).rows[0] for r in range(REPEATS) for n in range(FOLDS)]
    seeds = np.repeat(np.arange(REPEATS) + TINY.recipe.seed, FOLDS)
    return sorted(f"{seed} {row}" for seed, row in zip(seeds, rows, strict=True))


@pytest.fixture
def beside(phantom_npz, tmp_path):
    """Starts a process that cross-validates on the store: its log, and itself."""
    processes = []

    def start(*arguments):
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        process = subprocess.Popen(
            [sys.executable, __file__, str(phantom_npz), str(tmp_path), *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return tmp_path / "beside.log", process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_lines(log, number):
    give_up = time.monotonic() + 60
    while not log.exists() or log.read_text().count("\n") < number:
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_process_killed_in_a_fold_loses_that_fold_alone(
    beside, phantom_npz, tmp_path, monkeypatch, capsys
):
    """The other one trains all others first, waits, and takes over when the first one has died."""
    log, other = beside(2)
    wait_for_lines(log, 2)
    own, pauses, splits = tmp_path / "own.log", [], splits_of(phantom_npz)

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            other.send_signal(signal.SIGKILL)
            other.wait()

    monkeypatch.setattr(crossval, "train_fold", noted(own))
    monkeypatch.setattr(shared_folds, "time", SimpleNamespace(sleep=sleep))
    store = Store(tmp_path / "store")
    logits = cross_validate(TINY, splits, store, CPU, StopSignals()).logits
    assert np.array_equal(logits, np.arange(len(splits.pool)) + np.array([[7], [8]]))
    first, stuck = log.read_text().split("\n")[:2]
    mine = own.read_text().split("\n")[:-1]
    assert sorted([first, *mine]) == every_fold(splits)
    assert mine[-1] == stuck
    assert pauses[:2] == [claims.PAUSE_SECONDS] * 2
    printed = capsys.readouterr().out
    waiting = f"tiny: repeat 1 of 2, fold 2 of 3: waiting for process {other.pid} on "
    assert printed.count(waiting) == 1
    assert [path.suffix for path in store.folder.iterdir()] == [".json"] * FOLDS * REPEATS


def test_two_processes_share_networks_and_baselines(beside, phantom_npz, tmp_path, monkeypatch):
    log, other = beside(0)
    wait_for_lines(log, 1)
    own, splits, store = tmp_path / "own.log", splits_of(phantom_npz), Store(tmp_path / "store")
    monkeypatch.setattr(crossval, "train_fold", noted(own, pause=0.1))
    outcome = cross_validate(TINY, splits, store, CPU, StopSignals())
    fitted, fit = [], crossval.baselines.fit
    monkeypatch.setattr(crossval.baselines, "fit", lambda *given: fitted.append(1) or fit(*given))
    baseline = cross_validate_baseline(BASELINES[1], splits, store)
    (line,) = other.communicate(timeout=120)[0].splitlines()[-1:]
    theirs, mine = (path.read_text().split("\n")[:-1] for path in (log, own))
    assert theirs and mine and sorted([*theirs, *mine]) == every_fold(splits)
    fitted_by_other, *means = line.split()
    assert len(fitted) + int(fitted_by_other) == FOLDS * REPEATS
    assert [float(mean) for mean in means] == [outcome.logits.mean(), baseline.logits.mean()]
    assert [path.suffix for path in store.folder.iterdir()] == [".json"] * 2 * FOLDS * REPEATS


def main(npz, folder, stuck_at):
    """What the other process does; prints how many baselines it has fitted, and mean logits."""
    fitted, fit = [], crossval.baselines.fit
    crossval.baselines.fit = lambda *given: fitted.append(1) or fit(*given)
    crossval.train_fold = noted(Path(folder, "beside.log"), pause=0.1, stuck_at=int(stuck_at))
    splits, store = splits_of(npz), Store(Path(folder, "store"))
    outcome = cross_validate(TINY, splits, store, CPU, StopSignals())
    baseline = cross_validate_baseline(BASELINES[1], splits, store)
    print(len(fitted), outcome.logits.mean(), baseline.logits.mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
