"""Where the networks of the fresh folds are wrong, and how far a probability can be believed.

    python -m studies.mistakes --from results/studies/fresh_folds_<data> --data FILE.npz

Nothing is trained: the stored out-of-fold logits are evaluated again. For every configuration:
calibration before and after a temperature that is fitted out of fold, thresholds with intervals,
and the accuracy without the least sure images. For the network with the highest AUC: its 30 surest
mistakes, who else makes them, which patients they are of, and figures of subgroups. ``--table``
takes NIH's ``Data_Entry_2017.csv`` (view, sex, age), ``--boxes`` its ``BBox_List_2017.csv``.

results/studies/mistakes_<data>/ gets a JSON file, two pictures and a page in two languages. Each
network is a line of ``test_looks.csv``, of kind "fresh folds", once for the same predictions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.folds import FOLDS_SEED
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation import subgroups
from chestlab.evaluation.metrics import sigmoid
from chestlab.evaluation.out_of_fold import NETWORK_KIND, OutOfFold
from chestlab.files.atomic import atomic_write, make_folder
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import STUDIES, results_dir_of
from chestlab.reporting.stored_runs import start_source
from chestlab.runs.flags import add_data, add_folder
from studies import fresh_folds
from studies.frozen_recipes import BASELINES
from studies.mistakes_figures import Figures, subgroup_tables
from studies.mistakes_groups import properties, read_tables
from studies.mistakes_page import write_page
from studies.network_names import spellings
from studies.stored_results import RESTORE, read_results
from studies.study import Study, interval_columns, refuse_classes

SHOWN = 30  # mistakes in the picture and the table

HOG = BASELINES[0]


class Mistakes(Study):
    """The stored logits with their images, checked; nothing has been written yet.

    Args:
        options: of `main`.
        signals: not used, nothing is trained.

    Attributes:
        oof: the stored logits.
        configurations: what each is of, by its name.
        tables: what NIH's tables say of the images.

    Raises:
        InputError: the results are damaged, hold no network, or are of other images or folds than
            the data; or a table cannot be used.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        summary, self.oof = read_results(options.source, "fresh_folds", "configurations")
        self.configurations: dict[str, dict[str, Any]] = summary["configurations"]
        options.folds, options.repeats = summary["folds"], summary["repeats"]
        first_seed, sha256 = summary.get("first_seed", FOLDS_SEED), summary["data"]["sha256"]
        super().__init__(options, signals, "mistakes", first_seed, fresh_folds.REPEATS)
        expected = OutOfFold.of(self.splits, {})
        same = all(
            np.array_equal(getattr(self.oof, key), getattr(expected, key))
            for key in ("folds", "origin", "index", "labels")
        )
        if not same or sha256 != self.data.sha256:
            text = f"'{options.source}' is of other images or folds than '{self.data.source}'"
            raise InputError(f"{text}: --data must name the file that the study was run on")
        self.networks = [
            name
            for name, about in self.configurations.items()
            if about["kind"] == NETWORK_KIND and "data" not in about  # of this file's images
        ]
        if not self.networks:
            raise InputError(f"'{options.source}' holds no network yet, only baselines")
        kinds = {"model": str, "recipe": str, "recipe_name": str, "recipe_changes": dict}
        for name in self.networks:
            for key, kind in kinds.items():
                if not isinstance(self.configurations[name].get(key), kind):
                    lacking = f"'{name}' in 'configurations' lacks '{key}': {RESTORE}"
                    raise InputError(f"'{options.source / 'fresh_folds.json'}': {lacking}")
        self.tables = read_tables(self.splits.pool, options.table, options.boxes)

    def run(self) -> None:
        """Count the evaluation, compute every figure, and write the pages."""
        make_folder(self.folder)
        for name in self.networks:
            of_network = self.configurations[name], self.oof.logits[name]
            fresh_folds.count_use(self, name, *of_network)
        best = max(self.networks, key=lambda name: self.oof.score(name, "auc")[0].mean())
        figures = Figures(self.oof)
        summary = {
            **self.about(),
            "first_seed": self.splits.first_seed,
            "network": {"name": best, **self.configurations[best]},
            "auc": interval_columns("auc", self.oof.estimate(best, "auc")),
            "kinds": {name: about["kind"] for name, about in self.configurations.items()},
            "calibration": figures.calibration(),
            "reliability": figures.reliability(best),
            "thresholds": figures.thresholds(self._run_thresholds()),
            "selective": figures.selective(),
            **self._mistakes(best, figures),
            **subgroup_tables(figures, best, properties(self.splits.pool, self.tables)),
            "table": self.options.table and self.options.table.name,
            "boxes": self.options.boxes and self.options.boxes.name,
        }
        summary = _plain(summary)
        text = json.dumps(summary, indent=1, allow_nan=False) + "\n"
        atomic_write(self.folder / "mistakes.json", text)
        write_page(self.folder, summary, self.oof, self.splits.pool)
        self.print_end("mistakes")

    def _run_thresholds(self) -> dict[str, dict[str, Any]]:
        """Threshold and size of val of the finished runs of the same recipe and data, by name.

        Runs of one network alone, beside the studies before those of them.
        """
        from chestlab.training.recipe import recipe_hash

        found, results_dir = {}, results_dir_of(self.folder)
        paths = [sorted((results_dir / f).glob("*/metrics.json")) for f in ("", STUDIES)]
        for path in itertools.chain(*paths):
            try:
                metrics = json.loads(path.read_text(encoding="utf-8"))
                same = metrics["data"]["sha256"] == self.data.sha256 and "members" not in metrics
                recipe = recipe_hash(metrics["recipe"])
                threshold, images = float(metrics["threshold"]), int(metrics["val"]["n"])
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # `visualize.py` names damaged runs
            for name in self.networks if same else ():
                about = self.configurations[name]
                if recipe == about.get("recipe") and _same_network(metrics, about):
                    run = {"run": path.parent.name, "threshold": threshold, "images": images}
                    found.setdefault(name, run)
        return found

    def _mistakes(self, best: str, figures: Figures) -> dict[str, Any]:
        """The surest mistakes of a network, who shares them, and whose images they are."""
        oof, pool = self.oof, self.splits.pool
        mean = {name: logits.mean(0) for name, logits in oof.logits.items()}
        wrong = {name: (logits >= 0) != (oof.labels == 1) for name, logits in mean.items()}
        others = [name for name in self.networks if name != best]
        beside = [*others, *(name for name in oof.logits if name in oof.classical)]
        everyone = np.all([wrong[name] for name in self.networks + [HOG] * (HOG in wrong)], axis=0)
        rows = np.flatnonzero(wrong[best])
        rows = rows[np.argsort(-np.abs(mean[best][rows]), kind="stable")][:SHOWN]
        of_repeats = (oof.logits[best] >= 0) != (oof.labels == 1)
        listed = []
        for row in rows.tolist():
            entry = {"row": row, "split": oof.origin[row], "index": oof.index[row]}
            entry |= {"name": None if pool.names is None else pool.names[row]}
            entry |= {"label": oof.labels[row], "probability": sigmoid(mean[best][row])}
            entry |= {"wrong_repeats": of_repeats[:, row].sum()}
            entry |= {"others_wrong": sum(wrong[name][row] for name in others)}
            entry |= {"hog_wrong": wrong[HOG][row] if HOG in wrong else None}
            entry |= {"patient": self._patient(row), "table": self._other_findings(row)}
            listed.append(entry)
        patients = oof.patients
        return {
            "images_wrong": wrong[best].sum(),
            "wrong_by_class": [wrong[best][oof.labels == label].sum() for label in (0, 1)],
            "wrong_in_every_repeat": of_repeats.all(0).sum(),
            "other_networks": others,
            "wrong_by_all": everyone.sum(),
            "mistakes": listed,
            "shared": [figures.shared(name, wrong[best], wrong[name]) for name in beside],
            "concentration": None
            if patients is None
            else subgroups.concentration(wrong[best], oof.labels, patients),
        }

    def _patient(self, row: int) -> dict[str, Any] | None:
        """How many other images of the patient have which of the two classes, in train and val.

        Images that show one of the classes beside other findings are counted, too, where they are
        training images.
        """
        pool, related = self.splits.pool, self.data.related
        if pool.patients is None:
            return None
        patient, counts = pool.patients[row], np.zeros(2, int)
        for images in (pool, related):
            if images is not None and images.patients is not None:
                of_patient = images.labels[images.patients == patient]
                counts += np.bincount(of_patient.astype(int), minlength=2)
        counts[pool.labels[row]] -= 1
        return {"patient": patient, **dict(zip(CLASS_NAMES, counts, strict=True))}

    def _other_findings(self, row: int) -> str | None:
        """What NIH's table says of an image where it differs from the label; empty: the same."""
        if self.tables.findings is None:
            return None
        findings = self.tables.findings[row]
        return "" if findings.lower() == CLASS_NAMES[self.oof.labels[row]] else findings


