"""Networks of folds that predict images as they are and under made-up shifts, for two studies."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestlab.data.shifts import SEED, shifted
from chestlab.evaluation.packed_logits import write_packed
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import Configuration
from chestlab.training.inference import predict
from chestlab.training.recipe import as_dict, recipe_hash
from studies.fold_networks import FoldNetwork, architecture
from studies.fresh_folds import NETWORK_KIND, Frozen
from studies.shifts_page import LOGITS, NONE, read_stored
from studies.study import Study


class ShiftedNetworks(Study):
    """Networks, and what they predict of the images that were held out of their training.

    Args:
        options, signals, stem, first_seed, repeats: as those of `Study`.

    Attributes:
        shifts: kind and strength of each, as plain values.
        images: all of them by shift, and as they are under `NONE`.
        networks: what is stored about each.
        logits: (repeats, N) by network and shift, NaN where a repeat was not predicted.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        signals: StopSignals,
        stem: str,
        first_seed: int,
        repeats: int,
    ) -> None:
        super().__init__(options, signals, stem, first_seed, repeats)
        self.shifts: dict[str, dict[str, Any]] = {}
        self.images: dict[str, np.ndarray] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.logits: dict[str, dict[str, np.ndarray]] = {}

    def begin(self, name: str, shifts: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        """Make the folders, take over what was predicted before, and shift the images.

        Args:
            name: of the file ``<name>.json``.
            shifts: those of `chestlab.data.shifts.SHIFTS` that are used.

        Raises:
            InputError: the folder holds results of other images, folds or shifts, or damaged ones.
        """
        self.open_store()
        self.shifts = {
            shift: {"kind": kind, **strength} for shift, (kind, strength) in shifts.items()
        }
        if (self.folder / f"{name}.json").exists():
            self._keep_results(name)
        pool = self.splits.pool.images
        self.images = {NONE: pool, **{shift: shifted(pool, shift) for shift in shifts}}

    def _keep_results(self, name: str) -> None:
        summary, tables = read_stored(self.folder, name)
        stored = summary["data"]["sha256"], summary["folds"], summary["repeats"], summary["shifts"]
        here = self.data.sha256, self.splits.folds, self.splits.repeats, self.shifts
        if stored != here or summary.get("shift_seed") != SEED:
            text = f"'{self.folder}' is of other images, folds or shifts: move it away"
            raise InputError(text)
        for network, about in summary["networks"].items():
            rows = np.array(about["repeats"]) - 1
            logits = {}
            for shift, values in tables[network].logits.items():
                logits[shift] = np.full((self.splits.repeats, len(self.splits.pool)), np.nan)
                logits[shift][rows] = values
            self.networks[network], self.logits[network] = about, logits

    def empty(self) -> dict[str, np.ndarray]:
        """Logits by shift, all of them NaN."""
        shape = self.splits.repeats, len(self.splits.pool)
        return {name: np.full(shape, np.nan) for name in self.images}

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
            "model": architecture(configuration),
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

    def finish(
        self, name: str, order: Sequence[str], write_page: Callable[[Path], None], **more: Any
    ) -> None:
        """Write ``logits.csv.bz2``, ``<name>.json`` and the page.

        Args:
            order: of the networks, those that are there.
            more: what else the JSON file holds.
        """
        names = [network for network in order if network in self.networks]
        summary = {
            **self.about(),
            "first_seed": self.splits.first_seed,
            "shift_seed": SEED,
            "shifts": self.shifts,
            "networks": {network: self.networks[network] for network in names},
            **more,
        }
        logits = {network: self.logits[network] for network in names}
        write_packed(self.folder / LOGITS, self.splits, logits)
        atomic_write(self.folder / f"{name}.json", json.dumps(summary, indent=2) + "\n")
        write_page(self.folder)
        self.print_end(name)
