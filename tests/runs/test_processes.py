"""A training script under ``torchrun``: two processes train what one does."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

FLAGS = ("--epochs", "3", "--batch-size", "16", "--device", "cpu", "--name", "shared")


def start(processes: int, data: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """Run train.py in so many processes; with one of them without ``torchrun``."""
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [
            sys.executable,
            *(launcher if processes > 1 else []),
            str(ROOT / "train.py"),
            *("--data", str(data), *FLAGS, *flags),
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def losses(folder: Path) -> np.ndarray:
    """(epochs, 2) of training and validation."""
    with (folder / "results/shared/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row["train_loss"]), float(row["val_loss"])] for row in rows])


@pytest.fixture(scope="module")
def alone(tmp_path_factory, phantom_npz) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    ended = start(1, phantom_npz, folder)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_two_processes_have_the_losses_of_one_and_one_of_them_writes(alone, tmp_path, phantom_npz):
    ended = start(2, phantom_npz, tmp_path)
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_allclose(losses(tmp_path), losses(alone), rtol=1e-3)
    metrics = json.loads((tmp_path / "results/shared/metrics.json").read_text())
    assert metrics["processes"] == 2
    assert ended.stdout.count("epoch 3/3") == 1
    assert ended.stdout.count("test, held out") == 1


def test_a_wrong_value_is_told_once_and_nothing_is_written(tmp_path, phantom_npz):
    ended = start(2, phantom_npz, tmp_path, "--lr", "nan")
    assert ended.returncode != 0
    assert ended.stderr.count("error: argument --lr") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", [("--members", "2"), ("--folds", "2"), ("--find-lr",)])
def test_what_is_for_one_process_is_refused_under_torchrun(flag, tmp_path, phantom_npz):
    ended = start(2, phantom_npz, tmp_path, *flag)
    assert ended.returncode != 0
    assert ended.stderr.count("are for one process, not torchrun") == 1
