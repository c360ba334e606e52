"""A training script under ``torchrun``: processes on one or two machines train what one does."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

FLAGS = ("--epochs", "3", "--batch-size", "16", "--device", "cpu", "--name", "shared")


def command(data: Path, *flags: str) -> list[str]:
    return [str(ROOT / "train.py"), "--data", str(data), *FLAGS, *flags]


def popen(folder: Path, *words: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> subprocess.CompletedProcess:
    output = process.communicate(timeout=900)
    return subprocess.CompletedProcess(process.args, process.returncode, *output)


def start(processes: int, data: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """Run train.py in so many processes; with one of them without ``torchrun``."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [*(launcher if processes > 1 else []), *command(data, *flags)]
    return end(popen(folder, *words))


def start_machines(data: Path, folders: list[Path], *flags: str) -> list[subprocess.Popen]:
    """Run train.py in a process on each of several machines, which share no folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        if not (folder / data.name).exists():
            shutil.copy(data, folder)
        place = ["--nnodes", len(folders), "--node-rank", rank, "--nproc-per-node", 1]
        place += ["--master-addr", "127.0.0.1", "--master-port", port]
        words = ["-m", "torch.distributed.run", *map(str, place), "--"]  # has a --monitor-interval
        started.append(popen(folder, *words, *command(Path(data.name), *flags)))
    return started


def wait_for_epoch(folder: Path, epoch: int, process: subprocess.Popen) -> None:
    give_up = time.monotonic() + 600
    history = folder / "results/shared/history.csv"
    while not history.exists() or history.read_text().count("\n") <= epoch:
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.02)


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


@pytest.mark.slow
def test_a_wrong_value_is_told_once_and_nothing_is_written(tmp_path, phantom_npz):
    ended = start(2, phantom_npz, tmp_path, "--lr", "nan")
    assert ended.returncode != 0
    assert ended.stderr.count("error: argument --lr") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("flag", [("--folds", "2"), ("--members", "2"), ("--find-lr",)])
def test_what_is_for_one_process_is_refused_under_torchrun(flag, tmp_path, phantom_npz):
    ended = start(2, phantom_npz, tmp_path, *flag)
    assert ended.returncode != 0
    assert ended.stderr.count("are for one process, not torchrun") == 1


LONGER = ("--epochs", "8", "--monitor", "val_auc")  # which has a best epoch before the last one


@pytest.fixture(scope="module")
def longer_alone(tmp_path_factory, phantom_npz) -> np.ndarray:
    folder = tmp_path_factory.mktemp("longer")
    ended = start(1, phantom_npz, folder, *LONGER)
    assert ended.returncode == 0, ended.stderr
    return losses(folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a child in /proc")
def test_a_worker_killed_on_one_machine_ends_all_and_one_process_goes_on(
    longer_alone, tmp_path, phantom_npz
):
    folders = [tmp_path / "first", tmp_path / "second"]
    machines = start_machines(phantom_npz, folders, *LONGER)
    wait_for_epoch(folders[0], 1, machines[0])
    second = machines[1].pid
    (worker,) = Path(f"/proc/{second}/task/{second}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    first, second = map(end, machines)
    assert first.returncode == second.returncode == 1
    line = "stopped: another process of this training has ended; the last completed epoch is kept"
    assert first.stderr.count("stopped: ") == first.stderr.count(line) == 1
    assert "epoch" not in second.stdout
    ended = {path.name for path in folders[1].iterdir()}
    assert ended <= {phantom_npz.name, f"{phantom_npz.stem}.two-class.npz"}
    before = losses(folders[0])
    ended = start(1, folders[0] / phantom_npz.name, folders[0], *LONGER, "--resume")
    assert ended.returncode == 0, ended.stderr
    assert f"after epoch {len(before)}\n" in ended.stdout
    np.testing.assert_allclose(losses(folders[0]), longer_alone, rtol=1e-3)


@pytest.mark.slow
def test_two_machines_go_on_with_what_one_process_began(longer_alone, tmp_path, phantom_npz):
    folders = [tmp_path / "first", tmp_path / "second"]
    folders[0].mkdir()
    data = Path(shutil.copy(phantom_npz, folders[0]))
    process = popen(folders[0], *command(data, *LONGER))
    assert any(line.startswith("epoch 5/8") for line in process.stdout)
    process.terminate()
    assert end(process).returncode == 143
    first, second = map(end, start_machines(phantom_npz, folders, *LONGER, "--resume"))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "resuming 'shared' after epoch" in first.stdout and not second.stdout
    np.testing.assert_allclose(losses(folders[0]), longer_alone, rtol=1e-3)
    assert not (folders[1] / "results").exists() and not (folders[1] / "trained_models").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [0, 1])
def test_a_machine_without_the_data_says_so_itself(lacking, tmp_path, phantom_npz):
    folders = [tmp_path / "first", tmp_path / "second"]
    folders[lacking].mkdir()
    (folders[lacking] / phantom_npz.name).write_bytes(b"")
    machines = list(map(end, start_machines(phantom_npz, folders)))
    assert [machine.returncode for machine in machines] == [1, 1]
    errors = [machine.stderr for machine in machines]
    assert errors[lacking].count("error: ") == 1 and phantom_npz.name in errors[lacking]
    assert errors[1 - lacking].count("stopped: another process of this training has ended") == 1
    assert not (folders[0] / "results").exists()
