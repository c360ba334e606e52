"""A range test of the learning rate: a short run in which it rises over six orders of magnitude.

    python train.py --find-lr

Smith, https://arxiv.org/abs/1506.01186. It uses training images only, and the network has its
weights and batch-norm statistics back afterwards.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from chestlab.training.trainer import Trainer

LOWEST, HIGHEST = 1e-6, 1.0

STEPS = 150

SMOOTHING = 0.95  # decay of the running mean of losses

DIVERGED = 4.0  # times the lowest smoothed loss

SKIPPED = 10  # steps at the beginning that suggest nothing: too few losses in the mean


def rising_losses(
    trainer: Trainer, rates: np.ndarray, check: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """The rates up to the one at which the training diverged, and the loss at each.

    Frozen modules stay in evaluation mode, as in `Trainer.run_epoch`.

    Args:
        trainer: of a network that has not been trained yet; its optimiser is of no use afterwards.
        rates: (N,) rising learning rates, one for each step.
        check: called after every step; it may raise to stop.
    """
    with _restored(trainer.model):
        trainer.model.train()
        for module in trainer.frozen_modules:
            module.eval()
        losses = _train(trainer, rates, check)
    finite = np.isfinite(losses)
    return rates[: len(losses)][finite], np.array(losses)[finite]


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Weights, buffers and modes of ``model`` are afterwards as they are now, also on an error."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        model.load_state_dict(state)
        for module, training in modes:
            module.training = training


def _train(trainer: Trainer, rates: np.ndarray, check: Callable[[], None]) -> list[float]:
    """The loss at each rate, up to the one at which the training diverged."""
    losses: list[float] = []
    batches: list[torch.Tensor] = []
    for rate in rates:
        if not batches:
            order = torch.randperm(len(trainer.train_images), generator=trainer.shuffle)
            full = order[: len(order) - len(order) % trainer.images_per_step]
            batches = list((full if len(full) else order).split(trainer.images_per_step))
        for group in trainer.optimizer.param_groups:
            group["lr"] = float(rate) * group["initial_lr"] / trainer.recipe.lr
        loss, _ = trainer.step(batches.pop().to(trainer.device))
        check()
        losses.append(float(loss))
        lowest = np.nanmin(smooth(np.array(losses)))
        if not math.isfinite(losses[-1]) or smooth(np.array(losses))[-1] > DIVERGED * lowest:
            break
    return losses


def smooth(losses: np.ndarray) -> np.ndarray:
    """Running means (N,) of losses (N,), of the first ones as of the later: without a bias to 0."""
    means, mean = [], 0.0
    for count, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**count))
    return np.array(means)


def steepest(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """The rate at which ``smoothed`` falls fastest per factor of the rate, before its minimum."""
    start = min(SKIPPED, max(0, len(rates) - 2))
    end = max(int(np.argmin(smoothed)) + 1, start + 2)
    slope = np.gradient(smoothed[start:end], np.log(rates[start:end]))
    return float(rates[start + int(np.argmin(slope))])
