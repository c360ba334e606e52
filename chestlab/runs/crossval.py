"""Repeated cross-validation over train and val in one process, without pictures.

Folds are stratified by class and grouped by patient. Another repeat is another division into
folds and another seed of the network. Nothing is chosen on the fold that is held out: a recipe
that takes the last epoch's weights needs no further images; for any other an eighth of the
patients of the other folds, about the share of the official val images, chooses the epoch and is
not trained on. Classes are told apart at 0.5, for there is no image left to choose a threshold on.

Each finished fold is stored, so that an interrupted comparison goes on where it was. The code is
not part of what a stored fold is known by: after changing a network, remove the store.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import baselines
import datareader
import provenance
from console import Interrupted, StopSignals
from datareader import Split, TwoClassData
from device import resolve_amp
from engine import Trainer, TrainingError, predict
from experiment import check_input, check_precision, make_folder, places
from flags import add_data, add_folder, add_knob, check_name, checked, pick_device, run_name
from folds import (
    FOLDS_SEED,
    fewest_units,
    fold_rows,
    train_and_val,
    warn_without_patients,
)
from metrics import BOOTSTRAP_RESAMPLES, bootstrap_weights, roc_auc, weighted_auc
from networks import Network, network
from recipe import Recipe, as_dict, knob
from sampling import training_split
from stochastic_depth import set_drop_paths
from storage import InputError, OneLineParser, atomic_write, check_writable, write_csv
from verdicts import Estimate, estimate, gain
from weights import StartingPoint, started, starting_point

INNER_PARTS = 8  # one of them chooses the epoch; officially val is 305 of 2,611 images, 1 in 8.6
MEASURES = ("auc", "accuracy")
DECIMALS = 3  # of a logit in a table
LARGEST_LOGIT = 30.0
VIEWS = Recipe.__dataclass_fields__["tta"].metadata["choices"]
IMAGE_COLUMNS = ("split", "index", "label")  # of a table, with its patient
FOLD = "fold"
STORE = "crossval"  # folder of the stored folds, below that of the checkpoints
REPEATS = knob(2, "", low=1, high=100)
FOLDS = knob(5, "", low=2, high=100)


@dataclass(frozen=True, eq=False)
class Configuration:
    """What is trained on every fold.

    Attributes:
        name: what tables call it.
        build: network class, or a function with a name that makes the network.
        recipe: the knobs; its seed is that of the first repeat.
        arguments: of ``build``.
        start: weights to start from, or None.
        staged: they are the first argument of ``build``, which has a backbone for them.
    """

    name: str
    build: Callable[..., nn.Module]
    recipe: Recipe
    arguments: Mapping[str, Any] = field(default_factory=dict)
    start: StartingPoint | None = None
    staged: bool = False

    def model(self) -> nn.Module:
        """The network, newly initialised."""
        build = partial(self.build, **self.arguments)
        if self.start is None:
            return build()
        return build(self.start) if self.staged else started(build, self.start)


@dataclass(frozen=True, eq=False)
class Part:
    """One fold of one repeat.

    Attributes:
        share: of the patients that could be trained on.
        train: to train on.
        val: to choose the epoch on, or None.
        held_out: to be judged on, in the order of ``rows``.
        rows: (n,) places of the held-out images among those of the plan.
    """

    share: float
    train: Split
    val: Split | None
    held_out: Split
    rows: np.ndarray


class Plan:
    """Which image is in which fold of which repeat.

    Args:
        data: its train and val images are divided; nothing here reads test.
        folds: number of parts, at least 2.
        repeats: number of divisions.

    Attributes:
        pool: the N images of train and val.
        assignment: (repeats, N) number of each image's fold, from 0.

    Raises:
        InputError: a class has too few patients (or images) for so many folds.
    """

    def __init__(self, data: TwoClassData, folds: int, repeats: int) -> None:
        self.data, self.folds, self.repeats = data, folds, repeats
        self.pool = train_and_val(data)
        warn_without_patients(self.pool)
        self.assignment = np.zeros((repeats, len(self.pool)), np.int64)
        for repeat in range(repeats):
            for number, (_, outside) in enumerate(fold_rows(self.pool, folds, self.seed(repeat))):
                self.assignment[repeat, outside] = number

    @staticmethod
    def seed(repeat: int) -> int:
        """Of a repeat's folds; those of the first are the folds of every other script."""
        return FOLDS_SEED + repeat

    def part(self, repeat: int, fold: int, *, choosing: bool, share: float = 1.0) -> Part:
        """Divide the images.

        Args:
            repeat, fold: numbers from 0.
            choosing: keep images apart to choose the epoch on.
            share: of the patients to train (and choose) on. A smaller share lies within a larger.

        Raises:
            InputError: too few patients are left to choose the epoch on.
        """
        rows = np.flatnonzero(self.assignment[repeat] == fold)
        train = self.pool.take(np.flatnonzero(self.assignment[repeat] != fold))
        held_out, val, seed = self.pool.take(rows), None, self.seed(repeat)
        if choosing:
            rest, outside = _inner_rows(train, seed)
            train, val = train.take(rest), train.take(outside)
            val = val.take(share_rows(val, share, seed))
        train = train.take(share_rows(train, share, seed))
        return Part(share, train, val, held_out, rows)

    def training_images(self, part: Part, recipe: Recipe) -> Split:
        """What a recipe makes of a part's training images: see `sampling.training_split`.

        Of the images it adds none is of a patient who is held out or chooses the epoch, where
        the source names patients.
        """
        nothing, related = part.train.take(np.arange(0)), self.data.related
        if recipe.related and part.share < 1 and related.patients is not None:
            strange = ~np.isin(related.patients, self.pool.patients)
            strange[strange] = share_rows(related.take(strange), part.share, FOLDS_SEED)
            related = related.take(strange | np.isin(related.patients, part.train.patients))
        of_part = dataclasses.replace(
            self.data,
            train=part.train,
            val=nothing if part.val is None else part.val,
            test=self.data.test.take(np.arange(0)),
            held_out=part.held_out,
            related=related,
        )
        return training_split(of_part, recipe)


