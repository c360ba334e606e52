"""Shared by the tests: small phantoms, real X-rays where there are any, and running a script."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from chestlab.data.phantom import make_phantom
from chestlab.training.openmp import SHARED

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny_train.py"
REAL_DATA = "CHESTMNIST_TEST_DATA"  # a folder with chestmnist_nih_subset_{28,64}.npz


def pytest_configure() -> None:
    """Before PyTorch is imported: threads of several processes would wait for each other.

    And no test's output is to depend on what else the machine does, see `openmp.cores_are_shared`.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if os.environ.get("GOMP_SPINCOUNT") == SHARED["GOMP_SPINCOUNT"]:
        os.environ.pop("KMP_BLOCKTIME", None)


def require_exporter() -> None:
    """Skip a test where PyTorch is too old for ``export.py``."""
    import torch
    from torch.torch_version import TorchVersion

    from chestlab.training.onnx_model import OLDEST_TORCH

    if TorchVersion(torch.__version__) < OLDEST_TORCH:
        pytest.skip(f"the exporter needs PyTorch {OLDEST_TORCH}")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of pytest's processes fills for all, and that no test changes."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder


def copy_of_made_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """A copy of it for this process, whose tests may change it."""
    return shutil.copytree(made_once(factory, name, make), factory.mktemp(name) / "copy")


@pytest.fixture(scope="session")
def phantom_npz(tmp_path_factory) -> Path:
    """A small phantom file: 64 train, 24 val, 24 test two-class images of 28 px."""
    path = tmp_path_factory.mktemp("phantom") / "small.npz"
    np.savez(path, **make_phantom(size=28, train=64, val=24, test=24, seed=3))
    return path


@pytest.fixture(scope="session")
def real_npz(tmp_path_factory) -> Path:
    """A copy of the real 28-px subset, so that the cache beside it goes with the test."""
    source = Path(os.environ.get(REAL_DATA, "")) / "chestmnist_nih_subset_28.npz"
    if not os.environ.get(REAL_DATA) or not source.is_file():
        pytest.skip(f"no real X-rays: {REAL_DATA} names no folder with {source.name}")
    path = tmp_path_factory.mktemp("real") / source.name
    shutil.copyfile(source, path)
    return path


@pytest.fixture(scope="session")
def run_of_one_epoch(tmp_path_factory, phantom_npz) -> tuple[Path, Path]:
    """The folder of a finished run 'one' of train.py on the small phantom, and the phantom."""

    def train(folder: Path) -> None:
        arguments = "--data", phantom_npz, "--epochs", 1, "--name", "one", "--device", "cpu"
        result = run_script("train.py", *arguments, cwd=folder)
        assert result.returncode == 0, result.stderr

    return copy_of_made_once(tmp_path_factory, "one_epoch", train), phantom_npz


@pytest.fixture
def no_pictures(monkeypatch):
    """For the tests of numbers and of what happens before pictures, most of a short run."""
    from chestlab.runs import results

    monkeypatch.setattr(results, "draw_pictures", lambda *arguments: None)


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Runs a script (or ``-m`` a module) of the project in this process: torch is imported once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # of a notebook's own test

    def run(name, *flags):
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        if name.startswith("-m "):
            return runpy.run_module(name.removeprefix("-m "), run_name="__main__")
        return runpy.run_path(str(ROOT / name), run_name="__main__")

    return run


@pytest.fixture(scope="module")
def findings_npz(tmp_path_factory):
    """A small file in which images have none, one or several of the 14 findings."""
    from small_runs import findings_arrays  # which imports torch

    path = tmp_path_factory.mktemp("findings") / "all.npz"
    np.savez(path, **findings_arrays(np.random.default_rng(1), (64, 40, 60)))
    return path


def rest_slow(cases: Iterable[str], *quick: str) -> list:
    """All cases of a test; those that are not ``quick`` are for the slow tests."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def run_script(
    script: Path | str, *arguments: object, cwd: Path, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script (or ``-m`` a module) of the project as a user does, from the folder ``cwd``."""
    started_by = str(script).split() if str(script).startswith("-m ") else [str(ROOT / script)]
    return subprocess.run(
        [sys.executable, *started_by, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def execute(script: Path, flags: Iterable[str]) -> int:
    """Run a script in this process, which has imported everything; its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *flags])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            return end.code or 0
    return 0


def run_in_process(
    script: Path | str, *arguments: object, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What `run_script` does within this process: seconds less.

    For what needs no process of its own; an unexpected error is raised.
    """
    import torch

    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd)
        patch.delitem(sys.modules, "ipykernel", raising=False)  # of a notebook's own test
        for name, value in environment.items():
            patch.setenv(name, value)
        torch.set_num_threads(1)  # as in `run_script`
        try:
            if str(script).startswith("-m "):
                script = str(script).split()[1].replace(".", "/") + ".py"
            status = execute(ROOT / script, map(str, arguments))
        finally:
            torch.set_num_threads(threads)
    command = [str(script), *map(str, arguments)]
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def status_of(main: Callable[..., int | None], *arguments: object) -> int:
    """Exit status of a script's ``main`` in this process."""
    try:
        return main(*arguments) or 0
    except SystemExit as end:
        return end.code


def without_times(value):
    """A copy without what depends on the clock, wherever it stands."""
    if isinstance(value, list):
        return [without_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    ends = ("seconds", "_ms", "per_second")
    return {k: without_times(v) for k, v in value.items() if not str(k).endswith(ends)}


@pytest.fixture
def trainings(monkeypatch):
    """The recipes of the networks that were trained for good, see `studies.fold_networks`."""
    from studies.fold_networks import FoldNetwork

    done, train = [], FoldNetwork._train
    monkeypatch.setattr(
        FoldNetwork, "_train", lambda self, *args: done.append(args[1]) or train(self, *args)
    )
    return done
