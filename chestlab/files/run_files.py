"""Where a run keeps its results and checkpoints, and the lock that it holds while it works."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chestlab.files.atomic import TEMPORARY_SUFFIX, replace_file
from chestlab.files.errors import InputError

NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # some network drives

UNFINISHED = ".unfinished"  # ending of a run that will replace a finished one of the same name

STUDIES = "studies"  # folder below that of the results: what was trained to compare, and baselines

ARTEFACTS = (
    "history.csv",
    "val_probabilities.csv",
    "test_probabilities.csv",
    "held_out_probabilities.csv",
    "oof_probabilities.csv",
    "member_probabilities.csv",
    "members.png",
    "training_curves.png",
    "val_predictions.png",
    "confusion_matrix.png",
    "roc_curve.png",
    "calibration.png",
    "gradcam.png",
    "finding_aucs.png",
    "mistakes.md",
    "mistakes.png",
    "README.md",
    "README.id.md",
    "report/training_batch.png",
    "report/environment.json",
    "metrics.json",
)


@contextlib.contextmanager
def held_lock(path: Path, seconds: float = 0) -> Iterator[bool]:
    """Hold a lock file; the operating system frees it when the process dies.

    Args:
        path: of the lock file.
        seconds: to wait for another process.

    Yields:
        whether the disk knows locks; where it does not, nothing is held.

    Raises:
        filelock.Timeout: another live process still holds it.
    """
    from filelock import FileLock, Timeout

    lock, known = FileLock(path), True
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
            raise
        known = False
    try:
        yield known
    finally:
        lock.release()


@contextlib.contextmanager
def run_lock(path: Path, name: str) -> Iterator[None]:
    """Hold the run's lock file.

    Raises:
        InputError: another live process holds it.
    """
    from filelock import Timeout

    with contextlib.ExitStack() as stack:
        try:
            known = stack.enter_context(held_lock(path))
        except Timeout:
            raise InputError(
                f"a run called '{name}' is in progress in another process: "
                "wait for it, stop it, or choose another --name"
            ) from None
        if not known:
            where = f"NOTE: '{path.parent}' knows no locks: start '{name}' only once"
            print(where, file=sys.stderr)
        yield


@dataclass(frozen=True)
class RunFiles:
    """Where a run keeps its results and checkpoints."""

    results_dir: Path
    models_dir: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.results_dir / self.name

    @property
    def metrics(self) -> Path:
        """Written last: a run is finished when it exists."""
        return self.folder / "metrics.json"

    @property
    def last(self) -> Path:
        return self.models_dir / f"{self.name}_last.pth"

    @property
    def best(self) -> Path:
        return self.models_dir / f"{self.name}_best.pth"

    @property
    def stage1(self) -> Path:
        """The best weights of a first stage with frozen backbone."""
        return self.models_dir / f"{self.name}_stage1.pth"

    @property
    def finished(self) -> Path:
        """The weights to use, with threshold and test-time augmentation."""
        return self.models_dir / f"{self.name}_final.pth"

    @property
    def replacement(self) -> RunFiles:
        """Where a new run grows while a finished one of the same name stays as it is."""
        return dataclasses.replace(self, name=self.name + UNFINISHED)

    @property
    def paths(self) -> list[Path]:
        """Every file of the run, `metrics` last."""
        checkpoints = [self.last, self.best, self.stage1, self.finished]
        return checkpoints + [self.folder / name for name in ARTEFACTS]

    def remove_temporaries(self) -> None:
        """Delete what a killed process has left half-written."""
        for path in self.paths:
            for leftover in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):
                with contextlib.suppress(OSError):
                    leftover.unlink()

    def clear(self) -> None:
        """Remove the run's files, and its folder unless somebody else's files are in it."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        for folder in (*_subfolders(self.folder), self.folder):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def replace(self, old: RunFiles) -> None:
        """Put this finished run in ``old``'s place; repeatable if it is cut off halfway.

        `metrics` is the last to be removed there and the last to be moved.
        """
        if old.metrics.exists():
            old.clear()
        old.folder.mkdir(parents=True, exist_ok=True)
        for source, destination in zip(self.paths, old.paths, strict=True):
            if source.exists():
                destination.parent.mkdir(exist_ok=True)
                replace_file(source, destination)
        self.clear()


def _subfolders(folder: Path) -> list[Path]:
    """The folders in that of a run which hold some of its files."""
    parents = [(folder / name).parent for name in ARTEFACTS]
    return [parent for parent in dict.fromkeys(parents) if parent != folder]


def results_dir_of(folder: Path) -> Path:
    """The folder of results that a run's folder, or a study's, lies in."""
    return folder.parent.parent if folder.parent.name == STUDIES else folder.parent


def read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        metrics = None
    if not isinstance(metrics, dict):
        raise InputError(f"'{path}' is damaged: --overwrite trains anew")
    return metrics
