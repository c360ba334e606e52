"""Several networks of one recipe, their probabilities averaged: over seeds, or over folds.

    python train_improved.py --members 5
    python train_improved.py --folds 5 --folds-over train

Every member is a run of its own below the ensemble's folder, with all its artefacts; members that
are finished are not trained again. Members predict the test images so that the average can be
evaluated there, and have test figures of their own only with ``--members-test``.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from chestlab.data import sources
from chestlab.data.folds import join, make_folds
from chestlab.data.splits import Split, TwoClassData
from chestlab.evaluation.predictions import read_probabilities
from chestlab.files.atomic import check_writable, make_folder
from chestlab.files.run_files import RunFiles, read_metrics, run_lock
from chestlab.reporting.ensemble_report import SHARED, Member, write_average
from chestlab.runs.experiment import Experiment
from chestlab.runs.naming import check_name, name_of, output_folders
from chestlab.runs.report_files import draw_batch, store_environment

SEEDS = (42, 123, 456, 789, 1011)  # of the course reports, then one after the other


def seeds(k: int) -> list[int]:
    """The first ``k`` seeds."""
    return [*SEEDS, *range(SEEDS[-1] + 1, SEEDS[-1] + 1 + k)][:k]


class Ensemble:
    """Train what is missing, average, report.

    Args:
        make: called with options, data and subfolder, makes an `Experiment`.
        options: of `flags.parse`, with ``members`` or ``folds``.

    Raises:
        InputError: as `Experiment`, or the folds cannot be made. Nothing has been written.
    """

    def __init__(self, make: Callable[..., Experiment], options: argparse.Namespace) -> None:
        self.options = options
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.models_dir, "--models-dir")
        self.data = sources.load(
            options.data,
            options.root,
            options.source_size,
            related=options.recipe.related,
            classes=options.classes,
        )
        name = name_of(options, self.data)
        name += "_members" if options.members else f"_folds{options.folds}"
        name += "_trainval" if options.folds_over == "train+val" else ""
        check_name(name)
        self.files = RunFiles(*output_folders(options, self.data), name)
        self.experiments = [make(*member, name) for member in self._members()]

    def _members(self) -> list[tuple[argparse.Namespace, TwoClassData]]:
        """Options and data of each."""
        if self.options.members:
            each = [(f"seed{seed}", seed, self.data) for seed in seeds(self.options.members)]
        else:
            parts = make_folds(self.data, self.options.folds, self.options.folds_over)
            seed = self.options.recipe.seed
            each = [(f"fold{number}", seed, part) for number, part in enumerate(parts, 1)]
        members = []
        for name, seed, data in each:
            own = copy.copy(self.options)
            own.name, own.recipe = name, dataclasses.replace(own.recipe, seed=seed)
            own.test_for_average = not own.members_test
            members.append((own, data))
        return members

    def run(self, train: Callable[[Experiment], None]) -> None:
        """Train the members that are not finished, then average, evaluate and draw."""
        folder = self.files.models_dir / self.files.name
        make_folder(folder)
        with run_lock(folder / "ensemble.lock", self.files.name):
            for number, member in enumerate(self.experiments, 1):
                count = f"{number} of {len(self.experiments)}"
                print(f"{self.files.name}: {member.name}, {count}", flush=True)
                if member.is_finished() and not self.options.overwrite:
                    member.options.resume = True  # says so, or evaluates test where that is left
                train(member)
            self._report()

    def _report(self) -> None:
        """Average, evaluate, draw; `metrics.json` is written last."""
        members = [self._read(experiment) for experiment in self.experiments]
        splits, probabilities = self._together(members)
        kind = f"{len(members)} seeds"
        if self.options.folds:
            kind = f"{len(members)} folds over {self.options.folds_over}"
        first, folder = members[0].metrics, self.files.folder
        images = f"{self.data.source} · train n = {len(self.data.train)}"
        title = f"{folder.name}\n{first['model']}, average of {kind}\n{images}"
        draw_batch(folder, self.data, self.options.recipe, title)
        store_environment(folder, self.experiments[0].device)
        write_average(
            folder,
            self.data,
            members,
            {name: (split, probabilities[name]) for name, split in splits.items()},
            averaged=self._averaged,
            about={
                "model": first["model"],
                "kind": kind,
                **{key: first[key] for key in SHARED if key in first},
                "recipe_changes": self.options.recipe_changes,
            },
        )

    @property
    def _averaged(self) -> list[str]:
        """Splits that every member has predicted; of folds over train+val only test is left."""
        names = ["val"] if self.options.folds_over == "train" else []
        return names if self.options.no_test else [*names, "test"]

    def _together(
        self, members: Sequence[Member]
    ) -> tuple[dict[str, Split], dict[str, np.ndarray]]:
        """The images the ensemble is judged on and its probabilities of them, by split.

        ``oof``: each image by the one network that has not seen it. Over ``train+val`` the val
        images are a part of these.
        """
        splits = {name: getattr(self.data, name) for name in self._averaged}
        probabilities = {
            name: np.mean([member.probabilities[name] for member in members], axis=0)
            for name in self._averaged
        }
        if self.options.folds:
            parts = [e.data.held_out or e.data.val for e in self.experiments]
            splits["oof"] = join(parts)
            probabilities["oof"] = np.concatenate([m.probabilities["held_out"] for m in members])
        if "val" not in splits:
            of_val = splits["oof"].origin == "val"
            val = {"val": splits["oof"].take(of_val)}
            splits, probabilities = (
                val | splits,
                {"val": probabilities["oof"][of_val]} | probabilities,
            )
        return splits, probabilities

    def _read(self, experiment: Experiment) -> Member:
        """A finished member's figures, and its probabilities from the tables it has written."""
        parts = {name: getattr(experiment.data, name) for name in ("val", "test", "held_out")}
        if self.options.no_test:
            parts["test"] = None
        probabilities = {
            name: read_probabilities(experiment.final.folder / f"{name}_probabilities.csv", split)
            for name, split in parts.items()
            if split is not None
        }
        metrics = read_metrics(experiment.final.metrics)
        if (
            self.options.folds and experiment.data.held_out is None
        ):  # the fold has taken val's place
            for values in (metrics, probabilities):
                values["held_out"] = values.pop("val")
        return Member(metrics, probabilities)
