"""Repeated cross-validation over train and val in one process, without pictures.

Folds are stratified by class and grouped by patient. Each repeat is another division into folds
and trains with another seed. Nothing is chosen on the fold that is held out: a recipe that takes
the last epoch's weights needs no further images; for any other recipe an eighth of the patients of
the other folds, about the share of the official val images, chooses the epoch and is not trained
on. Classes are told apart at a probability of 0.5, because no image is left to choose a threshold.

Each finished fold is stored, so that an interrupted comparison continues where it stopped. Several
processes that share the store, also on several machines, share the folds, see `claims`. The code
is not part of the key of a stored fold: after changing a network, remove the store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.data import provenance
from chestlab.data.folds import FOLDS_SEED, CrossValidationSplits, Fold, share_rows
from chestlab.data.splits import Split, TwoClassData
from chestlab.evaluation import baselines
from chestlab.evaluation.metrics import roc_auc
from chestlab.files.errors import TrainingError
from chestlab.files.progress import Interrupted, StopSignals
from chestlab.runs.shared_folds import SharedFolds, Store
from chestlab.training.batch_norm import batch_norms, estimate_statistics
from chestlab.training.device import resolve_amp
from chestlab.training.inference import predict
from chestlab.training.recipe import Recipe, as_dict
from chestlab.training.sampling import training_split
from chestlab.training.trainer import Trainer
from chestlab.training.weights import PretrainedWeights, load_pretrained

LARGEST_LOGIT = 30.0

ESTIMATED = ", statistics estimated"  # after a kind of test-time augmentation, in stored folds

VIEWS = Recipe.__dataclass_fields__["tta"].metadata["choices"]

STORE = "crossval"  # folder of the stored folds, below that of the checkpoints


@dataclass(frozen=True, eq=False)
class Configuration:
    """What is trained on every fold.

    Attributes:
        name: of the configuration in tables.
        build: network class, or a function with a name that makes the network.
        recipe: the hyperparameters; its seed is that of the first repeat.
        arguments: of ``build``.
        pretrained: weights to start from, or None.
        staged: the pretrained weights are the first argument of ``build``, which has a backbone.
        prepare: called with a trainer before it trains, for what no hyperparameter says; a function
            with a name, or None.
    """

    name: str
    build: Callable[..., nn.Module]
    recipe: Recipe
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pretrained: PretrainedWeights | None = None
    staged: bool = False
    prepare: Callable[[Trainer], None] | None = None

    def model(self) -> nn.Module:
        """The network, newly initialised."""
        build = partial(self.build, **self.arguments)
        if self.pretrained is None:
            return build()
        start = self.pretrained.with_stem(self.recipe.stem)
        return build(start) if self.staged else load_pretrained(build, start)


def digest(split: Split | None) -> str | None:
    """SHA-256 of which images these are, in their order."""
    if split is None:
        return None
    assert split.origin is not None  # of images of train and val
    names = "\n".join(f"{o} {i}" for o, i in zip(split.origin, split.index, strict=True))
    return hashlib.sha256(names.encode()).hexdigest()


def fold_key(
    configuration: Configuration, fold: Fold, data: TwoClassData, device: torch.device
) -> dict[str, Any]:
    """Everything that the logits of a fold depend on, except the code.

    The kind of test-time augmentation is left out: a stored fold has the logits of every kind. Of
    the recipe only what differs from the defaults is in the key, so that a hyperparameter added
    later, off by default, leaves finished folds valid.
    """
    default = as_dict(Recipe(name=""))
    recipe = as_dict(configuration.recipe)
    pretrained, prepare = configuration.pretrained, configuration.prepare
    return {
        "network": configuration.build.__qualname__,
        "arguments": dict(configuration.arguments),
        "recipe": {k: v for k, v in recipe.items() if k not in ("name", "tta") and v != default[k]},
        **({"prepare": prepare.__qualname__} if prepare else {}),
        "start": pretrained and {"source": pretrained.source, "sha256": pretrained.sha256},
        "data": data.sha256,
        "train": digest(fold.train),
        "val": digest(fold.val),
        "held_out": digest(fold.held_out),
        "device": device.type,
        "precision": str(resolve_amp(configuration.recipe, device)),
        "evaluation": "float32",
    }


def training_images(splits: CrossValidationSplits, fold: Fold, recipe: Recipe) -> Split:
    """What a recipe makes of a fold's training images: see `sampling.training_split`.

    No image that it adds is of a patient who is held out or chooses the epoch, provided that the
    source names patients.
    """
    nothing, related = fold.train.take(np.arange(0)), splits.data.related
    shared = recipe.related and fold.share < 1
    if shared and related is not None and related.patients is not None:
        chosen = ~related.shares_patients(splits.pool)
        chosen[chosen] = share_rows(related.take(chosen), fold.share, FOLDS_SEED)
        related = related.take(chosen | related.shares_patients(fold.train))
    data = dataclasses.replace(
        splits.data,
        train=fold.train,
        val=nothing if fold.val is None else fold.val,
        test=splits.data.test.take(np.arange(0)),
        held_out=fold.held_out,
        related=related,
    )
    return training_split(data, recipe)


def needs_val(recipe: Recipe) -> bool:
    """Whether a training chooses its epoch or rate on images that it is not trained on."""
    return recipe.monitor != "last" or recipe.schedule == "plateau"


def in_repeat(configuration: Configuration, repeat: int) -> Configuration:
    """The configuration with the seed of a repeat, from 0."""
    seed = (configuration.recipe.seed + repeat) % 2**31
    recipe = dataclasses.replace(configuration.recipe, seed=seed)
    return dataclasses.replace(configuration, recipe=recipe)


def fit_fold(
    configuration: Configuration,
    images: Split,
    fold: Fold,
    device: torch.device,
    on_step: Callable[[], None],
) -> Trainer:
    """The trainer of one network after its last stage; arguments and errors as `train_fold`.

    Args:
        images: what `training_images` makes of the fold.
    """
    train = images.to(device)
    val = (images.take(np.arange(0)) if fold.val is None else fold.val).to(device)
    trainer: Trainer | None = None
    stages = configuration.recipe.stages
    for number, stage in enumerate(stages, 1):
        frozen = number < len(stages)
        trainer = Trainer(configuration.model, stage, train, val, frozen, previous=trainer)
        trainer.on_step = on_step
        if configuration.prepare is not None:
            configuration.prepare(trainer)
        trainer.fit()
    assert trainer is not None  # there is a stage
    return trainer


def train_fold(
    configuration: Configuration,
    splits: CrossValidationSplits,
    fold: Fold,
    device: torch.device,
    on_step: Callable[[], None],
) -> dict[str, Any]:
    """Train one network and predict the images held out.

    Args:
        configuration: with the seed of this repeat.
        splits: what ``fold`` is of.
        fold: images to train on, to choose the epoch on and to predict.
        device: of the training.
        on_step: called after every optimiser step; it may raise.

    Returns:
        ``logits`` of the held-out images by kind of test-time augmentation (it does not change the
        training), and for a recipe with running batch-norm statistics also those of the same
        weights with statistics estimated anew; ``seconds`` of training and of choosing; ``epochs``
        run, ``best_epoch``, and the number of ``images`` trained on.

    Raises:
        TrainingError: a loss or a logit is not finite.
    """
    recipe = configuration.recipe
    images = training_images(splits, fold, recipe)
    trainer = fit_fold(configuration, images, fold, device, on_step)
    trainer.model.load_state_dict(trainer.best_weights)
    held_out = fold.held_out.to(device)[0]
    logits = {tta: predict(trainer.model, held_out, recipe, tta=tta) for tta in VIEWS}
    if recipe.batch_norm == "running":
        layers = batch_norms(trainer.model, trainer.frozen_modules).values()
        estimate_statistics(trainer.model, layers, trainer.train_images, recipe)
        for tta in VIEWS:
            estimated = predict(trainer.model, held_out, recipe, tta=tta)
            logits[f"{tta}{ESTIMATED}"] = estimated
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise TrainingError("a logit of a held-out image is not finite")
    return {
        "logits": {tta: values.tolist() for tta, values in logits.items()},
        "seconds": sum(row["seconds"] for row in trainer.history),
        "epochs": len(trainer.history),
        "best_epoch": trainer.best_epoch,
        "images": len(images),
    }


def each_fold(
    configuration: Configuration,
    splits: CrossValidationSplits,
    store: Store,
    device: torch.device,
    signals: StopSignals,
    share: float = 1.0,
) -> Iterator[tuple[int, Fold, dict[str, Any]]]:
    """Train on every fold that is not stored yet.

    Args:
        configuration: what to train; the seed of its recipe grows by 1 with each repeat.
        splits: which images.
        store: of finished folds.
        device: of the training.
        signals: checked after every optimiser step.
        share: of the training patients.

    Yields:
        number of the repeat from 0, the fold, and what `train_fold` returns, with the ``logits``
        of the recipe's test-time augmentation alone, and as ``estimated`` those of the same weights
        with batch-norm statistics estimated anew, where there are any.

    Raises:
        InputError: the weights to start from are of a network that has seen held-out patients, or
            too few patients are left to choose the epoch on.
        TrainingError: a loss or a logit is not finite.
    """
    recipe, choosing = configuration.recipe, needs_val(configuration.recipe)

    def fold_of(repeat: int, number: int) -> Fold:
        fold = splits.fold(repeat, number, choosing=choosing, share=share)
        if configuration.pretrained is not None:
            provenance.check_unseen(
                configuration.pretrained.seen.values(),
                "held-out",
                fold.held_out,
                phantom=splits.data.phantom,
                by_patient=True,
                source=configuration.pretrained.source,
            )
        return fold

    def key_of(repeat: int, fold: Fold) -> dict[str, Any]:
        return fold_key(in_repeat(configuration, repeat), fold, splits.data, device)

    def train(repeat: int, fold: Fold, where: str) -> dict[str, Any]:
        seeded = in_repeat(configuration, repeat)
        return _train_fold_between_signals(seeded, splits, fold, device, signals, where)

    def tell(fold: Fold, where: str, result: Mapping[str, Any]) -> None:
        print(f"{configuration.name}: {where}: {in_words(result, fold, recipe)}", flush=True)

    folds = SharedFolds(configuration.name, splits, store, fold_of, key_of, train, tell)
    for repeat, fold, result in folds.each():
        estimated = result["logits"].get(recipe.tta + ESTIMATED)
        logits = {"logits": result["logits"][recipe.tta], "estimated": estimated}
        yield repeat, fold, {**result, **logits}


def _train_fold_between_signals(
    configuration: Configuration,
    splits: CrossValidationSplits,
    fold: Fold,
    device: torch.device,
    signals: StopSignals,
    where: str,
) -> dict[str, Any]:
    """`train_fold`, stopped by a signal only between two steps; errors say ``where``."""
    signals.check()
    try:
        with signals.deferred():
            return train_fold(configuration, splits, fold, device, signals.check)
    except Interrupted as interruption:
        when = f" in {configuration.name}, {where}"
        raise Interrupted(interruption.signum, when) from None
    except TrainingError as error:
        raise TrainingError(f"{configuration.name}, {where}: {error}") from None


def in_words(result: Mapping[str, Any], fold: Fold, recipe: Recipe) -> str:
    """What a result of `train_fold` is told as, when it is there."""
    auc = roc_auc(fold.held_out.labels, np.array(result["logits"][recipe.tta]))
    epochs = f"epoch {result['best_epoch']} of {result['epochs']}"
    return f"AUC {auc:.3f}, {epochs}, {result['seconds']:.1f} s"


@dataclass(frozen=True, eq=False)
class Outcome:
    """A configuration on every fold.

    Attributes:
        logits: (repeats, N) out of fold.
        seconds: mean over the folds, of training one network and choosing its epoch.
        images: mean number trained on.
        best_epoch: mean over the folds; None for a classifier without epochs.
        estimated: (repeats, N) of the same weights with batch-norm statistics estimated anew; None
            where the recipe does so itself, or where a stored fold lacks them.
    """

    logits: np.ndarray
    seconds: float
    images: float
    best_epoch: float | None = None
    estimated: np.ndarray | None = None


def cross_validate(
    configuration: Configuration,
    splits: CrossValidationSplits,
    store: Store,
    device: torch.device,
    signals: StopSignals,
    share: float = 1.0,
) -> Outcome:
    """Out-of-fold logits of every image in every repeat; arguments and errors as `each_fold`."""
    return gathered(splits, each_fold(configuration, splits, store, device, signals, share))


def gathered(
    splits: CrossValidationSplits, folds: Iterable[tuple[int, Fold, Mapping[str, Any]]]
) -> Outcome:
    """The outcome of all folds.

    Args:
        splits: which folds.
        folds: repeat from 0, fold and result of each: its ``logits``, ``seconds`` and ``images``,
            and where there are any, ``estimated`` logits and ``best_epoch``.
    """
    logits = np.full((splits.repeats, len(splits.pool)), np.nan)
    estimated = np.full_like(logits, np.nan)
    results = []
    for repeat, fold, result in folds:
        logits[repeat, fold.rows] = result["logits"]
        if result.get("estimated") is not None:
            estimated[repeat, fold.rows] = result["estimated"]
        results.append(result)
    means = {
        key: float(np.mean([result[key] for result in results]))
        for key in ("seconds", "images", "best_epoch")
        if key in results[0]
    }
    complete = bool(np.isfinite(estimated).all())
    return Outcome(logits, **means, estimated=estimated if complete else None)


def cross_validate_baseline(
    baseline: baselines.Baseline, splits: CrossValidationSplits, store: Store, share: float = 1.0
) -> Outcome:
    """The same of a classical classifier, which chooses its strength within each training part."""
    features = cache(lambda: baseline.features(splits.pool.images))

    def fold_of(repeat: int, number: int) -> Fold:
        return splits.fold(repeat, number, choosing=False, share=share)

    def key_of(repeat: int, fold: Fold) -> dict[str, Any]:
        return {
            "yardstick": baseline.key,
            **({"weights": baseline.weights} if baseline.weights else {}),
            "data": splits.data.sha256,
            "train": digest(fold.train),
            "held_out": digest(fold.held_out),
        }

    def fit(repeat: int, fold: Fold, where: str) -> dict[str, Any]:
        rows = features()
        start = time.perf_counter()
        trained = np.ones(len(splits.pool), bool)
        trained[fold.rows] = False
        trained[trained] = share_rows(splits.pool.take(trained), share, splits.seed(repeat))
        classifier, _ = baselines.fit(baseline, rows[trained], fold.train)
        p = classifier.predict_proba(rows[fold.rows])[:, 1]
        with np.errstate(divide="ignore"):
            values = np.clip(np.log(p) - np.log1p(-p), -LARGEST_LOGIT, LARGEST_LOGIT)
        return {
            "logits": {"none": values.tolist()},
            "seconds": time.perf_counter() - start,
            "images": len(fold.train),
        }

    folds = SharedFolds(baseline.key, splits, store, fold_of, key_of, fit)
    return gathered(splits, unnamed(folds.each()))


def unnamed(
    folds: Iterable[tuple[int, Fold, Mapping[str, Any]]],
) -> Iterator[tuple[int, Fold, dict[str, Any]]]:
    """Stored folds with the logits of the only kind of test-time augmentation that they have."""
    for repeat, fold, result in folds:
        (logits,) = result["logits"].values()
        yield repeat, fold, {**result, "logits": logits}
