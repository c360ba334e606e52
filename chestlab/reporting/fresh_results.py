"""What studies have left in the folder of results, read for the page of all runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from chestlab.evaluation.out_of_fold import NETWORK_KIND, OutOfFold
from chestlab.evaluation.verdicts import ALPHA, Estimate, holm, p_value
from chestlab.files.errors import InputError
from chestlab.files.run_files import STUDIES

Read = TypeVar("Read")


@dataclass(frozen=True)
class Lead:
    """Difference in AUC with its p-value, before and after Holm's correction."""

    gain: Estimate
    p: float
    p_holm: float

    @property
    def certain(self) -> bool:
        """Whether the first is above the second beyond chance."""
        return self.p_holm < ALPHA and self.gain.value > 0


@dataclass(frozen=True, eq=False)
class FreshFolds:
    """The frozen recipes on folds that nothing was chosen on, as `studies.fresh_folds` stores them.

    Attributes:
        folder: of the study.
        summary: its ``fresh_folds.json``.
        oof: logits of every configuration.
    """

    folder: Path
    summary: Mapping[str, Any]
    oof: OutOfFold

    @cached_property
    def configurations(self) -> Mapping[str, Mapping[str, Any]]:
        """What was evaluated, by its name; without what was taken over from other images."""
        known = self.summary["configurations"].items()
        return {name: of for name, of in known if "data" not in of}

    def highest(self, kind: str) -> str | None:
        """The configuration of this kind with the highest AUC; None without any."""
        names = [name for name, of in self.configurations.items() if of["kind"] == kind]
        return max(names, key=lambda name: self.oof.estimate(name, "auc").value, default=None)

    def is_of_other_size(self, other: FreshFolds) -> bool:
        """Whether another study is of the same X-rays on the same folds, from another file."""
        return self.sha256 != other.sha256 and self.oof.is_of_same_images(other.oof)

    @property
    def sha256(self) -> str:
        """Of the source."""
        return self.summary["data"]["sha256"]

    @cached_property
    def patients(self) -> int | None:
        """How many patients the images are of, None where that is not known."""
        return None if self.oof.patients is None else len(np.unique(self.oof.patients))

    def of_network(self, names: Collection[str]) -> list[str]:
        """The single networks among the configurations whose network has one of these names."""
        return [
            name
            for name, about in self.configurations.items()
            if about["kind"] == NETWORK_KIND and about["model"] in names
        ]

    def leads(self, name: str, others: Sequence[str]) -> dict[str, Lead]:
        """By how much a configuration's AUC is above each of ``others``, corrected for them all."""
        gains = [self.gain(name, other) for other in others]
        p_values = [p_value(gain, 0) for gain in gains]
        known = zip(others, gains, p_values, holm(p_values), strict=True)
        return {other: Lead(gain, p, p_holm) for other, gain, p, p_holm in known}

    def gain(self, name: str, other: str) -> Estimate:
        """Difference in AUC of two configurations."""
        return self.oof.gain(name, other, "auc")


@dataclass(frozen=True)
class Seeds:
    """One recipe with several seeds, as `studies.seeds` stores it.

    Attributes:
        folder: of the study.
        about: its ``seeds.json``.
    """

    folder: Path
    about: Mapping[str, Any]

    def mean_and_sd(self, split: str, measure: str) -> tuple[float, float]:
        """Mean and standard deviation over the seeds; NaN where one has no such figure."""
        values = [(run.get(split) or {}).get(measure) for run in self.about["runs"]]
        numbers = np.array([np.nan if value is None else value for value in values], float)
        return float(numbers.mean()), float(numbers.std(ddof=1))


def read_fresh_folds(results_dir: Path) -> list[FreshFolds]:
    """Every study on fresh folds; a damaged one is left out with a line on stderr."""

    def read(folder: Path) -> FreshFolds:
        summary = json.loads((folder / "fresh_folds.json").read_text(encoding="utf-8"))
        oof = OutOfFold.read(folder / "oof.csv")
        if set(summary["configurations"]) != set(oof.logits):
            raise InputError("fresh_folds.json and oof.csv do not belong together")
        oof.describe(summary["configurations"])
        return FreshFolds(folder, summary, oof)

    return _read_all(results_dir, "fresh_folds.json", read)


def read_seeds(results_dir: Path) -> list[Seeds]:
    """Every study of several seeds; a damaged one is left out with a line on stderr."""

    def read(folder: Path) -> Seeds:
        seeds = Seeds(folder, json.loads((folder / "seeds.json").read_text(encoding="utf-8")))
        for key in ("model", "recipe_name", "recipe_changes", "data"):
            seeds.about[key]
        seeds.mean_and_sd("val", "accuracy")
        return seeds

    return _read_all(results_dir, "seeds.json", read)


def _read_all(results_dir: Path, name: str, read: Callable[[Path], Read]) -> list[Read]:
    found = []
    for path in sorted(results_dir.glob(f"{STUDIES}/*/{name}")):
        try:
            found.append(read(path.parent))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
            print(f"NOTE: '{path.parent}' is left out, it is damaged: {error!r}", file=sys.stderr)
    return found
