"""Run a training script with several seeds and tabulate what they reach on val and test.

    python benchmarks/seeds.py train.py --name NAME --data FILE.npz

Every seed is a run of its own under `results/`, made with `--resume`, so an interrupted table goes
on where it stopped. Flags not known here go to the script. Writes `benchmarks/SEEDS_<name>.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from chestlab.files.atomic import atomic_write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent

FIGURES = (("val", "accuracy"), ("val", "auc"), ("test", "accuracy"), ("test", "auc"))


def main() -> None:
    """Train the seeds that are not finished, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script", help="of this project, e.g. train.py")
    parser.add_argument(
        "--name", required=True, help="of the first run; <name>_seed<seed> of the others"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 123, 456, 789, 1011])
    parser.add_argument("--results-dir", type=Path, default=ROOT / "results")
    options, flags = parser.parse_known_args()

    runs = []
    for seed in options.seeds:
        name = options.name + (f"_seed{seed}" if seed != options.seeds[0] else "")
        command = [sys.executable, str(ROOT / options.script), *flags, "--resume"]
        command += ["--seed", str(seed), "--name", name]
        command += ["--results-dir", str(options.results_dir)]
        subprocess.run(command, check=True)
        runs.append(json.loads((options.results_dir / name / "metrics.json").read_text()))

    rows = []
    for run in runs:
        figures = " | ".join(f"{run[split][figure]:.3f}" for split, figure in FIGURES)
        rows.append(
            f"| {run['seed']} | {figures} | {run['best_epoch']} of {run['epochs_run']} "
            f"| {run['threshold']:.2f} | {run['seconds']:.0f} |"
        )
    for label, of in (("mean", np.mean), ("sd", lambda values: np.std(values, ddof=1))):
        values = [of([run[split][figure] for run in runs]) for split, figure in FIGURES]
        rows.append(f"| **{label}** | " + " | ".join(f"{v:.3f}" for v in values) + " | | | |")
    first = runs[0]
    n = {split: first[split]["n"] for split in ("train", "val", "test")}
    text = (
        f"# {first['model']}, {len(runs)} seeds\n\n"
        f"`{options.script}` on `{first['data']['source']}` (train {n['train']}, "
        f"val {n['val']}, test {n['test']} images), "
        f"recipe `{first['recipe_name']}`, {first['device']} in {first['amp']}, PyTorch "
        f"{first['torch']}. Epoch and threshold chosen on val, test evaluated once per seed. "
        "Written by `benchmarks/seeds.py`.\n\n"
        "| seed | val accuracy, as selected | val AUC | test accuracy, held out | test AUC "
        "| best epoch | threshold | seconds |\n|---|---|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )
    atomic_write(Path(__file__).with_name(f"SEEDS_{options.name}.md"), text)
    print(text)


if __name__ == "__main__":
    main()
