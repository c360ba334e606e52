"""Do images of other findings help a network that learns them beside those of the two classes?

    python -m studies.other_images --data FILE.npz

On every fold experiment 1 is trained as its script trains it, and on all other training images of
the source as well, in two ways: ``joint`` has an output for each of the 14 findings beside that of
the two classes, and learns both at once; ``consistent`` uses no label of the other images, and
learns to say of a second random warp what it is sure of for the first one (after FixMatch, Sohn et
al., https://arxiv.org/abs/2001.07685). No network of a fold has seen an image of a patient who is
held out. Cross-validated on the choice folds; test is not read. For what a teacher says of these
images see `distill`, for findings first and the two classes afterwards `findings_first`.

results/studies/other_images_<data>/ gets logits, tables, a picture and a page in two languages.
Finished folds are stored, and the same command continues where it was stopped. ``--only NAME``
trains some of the rows. ``--redraw FOLDER`` writes the page again from the logits.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from chestlab.data.folds import Fold
from chestlab.data.splits import CLASS_COLUMNS, FINDINGS
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.reporting.page import Wording
from chestlab.runs.crossval import Configuration
from chestlab.training.distributed import SharedBatches
from chestlab.training.losses import losses_of
from chestlab.training.recipe import Recipe
from chestlab.training.weights import last_linear
from studies import start_tables
from studies.fold_networks import FoldNetwork
from studies.frozen_recipes import FROZEN, frozen_configuration
from studies.pretrain import with_head
from studies.stored_configurations import known_first
from studies.stored_results import read_results
from studies.study import add_only, comparison_parser
from studies.with_other_images import TIMES, WithOtherImages

ALONE = "efficientchestnet"  # a row of `fresh_folds`

JOINT, CONSISTENT = "joint", "consistent"

EPOCHS = {JOINT: 5, CONSISTENT: 2}  # the second one shows an image twice in each

SURE = 0.95  # probability of a class from which a network's answer counts, that of the paper

ROWS = (ALONE, *EPOCHS)

# Fixed before anything was trained: the first is claimed to have the higher AUC.
COMPARISONS = ((JOINT, ALONE), (CONSISTENT, ALONE))


@dataclass
class WhereKnown:
    """An objective that learns the two classes where they are known.

    Attributes:
        recipe: for `losses_of`.
        share: of the images are of the two classes.
    """

    recipe: Recipe
    share: float


class Joint(WhereKnown):
    """The two classes where they are known, and the 14 findings of every image, at once.

    The sum of two mean losses: over images of the two classes, and over all images and findings.
    """

    views = 1

    def loss(
        self, outputs: torch.Tensor, labels: torch.Tensor, batches: SharedBatches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of `Objective`; of outputs and labels (n, 15) the first is NaN where it is unknown."""
        known = ~labels.isnan()
        losses = losses_of(outputs, labels.nan_to_num(), self.recipe) * known
        correct = (((outputs.detach() >= 0) == (labels >= 0.5)) & known).sum()
        return losses[:, 0].mean() / self.share + losses[:, 1:].mean(), correct


