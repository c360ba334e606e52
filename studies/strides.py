"""Where EfficientChestNet's strides go: cross-validation grouped by patient, over train and val.

    python -m studies.strides --data FILE.npz

Every layout is trained on the same folds with the same seeds and the report's recipe (fewer
epochs, no early stopping). It is compared by the AUC of the held-out fold after the last epoch, so
that nothing is chosen on the images that are held out. Test images are not read. Writes
`results/studies/strides_<data>/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data import sources
from chestlab.data.folds import fold_rows, train_and_val
from chestlab.files.atomic import atomic_write, make_folder
from chestlab.files.errors import InputError, one_line_errors
from chestlab.reporting.page import Wording, render
from chestlab.reporting.stored_runs import source_stem
from chestlab.training.trainer import Trainer
from model import EfficientChestNet
from studies.study import TEMPLATES, add_redraw
from train import REPORT

STUDIES = Path(__file__).resolve().parent

FILE = "strides.json"

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
    add_redraw(parser, write_page, "the page")
    with one_line_errors(resume=""):
        options = parser.parse_args(argv)

    data = sources.load(options.data)
    folder = STUDIES.parent / "results" / "studies" / f"strides_{source_stem(data.source)}"
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
        make_folder(folder)
        about = {"source": data.source, "images": len(pool), "folds": options.folds}
        about |= {"epochs": options.epochs, "repetitions": seed + 1}
        about["layouts"] = layout_rows(aucs, seconds)
        atomic_write(folder / FILE, json.dumps(about, indent=2) + "\n")
        write_page(folder)
    print((folder / "README.md").read_text(encoding="utf-8"))


def layout_rows(
    aucs: Mapping[tuple[int, ...], Sequence[float]], seconds: Mapping[tuple[int, ...], float]
) -> list[dict[str, Any]]:
    """A row for each layout, the best first; differences are paired, to the best.

    Args:
        aucs: by layout, of every fold of every repetition.
        seconds: by layout, of all its trainings.
    """
    layouts = sorted(aucs, key=lambda layout: -np.mean(aucs[layout]))
    best = layouts[0]
    rows = []
    for layout in layouts:
        values = np.array(aucs[layout])
        difference = values - np.array(aucs[best])
        row = {"strides": list(layout), "auc": values.mean(), "auc_sd": values.std(ddof=1)}
        row |= {"difference": difference.mean()}
        row |= {"difference_error": difference.std(ddof=1) / np.sqrt(len(values))}
        row |= {"time": seconds[layout] / seconds[best]}
        rows.append({k: v if k == "strides" else float(v) for k, v in row.items()})
    return rows


def write_page(folder: Path) -> None:
    """Write the page in both languages from ``strides.json``.

    Raises:
        InputError: the file is missing or damaged.
    """
    from chestlab.reporting.overview import PAGES

    path = folder / FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        pages = {page: _page(Wording(language), about) for language, page in PAGES.items()}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise InputError(f"'{path}' is missing or damaged") from None
    for page, text in pages.items():
        atomic_write(folder / page, text)


def _page(wording: Wording, about: Mapping[str, Any]) -> str:
    """The table of the layouts, and those that are not clearly below the first."""
    number = wording.number
    first, *others = about["layouts"]
    near = [row for row in others if abs(row["difference"]) < 2 * row["difference_error"]]
    return render(
        f"strides.{wording.language}.md.j2",
        TEMPLATES,
        about=about,
        best=_layout(first),
        auc=number(first["auc"]),
        near=", ".join(map(_layout, near)),
        rows=[
            (
                _layout(row),
                number(row["auc"]),
                number(row["auc_sd"]),
                f"{number(row['difference'], '+.3f')} +- {number(row['difference_error'])}",
                number(row["time"], ".2f"),
            )
            for row in about["layouts"]
        ],
    )


def _layout(row: Mapping[str, Any]) -> str:
    return f"({', '.join(map(str, row['strides']))})"


if __name__ == "__main__":
    main()
