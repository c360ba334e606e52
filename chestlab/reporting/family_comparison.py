"""Finished runs of the 34-layer family, read together with their checkpoints."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.data.splits import FINDINGS, FindingsData, Split, TwoClassData
from chestlab.evaluation.alarms import logits_of
from chestlab.evaluation.metrics import sigmoid
from chestlab.evaluation.packed_logits import write_packed_findings
from chestlab.evaluation.predictions import MEMBERS, write_members
from chestlab.evaluation.verdicts import (
    Estimate,
    Scored,
    Scores,
    constant_findings,
    estimate,
    gain,
    noise_of_differences,
    noise_of_values,
    score,
)
from chestlab.files.atomic import write_csv
from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError
from chestlab.files.run_files import RunFiles
from chestlab.reporting.stored_runs import read_run
from chestlab.training.inference import predict
from chestlab.training.layers import on_device
from chestlab.training.recipe import Recipe

RUN_COLUMNS = ("seed", "threshold", "best_epoch", "epochs_run", "seconds")

RUN_MEASURES = ("accuracy", "auc", "sensitivity", "specificity")


@dataclass(frozen=True)
class Member:
    """A network of the comparison.

    Attributes:
        title: its name in pictures and tables.
        build: its class.
        model_options: arguments of its constructor that are flags.
        flags: their values that differ from the default.
    """

    title: str
    build: Callable[..., nn.Module]
    model_options: Mapping[str, dataclasses.Field] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)


class Comparison:
    """Finished runs of several networks on the same seeds.

    Args:
        members: the networks by name.
        files: of the runs of each network, by its name, in the order of the seeds.
        data: what they were trained on.
        device: for what is computed from checkpoints.

    Attributes:
        runs: `stored_runs.read_run` of each run, by network, in the order of the seeds.
        titles: what pictures and tables call each network.
        first: one of the runs, for what all of them share.
        measures: ``accuracy`` and ``auc``; of the 14 findings ``auc`` alone.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        files: Mapping[str, Sequence[RunFiles]],
        data: TwoClassData | FindingsData,
        device: torch.device,
    ) -> None:
        self.files, self.data, self.device = files, data, device
        self.members = {name: members[name] for name in files}
        self.titles = {name: member.title for name, member in self.members.items()}
        self.runs = {
            name: [read_run(run_files) for run_files in of_network]
            for name, of_network in files.items()
        }
        self.first = next(iter(self.runs.values()))[0]
        self.seeds = [run["seed"] for run in next(iter(self.runs.values()))]
        self.findings = isinstance(data, FindingsData)
        self.measures = ("auc",) if self.findings else ("accuracy", "auc")
        self.recipe = Recipe(**self.first["recipe"])
        self._scores: dict[tuple[str, str, str], Scores] = {}
        self._predictions: dict[tuple[str, str], list[Scored]] = {}

    def score(self, name: str, split: str, measure: str) -> Scores:
        """`verdicts.score` of a network's runs, from their tables of probabilities.

        Args:
            name: of the network.
            split: ``val``, ``test``, or ``last``: val after the last epoch, from checkpoints.
            measure: ``accuracy`` or ``auc``.

        Raises:
            InputError: a table is not of the images of this comparison.
        """
        if (name, split, measure) not in self._scores:
            patients = self.patients("val" if split == "last" else split)
            self._scores[name, split, measure] = score(self._scored(name, split), measure, patients)
        return self._scores[name, split, measure]

    def constant_outputs(self, split: str) -> list[tuple[str, str, int]]:
        """The `verdicts.constant_findings` of every run: finding, title and seed."""
        return [
            (finding, self.titles[name], seed)
            for name in self.runs
            for seed, run in zip(self.seeds, self._scored(name, split), strict=True)
            for finding, constant in zip(FINDINGS, constant_findings(run), strict=True)
            if constant
        ]

    def _scored(self, name: str, split: str) -> list[Scored]:
        """What a network's runs have predicted, kept; ``split`` as of `score`."""
        if (name, split) not in self._predictions:
            read = self._scored_last(name) if split == "last" else self._read_tables(name, split)
            self._predictions[name, split] = read
        return self._predictions[name, split]

    def _read_tables(self, name: str, split: str) -> list[Scored]:
        runs = []
        for files, run in zip(self.files[name], self.runs[name], strict=True):
            path = files.folder / f"{split}_probabilities.csv"
            runs.append(_read_scored(path, run.get("threshold")))
            if not np.array_equal(runs[-1].labels, getattr(self.data, split).labels):
                raise InputError(f"'{path}' is not of the images of '{self.data.source}'")
        return runs

    def write_runs(self, folder: Path) -> None:
        """Write what tables and curves are made of: a row per run, per epoch and per image.

        The logits of the 14 findings are packed, into a table for each network.
        """
        runs = {f"{name}_seed{run['seed']}": run for name in self.runs for run in self.runs[name]}
        measures = ("auc",) if self.findings else RUN_MEASURES
        splits = ("train", "val", "test")
        figures = [f"{split}_{measure}" for split in splits for measure in measures]
        table = []
        for name, run in runs.items():
            values = [(run[split] or {}).get(measure) for split in splits for measure in measures]
            table.append([name, *(run.get(key) for key in RUN_COLUMNS), *values])
        write_csv(folder / "runs.csv", ("run", *RUN_COLUMNS, *figures), table)
        columns = tuple(self.first["history"])
        epochs = [
            (name, *row)
            for name, run in runs.items()
            for row in zip(*(run["history"][column] for column in columns), strict=True)
        ]
        write_csv(folder / "histories.csv", ("run", *columns), epochs)
        if not self.findings:
            parts = (self._predicted(split, self.runs) for split in ("val", "test"))
            write_members(folder / MEMBERS, parts)
            return
        for name in self.runs:
            of_network = (self._predicted(split, [name]) for split in ("val", "test"))
            logits = (
                (split, images, {run: logits_of(p) for run, p in predicted.items()})
                for split, images, predicted in of_network
            )
            write_packed_findings(folder / f"logits_{name}.csv.bz2", logits)

    def _predicted(
        self, split: str, names: Iterable[str]
    ) -> tuple[str, Split, dict[str, np.ndarray]]:
        """The images of a split and what every run of some networks has predicted."""
        predicted = {
            f"{name}_seed{seed}": scored.probabilities
            for name in names
            for seed, scored in zip(self.seeds, self._scored(name, split), strict=True)
        }
        return split, getattr(self.data, split), predicted

    def patients(self, split: str) -> np.ndarray | None:
        """(N,) patient of each image of a split, or None where they are unknown."""
        return getattr(self.data, split).patients

    def estimate(self, name: str, split: str, measure: str) -> Estimate:
        """A network's figure with its interval over seeds and patients.

        NaN where the AUC of one of its runs is undefined, and so the difference of `gain`.
        """
        if self._undefined(name, split, measure):
            return self.unknown()
        noise = noise_of_values(self._values(split, measure))
        return estimate(*self.score(name, split, measure), noise)

    def gain(self, name: str, over: str, split: str, measure: str) -> Estimate:
        """The difference of two networks, ``name`` minus ``over``."""
        if any(self._undefined(each, split, measure) for each in (name, over)):
            return self.unknown()
        noise = noise_of_differences(self._values(split, measure))
        return gain(self.score(name, split, measure), self.score(over, split, measure), noise)

    def unknown(self) -> Estimate:
        """A figure that cannot be told."""
        return Estimate(*[math.nan] * 7, seeds=len(self.seeds))

    def _undefined(self, name: str, split: str, measure: str) -> bool:
        figures = [run.get(split) or {} for run in self.runs[name]]
        if any(of_run.get(measure, math.nan) is None for of_run in figures):
            return True
        return not np.isfinite(self.score(name, split, measure)[0]).all()

    def _values(self, split: str, measure: str) -> np.ndarray:
        """(networks, seeds), over which the noise of training is pooled; none that is undefined."""
        values = np.stack([self.score(name, split, measure)[0] for name in self.runs])
        return values[np.isfinite(values).all(1)]

    def network(self, name: str, number: int, moment: str) -> nn.Module:
        """The network of run ``number``: at its ``start``, after its ``best`` or ``last`` epoch."""
        run, files = self.runs[name][number], self.files[name][number]
        torch.manual_seed(run["seed"])
        model = self.members[name].build(**run["model_arguments"])
        if moment == "best":
            model.load_state_dict(load_checkpoint(files.best, sealed=True)["weights"])
        elif moment == "last":
            state = load_checkpoint(files.last, sealed=True)
            trainer = state["trainer"]  # averaged weights are what is judged, where there are some
            model.load_state_dict((trainer.get("average") or trainer)["model"])
        return on_device(model, self.device)

    def _scored_last(self, name: str) -> list[Scored]:
        """Validation after the last epoch; classes at 0.5, since no threshold was chosen there."""
        images, _ = self.data.val.to(self.device)
        threshold = None if self.findings else 0.5
        scored = []
        for number in range(len(self.seeds)):
            logits = predict(self.network(name, number, "last"), images, self.recipe)
            scored.append(Scored(self.data.val.labels, sigmoid(logits), threshold))
        return scored


def _read_scored(path: Path, threshold: float | None) -> Scored:
    """A table of probabilities, of two classes or of the findings."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    if header[1] == "labels":
        labels = np.array([[int(digit) for digit in row[1]] for row in rows], np.uint8)
        return Scored(labels, np.array([[float(p) for p in row[2:]] for row in rows]))
    labels = np.array([int(row[1]) for row in rows], np.uint8)
    return Scored(labels, np.array([float(row[2]) for row in rows]), threshold)
