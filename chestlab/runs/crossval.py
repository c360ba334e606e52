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

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.data import provenance
from chestlab.data.folds import FOLDS_SEED, CrossValidationSplits, Fold, share_rows
from chestlab.data.splits import Split, TwoClassData
from chestlab.evaluation import baselines
from chestlab.evaluation.metrics import roc_auc
from chestlab.files.atomic import atomic_write, make_folder
from chestlab.files.errors import TrainingError
from chestlab.files.progress import Interrupted, StopSignals
from chestlab.training.device import resolve_amp
from chestlab.training.recipe import Recipe, as_dict
from chestlab.training.sampling import training_split
from chestlab.training.trainer import Trainer, predict
from chestlab.training.weights import PretrainedWeights, load_pretrained

LARGEST_LOGIT = 30.0

VIEWS = Recipe.__dataclass_fields__["tta"].metadata["choices"]

STORE = "crossval"  # folder of the stored folds, below that of the checkpoints


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
    start: PretrainedWeights | None = None
    staged: bool = False

    def model(self) -> nn.Module:
        """The network, newly initialised."""
        build = partial(self.build, **self.arguments)
        if self.start is None:
            return build()
        return build(self.start) if self.staged else load_pretrained(build, self.start)


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
    configuration: Configuration, part: Fold, data: TwoClassData, device: torch.device
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


def training_images(plan: CrossValidationSplits, part: Fold, recipe: Recipe) -> Split:
    """What a recipe makes of a part's training images: see `sampling.training_split`.

    Of the images it adds none is of a patient who is held out or chooses the epoch, where
    the source names patients.
    """
    nothing, related = part.train.take(np.arange(0)), plan.data.related
    if recipe.related and part.share < 1 and related.patients is not None:
        strange = ~np.isin(related.patients, plan.pool.patients)
        strange[strange] = share_rows(related.take(strange), part.share, FOLDS_SEED)
        related = related.take(strange | np.isin(related.patients, part.train.patients))
    of_part = dataclasses.replace(
        plan.data,
        train=part.train,
        val=nothing if part.val is None else part.val,
        test=plan.data.test.take(np.arange(0)),
        held_out=part.held_out,
        related=related,
    )
    return training_split(of_part, recipe)


def train_fold(
    configuration: Configuration,
    plan: CrossValidationSplits,
    part: Fold,
    device: torch.device,
    on_step: Callable[[], None],
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
    split = training_images(plan, part, configuration.recipe)
    train = split.to(device)
    val = (split.take(np.arange(0)) if part.val is None else part.val).to(device)
    trainer, stages = None, configuration.recipe.stages
    for number, stage in enumerate(stages, 1):
        frozen = number < len(stages)
        trainer = Trainer(configuration.model, stage, train, val, frozen, previous=trainer)
        trainer.on_step = on_step
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
    plan: CrossValidationSplits,
    store: Store,
    device: torch.device,
    signals: StopSignals,
    share: float = 1.0,
) -> Iterator[tuple[int, int, Fold, dict[str, Any]]]:
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
    plan: CrossValidationSplits,
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


def cross_validate_baseline(
    baseline: baselines.Baseline, plan: CrossValidationSplits, store: Store, share: float = 1.0
) -> Outcome:
    """The same of a classical classifier, which chooses its strength within each fold's rest."""
    logits = np.full((plan.repeats, len(plan.pool)), np.nan)
    found, features = [], None
    for repeat in range(plan.repeats):
        for fold in range(plan.folds):
            part = plan.part(repeat, fold, choosing=False, share=share)
            what = {
                "yardstick": baseline.key,
                "data": plan.data.sha256,
                "train": _digest(part.train),
                "held_out": _digest(part.held_out),
            }
            one = store.get(what, len(part.rows))
            if one is None:
                if features is None:
                    features = baseline.features(plan.pool.images)
                start = time.perf_counter()
                trained = plan.assignment[repeat] != fold
                trained[trained] = share_rows(plan.pool.take(trained), share, plan.seed(repeat))
                classifier, _ = baselines.fit(baseline, features[trained], part.train)
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