class Consistent(WhereKnown):
    """The two classes where they are known, elsewhere what the network is sure of in another warp.

    The sum of two mean losses: over the images of the two classes, in both warps, and over the
    others, where the first warp is told apart with a probability of `SURE` or more and the second
    one is to have the same class.
    """

    views = 2

    def loss(
        self, outputs: torch.Tensor, labels: torch.Tensor, batches: SharedBatches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of `Objective`, of outputs (2 n,); labels are NaN where they are unknown."""
        first, second = outputs.float().chunk(2)
        known = ~labels.isnan()
        labels = labels.nan_to_num()
        p = torch.sigmoid(first.detach())
        sure = ~known & ((p >= SURE) | (p <= 1 - SURE))
        losses = losses_of(first, labels, self.recipe) + losses_of(second, labels, self.recipe)
        same = F.binary_cross_entropy_with_logits(second, (p >= 0.5).float(), reduction="none")
        correct = (((p >= 0.5) == (labels >= 0.5)) & known).sum()
        of_known = (losses * known).mean() / (2 * self.share)
        return of_known + (same * sure).mean() / (1 - self.share), correct


OBJECTIVES = {JOINT: Joint, CONSISTENT: Consistent}


class OtherImages(WithOtherImages):
    """Trains the rows on every fold, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Attributes:
        base: what is trained on the images of the two classes.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "other_images")
        (frozen,) = (row for row in FROZEN if row.name == ALONE)
        if not len(self.others) and set(EPOCHS) & set(options.only):
            raise InputError(
                f"'{self.data.source}' has no training images of other findings to learn of"
            )
        self.base = frozen_configuration(self, frozen)[1]

    def run(self) -> None:
        """Train what is neither stored nor in the results, then write the pages."""
        self.begin()
        for name in self.options.only:
            changes = {"epochs": EPOCHS[name]} if name in EPOCHS else {}
            recipe = dataclasses.replace(self.base.recipe, **changes)
            configuration = dataclasses.replace(self.base, name=name, recipe=recipe)
            self.measure_row(configuration, changes)
        self.finish(write_page)

    def made_of(self, configuration: Configuration) -> Sequence[Configuration] | None:
        """Nothing; None for the network that learns the two classes alone."""
        return () if configuration.name in EPOCHS else None

    def about_made(self, members: Sequence[Configuration]) -> dict[str, Any]:
        return {"times": TIMES, "others": len(self.others), "sure": SURE}

    def key_of_made(
        self, configuration: Configuration, members: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        return {"objective": configuration.name, **self.about_made(())}

    def made(
        self, configuration: Configuration, fold: Fold, members: Sequence[FoldNetwork]
    ) -> dict[str, Any]:
        """What a network that has learned all images predicts of the fold that is held out."""
        recipe, build = configuration.recipe, configuration.model
        findings = configuration.name == JOINT
        head = last_linear(build())
        if findings:
            build = partial(with_head, build, head, 1 + len(FINDINGS), "findings")
        images, targets = self.lesson(fold, findings)
        share = TIMES * len(fold.train) / len(images)
        objective = OBJECTIVES[configuration.name](recipe, share)
        network, result = self.fitted(build, recipe, (images, targets), objective)
        if findings:
            network.set_submodule(head, first_output(network.get_submodule(head)))
        return {**self.predicted(network, recipe, fold), **result}

    def lesson(self, fold: Fold, findings: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """What a network of a fold is trained on.

        Args:
            fold: with the images of the two classes.
            findings: whether it learns these, too.

        Returns:
            Images (N, 1, S, S) uint8 as of `images_of`, and of each the label (N,), NaN for those
            that are not of the two classes; or labels (N, 15), that one first.
        """
        images, others = self.images_of(fold)
        labels = fold.train.to(self.device)[1]
        unknown = labels.new_full((len(others),), torch.nan)
        targets = torch.cat([labels.repeat(TIMES), unknown])
        if not findings:
            return images, targets
        alone = F.one_hot(labels.new_tensor(CLASS_COLUMNS).long()[labels.long()], len(FINDINGS))
        of_others = others.to(self.device)[1]
        of_all = torch.cat([alone.to(of_others).repeat(TIMES, 1), of_others])
        return images, torch.cat([targets[:, None], of_all], dim=1)

    def in_order(self, names: Collection[str]) -> list[str]:
        return known_first(names, ROWS)


def first_output(layer: nn.Linear) -> nn.Linear:
    """A layer that has the first output of another one alone."""
    first = nn.Linear(layer.in_features, 1).to(layer.weight.device)
    first.load_state_dict({name: value[:1] for name, value in layer.state_dict().items()})
    return first


def write_page(folder: Path) -> None:
    """Write tables, a picture and the page in two languages.

    Raises:
        InputError: ``oof.csv`` or ``other_images.json`` is missing or damaged.
    """
    read = summary, oof = read_results(folder, "other_images", "configurations")
    tried = [name for name in EPOCHS if name in oof.logits]
    lesson = next((summary["configurations"][name] for name in tried), {})

    def own(wording: Wording) -> dict[str, Any]:
        return {
            "alone": ALONE,
            "joint": JOINT,
            "consistent": CONSISTENT,
            "tried": tried,
            "others": lesson.get("others", 0),
            "times": lesson.get("times", TIMES),
            "sure": wording.number(lesson.get("sure", SURE), ".2f"),
        }

    heading = "On images of the two classes, and on all"
    start_tables.write_page(folder, "other_images", read, heading, ROWS, COMPARISONS, own)


def parser() -> OneLineParser:
    """The flags."""
    flags = comparison_parser("other_images", __doc__.splitlines()[0], write_page, frozen=True)
    add_only(flags, ROWS)
    return flags


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        OtherImages(parser().parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
