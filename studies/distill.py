"""Can a network learn from the average of several what its own images do not show?

    python -m studies.distill --data FILE.npz

Distillation (Hinton et al., https://arxiv.org/abs/1503.02531) with images that nobody has labelled:
on every fold, a small network and larger ones are trained on the images of the two classes, and one
of them then learns anew, the probabilities that their average gives to these images and to all
other training images of the source, whatever these show. No teacher and no student of a fold has
seen an image of a patient who is held out. Cross-validated on the choice folds; test is not read.
With ``--fresh`` the student that is frozen is evaluated on the fresh folds, by which nothing is
chosen; each evaluation there is a line of `test_looks.csv`. What starts from ImageNet weights needs
``pip install -r requirements-timm.txt``.

results/studies/distill_<data>/, or distill_fresh_<data>/, gets logits, tables, a picture and a page
in two languages. Finished folds are stored, the teachers' weights included, and the same command
continues where it was stopped. ``--only NAME`` trains some of the rows. ``--redraw FOLDER`` writes
the page again from the logits.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data.folds import FRESH_FOLDS_SEED, Fold
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.reporting.page import Wording
from chestlab.runs.crossval import Configuration
from chestlab.training.inference import predict
from chestlab.training.recipe import as_dict, recipe_hash
from studies import start_tables
from studies.fold_networks import FoldNetwork
from studies.fresh_folds import REPEATS, count_use
from studies.frozen_recipes import FAST, FROZEN, RELATED, TRANSFERRED, frozen_configuration
from studies.stored_configurations import known_first
from studies.stored_results import read_results
from studies.study import add_only, comparison_parser, is_fresh
from studies.with_other_images import TIMES, WithOtherImages

STUDENT = "efficientchestnet"

TOGETHER, THREE = "teachers", "three_teachers"  # the rows of their averages

TEACHERS = {TOGETHER: (STUDENT, TRANSFERRED), THREE: (FAST, TRANSFERRED, RELATED)}


@dataclass(frozen=True)
class Student:
    """A network that is taught.

    Attributes:
        alone: the teacher whose network and recipe it has.
        changes: hyperparameters that differ from that recipe.
        teachers: the row of their average.
    """

    alone: str
    changes: Mapping[str, Any]
    teachers: str = TOGETHER


STUDENTS = {
    "distilled": Student(STUDENT, {"epochs": 2}),
    "distilled_longer": Student(STUDENT, {"epochs": 5}),
    "distilled_lite0": Student(TRANSFERRED, {"epochs": 2}),
    "distilled_fast": Student(FAST, {"epochs": 8}, THREE),
}

LATER = ("distilled_lite0", "distilled_fast")  # added when the figures of others here were known

FROZEN_STUDENTS = ("distilled_fast",)  # what the fresh folds may evaluate

SHARE = 0.5  # of the teachers in what is learned of an image of the two classes, beside its label

ALONE = tuple(dict.fromkeys(chain(*TEACHERS.values())))

ROWS = (*ALONE, *STUDENTS)

# Fixed before anything was trained, but for `LATER`: the first is claimed to have the higher AUC.
COMPARISONS = (
    (TOGETHER, STUDENT),
    *((name, student.alone) for name, student in STUDENTS.items()),
    *((student.teachers, name) for name, student in STUDENTS.items()),
)
FRESH_COMPARISONS = tuple(pair for pair in COMPARISONS if {*pair} & {*FROZEN_STUDENTS})


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
        fresh = {"first_seed": FRESH_FOLDS_SEED, "repeats": REPEATS, "stem": "distill_fresh"}
        super().__init__(options, signals, "distill", **(fresh if options.fresh else {}))
        self.frozen = {row.name: row for row in FROZEN}
        wanted = {name: None for row in options.only for name in teachers_of(row)}
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
        student = STUDENTS.get(name, Student(name, {}))
        alone = self.teachers[student.alone]
        recipe = dataclasses.replace(alone.recipe, **student.changes)
        return dataclasses.replace(alone, name=name, recipe=recipe)

    def changes_of(self, name: str) -> dict[str, Any]:
        """What differs in the training of a row from the recipe of its network's script."""
        student = STUDENTS.get(name, Student(name, {}))
        return {**self.frozen[student.alone].changes, **student.changes}

    def made_of(self, configuration: Configuration) -> Sequence[Configuration] | None:
        """The teachers of a student; None for a teacher."""
        if configuration.name not in STUDENTS:
            return None
        return [self.teachers[name] for name in teachers_of(configuration.name)]

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

    def evaluated(self, name: str, about: Mapping[str, Any], logits: np.ndarray) -> None:
        if self.options.fresh:
            student = STUDENTS.get(name)
            recipe = self.frozen[student.alone if student else name].recipe
            variant = f"taught by {student.teachers}" if student else ""
            told = {**about, "recipe_name": recipe, "recipe_changes": about["changes"]}
            count_use(self, name, told, logits, variant)

    def write_results(self) -> None:
        """Write both files of the results, with the averages of the teachers that are there."""
        for together, teachers in TEACHERS.items():
            self.average(together, teachers)
        super().write_results()

    def about(self) -> dict[str, Any]:
        return {**super().about(), "first_seed": self.splits.first_seed}

    def in_order(self, names: Collection[str]) -> list[str]:
        return known_first(names, (*ALONE, *TEACHERS, *STUDENTS))


