"""The average of finished cross-validated runs, of whatever networks: an ensemble fixed on folds.

    python train.py --folds 5 --folds-over train+val
    python train_improved.py --folds 5 --folds-over train+val
    python -m studies.blend RUN RUN

Nothing is trained and all runs have the same weight: the mean of their logits is evaluated out of
fold, each image by networks that have not seen it, and on test if every run was. Choose the runs to
average on the folds; the page names them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chestlab.data import sources
from chestlab.data.folds import train_and_val
from chestlab.data.splits import Split, TwoClassData
from chestlab.files import notebook
from chestlab.files.atomic import check_writable, make_folder
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import STUDIES, read_metrics
from chestlab.reporting.ensemble_report import SHARED, Member, write_average
from chestlab.reporting.stored_runs import Predictions, StoredRun, read_runs
from chestlab.runs.flags import add_data, add_folder
from chestlab.runs.naming import check_name, output_folders, run_name
from chestlab.training.averages import mean_of_logits
from chestlab.training.network_names import network_name
from studies.study import refuse_classes


def blend(options: argparse.Namespace) -> Path:
    """Average the runs asked for; returns the folder of the results.

    Raises:
        InputError: a run is missing, was not cross-validated, or is of other images than the data;
            or the name is that of something else. Nothing has been written.
    """
    check_writable(options.results_dir, "--results-dir")
    data = sources.load(options.data, options.root, options.source_size)
    name = options.name or run_name("blend", options.data, data.size)
    check_name(name)
    results_dir, _ = output_folders(options, data)
    runs = find_runs(results_dir, options.runs)
    folder = results_dir / STUDIES / name
    replaced = folder / "metrics.json"
    for taken in (replaced, results_dir / name / "metrics.json"):
        if taken.exists() and not read_metrics(taken).get("blend"):
            raise InputError(f"--name {name}: that is no average of runs; choose another name")

    splits = shared_images(runs, data)
    members = [as_member(run) for run in runs]
    together = {
        split: (images, mean_of_logits([member.probabilities[split] for member in members]))
        for split, images in splits.items()
    }
    of_val = splits["oof"].origin == "val"
    if not of_val.any():
        raise InputError(f"'{runs[0].name}' was cross-validated over train alone: use train+val")
    images, probabilities = together["oof"]
    together = {"val": (images.take(of_val), probabilities[of_val])} | together

    make_folder(folder)
    replaced.unlink(missing_ok=True)
    first, *others = (run.metrics for run in runs)
    write_average(
        folder,
        data,
        members,
        together,
        averaged=list(splits),
        about={
            "model": " + ".join(dict.fromkeys(network_name(run.metrics) for run in runs)),
            "kind": f"{len(runs)} runs",
            "averaged": "logits",
            "blend": [run.name for run in runs],
            **{
                key: first[key]
                for key in SHARED
                if key in first and all(other.get(key) == first[key] for other in others)
            },
            "bootstrap_unit": "image" if data.val.patients is None else "patient",
            "recipe_changes": {},
        },
    )
    return folder


def shared_images(runs: Sequence[StoredRun], data: TwoClassData) -> dict[str, Split]:
    """The images that every run has predicted: ``oof``, and ``test`` if each has its figures.

    Raises:
        InputError: a run is of other images.
    """
    pool, test = in_order(train_and_val(data)), in_order(data.test)
    cross_validated = runs[0].predictions["oof"].origin
    splits = {"oof": pool.take(np.isin(pool.origin, np.unique(cross_validated)))}
    if all("test" in run.predictions for run in runs):
        splits["test"] = test
    for run in runs:
        for split, images in splits.items():
            origin = np.full(len(images), split) if images.origin is None else images.origin
            expected = Predictions(origin, images.index, images.labels, np.empty(0))
            if not run.predictions[split].same_images(expected):
                raise InputError(f"'{run.name}' was not evaluated on these very images ({split})")
    return splits


def find_runs(results_dir: Path, names: Sequence[str]) -> list[StoredRun]:
    """The finished cross-validated runs of these names, in ``results_dir`` or, if not there, its
    studies; none among its phantoms, whose folder is ``results_dir`` where they are meant.

    Raises:
        InputError: there are fewer than two different names, or one is not such a run's.
    """
    runs, places = read_runs(results_dir), (results_dir / STUDIES, results_dir)
    stored = {run.name: run for place in places for run in runs if run.folder.parent == place}
    names = list(dict.fromkeys(Path(name).name for name in names))
    if len(names) < 2:
        raise InputError("name two runs or more")
    for name in names:
        if name not in stored:
            raise InputError(f"there is no finished run '{name}' in '{results_dir}'")
        metrics = stored[name].metrics
        if "oof" not in stored[name].predictions or "members" not in metrics:
            raise InputError(f"'{name}' is no cross-validated run: --folds K makes one")
        if metrics.get("blend"):
            raise InputError(f"'{name}' is an average of runs itself: name its runs")
    return [stored[name] for name in names]


def in_order(split: Split) -> Split:
    """The images as a stored run's tables are read: by split and row in the source."""
    origin = np.zeros(len(split)) if split.origin is None else split.origin
    return split.take(np.lexsort((split.index, origin)))


def as_member(run: StoredRun) -> Member:
    """A run as a member of an average; its held-out figures are those out of fold."""
    metrics = {key: value for key, value in run.metrics.items() if key != "val"}
    metrics["held_out"] = metrics["oof"]
    return Member(metrics, {name: p.probabilities for name, p in run.predictions.items()})


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = OneLineParser(
        prog="python -m studies.blend",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of results, by name")
    add_data(parser)
    refuse_classes(parser)
    add_folder(parser, "--results-dir", "results")
    parser.add_argument("--name", help="of the folder of results (default: blend and the data)")
    parser.set_defaults(models_dir=Path())  # nothing is kept there
    with one_line_errors(resume=None), StopSignals():
        folder = blend(parser.parse_args(argv))
        notebook.show(folder.glob("*.png"))


if __name__ == "__main__":
    main()
