"""Where EfficientChestNet's strides go: cross-validation grouped by patient, over train and val.

    python benchmarks/choose_strides.py --data FILE.npz

Every layout is trained on the same folds with the same seeds and the report's recipe (fewer
epochs, no early stopping), and judged by the AUC of the held-out fold after the last epoch, so
nothing is chosen on the images it is judged by. Test images are not read. Writes STRIDES.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from chestlab.data import sources, splits
from chestlab.files.atomic import atomic_write
from chestlab.training.trainer import Trainer
from model import EfficientChestNet
from train import REPORT

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# No layout with 28 x 28 pixels through stage 2: it takes four times the time of the others.
LAYOUTS = ((2, 1, 2, 2), (2, 1, 2, 1), (1, 2, 2, 1), (1, 2, 2, 2), (2, 1, 1, 2))


def patient_folds(data: splits.TwoClassData, folds: int, seed: int) -> list[np.ndarray]:
    """Row numbers in train + val held out by each fold; a patient is in one fold only."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.concatenate([data.train.labels, data.val.labels])
    patients = np.concatenate([data.train.patients, data.val.patients])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [held_out for _, held_out in splitter.split(labels, labels, patients)]


def main() -> None:
    """Measure every layout and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="an npz with names, to know the patients")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2, help="repetitions with other folds")
    options = parser.parse_args()

    data = sources.load(options.data)
    pairs = data.train.to(torch.device("cpu")), data.val.to(torch.device("cpu"))
    images, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    aucs: dict[tuple[int, ...], list[float]] = {layout: [] for layout in LAYOUTS}
    seconds = dict.fromkeys(LAYOUTS, 0.0)
    for seed in range(options.seeds):
        recipe = dataclasses.replace(
            REPORT, epochs=options.epochs, patience=options.epochs, seed=seed
        )
        for held_out in patient_folds(data, options.folds, seed):
            rest = np.setdiff1d(np.arange(len(labels)), held_out)
            for layout in LAYOUTS:
                start = time.perf_counter()
                trainer = Trainer(
                    partial(EfficientChestNet, layout),
                    recipe,
                    (images[rest], labels[rest]),
                    (images[held_out], labels[held_out]),
                )
                while not trainer.finished:
                    trainer.run_epoch()
                aucs[layout].append(trainer.history[-1]["val_auc"])
                seconds[layout] += time.perf_counter() - start
            print({k: f"{np.mean(v):.3f}" for k, v in aucs.items()}, flush=True)
        write_table(data, options, seed + 1, aucs, seconds)


def write_table(
    data: splits.TwoClassData,
    options: argparse.Namespace,
    seeds: int,
    aucs: dict[tuple[int, ...], list[float]],
    seconds: dict[tuple[int, ...], float],
) -> None:
    """STRIDES.md from what has been measured so far, after every repetition."""
    rows = []
    best = max(LAYOUTS, key=lambda layout: np.mean(aucs[layout]))
    for layout in sorted(LAYOUTS, key=lambda layout: -np.mean(aucs[layout])):
        values = np.array(aucs[layout])
        difference = values - np.array(aucs[best])
        error = difference.std(ddof=1) / np.sqrt(len(values))
        rows.append(
            f"| {layout} | {values.mean():.3f} | {values.std(ddof=1):.3f} "
            f"| {difference.mean():+.3f} +- {error:.3f} | {seconds[layout] / seconds[best]:.2f} |"
        )
    text = (
        "# Strides of EfficientChestNet\n\n"
        f"Cross-validation grouped by patient over train + val of `{data.source}` "
        f"({len(data.train) + len(data.val)} images), {options.folds} folds, repeated {seeds} x, "
        f"{options.epochs} epochs of the report's recipe, AUC of the held-out fold after the last "
        "epoch. Test images were not used. Written by `benchmarks/choose_strides.py`.\n\n"
        "| strides (stem, stage 1, 2, 3) | mean AUC | sd over folds "
        "| paired difference to the first, +- standard error | time |\n"
        "|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    atomic_write(Path(__file__).with_name("STRIDES.md"), text)
    print(text)


if __name__ == "__main__":
    main()
