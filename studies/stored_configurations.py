"""Studies whose results are a row and logits for each configuration, to which processes add."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data.folds import FOLDS_SEED
from chestlab.evaluation.looks import NETWORKS_BETWEEN
from chestlab.evaluation.out_of_fold import AVERAGE_KIND, ESTIMATED_KIND, OutOfFold
from chestlab.files.atomic import atomic_write, written_together
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import Configuration
from studies.stored_results import read_results
from studies.study import REPEATS, Study

ESTIMATED = "_estimated"  # after the name of a network whose batch-norm statistics are estimated

Row = tuple[Mapping[str, Any], np.ndarray]  # what is stored about a configuration, and its logits


class StoredConfigurations(Study):
    """A study that stores its configurations one by one, in ``oof.csv`` and ``<results>.json``.

    Several processes may have one folder of results. Each reads the folder again before it adds
    what it has measured, and writes it before another one reads: a row that was measured replaces
    the stored one of its name, and no other row is lost.

    Args:
        options, signals, first_seed, repeats: as those of `Study`.
        results: name of the JSON file, with which the name of the folder begins.
        stem: with which it begins in place of that.

    Attributes:
        configurations: what is stored about each.
        oof: their logits.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        signals: StopSignals,
        results: str,
        first_seed: int = FOLDS_SEED,
        repeats: int = REPEATS.default,
        stem: str = "",
    ) -> None:
        super().__init__(options, signals, stem or results, first_seed, repeats)
        self.results = results
        self.configurations: dict[str, dict[str, Any]] = {}
        self.oof = OutOfFold.of(self.splits, {})

    def begin(self) -> None:
        """Make the folders, and read the results that are there.

        Raises:
            InputError: these are of other images or folds, or damaged.
        """
        self.open_store()
        with self.alone():
            self.take_over()

    def measure(
        self,
        name: str,
        configuration: Configuration,
        about: Mapping[str, Any],
        share: float = 1.0,
        *,
        estimated: bool = True,
    ) -> None:
        """Cross-validate a network and store its row, unless the results have it already.

        Args:
            name: of the row.
            configuration: what is trained.
            about: what is stored about it; a stored row with other values is measured again.
            share: of the training patients.
            estimated: store a row of the same weights with batch-norm statistics estimated anew as
                well, where there are any.
        """
        before, seed = self.configurations.get(name, {}), configuration.recipe.seed
        same = all(before.get(key) == value for key, value in about.items())
        if same and before.get("seed", seed) == seed:  # rows of earlier versions do not tell it
            return
        outcome = self.cross_validate(configuration, share)
        about = {**about, "seed": seed, "device": self.device.type, "torch": torch.__version__}
        about |= {key: getattr(outcome, key) for key in ("seconds", "images", "best_epoch")}
        self.evaluated(name, about, outcome.logits)
        rows: dict[str, Row] = {name: (about, outcome.logits)}
        if estimated and outcome.estimated is not None:
            rows[name + ESTIMATED] = {**about, "kind": ESTIMATED_KIND}, outcome.estimated
        self.keep(rows, replaced={name + ESTIMATED})

    def evaluated(self, name: str, about: Mapping[str, Any], logits: np.ndarray) -> None:
        """Called by `measure` before it stores a row."""

    def keep(self, rows: Mapping[str, Row], replaced: Collection[str] = ()) -> None:
        """Store rows that this process has measured.

        Args:
            rows: by name.
            replaced: rows with estimated statistics that belonged to earlier ones of these.
        """
        with self.alone():
            self.take_over()
            for name in set(replaced) - set(rows):
                if self.configurations.get(name, {}).get("kind") == ESTIMATED_KIND:
                    self.drop(name)
            for name, row in rows.items():
                self.put(name, *row)
            self.write_results()

    def put(self, name: str, about: Mapping[str, Any], logits: np.ndarray) -> None:
        """Add a row that is written with the next one."""
        self.configurations[name] = dict(about)
        self.oof.add(name, logits)

    def drop(self, name: str) -> None:
        """Leave a row out that is no longer made."""
        del self.configurations[name], self.oof.logits[name]

    def put_average(self, name: str, members: Sequence[str], about: Mapping[str, Any]) -> None:
        """Add a row that is the mean of other rows' logits; ``about`` is stored besides."""
        models = [self.configurations[member]["model"] for member in members]
        of_average = {"kind": AVERAGE_KIND, "model": NETWORKS_BETWEEN.join(models), **about}
        logits = np.mean([self.oof.logits[member] for member in members], axis=0)
        self.put(name, of_average, logits)

    def take_over(self) -> dict[str, Any] | None:
        """Read the results again, which other processes may have changed.

        Returns:
            What the JSON file holds; None without results.

        Raises:
            InputError: they are of other images or folds, or damaged.
        """
        if not (self.folder / f"{self.results}.json").exists():
            return None
        summary, oof = read_results(self.folder, self.results, "configurations")
        self.check_stored(summary, oof)
        self.configurations, self.oof = dict(summary["configurations"]), oof
        return summary

    def write_results(self) -> None:
        """Write both files of the results."""
        with written_together():
            self.oof.write(self.folder / "oof.csv")
            text = json.dumps(self.summary(), indent=2) + "\n"
            atomic_write(self.folder / f"{self.results}.json", text)

    def summary(self) -> dict[str, Any]:
        """What the JSON file holds."""
        rows = {name: self.configurations[name] for name in self.in_order(self.configurations)}
        about = self.about()
        for key in ("device", "torch"):  # of all that have trained, not of who writes this
            known = sorted({row[key] for row in rows.values() if key in row})
            about[key] = ", ".join(known) or about[key]
        return {**about, "configurations": rows}

    def in_order(self, names: Collection[str]) -> list[str]:
        """The names of all rows as the JSON file has them."""
        return list(names)

    def finish(self, write_page: Callable[[Path], None]) -> None:
        """Write the results once more, and the page of what all processes have measured."""
        with self.alone():
            self.take_over()
            self.write_results()
            write_page(self.folder)
        self.print_end(self.results.replace("_", " "))


def known_first(names: Collection[str], known: Sequence[str]) -> list[str]:
    """Names in the order of those that are known, then those that a study knows no more."""
    return [
        *(name for name in known if name in names),
        *(name for name in names if name not in known),
    ]
