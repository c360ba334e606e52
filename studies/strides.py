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
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data import sources
from chestlab.data.folds import fold_rows, train_and_val, warn_without_patients
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.files.atomic import atomic_write, check_writable, make_folder
from chestlab.files.errors import OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.files.reading import read_json
from chestlab.files.run_files import STUDIES
from chestlab.reporting.page import Wording, render
from chestlab.runs.flags import add_data, add_folder, checked
from chestlab.runs.naming import check_name, output_folders, run_name
from chestlab.training.recipe import hyperparameter
from chestlab.training.trainer import Trainer
from model import EfficientChestNet
from studies.redraw import add_redraw
from studies.study import FOLDS, TEMPLATES, refuse_classes
from train import REPORT

FILE = "strides.json"

SHAPE = {  # metavar, usual value and meaning; another value is told in the folder's name
    "epochs": ("N", hyperparameter(12, "", low=1, high=1000), "of every training"),
    "folds": ("K", FOLDS, "parts of the images, patients together; each is held out once"),
    "seeds": ("R", hyperparameter(2, "", low=1, high=100), "repetitions with other folds"),
}

# No layout with 28 x 28 pixels through stage 2: it takes four times the time of the others.
LAYOUTS = ((2, 1, 2, 2), (2, 1, 2, 1), (1, 2, 2, 1), (1, 2, 2, 2), (2, 1, 1, 2))


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m studies.strides",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=96),
    )
    add_data(parser)
    refuse_classes(parser)
    for name, (metavar, field, what) in SHAPE.items():
        parser.add_argument(
            f"--{name}",
            type=checked(field),
            default=field.default,
            metavar=metavar,
            help=f"{what} (default: %(default)s)",
        )
    add_folder(parser, "--results-dir", "results")
    parser.add_argument("--name", help="of the folder of results (default: strides and the data)")
    add_redraw(parser, write_page, "the page")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=None), StopSignals():
        run(_parser().parse_args(argv))


def run(options: argparse.Namespace) -> None:
    """Measure every layout and write the table, after every repetition anew.

    Raises:
        InputError: folder, name or data cannot be used.
    """
    options.models_dir = options.results_dir  # no network is kept
    check_writable(options.results_dir, "--results-dir")
    data = sources.load(options.data, options.root, options.source_size)
    values = {
        name: (getattr(options, name), field.default) for name, (_, field, _) in SHAPE.items()
    }
    changes = {name: value for name, (value, usual) in values.items() if value != usual}
    name = options.name or run_name("strides", options.data, data.size, changes)
    check_name(name)
    folder = output_folders(options, data)[0] / STUDIES / name
    pool, device = train_and_val(data), torch.device("cpu")
    warn_without_patients(pool)
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
    if data.phantom:
        print(PHANTOM_MARK)


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

    about = read_json(folder / FILE)
    pages = {page: _page(Wording(language), about) for language, page in PAGES.items()}
    for page, text in pages.items():
        atomic_write(folder / page, text)


def _page(wording: Wording, about: Mapping[str, Any]) -> str:
    """The table of the layouts, and those that are not clearly below the first."""
    number = wording.number
    first, *others = about["layouts"]
    # Folds share training images: the error of their mean is larger than that of independent ones,
    # which is stored (Nadeau and Bengio, https://doi.org/10.1023/A:1024068626366).
    factor = math.sqrt(1 + about["folds"] * about["repetitions"] / (about["folds"] - 1))
    near = [row for row in others if abs(row["difference"]) < 2 * factor * row["difference_error"]]
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
                f"{number(row['difference'], '+.3f')} +- "
                f"{number(factor * row['difference_error'])}",
                number(row["time"], ".2f"),
            )
            for row in about["layouts"]
        ],
    )


def _layout(row: Mapping[str, Any]) -> str:
    return f"({', '.join(map(str, row['strides']))})"


if __name__ == "__main__":
    main()