def _inner_rows(split: Split, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and to choose the epoch on: fewer parts where one would lack a class."""
    for parts in range(min(INNER_PARTS, fewest_units(split)), 1, -1):
        with contextlib.suppress(InputError):
            return fold_rows(split, parts, seed)[0]
    raise InputError("--folds: too few patients of a class are left to choose the epoch on")


def share_rows(split: Split, share: float, seed: int) -> np.ndarray:
    """(N,) booleans: the images of a share of each class's patients, drawn at random.

    Of the same seed a smaller share lies within a larger one. A patient with images of both
    classes counts as one of the first image's class.
    """
    units = np.arange(len(split)) if split.patients is None else split.patients
    names, first = np.unique(units, return_index=True)
    rng = np.random.default_rng(seed)
    chosen = []
    for label in (0, 1):
        order = rng.permutation(names[split.labels[first] == label])
        chosen.append(order[: max(1, round(share * len(order)))])
    return np.isin(units, np.concatenate(chosen))


class Store:
    """Finished folds on disk, each a file named after what determines it.

    Several processes can share one. A file that cannot be read counts as missing.

    Args:
        folder: made where it is missing.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)

    def _path(self, what: Mapping[str, Any]) -> Path:
        text = json.dumps(what, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.json"

    def get(self, what: Mapping[str, Any], images: int) -> dict[str, Any] | None:
        """What was stored under ``what``, with as many logits as there are images, or None."""
        try:
            stored = json.loads(self._path(what).read_text())
            found = stored["found"]
            sound = all(
                np.shape(values) == (images,) and np.isfinite(values).all()
                for values in found["logits"].values()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return found if sound else None

    def put(self, what: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        atomic_write(self._path(what), json.dumps({"what": what, "found": found}) + "\n")


def _digest(split: Split | None) -> str | None:
    """SHA-256 of which images these are, in their order."""
    if split is None:
        return None
    names = "\n".join(f"{o} {i}" for o, i in zip(split.origin, split.index, strict=True))
    return hashlib.sha256(names.encode()).hexdigest()


def determined_by(
    configuration: Configuration, part: Part, data: TwoClassData, device: torch.device
) -> dict[str, Any]:
    """Everything that the logits of a fold depend on but the code, the views told apart in there.

    Of the recipe only what differs from the defaults, so that a knob added later, off by default,
    leaves finished folds valid.
    """
    default = as_dict(Recipe(name=""))
    recipe = as_dict(configuration.recipe)
    start = configuration.start
    return {
        "network": configuration.build.__qualname__,
        "arguments": dict(configuration.arguments),
        "recipe": {k: v for k, v in recipe.items() if k not in ("name", "tta") and v != default[k]},
        "start": start and {"source": start.source, "sha256": start.sha256},
        "data": data.sha256,
        "train": _digest(part.train),
        "val": _digest(part.val),
        "held_out": _digest(part.held_out),
        "device": device.type,
        "precision": str(resolve_amp(configuration.recipe, device)),
    }


def train_fold(
    configuration: Configuration,
    plan: Plan,
    part: Part,
    device: torch.device,
    tick: Callable[[], None],
) -> dict[str, Any]:
    """Train one network and ask it for the images held out.

    Args:
        configuration: with the seed of this repeat.
        plan: what ``part`` is of.
        part: to train, choose and be judged on.
        device: of the training.
        tick: called after every optimiser step; it may raise.

    Returns:
        ``logits`` of the held-out images by kind of test-time augmentation, which changes no
        training; ``seconds`` of training and of choosing; ``epochs`` run, ``best_epoch``, and the
        number of ``images`` trained on.

    Raises:
        TrainingError: a loss or a logit is not finite.
    """
    split = plan.training_images(part, configuration.recipe)
    train = split.to(device)
    val = (split.take(np.arange(0)) if part.val is None else part.val).to(device)
    trainer, stages = None, configuration.recipe.stages
    for number, stage in enumerate(stages, 1):
        frozen = number < len(stages)
        trainer = Trainer(configuration.model, stage, train, val, frozen, previous=trainer)
        trainer.tick = tick
        while not trainer.finished:
            trainer.run_epoch()
    trainer.model.load_state_dict(trainer.best_weights)
    recipe = configuration.recipe
    images = part.held_out.to(device)[0]
    logits = {tta: predict(trainer.model, images, recipe, trainer.amp, tta) for tta in VIEWS}
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise TrainingError("a logit of a held-out image is not finite")
    return {
        "logits": {tta: values.tolist() for tta, values in logits.items()},
        "seconds": sum(row["seconds"] for row in trainer.history),
        "epochs": len(trainer.history),
        "best_epoch": trainer.best_epoch,
        "images": len(split),
    }


def each_fold(
    configuration: Configuration,
    plan: Plan,
    store: Store,
    device: torch.device,
    signals: StopSignals,
    share: float = 1.0,
) -> Iterator[tuple[int, int, Part, dict[str, Any]]]:
    """Train on every fold that is not stored yet; yields repeat, fold, the part and its result.

    Args:
        configuration: what to train; the seed of its recipe grows by 1 with each repeat.
        plan: which images.
        store: of finished folds.
        device: of the training.
        signals: checked after every optimiser step.
        share: of the training patients.

    Yields:
        number of the repeat and the fold, the part, and what `train_fold` returns.

    Raises:
        InputError: the weights to start from are of a network that has seen held-out patients, or
            too few patients are left to choose the epoch on.
        TrainingError: a loss or a logit is not finite.
    """
    recipe = configuration.recipe
    choosing = recipe.monitor != "last" or recipe.schedule == "plateau"
    for repeat in range(plan.repeats):
        seeded = dataclasses.replace(recipe, seed=(recipe.seed + repeat) % 2**31)
        one = dataclasses.replace(configuration, recipe=seeded)
        for fold in range(plan.folds):
            part = plan.part(repeat, fold, choosing=choosing, share=share)
            if configuration.start is not None:
                provenance.check_unseen(
                    configuration.start.seen.values(),
                    "held-out",
                    part.held_out,
                    phantom=plan.data.phantom,
                    by_patient=True,
                    source=configuration.start.source,
                )
            what = determined_by(one, part, plan.data, device)
            found = store.get(what, len(part.rows))
            where = f"repeat {repeat + 1} of {plan.repeats}, fold {fold + 1} of {plan.folds}"
            if found is None:
                signals.check()
                signals.patient = True
                try:
                    found = train_fold(one, plan, part, device, signals.check)
                except Interrupted as interruption:
                    when = f" in {configuration.name}, {where}"
                    raise Interrupted(interruption.signum, when) from None
                except TrainingError as error:
                    raise TrainingError(f"{configuration.name}, {where}: {error}") from None
                finally:
                    signals.patient = False
                store.put(what, found)
                values = np.array(found["logits"][recipe.tta])
                auc = roc_auc(part.held_out.labels, values)
                print(
                    f"{configuration.name}: {where}: AUC {auc:.3f}, epoch {found['best_epoch']} "
                    f"of {found['epochs']}, {found['seconds']:.1f} s",
                    flush=True,
                )
            yield repeat, fold, part, {**found, "logits": found["logits"][recipe.tta]}


@dataclass(frozen=True, eq=False)
class Outcome:
    """A configuration on every fold.

    Attributes:
        logits: (repeats, N) out of fold.
        seconds: mean over the folds, of training one network and choosing its epoch.
        images: mean number trained on.
        best_epoch: mean over the folds.
    """

    logits: np.ndarray
    seconds: float
    images: float
    best_epoch: float | None = None


def cross_validate(
    configuration: Configuration,
    plan: Plan,
    store: Store,
    device: torch.device,
    signals: StopSignals,
    share: float = 1.0,
) -> Outcome:
    """Out-of-fold logits of every image in every repeat; arguments and errors as `each_fold`."""
    logits = np.full((plan.repeats, len(plan.pool)), np.nan)
    found = []
    for repeat, _, part, one in each_fold(configuration, plan, store, device, signals, share):
        logits[repeat, part.rows] = one["logits"]
        found.append(one)
    return Outcome(logits, *(_mean(found, key) for key in ("seconds", "images", "best_epoch")))


def _mean(found: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([one[key] for one in found]))


def cross_validate_yardstick(
    yardstick: baselines.Yardstick, plan: Plan, store: Store, share: float = 1.0
) -> Outcome:
    """The same of a classical classifier, which chooses its strength within each fold's rest."""
    logits = np.full((plan.repeats, len(plan.pool)), np.nan)
    found, features = [], None
    for repeat in range(plan.repeats):
        for fold in range(plan.folds):
            part = plan.part(repeat, fold, choosing=False, share=share)
            what = {
                "yardstick": yardstick.key,
                "data": plan.data.sha256,
                "train": _digest(part.train),
                "held_out": _digest(part.held_out),
            }
            one = store.get(what, len(part.rows))
            if one is None:
                if features is None:
                    features = yardstick.features(plan.pool.images)
                start = time.perf_counter()
                trained = plan.assignment[repeat] != fold
                trained[trained] = share_rows(plan.pool.take(trained), share, plan.seed(repeat))
                classifier, _ = baselines.fit(yardstick, features[trained], part.train)
                p = classifier.predict_proba(features[part.rows])[:, 1]
                with np.errstate(divide="ignore"):
                    values = np.clip(np.log(p) - np.log1p(-p), -LARGEST_LOGIT, LARGEST_LOGIT)
                one = {"logits": {"none": values.tolist()}}
                one["seconds"] = time.perf_counter() - start
                one["images"] = len(part.train)
                store.put(what, one)
            logits[repeat, part.rows] = one["logits"]["none"]
            found.append(one)
    return Outcome(logits, _mean(found, "seconds"), _mean(found, "images"))


class OutOfFold:
    """Logits of several configurations on the same folds, and what they say.

    AUC is the mean over the folds of the AUC within a fold: each is of one network, whose logits
    need not be on the scale of another's. Accuracy is at a probability of 0.5.

    Args:
        origin: (N,) split of each image in its source.
        index: (N,) row of each image there.
        labels: (N,) of 0 and 1.
        patients: (N,) of the images, or None where they are not known.
        folds: (repeats, N) number of each image's fold.
        logits: (repeats, N) by configuration.
    """

    def __init__(
        self,
        origin: np.ndarray,
        index: np.ndarray,
        labels: np.ndarray,
        patients: np.ndarray | None,
        folds: np.ndarray,
        logits: dict[str, np.ndarray],
    ) -> None:
        self.origin, self.index, self.labels, self.patients = origin, index, labels, patients
        self.folds, self.logits = folds, logits
        self._scores: dict[tuple[str, str], tuple] = {}

    @classmethod
    def of(cls, plan: Plan, logits: Mapping[str, np.ndarray]) -> OutOfFold:
        """What `write` and `read` would make of the logits, rounding included."""
        pool = plan.pool
        rounded = {name: np.round(values, DECIMALS) for name, values in logits.items()}
        return cls(pool.origin, pool.index, pool.labels, pool.patients, plan.assignment, rounded)

    @cached_property
    def _weights(self) -> np.ndarray:
        """(1 + B, N): every image once, then the bootstrap samples of patients."""
        drawn = bootstrap_weights(len(self.labels), self.patients, BOOTSTRAP_RESAMPLES)
        return np.concatenate([np.ones((1, len(self.labels)), drawn.dtype), drawn])

    def score(self, name: str, measure: str) -> tuple[np.ndarray, np.ndarray, int]:
        """The measure in every repeat, on all images and on shared bootstrap samples of them.

        Returns:
            (R,) values, (B, R) resampled values, and the number of patients (or images), as
            `verdicts.estimate` wants them.
        """
        if (name, measure) not in self._scores:
            pairs = zip(self.logits[name], self.folds, strict=True)
            of_repeat = self._auc if measure == "auc" else self._accuracy
            scores = np.stack([of_repeat(*pair) for pair in pairs], 1)
            units = np.arange(len(self.labels)) if self.patients is None else self.patients
            self._scores[name, measure] = scores[0], scores[1:], len(np.unique(units))
        return self._scores[name, measure]

    def _auc(self, logits: np.ndarray, folds: np.ndarray) -> np.ndarray:
        areas = []
        for number in np.unique(folds):
            rows = np.flatnonzero(folds == number)
            areas.append(weighted_auc(self.labels[rows], logits[rows], self._weights[:, rows]))
        known = np.isfinite(areas)  # in a resample a small fold may lack a class
        with np.errstate(invalid="ignore"):
            return np.where(known, areas, 0).sum(0) / known.sum(0)

    def _accuracy(self, logits: np.ndarray, folds: np.ndarray) -> np.ndarray:
        hits = (logits >= 0) == (self.labels == 1)
        return self._weights @ hits.astype(np.float64) / self._weights.sum(1)

    def estimate(self, name: str, measure: str) -> Estimate:
        """Of a configuration's own figure."""
        return estimate(*self.score(name, measure))

    def gain(self, name: str, over: str, measure: str) -> Estimate:
        """How much better a configuration is than another."""
        return gain(self.score(name, measure), self.score(over, measure))

    def write(self, path: Path) -> None:
        """Write a row per image, with a column for each configuration and repeat."""
        repeats = range(1, len(self.folds) + 1)
        patients = [""] * len(self.labels) if self.patients is None else self.patients.tolist()
        columns = {
            **dict(zip(IMAGE_COLUMNS, (self.origin, self.index, self.labels), strict=True)),
            "patient": patients,
            **{f"{FOLD} {number}": self.folds[number - 1] + 1 for number in repeats},
            **{
                f"{name} {number}": [f"{logit:.{DECIMALS}f}" for logit in logits[number - 1]]
                for name, logits in self.logits.items()
                for number in repeats
            },
        }
        write_csv(path, list(columns), list(zip(*columns.values(), strict=True)))

    @classmethod
    def read(cls, path: Path) -> OutOfFold:
        """Read what `write` has written.

        Raises:
            InputError: the table is missing or damaged.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                head, *rows = csv.reader(file)
            columns = dict(zip(head, zip(*rows, strict=True), strict=True))
            kinds = zip(IMAGE_COLUMNS, (str, np.int64, np.uint8), strict=True)
            images = [np.array(columns.pop(name), kind) for name, kind in kinds]
            patients = np.array(columns.pop("patient"))
            by_name: dict[str, list] = {}
            for column, values in columns.items():
                name, number = column.rsplit(" ", 1)
                by_name.setdefault(name, []).append(values)
                if int(number) != len(by_name[name]):
                    raise ValueError(column)
            folds = np.array(by_name.pop(FOLD), np.int64) - 1
            logits = {name: np.array(values, np.float64) for name, values in by_name.items()}
            same = all(values.shape == folds.shape for values in logits.values())
            same = same and all(np.isfinite(values).all() for values in logits.values())
        except (OSError, ValueError, KeyError, csv.Error):
            same = False
        if not same:
            raise InputError(f"'{path}' is missing, or not a table of out-of-fold logits")
        known = patients if (patients != "").all() else None
        return cls(*images, known, folds, logits)


def comparison_parser(description: str) -> OneLineParser:
    """The flags that every script of cross-validated comparisons has."""
    parser = OneLineParser(
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=96),
    )
    add = parser.add_argument
    add_data(parser)
    add(
        "--folds",
        type=checked(FOLDS),
        default=FOLDS.default,
        metavar="K",
        help="parts of the "
        "train and val images, patients together; each is held out once (default: %(default)s)",
    )
    add(
        "--repeats",
        type=checked(REPEATS),
        default=REPEATS.default,
        metavar="R",
        help="divisions into folds, each with another seed (default: %(default)s)",
    )
    add(
        "--weights",
        default="imagenet",
        metavar="{imagenet,none,FILE}",
        help="what networks start from; imagenet: those that have a backbone (default: imagenet)",
    )
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    add_folder(parser, "--results-dir", "results")
    add_folder(parser, "--models-dir", "trained_models")
    add("--name", help="of the folder of results (default: made of what is compared and the data)")
    group = parser.add_argument_group("recipe", "What is otherwise than in the recipe named.")
    for one in dataclasses.fields(Recipe):
        if one.metadata:
            add_knob(group, one.name, one, "the recipe's")
    return parser


class Setting:
    """What the flags of a comparison say, checked; nothing has been written yet.

    Args:
        options: of `comparison_parser`.
        stem: what the folder's name begins with.

    Attributes:
        data: without its test images.
        plan: which image is in which fold.
        folder: of the results.

    Raises:
        InputError: device, folders, data or name cannot be used.
    """

    def __init__(self, options: argparse.Namespace, stem: str) -> None:
        self.options = options
        self.device = pick_device(options.device)
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.models_dir, "--models-dir")
        data = datareader.load(options.data, options.root, options.source_size, related=True)
        self.data = dataclasses.replace(data, test=data.test.take(np.arange(0)))
        name = options.name or run_name(Recipe(stem), options.data, data.size)
        check_name(name)
        results_dir, self.models_dir = places(options, data)
        self.folder = results_dir / name
        self.changes = {
            one.name: getattr(options, one.name)
            for one in dataclasses.fields(Recipe)
            if one.metadata and getattr(options, one.name) is not None
        }
        self.plan = Plan(self.data, options.folds, options.repeats)

    def open_store(self) -> Store:
        """Make the folders."""
        make_folder(self.folder)
        return Store(self.models_dir / STORE)

    def base(self, name: str, recipe: str | None = None) -> tuple[Network, Configuration]:
        """A network and its recipe with the changes that the flags ask for.

        Args:
            name: a key of `networks.NETWORKS`.
            recipe: a name of its script's, by default the script's default.

        Raises:
            InputError: the network has no such recipe, or does not fit the flags.
        """
        found = network(name, self.options.device)
        recipe = recipe or list(found.recipes)[-1]
        if recipe not in found.recipes:
            allowed = " or ".join(found.recipes)
            raise InputError(f"'{recipe}': the recipes of {found.script}.py are {allowed}")
        changes, start = dict(self.changes), None
        staged = found.imagenet_url is not None
        if not staged and self.options.weights not in ("imagenet", "none"):
            start = starting_point(self.options.weights, None)
        if staged:
            if self.options.weights == "none":
                changes.setdefault("stage1_epochs", 0)
            start = starting_point(self.options.weights, found.imagenet_url)
        changed = dataclasses.replace(found.recipes[recipe], **changes)
        if changed.stage1_epochs and not staged:
            raise InputError(
                "--stage1-epochs: this network has no backbone to freeze; allowed is 0"
            )
        check_precision(changed, self.device)
        configuration = Configuration(
            name, found.build, changed, found.arguments, start=start, staged=staged
        )
        model = configuration.model()
        if changed.drop_path:
            set_drop_paths(model, changed.drop_path)
        check_input(model, changed, self.data.size)
        return found, configuration

    def about(self) -> dict[str, Any]:
        """What every page tells of its data and folds, as plain values."""
        counts = self.data.counts()
        return {
            "data": {
                "source": self.data.source,
                "size": self.data.size,
                "sha256": self.data.sha256,
                "phantom": self.data.phantom,
                "counts": {split: counts[split] for split in ("train", "val")},
            },
            "folds": self.plan.folds,
            "repeats": self.plan.repeats,
            "device": self.device.type,
            "torch": torch.__version__,
        }


def describe(about: Mapping[str, Any], oof: OutOfFold) -> str:
    """A page's paragraph on its data, its folds and its intervals."""
    counts = about["data"]["counts"]
    images = sum(sum(of_split.values()) for of_split in counts.values())
    unit = "image" if oof.patients is None else "patient"
    units = images if oof.patients is None else len(np.unique(oof.patients))
    repeats = f"{about['repeats']} repeat{'s' if about['repeats'] > 1 else ''}"
    return (
        f"Data: `{about['data']['source']}`, the {images} images of train and val of {units} "
        f"{unit}s; no test image was looked at. {repeats} of {about['folds']}-fold "
        f"cross-validation, stratified by class and grouped by {unit}, another division and seed "
        "in each; nothing is chosen on the fold that is held out. AUC is the mean over the folds "
        "of the AUC within a fold; accuracy is at a probability of 0.5. Intervals: 95 %, from a "
        f"bootstrap over {unit}s and the variance between repeats. They hold for networks trained "
        "on these images: how much another training set would change a network shows only in so "
        f"far as the folds differ. On {about['device']}, PyTorch {about['torch']}."
    )
