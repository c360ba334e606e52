"""Does training on degraded images help under made-up shifts, and what does it cost without one?

    python -m studies.robustness --data FILE.npz

On the choice folds a network is trained twice, by its recipe and by the recipe with ``--degrade``,
which makes training images coarser, noisier or bordered. Both predict the patients held out, from
their images as they are and under every shift of `chestlab.data.shifts`. On these folds recipes are
chosen: a figure to quote needs the fresh folds.

results/studies/robustness_<data>/ gets the logits, a picture and a page in two languages. The
weights of finished folds are kept, and the same command continues where it was stopped. ``--only
NAME`` trains some of the networks. ``--redraw FOLDER`` writes the page again from the logits. What
starts from ImageNet weights needs ``pip install -r requirements-timm.txt``.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence

from chestlab.data.folds import FOLDS_SEED
from chestlab.data.shifts import SHIFTS
from chestlab.files.errors import one_line_errors
from chestlab.files.progress import StopSignals
from studies.frozen_recipes import TRANSFERRED, Frozen, frozen_configuration
from studies.probes import AS_TRAINED, LITE
from studies.robustness_page import DEGRADED, write_page
from studies.shifted_networks import ShiftedNetworks
from studies.stored_configurations import known_first
from studies.study import add_only, comparison_parser

DEGRADE = {"degrade": 0.25}  # fixed before anything was trained

NETWORKS = (
    Frozen("efficientchestnet", "efficientchestnet", "best"),
    Frozen(f"efficientchestnet{DEGRADED}", "efficientchestnet", "best", DEGRADE),
    Frozen("residualchestnet", "residualchestnet", "best"),
    Frozen(f"residualchestnet{DEGRADED}", "residualchestnet", "best", DEGRADE),
    Frozen(TRANSFERRED, LITE, "transfer", AS_TRAINED, "imagenet"),
    Frozen(f"{TRANSFERRED}{DEGRADED}", LITE, "transfer", {**AS_TRAINED, **DEGRADE}, "imagenet"),
)

REPEATS = 1


class Robustness(ShiftedNetworks):
    """Trains networks with and without degraded images, predicts shifted ones, writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "robustness", SHIFTS, FOLDS_SEED, REPEATS)

    def run(self) -> None:
        """Train what is not kept, predict, and write the pages after each network."""
        wanted = [
            (one, *frozen_configuration(self, one))
            for one in NETWORKS
            if one.name in self.options.only
        ]
        self.begin()
        repeats = range(self.splits.repeats)
        for one, network, configuration in wanted:
            about = self.about_network(one, network.script, configuration, repeats)
            if self.networks.get(one.name, {}).get("recipe") != about["recipe"]:
                self.keep(one.name, about, self.predict(configuration, repeats))
                self.finish(write_page)

    def in_order(self, names: Collection[str]) -> list[str]:
        return known_first(names, [one.name for one in NETWORKS])


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        title = __doc__.splitlines()[0]
        parser = comparison_parser("robustness", title, write_page, frozen=True)
        add_only(parser, [one.name for one in NETWORKS])
        parser.set_defaults(repeats=REPEATS)
        Robustness(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
