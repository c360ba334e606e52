"""Signs that a run's figures are a fault of its training or evaluation, as sentences.

A network whose outputs hardly differ, or that is another network in evaluation than in training,
shows nothing about its architecture or its data: most often its batch-norm statistics or averaged
weights lag behind. Limits stand far from both sides of what runs on a few hundred X-rays did
(numbers are of these): sound ones must not alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chestlab.data.splits import CLASS_NAMES

FLOAT_NOISE = 1e-6  # logits of one image from two evaluations in float32 differ by as much

CONSTANT_SPREAD = 0.5  # of logits; lagging statistics: up to 0.18, sound networks: 1.98 or more

TRAINING_GAP = 0.10  # of accuracy; sound networks: up to 0.06, statistics that lag: 0.3

GAP_ERRORS = 3  # standard errors that a gap on few images has to exceed as well

FLAT_LOSS = 0.02  # fall relative to the first epoch; sound networks: 0.19 (3 epochs) or more

FLAT_EPOCHS = 3  # of fewer epochs nothing can be said

FEW_EPOCHS = 10  # of fewer the first remedy is more of them: averages of weights lag behind, too

REMEDY = "other values of --lr, --ema and --epochs (docs/training.md)"

WITH_BATCH_NORM = f"--batch-norm estimated, or {REMEDY}"


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities to logits of the same shape, finite also for 0 and 1."""
    p = np.asarray(probabilities, np.float64)
    tiny = np.finfo(np.float64).tiny
    return np.log(np.maximum(p, tiny)) - np.log(np.maximum(1 - p, tiny))


def is_constant(logits: np.ndarray) -> bool:
    """Whether logits (N,) differ by less than float noise, so that their order means nothing."""
    logits = np.asarray(logits, np.float64)
    return bool(np.ptp(logits) <= FLOAT_NOISE * max(1.0, np.abs(logits).max()))


def alarms(
    logits: Mapping[str, np.ndarray],
    predicted: Mapping[str, np.ndarray] | None = None,
    history: Sequence[Mapping[str, float]] = (),
    best_epoch: int = 0,
    train_accuracy: float | None = None,
    train_images: int = 0,
    batch_norm: bool = True,
) -> list[str]:
    """What is suspect about a run, a sentence each that says what to do; empty where nothing is.

    Args:
        logits: (N,) or (N, F) by split that the run is judged on, before any temperature.
        predicted: (N,) booleans, true for class 1, by split; None for several labels per image.
        history: a row per epoch with ``train_loss`` and ``train_accuracy``.
        best_epoch: the epoch that was kept, from 1.
        train_accuracy: of the training images in evaluation mode, at 0.5; None: unknown.
        train_images: their number.
        batch_norm: statistics of batch norm may lag; False for a network without such layers, or
            whose statistics are estimated already.
    """
    remedy = WITH_BATCH_NORM if batch_norm else REMEDY
    if 0 < len(history) < FEW_EPOCHS:
        remedy = f"more epochs (only {len(history)} were trained), {remedy}"
    sentences = [
        _nearly_constant(logits, history, remedy),
        _one_class(predicted or {}, remedy),
        _flat_loss([row["train_loss"] for row in history]),
    ]
    if train_accuracy is not None and 0 < best_epoch <= len(history):
        while_training = history[best_epoch - 1]["train_accuracy"]
        gap = _training_gap(while_training, train_accuracy, train_images, best_epoch)
        cause = ": batch-norm statistics or averaged weights lag behind" if batch_norm else ""
        sentences.append(f"{gap}{cause}: try {remedy}" if gap else "")
    return [sentence for sentence in sentences if sentence]


def _nearly_constant(
    logits: Mapping[str, np.ndarray], history: Sequence[Mapping[str, float]], remedy: str
) -> str:
    spreads = {name: _spread(values) for name, values in logits.items()}
    low = {name: spread for name, spread in spreads.items() if spread < CONSTANT_SPREAD}
    if not low:
        return ""
    spans = " and ".join(f"{spread:.2g} on {name}" for name, spread in low.items())
    trained = max((row["train_accuracy"] for row in history), default=0.0)
    training = f" (while training, accuracy reached {trained:.1%})" if history else ""
    return (
        f"outputs are nearly constant: the middle 90 % of the logits span {spans}"
        f"{training}; such figures are no evidence of what can be learnt: try {remedy}"
    )


def _spread(logits: np.ndarray) -> float:
    """Between the 5th and the 95th percentile of the images; of F columns the widest."""
    low, high = np.percentile(np.asarray(logits, np.float64), [5, 95], axis=0)
    return float(np.max(high - low))


def _one_class(predicted: Mapping[str, np.ndarray], remedy: str) -> str:
    given = {name: np.unique(classes) for name, classes in predicted.items()}
    by_class = [
        (
            CLASS_NAMES[number],
            [name for name, classes in given.items() if classes.tolist() == [number]],
        )
        for number in (0, 1)
    ]
    sentences = [
        f"every image of {' and '.join(f'{name} ({len(predicted[name])})' for name in names)} is "
        f"predicted as {label}, so that accuracy is that class's share"
        for label, names in by_class
        if names
    ]
    return f"{'; '.join(sentences)}: try {remedy}" if sentences else ""


def _training_gap(while_training: float, evaluated: float, images: int, epoch: int) -> str:
    error = (evaluated * (1 - evaluated) / images) ** 0.5
    if while_training - evaluated <= max(TRAINING_GAP, GAP_ERRORS * error):
        return ""
    return (
        f"training images are {evaluated:.1%} right in evaluation and were {while_training:.1%} "
        f"right while training (epoch {epoch})"
    )


def _flat_loss(losses: Sequence[float]) -> str:
    if len(losses) < FLAT_EPOCHS:
        return ""
    first, lowest = losses[0], min(losses)
    if first - lowest > FLAT_LOSS * first:
        return ""
    return (
        f"the training loss is flat: {first:.4g} in the first of {len(losses)} epochs, "
        f"{lowest:.4g} at its lowest: look for a learning rate with --find-lr (docs/training.md)"
    )
