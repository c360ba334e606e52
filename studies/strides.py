"""Where EfficientChestNet's strides go: cross-validation grouped by patient, over train and val.

    python -m studies.strides --data FILE.npz

Every layout is trained on the same folds with the same seeds and the report's recipe (fewer
epochs, no early stopping). It is compared by the AUC of the held-out fold after the last epoch, so
that nothing is chosen on the images that are held out. Test images are not read. Writes
`results/studies/strides_<data>/README.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from chestlab.data import sources
from chestlab.data.folds import fold_rows, train_and_val
from chestlab.files.atomic import atomic_write, make_folder
from chestlab.reporting.page import render
from chestlab.reporting.stored_runs import source_stem
from chestlab.training.trainer import Trainer
from model import EfficientChestNet
from train import REPORT

STUDIES = Path(__file__).resolve().parent

# No layout with 28 x 28 pixels through stage 2: it takes four times the time of the others.
LAYOUTS = ((2, 1, 2, 2), (2, 1, 2, 1), (1, 2, 2, 1), (1, 2, 2, 2), (2, 1, 1, 2))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every layout and write the table, after every repetition anew."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.strides", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", required=True, help="an npz with names, to know the patients")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2, help="repetitions with other folds")
    options = parser.parse_args(argv)

    data = sources.load(options.data)
    pool, device = train_and_val(data), torch.device("cpu")
    aucs: dict[tuple[int, ...], list[float]] = {layout: [] for layout in LAYOUTS}
    seconds = dict.fromkeys(LAYOUTS, 0.0)
    for seed in range(options.seeds):
        recipe = dataclasses.replace(
            REPORT, epochs=options.epochs, patience=options.epochs, seed=seed
        )
        for rest, held_out in fold_rows(pool, options.folds, seed):
            train, val = pool.take(rest).to(device), pool.take(held_out).to(device)
            for layout in LAYOUTS:
                start = time.perf_counter()
                trainer = Trainer(partial(EfficientChestNet, layout), recipe, train, val)
                trainer.fit()
                aucs[layout].append(trainer.history[-1]["val_auc"])
                seconds[layout] += time.perf_counter() - start
            print({k: f"{np.mean(v):.3f}" for k, v in aucs.items()}, flush=True)
        text = page(data.source, len(pool), options, seed + 1, aucs, seconds)
        folder = STUDIES.parent / "results" / "studies" / f"strides_{source_stem(data.source)}"
        make_folder(folder)
        atomic_write(folder / "README.md", text)
    print(text)


def page(
    source: str,
    images: int,
    options: argparse.Namespace,
    repetitions: int,
    aucs: Mapping[tuple[int, ...], Sequence[float]],
    seconds: Mapping[tuple[int, ...], float],
) -> str:
    """The table of the layouts, the best first.

    Args:
        source: of the images.
        images: number of them.
        options: of `main`.
        repetitions: done so far.
        aucs: by layout, of every fold of every repetition.
        seconds: by layout, of all its trainings.
    """
    layouts = sorted(aucs, key=lambda layout: -np.mean(aucs[layout]))
    best = layouts[0]
    rows = []
    for layout in layouts:
        values = np.array(aucs[layout])
        difference = values - np.array(aucs[best])
        error = difference.std(ddof=1) / np.sqrt(len(values))
        rows.append(
            [
                str(layout),
                f"{values.mean():.3f}",
                f"{values.std(ddof=1):.3f}",
                f"{difference.mean():+.3f} +- {error:.3f}",
                f"{seconds[layout] / seconds[best]:.2f}",
            ]
        )
    return render(
        "strides.md.j2",
        STUDIES / "templates",
        source=source,
        images=images,
        folds=options.folds,
        epochs=options.epochs,
        repetitions=repetitions,
        rows=rows,
    )


if __name__ == "__main__":
    main()
