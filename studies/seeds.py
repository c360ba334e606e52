"""Run a training script with several seeds and tabulate what they reach on val and test.

    python -m studies.seeds train.py --name NAME --data FILE.npz

Every seed is a run of its own under `results/`, made with `--resume`, so that an interrupted table
continues where it stopped. Flags that are not listed here go to the script. Writes
`benchmarks/SEEDS_<name>.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.files.atomic import atomic_write
from chestlab.reporting.page import render

ROOT = Path(__file__).resolve().parent.parent

FIGURES = (("val", "accuracy"), ("val", "auc"), ("test", "accuracy"), ("test", "auc"))


def main(argv: Sequence[str] | None = None) -> None:
    """Train the seeds that are not finished, then write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.seeds", description=__doc__.splitlines()[0]
    )
    parser.add_argument("script", help="of this project, e.g. train.py")
    parser.add_argument(
        "--name", required=True, help="of the first run; <name>_seed<seed> of the others"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 123, 456, 789, 1011])
    parser.add_argument("--results-dir", type=Path, default=ROOT / "results")
    options, flags = parser.parse_known_args(argv)

    runs = []
    for seed in options.seeds:
        name = options.name + (f"_seed{seed}" if seed != options.seeds[0] else "")
        command = [sys.executable, str(ROOT / options.script), *flags, "--resume"]
        command += ["--seed", str(seed), "--name", name]
        command += ["--results-dir", str(options.results_dir)]
        subprocess.run(command, check=True)
        metrics = options.results_dir / name / "metrics.json"
        runs.append(json.loads(metrics.read_text(encoding="utf-8")))
    text = page(options.script, runs)
    atomic_write(ROOT / "benchmarks" / f"SEEDS_{options.name}.md", text)
    print(text)


def page(script: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """The table of runs of one script that differ in their seed.

    Args:
        script: its file name.
        runs: their `metrics.json`, at least two.
    """
    figures = np.array([[run[split][figure] for split, figure in FIGURES] for run in runs], float)
    rows = [
        [
            str(run["seed"]),
            *map(_number, values),
            f"{run['best_epoch']} of {run['epochs_run']}",
            f"{run['threshold']:.2f}",
            f"{run['seconds']:.0f}",
        ]
        for run, values in zip(runs, figures, strict=True)
    ]
    for label, values in (("mean", figures.mean(0)), ("sd", figures.std(0, ddof=1))):
        rows.append([f"**{label}**", *map(_number, values), "", "", ""])
    return render(
        "seeds.md.j2",
        Path(__file__).parent / "templates",
        script=script,
        run=runs[0],
        runs=len(runs),
        rows=rows,
        warnings=[(run["seed"], text) for run in runs for text in run.get("warnings", ())],
    )


def _number(value: float) -> str:
    """A figure; that of outputs that differ by less than float noise is NaN here."""
    return "undefined" if np.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    main()
