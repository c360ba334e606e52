"""How OpenMP threads wait: by what the machine does, unless the user has chosen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_train import RECIPE, TinyNet

from chestlab.training import openmp

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("wanted", "others", "cores", "quota", "expected"),
    [
        ("2", 0, 2, float("inf"), openmp.ALONE),
        ("2", 1, 2, float("inf"), openmp.SHARED),
        ("2", 2, 4, float("inf"), openmp.ALONE),  # there is room for both
        ("4", 2, 4, float("inf"), openmp.SHARED),
        ("4", 0, 4, 1.5, openmp.SHARED),  # a container that may use less than it sees
        ("4,2", 0, 4, 4.0, openmp.ALONE),
        ("1", 9, 4, float("inf"), {}),  # a thread alone waits for none
    ],
)
def test_the_waiting_is_short_where_threads_would_lack_a_core(
    monkeypatch, wanted, others, cores, quota, expected
):
    monkeypatch.setattr(openmp, "other_tasks", lambda: others)
    monkeypatch.setattr(openmp, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    environment = {"OMP_NUM_THREADS": wanted}
    openmp.choose_waiting(environment)
    assert environment == {"OMP_NUM_THREADS": wanted, **expected}
    assert openmp.cores_are_shared(environment) == (expected is openmp.SHARED)


@pytest.mark.parametrize("name", openmp.VARIABLES)
def test_a_variable_of_the_user_is_left_alone_and_stays_the_only_one(monkeypatch, name):
    monkeypatch.setattr(openmp, "other_tasks", lambda: 9)
    environment = {"OMP_NUM_THREADS": "2", name: "7"}
    openmp.choose_waiting(environment)
    assert environment == {"OMP_NUM_THREADS": "2", name: "7"}
    assert not openmp.cores_are_shared(environment)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({"cpu.max": "nonsense"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_a_containers_limit_is_read(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert openmp.cpu_quota(tmp_path) == cores


def test_other_tasks_are_those_that_run_beside_this_one(monkeypatch, tmp_path):
    (tmp_path / "stat").write_text("cpu 1 2 3\nprocs_running 4\nprocs_blocked 0\n")
    running = openmp._running
    monkeypatch.setattr(openmp, "_running", lambda: running(tmp_path / "stat"))
    assert openmp.other_tasks() == 3
    (tmp_path / "stat").write_text("cpu 1 2 3\n")
    monkeypatch.setattr(os, "getloadavg", lambda: (1.6, 0.0, 0.0), raising=False)
    assert openmp.other_tasks() == 2
    monkeypatch.delattr(os, "getloadavg")
    assert openmp.other_tasks() == 0


@pytest.mark.parametrize("module", ["chestlab", "studies"])
def test_the_choice_is_made_before_pytorch_is_loaded(module):
    code = f"import {module}, os, sys; assert 'torch' not in sys.modules; print(*os.environ)"
    environment = {k: v for k, v in os.environ.items() if k not in openmp.VARIABLES}
    environment["OMP_NUM_THREADS"] = "2"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} <= set(done.stdout.split())


# Imports every script as far as PyTorch, or another library with OpenMP, which it does not load.
IMPORT_SCRIPTS = """
import importlib, os, sys
from chestlab.training.openmp import VARIABLES

class Loaded(BaseException):
    pass

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "sklearn"):
            raise Loaded

sys.meta_path.insert(0, Finder())
for name in sys.argv[1:]:
    for variable in VARIABLES:
        os.environ.pop(variable, None)
    for loaded, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(os.getcwd() + os.sep):
            del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Loaded:
        if "GOMP_SPINCOUNT" not in os.environ:
            print(name)
"""


def scripts() -> list[str]:
    """Modules that are run, by name; train_minimal imports nothing of this project."""
    folders = PROJECT, PROJECT / "studies", PROJECT / "benchmarks"
    return [
        ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        for folder in folders
        for path in sorted(folder.glob("*.py"))
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
        and path.stem != "train_minimal"
    ]


def test_every_script_makes_the_choice_before_pytorch_is_loaded():
    names = scripts()
    assert {"train", "resnet_se", "studies.ablation", "benchmarks.memory"} <= set(names)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_SCRIPTS, *names],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("shared", [True, False])
def test_a_training_says_that_other_programs_want_the_processor(
    shared, phantom_npz, tmp_path, monkeypatch, capsys, no_pictures
):
    from chestlab.runs import run as run_module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "cores_are_shared", lambda: shared)
    argv = ["--data", str(phantom_npz), "--device", "cpu", "--epochs", "1"]
    run_module.run(TinyNet, {"report": RECIPE}, argv)
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(run_module.SHARED_CORES) == shared
    assert "OMP_NUM_THREADS=1" in run_module.SHARED_CORES