def teachers_of(row: str) -> tuple[str, ...]:
    """The networks that a row needs: the teachers of a student, or the teacher itself."""
    return TEACHERS[STUDENTS[row].teachers] if row in STUDENTS else (row,)


def fresh_rows() -> tuple[str, ...]:
    """What ``--fresh`` trains: the students that are frozen, and before them their teachers."""
    teachers = dict.fromkeys(chain(*map(teachers_of, FROZEN_STUDENTS)))
    return (*teachers, *FROZEN_STUDENTS)


def write_page(folder: Path) -> None:
    """Write tables, a picture and the page in two languages.

    Raises:
        InputError: ``oof.csv`` or ``distill.json`` is missing or damaged.
    """
    read = summary, oof = read_results(folder, "distill", "configurations")
    fresh = is_fresh(summary)
    taught = {name: student for name, student in STUDENTS.items() if name in oof.logits}
    lesson = next((summary["configurations"][name] for name in taught), {})
    averages = [row for row in TEACHERS if row in oof.logits]

    def own(wording: Wording) -> dict[str, Any]:
        return {
            "student": STUDENT,
            "together": averages,
            "teachers": TEACHERS,
            "taught": taught,
            "later": [name for name in LATER if name in taught],
            "others": lesson.get("others", 0),
            "share": wording.number(100 * lesson.get("share", SHARE), ".0f"),
            "times": lesson.get("times", TIMES),
        }

    heading = "Networks alone, and taught by their average"
    but = f", except {' and '.join(averages)}" if averages else ""
    rows, pairs = (fresh_rows(), FRESH_COMPARISONS) if fresh else (ROWS, COMPARISONS)
    start_tables.write_page(folder, "distill", read, heading, rows, pairs, own, but)


def parser() -> OneLineParser:
    """The flags."""
    flags = comparison_parser("distill", __doc__.splitlines()[0], write_page, frozen=True)
    flags.add_argument(
        "--fresh",
        action="store_true",
        help="on the fresh folds, by which nothing is chosen; only what is frozen: "
        f"{', '.join(fresh_rows())}",
    )
    add_only(flags, ROWS)
    flags.epilog = "Networks from ImageNet weights need: pip install -r requirements-timm.txt"
    return flags


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        flags = parser()
        options = flags.parse_args(argv)
        if options.fresh:
            flags.set_defaults(repeats=REPEATS)
            options = flags.parse_args(argv)
            asked = set(options.only) if len(options.only) < len(ROWS) else set(fresh_rows())
            if not asked <= set(fresh_rows()):
                raise InputError(f"--fresh: --only may name {', '.join(fresh_rows())}")
            options.only = [name for name in fresh_rows() if name in asked]
        Distill(options, signals).run()


if __name__ == "__main__":
    main()
