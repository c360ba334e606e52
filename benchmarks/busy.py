"""How long epochs and commands take beside a program with two busy threads, against alone.

    python -m benchmarks.busy

Experiments 1 to 4 train on phantoms, then `predict.py` reads a folder and a study trains its folds:
each alone and beside two busy threads, in turns, so that a machine that slows down slows both.
Writes BUSY.md beside this file. How threads wait is chosen by `chestlab.training.openmp`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.results import processor, versions, write_page
from benchmarks.run_times import require_quiet
from chestlab.data.phantom import make_phantom
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.reporting.stored_runs import read_history
from networks import PROJECT

HERE = Path(__file__).resolve().parent
BUSY_THREADS = 2
PICTURES = 200  # for `predict.py`
WANTED = 2.3  # times the time alone, at most
CONDITIONS = {"alone": False, "beside": True}  # whether the other program runs


@dataclass(frozen=True)
class Row:
    """A command that is timed.

    Attributes:
        title: of its line in the table.
        words: of the command; a training gets ``--epochs``.
        images: of the training split of its phantoms.
        epochs: that are timed one by one; 0: the whole command is timed.
    """

    title: str
    words: tuple[str, ...]
    images: int
    epochs: int = 0


WITHOUT_WEIGHTS = "--weights", "none", "--stage1-epochs", "0"
FOLDS = "--net", "efficientchestnet", "--folds", "2", "--repeats", "1", "--epochs", "2"
ROWS = {
    "1": Row("experiment 1, an epoch", ("train.py",), 320, 5),
    "2": Row("experiment 2, an epoch", ("train_improved.py",), 160, 5),
    "3": Row("experiment 3, an epoch", ("train_mobilenet.py", *WITHOUT_WEIGHTS), 96, 5),
    "4": Row("experiment 4, an epoch", ("train_densenet.py", *WITHOUT_WEIGHTS), 48, 5),
    "predict": Row(f"`predict.py`, {PICTURES} images", ("predict.py",), 32),
    "study": Row(
        "a study, 2 configurations x 2 folds x 2 epochs",
        ("-m", "studies.ablation", *FOLDS, "--switch", "flip"),
        96,
    ),
}


@contextlib.contextmanager
def other_program(runs: bool) -> Iterator[None]:
    """Context in which a program of `BUSY_THREADS` processes never waits, or none."""
    number = BUSY_THREADS if runs else 0
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run(row: Row, folder: Path, condition: str) -> list[float]:
    """Seconds of each epoch, or of the whole command, under a condition.

    Raises:
        InputError: the command ended with an error; has the end of what it printed.
    """
    words = [*row.words, "--device", "cpu"]
    if row.words[0] == "predict.py":
        words += [str(folder / "images"), "--checkpoint", str(folder / "busy_best.pth")]
    else:
        words += ["--data", str(folder / f"{row.images}.npz"), "--name", "busy"]
    if row.epochs:
        words += ["--epochs", str(row.epochs)]
    if words[0] != "-m":
        words[0] = str(PROJECT / words[0])
    with other_program(CONDITIONS[condition]), tempfile.TemporaryDirectory(dir=folder) as place:
        time.sleep(1)  # the other program is up to speed
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *words],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            encoding="utf-8",
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise InputError(f"{' '.join(words)} failed: {done.stderr[-500:]}")
        if not row.epochs:
            return [seconds]
        (history,) = Path(place).rglob("history.csv")
        return [row["seconds"] for row in read_history(history.parent)]


def measure(row: Row, folder: Path, repeats: int) -> dict[str, list[list[float]]]:
    """Seconds by condition, a list for each repetition."""
    found: dict[str, list[list[float]]] = {name: [] for name in CONDITIONS}
    for _ in range(repeats):
        for name in CONDITIONS:
            found[name].append(run(row, folder, name))
            print(f"{row.title}, {name}:", *(f"{s:.1f}" for s in found[name][-1]), flush=True)
    return found


def cells(title: str, found: dict[str, list[list[float]]]) -> list[list[str]]:
    """Lines of the table: of a command, or of the first epoch and of the median of the others."""
    if len(found["alone"][0]) == 1:
        parts = {title: lambda seconds: seconds[0]}
    else:
        parts = {
            f"{title}, first": lambda seconds: seconds[0],
            f"{title}, later": lambda seconds: median(seconds[1:]),
        }
    lines = []
    for name, part in parts.items():
        seconds = {key: median(map(part, runs)) for key, runs in found.items()}
        times = seconds["beside"] / seconds["alone"]
        lines.append([name, *(f"{s:.2f}" for s in (*seconds.values(), times))])
    return lines


def prepare(rows: Sequence[Row], folder: Path) -> None:
    """Make the phantoms that the rows train on, and for `predict.py` pictures and a network."""
    for images in {row.images for row in rows}:
        counts = {"train": images, "val": 16, "test": 16}
        np.savez(folder / f"{images}.npz", **make_phantom(size=28, seed=1, **counts))
    for row in rows:
        if row.words[0] == "predict.py":
            (folder / "images").mkdir()
            pictures = make_phantom(size=28, train=PICTURES, val=2, test=2, seed=2)["train_images"]
            for k, picture in enumerate(pictures[:PICTURES]):
                Image.fromarray(picture).save(folder / "images" / f"{k}.png")
            flags = "--data", f"{row.images}.npz", "--epochs", "1", "--name", "busy"
            command = [sys.executable, str(PROJECT / "train.py"), *flags, "--models-dir", "."]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)


def main() -> None:
    """Measure what is asked for, and write the page."""
    parser = OneLineParser(prog="python -m benchmarks.busy", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="(default: all)")
    add("--repeats", type=int, default=3, help="of every measurement (default: %(default)s)")
    add("--out", type=Path, default=HERE, help="folder of BUSY.md (default: beside this file)")
    options: argparse.Namespace = parser.parse_args()
    require_quiet()
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [ROWS[key] for key in options.rows]
        prepare(rows, folder)
        for row in rows:
            lines += cells(row.title, measure(row, folder, options.repeats))
    machine = f"{processor()}, {os.cpu_count()} cores"
    write_page(
        options.out / "BUSY.md", "busy.md.j2", lines=lines, machine=machine, versions=versions(),
        busy=BUSY_THREADS, wanted=WANTED, repeats=options.repeats,
    )  # fmt: skip


if __name__ == "__main__":
    with one_line_errors():
        main()
