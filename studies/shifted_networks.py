"""Networks of folds that predict images as they are and under made-up shifts, for two studies."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data.shifts import SEED, shifted
from chestlab.evaluation.out_of_fold import NETWORK_KIND
from chestlab.evaluation.packed_logits import write_packed
from chestlab.files.atomic import atomic_write, written_together
from chestlab.files.errors import InputError
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import Configuration
from chestlab.training.inference import predict
from chestlab.training.recipe import as_dict, recipe_hash
from studies.fold_networks import FoldNetwork
from studies.frozen_recipes import Frozen
from studies.network_names import network_name
from studies.shifts_page import LOGITS, NONE, read_stored
from studies.study import Study


class ShiftedNetworks(Study):
    """Networks, and what they predict of the images that were held out of their training.

    Several processes may add networks to one folder of results, as in
    `stored_configurations.StoredConfigurations`.

    Args:
        options, signals, first_seed, repeats: as those of `Study`.
        results: name of the JSON file, with which the name of the folder begins.
        shifts: those of `chestlab.data.shifts.SHIFTS` that are used.

    Attributes:
        shifts: kind and strength of each, as plain values.
        networks: what is stored about each.
        logits: (repeats, N) by network and shift, NaN where a repeat was not predicted.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        signals: StopSignals,
        results: str,
        shifts: Mapping[str, tuple[str, Mapping[str, Any]]],
        first_seed: int,
        repeats: int,
    ) -> None:
        super().__init__(options, signals, results, first_seed, repeats)
        self.results = results
        self.shifts = {
            name: {"kind": kind, **strength} for name, (kind, strength) in shifts.items()
        }
        self.networks: dict[str, dict[str, Any]] = {}
        self.logits: dict[str, dict[str, np.ndarray]] = {}

    @cached_property
    def images(self) -> dict[str, np.ndarray]:
        """All of them by shift, and as they are under `NONE`."""
        pool = self.splits.pool.images
        return {NONE: pool, **{name: shifted(pool, name) for name in self.shifts}}

    def begin(self) -> None:
        """Make the folders, and read the results that are there.

        Raises:
            InputError: these are of other images, folds or shifts, or damaged.
        """
        self.open_store()
        with self.alone():
            self.take_over()

    def keep(
        self, network: str, about: Mapping[str, Any], logits: Mapping[str, np.ndarray]
    ) -> None:
        """Store what a network has predicted in this process.

        Args:
            network: its name.
            about: what is stored about it, with its ``repeats``.
            logits: as those of `predict`.
        """
        with self.alone():
            self.take_over()
            self.networks[network], self.logits[network] = dict(about), dict(logits)
            self.write_results()

    def take_over(self) -> None:
        """Read the results again, which other processes may have changed.

        Raises:
            InputError: they are of other images, folds or shifts, or damaged.
        """
        if not (self.folder / f"{self.results}.json").exists():
            return
        summary, tables = read_stored(self.folder, self.results)
        stored = summary["folds"], summary["repeats"], summary["shifts"], summary.get("shift_seed")
        if stored != (self.splits.folds, self.splits.repeats, self.shifts, SEED):
            text = f"'{self.folder}' is of other images, folds or shifts: move it away"
            raise InputError(text)
        logits: dict[str, dict[str, np.ndarray]] = {}
        for network, about in summary["networks"].items():
            repeats = [number - 1 for number in about["repeats"]]
            self.check_stored(summary, tables[network], repeats)
            logits[network] = self.empty()
            for shift, values in tables[network].logits.items():
                logits[network][shift][repeats] = values
        self.networks, self.logits = dict(summary["networks"]), logits

    def empty(self) -> dict[str, np.ndarray]:
        """Logits by shift, all of them NaN."""
        shape = self.splits.repeats, len(self.splits.pool)
        return {name: np.full(shape, np.nan) for name in (NONE, *self.shifts)}

    def predict(
        self, configuration: Configuration, repeats: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """The logits of a configuration's networks, trained now unless their weights are kept.

        Args:
            repeats: those to predict, from 0.
        """
        logits = self.empty()
        for repeat in repeats:
            for number in range(self.splits.folds):
                of_fold = FoldNetwork(self, configuration, repeat, number)
                trained = of_fold.trained(of_fold.network())
                rows = of_fold.fold.rows
                for name, images in self.images.items():
                    self.signals.check()
                    tensor, tta = trained.tensor(images[rows]), trained.tta
                    values = predict(trained.model, tensor, trained.recipe, tta=tta)
                    logits[name][repeat, rows] = values
                print(f"{of_fold.where}: {len(self.images)} predictions", flush=True)
        return logits

    def about_network(
        self, frozen: Frozen, script: str, configuration: Configuration, repeats: Sequence[int]
    ) -> dict[str, Any]:
        """What is stored about a network; ``repeats`` as those of `predict`."""
        recipe = configuration.recipe
        return {
            "kind": NETWORK_KIND,
            "model": network_name(configuration),
            "script": script,
            "recipe_name": frozen.recipe,
            "recipe_changes": dict(frozen.changes),
            "recipe": recipe_hash(as_dict(recipe)),
            "normalize": recipe.normalize,
            "rotate": recipe.rotate,
            "repeats": [repeat + 1 for repeat in repeats],
            "device": self.device.type,
            "torch": torch.__version__,
        }

    def write_results(self) -> None:
        """Write both files of the results."""
        names = self.in_order(self.networks)
        summary = {
            **self.about(),
            "first_seed": self.splits.first_seed,
            "shift_seed": SEED,
            "shifts": self.shifts,
            "networks": {network: self.networks[network] for network in names},
            **self.more(),
        }
        logits = {network: self.logits[network] for network in names}
        with written_together():
            write_packed(self.folder / LOGITS, self.splits, logits)
            text = json.dumps(summary, indent=2) + "\n"
            atomic_write(self.folder / f"{self.results}.json", text)

    def in_order(self, names: Collection[str]) -> list[str]:
        """The names of all networks as the results have them."""
        return list(names)

    def more(self) -> dict[str, Any]:
        """What else the JSON file holds."""
        return {}

    def finish(self, write_page: Callable[[Path], None]) -> None:
        """Write the page of what all processes have predicted."""
        with self.alone():
            write_page(self.folder)
        self.print_end(self.results)
