"""How much is lost when pictures come from elsewhere: networks under made-up shifts.

    python -m studies.shifts --data FILE.npz

The networks of `NAMES` are trained on the fresh folds with their frozen recipes, on images as they
are. Each predicts the patients held out, from their images as they are and under every shift of
`chestlab.data.shifts`: other resampling, blur, grey levels, JPEG, borders, letters, tilt, noise,
negatives. Beside them stands a classical baseline, whose features are those of the shifted images.

results/studies/shifts_<data>/ gets the logits, a picture and a page in two languages. Trained folds
are stored, and `studies.deployment` shares them; the same command continues where it was stopped.
``--only NAME`` takes some networks, ``--trained`` only repeats whose folds are all trained.
``--redraw FOLDER`` writes the page again from the logits.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from chestlab.data.folds import FRESH_FOLDS_SEED
from chestlab.data.shifts import SEED, SHIFTS
from chestlab.evaluation import baselines
from chestlab.evaluation.alarms import logits_of
from chestlab.evaluation.out_of_fold import BASELINE_KIND
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import Configuration, digest
from chestlab.training.likeness import Likeness, doubts
from studies.fold_networks import FoldNetwork
from studies.fresh_folds import count_use
from studies.frozen_recipes import BASELINES, FROZEN, Frozen, frozen_configuration
from studies.shifted_networks import ShiftedNetworks
from studies.shifts_page import NAMES, NONE, write_page
from studies.stored_configurations import known_first
from studies.study import add_only, comparison_parser

BASELINE = BASELINES[0]

REPEATS = 3


class Shifts(ShiftedNetworks):
    """Predicts shifted images by the networks of the fresh folds, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        super().__init__(options, signals, "shifts", SHIFTS, FRESH_FOLDS_SEED, REPEATS)
        self.warned: dict[str, dict[str, float]] = {}

    def run(self) -> None:
        """Train what is not stored, predict, and write the pages."""
        wanted = [self._wanted(frozen) for frozen in FROZEN if frozen.name in self.options.only]
        if not any(repeats for *_, repeats in wanted):
            raise InputError("--trained: no repeat has all of its folds trained; leave it out")
        self.begin()
        self.warned = self._warned()
        self._measure_baseline()
        for frozen, script, configuration, repeats in wanted:
            if repeats:
                self._measure(frozen, script, configuration, repeats)
            else:
                print(f"{frozen.name}: no repeat has all of its folds trained", flush=True)
        self.finish(write_page)

    def in_order(self, names: Collection[str]) -> list[str]:
        return known_first(names, (*NAMES, BASELINE))

    def more(self) -> dict[str, Any]:
        return {"warned": self.warned}

    def _wanted(self, frozen: Frozen) -> tuple[Frozen, str, Configuration, list[int]]:
        """A frozen recipe, its script, what is trained, and the repeats to take, from 0."""
        network, configuration = frozen_configuration(self, frozen)
        repeats, folds = range(self.splits.repeats), range(self.splits.folds)
        taken = [
            repeat
            for repeat in repeats
            if not self.options.trained
            or all(FoldNetwork(self, configuration, repeat, k).is_trained for k in folds)
        ]
        return frozen, network.script, configuration, taken

    def _measure(
        self, frozen: Frozen, script: str, configuration: Configuration, repeats: list[int]
    ) -> None:
        """The logits of a configuration's networks, each a use of the fresh folds."""
        logits = self.predict(configuration, repeats)
        about = self.about_network(frozen, script, configuration, repeats)
        for name, values in logits.items():
            count_use(self, frozen.name, about, values, "" if name == NONE else f"under {name}")
        self.keep(frozen.name, about, logits)

    def _measure_baseline(self) -> None:
        """The same of a classical classifier, fitted on images as they are."""
        (baseline,) = (b for b in baselines.BASELINES if b.key == BASELINE)
        features: dict[str, np.ndarray] = {}
        logits = self.empty()
        about = {"baseline": BASELINE, "data": self.data.sha256}
        about |= {"shifts": self.shifts, "shift_seed": SEED}
        for repeat in range(self.splits.repeats):
            for number in range(self.splits.folds):
                self.signals.check()
                fold = self.splits.fold(repeat, number, choosing=False)
                images = {"train": digest(fold.train), "held_out": digest(fold.held_out)}
                key = {**about, **images}
                result = self.store.get(key, len(fold.rows))
                if result is None:
                    features = features or {
                        name: baseline.features(shown) for name, shown in self.images.items()
                    }
                    outside = self.splits.assignment[repeat] != number
                    classifier, _ = baselines.fit(baseline, features[NONE][outside], fold.train)
                    p = {
                        n: classifier.predict_proba(x[fold.rows])[:, 1] for n, x in features.items()
                    }
                    result = {"logits": {name: logits_of(p[name]).tolist() for name in p}}
                    self.store.put(key, result)
                for name in self.images:
                    logits[name][repeat, fold.rows] = result["logits"][name]
        repeats = list(range(1, self.splits.repeats + 1))
        about = {"kind": BASELINE_KIND, "model": baseline.model, "repeats": repeats}
        self.keep(BASELINE, about, logits)

    def _warned(self) -> dict[str, dict[str, float]]:
        """Shares of held-out images of which `predict.py` says that they look inverted, or any."""
        shares = {name: {"inverted": 0, "any": 0} for name in self.images}
        for repeat in range(self.splits.repeats):
            for number in range(self.splits.folds):
                fold = self.splits.fold(repeat, number, choosing=True)
                assert fold.val is not None  # is asked for
                likeness = Likeness.fit(fold.train.images, fold.val.images)
                for name, images in self.images.items():
                    sentences = doubts(images[fold.rows], likeness, "auto")
                    shares[name]["any"] += sum(map(bool, sentences))
                    inverted = ("looks inverted" in " ".join(texts) for texts in sentences)
                    shares[name]["inverted"] += sum(inverted)
        images = self.splits.repeats * len(self.splits.pool)
        return {name: {k: n / images for k, n in of.items()} for name, of in shares.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        title = __doc__.splitlines()[0]
        parser = comparison_parser("shifts", title, write_page, frozen=True)
        add_only(parser, NAMES)
        parser.add_argument(
            "--trained",
            action="store_true",
            help="train nothing; of each network take the repeats whose folds are all trained",
        )
        parser.set_defaults(repeats=REPEATS)
        Shifts(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