def _same_network(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    """Whether a run's network and what it started from are those of a configuration."""
    arch = (metrics.get("model_arguments") or {}).get("arch", about["model"])
    return (
        metrics["model"] in spellings(about["model"])
        and arch == about["model"]
        and start_source(metrics) == start_source(about)
    )


def _plain(value: Any) -> Any:
    """Plain Python values of a summary, None in place of what is not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    parser = OneLineParser(
        prog="python -m studies.mistakes",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    help_from = "results of studies.fresh_folds"
    add("--from", dest="source", type=Path, required=True, metavar="FOLDER", help=help_from)
    add_data(parser)
    refuse_classes(parser)
    help_table = "NIH's Data_Entry_2017.csv (.gz): view position, sex, age"
    add("--table", type=Path, metavar="FILE.csv", help=help_table)
    help_boxes = "NIH's BBox_List_2017.csv (.gz): findings marked by a radiologist"
    add("--boxes", type=Path, metavar="FILE.csv", help=help_boxes)
    add_folder(parser, "--results-dir", "results")
    add("--name", help="of the folder of results (default: mistakes and the data)")
    with one_line_errors(resume=""), StopSignals() as signals:
        options = parser.parse_args(argv)
        options.device, options.models_dir = "cpu", options.results_dir  # nothing is trained
        Mistakes(options, signals).run()


if __name__ == "__main__":
    main()
