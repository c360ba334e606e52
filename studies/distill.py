"""Can a network learn from the average of several what its own images do not show?

    python -m studies.distill --data FILE.npz

Distillation (Hinton et al., https://arxiv.org/abs/1503.02531) with images that nobody has labelled:
on every fold, experiment 1 and a larger network are trained on the images of the two classes, and
one of them then learns anew, the probabilities that their average gives to these images and to all
other training images of the source, whatever these show. No teacher and no student of a fold has
seen an image of a patient who is held out. Cross-validated on the choice folds; test is not read.
What starts from ImageNet weights needs ``pip install -r requirements-timm.txt``.

results/studies/distill_<data>/ gets logits, tables, a picture and a page in two languages. Finished
folds are stored, the teachers' weights included, and the same command continues where it was
stopped. ``--only NAME`` trains some of the rows. ``--redraw FOLDER`` writes the page again from the
logits.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data.folds import Fold
from chestlab.files.errors import OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.reporting.page import Wording
from chestlab.runs.crossval import Configuration
from chestlab.training.inference import predict
from chestlab.training.recipe import as_dict, recipe_hash
from studies import start_tables
from studies.fold_networks import FoldNetwork
from studies.fresh_folds import (
    FROZEN,
    TRANSFERRED,
    frozen_configuration,
)
from studies.stored_configurations import known_first
from studies.stored_results import read_results
from studies.study import add_only, comparison_parser
from studies.with_other_images import TIMES, WithOtherImages

STUDENT = "efficientchestnet"

TEACHERS = (STUDENT, TRANSFERRED)  # rows of `fresh_folds`

TOGETHER = "teachers"  # the row of their average

STUDENTS: dict[str, tuple[str, Mapping[str, Any]]] = {  # which teacher's network and recipe, but
    "distilled": (STUDENT, {"epochs": 2}),
    "distilled_longer": (STUDENT, {"epochs": 5}),
    "distilled_lite0": (TRANSFERRED, {"epochs": 2}),
}

LATER = ("distilled_lite0",)  # added when the figures of others here were known

SHARE = 0.5  # of the teachers in what is learned of an image of the two classes, beside its label

ROWS = (*TEACHERS, *STUDENTS)

# Fixed before anything was trained, but for `LATER`: the first is claimed to have the higher AUC.
COMPARISONS = (
    (TOGETHER, STUDENT),
    *((name, alone) for name, (alone, _) in STUDENTS.items()),
    *((TOGETHER, name) for name in STUDENTS),
)


class Distill(WithOtherImages):
    """Trains teachers and students on every fold, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Attributes:
        teachers: by name, what is trained; the student's network is one of them.
        settings: what a student's lesson depends on besides its teachers.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "distill")
        self.frozen = {row.name: row for row in FROZEN}
        wanted = TEACHERS if STUDENTS.keys() & options.only else options.only
        self.teachers = {name: frozen_configuration(self, self.frozen[name])[1] for name in wanted}
        self.settings = {"share": SHARE, "times": TIMES, "others": len(self.others)}

    def run(self) -> None:
        """Train what is neither stored nor in the results, then write the pages."""
        self.begin()
        for name in self.options.only:
            self.measure_row(self.configuration_of(name), self.changes_of(name))
        self.finish(write_page)

    def about_made(self, members: Sequence[Configuration]) -> dict[str, Any]:
        """A student's lesson, and of its teachers the recipe and the weights they start from."""
        teachers = {
            of.name: [recipe_hash(as_dict(of.recipe)), of.pretrained and of.pretrained.sha256]
            for of in members
        }
        return {"teachers": teachers, **self.settings}

    def configuration_of(self, name: str) -> Configuration:
        """What is trained as one of `ROWS`."""
        network, changes = STUDENTS.get(name, (name, {}))
        alone = self.teachers[network]
        recipe = dataclasses.replace(alone.recipe, **changes)
        return dataclasses.replace(alone, name=name, recipe=recipe)

    def changes_of(self, name: str) -> dict[str, Any]:
        """What differs in the training of a row from the recipe of its network's script."""
        network, changes = STUDENTS.get(name, (name, {}))
        return {**self.frozen[network].changes, **changes}

    def made_of(self, configuration: Configuration) -> Sequence[Configuration] | None:
        """The teachers of a student; None for a teacher."""
        return list(self.teachers.values()) if configuration.name in STUDENTS else None

    def key_of_made(
        self, configuration: Configuration, members: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        return {"teachers": list(members), "lesson": self.settings}

    def made(
        self, configuration: Configuration, fold: Fold, members: Sequence[FoldNetwork]
    ) -> dict[str, Any]:
        """What a student predicts of the fold that is held out."""
        recipe, lesson = configuration.recipe, self.lesson(fold, members)
        network, result = self.fitted(configuration.model, recipe, lesson)
        return {**self.predicted(network, recipe, fold), **result}

    def lesson(
        self, fold: Fold, teachers: Sequence[FoldNetwork]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a student of a fold is trained on.

        Args:
            fold: with the images of the two classes.
            teachers: of the same fold.

        Returns:
            Images (N, 1, S, S) uint8 as of `images_of`, and the probability (N,) of class 1 that
            is learned of each, on the device.
        """
        images, _ = self.images_of(fold)
        labels = fold.train.to(self.device)[1]
        once = images[(TIMES - 1) * len(labels) :]
        logits = []
        for of_fold in teachers:
            network, recipe = of_fold.network().to(self.device), of_fold.recipe
            logits.append(predict(network, once, recipe, tta=recipe.tta))
        told = torch.sigmoid(torch.from_numpy(np.mean(logits, axis=0))).to(labels)
        targets = SHARE * told[: len(labels)] + (1 - SHARE) * labels
        return images, torch.cat([targets.repeat(TIMES), told[len(labels) :]])

    def write_results(self) -> None:
        """Write both files of the results, with the average of the teachers that are there."""
        self.average(TOGETHER, TEACHERS)
        super().write_results()

    def in_order(self, names: Collection[str]) -> list[str]:
        return known_first(names, (*TEACHERS, TOGETHER, *STUDENTS))


def write_page(folder: Path) -> None:
    """Write tables, a picture and the page in two languages.

    Raises:
        InputError: ``oof.csv`` or ``distill.json`` is missing or damaged.
    """
    read = summary, oof = read_results(folder, "distill", "configurations")
    taught = {name: alone for name, (alone, _) in STUDENTS.items() if name in oof.logits}
    lesson = next((summary["configurations"][name] for name in taught), {})

    def own(wording: Wording) -> dict[str, Any]:
        return {
            "student": STUDENT,
            "together": TOGETHER,
            "taught": taught,
            "later": [name for name in LATER if name in taught],
            "others": lesson.get("others", 0),
            "share": wording.number(100 * lesson.get("share", SHARE), ".0f"),
            "times": lesson.get("times", TIMES),
        }

    heading, but = "Networks alone, and taught by their average", f", except {TOGETHER}"
    start_tables.write_page(folder, "distill", read, heading, ROWS, COMPARISONS, own, but)


def parser() -> OneLineParser:
    """The flags."""
    flags = comparison_parser("distill", __doc__.splitlines()[0], write_page, frozen=True)
    add_only(flags, ROWS)
    flags.epilog = "Networks from ImageNet weights need: pip install -r requirements-timm.txt"
    return flags


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        Distill(parser().parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
